/* Preloaded into one process: counts its calls that change a file system below TORTURE_BELOW, and before the one
   with number TORTURE_AT the process kills itself. At its end it writes the count into TORTURE_COUNT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/syscall.h>
#include <unistd.h>

static int calls, at;
static pid_t self;
static char below[4096], count_in[4096];

static void keep(char *to, const char *name) {
    const char *value = getenv(name);
    snprintf(to, 4096, "%s", value ? value : "");
}

__attribute__((constructor)) static void start(void) {
    self = getpid();
    keep(below, "TORTURE_BELOW");
    keep(count_in, "TORTURE_COUNT");
    at = getenv("TORTURE_AT") ? atoi(getenv("TORTURE_AT")) : 0;
    unsetenv("LD_PRELOAD"); /* not in its children */
}

__attribute__((destructor)) static void finish(void) {
    if (getpid() == self && *count_in) {
        FILE *file = fopen(count_in, "w");
        if (file) {
            fprintf(file, "%d\n", calls);
            fclose(file);
        }
    }
}

void _exit(int code) { /* Python leaves so where threads must not be waited for */
    finish();
    syscall(SYS_exit_group, code);
    __builtin_unreachable();
}

static void changes(const char *path) {
    char folder[64], whole[8192];
    int fd, end = 0;
    /* a name in a folder that is open */
    if (path && sscanf(path, "/proc/self/fd/%d%n", &fd, &end) == 1) {
        snprintf(folder, sizeof folder, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(folder, whole, 4096);
        if (length > 0) {
            snprintf(whole + length, sizeof whole - length, "%s", path + end);
            path = whole;
        }
    }
    if (getpid() != self || !path || (*path == '/' && strncmp(path, below, strlen(below)))) return;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) == at) {
        kill(self, SIGKILL);
        for (;;) pause();
    }
}

static void changes_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || *path != '/') return; /* a pipe, a socket */
    path[length] = 0;
    changes(path);
}

#define NEXT(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define ONE_PATH(name) int name(const char *path) { NEXT(int, name, const char *); changes(path); return next(path); }
#define TWO_PATHS(name) int name(const char *from, const char *to) { NEXT(int, name, const char *, const char *); changes(to); return next(from, to); }
ONE_PATH(unlink)
ONE_PATH(rmdir)
TWO_PATHS(rename)
TWO_PATHS(link)
TWO_PATHS(symlink)
int mkdir(const char *path, mode_t mode) { NEXT(int, mkdir, const char *, mode_t); changes(path); return next(path, mode); }
int chmod(const char *path, mode_t mode) { NEXT(int, chmod, const char *, mode_t); changes(path); return next(path, mode); }
int unlinkat(int dir, const char *path, int flags) { NEXT(int, unlinkat, int, const char *, int); changes_fd(dir); return next(dir, path, flags); }
int linkat(int a, const char *from, int b, const char *to, int flags) { NEXT(int, linkat, int, const char *, int, const char *, int); changes(to); return next(a, from, b, to, flags); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { NEXT(int, renameat2, int, const char *, int, const char *, unsigned); changes(to); return next(a, from, b, to, flags); }
int utimensat(int dir, const char *path, const struct timespec t[2], int flags) { NEXT(int, utimensat, int, const char *, const struct timespec *, int); changes(path); return next(dir, path, t, flags); }
int fsync(int fd) { NEXT(int, fsync, int); changes_fd(fd); return next(fd); }
int syncfs(int fd) { NEXT(int, syncfs, int); changes_fd(fd); return next(fd); }
int fchmod(int fd, mode_t mode) { NEXT(int, fchmod, int, mode_t); changes_fd(fd); return next(fd, mode); }
int ftruncate64(int fd, off64_t size) { NEXT(int, ftruncate64, int, off64_t); changes_fd(fd); return next(fd, size); }
ssize_t write(int fd, const void *from, size_t size) { NEXT(ssize_t, write, int, const void *, size_t); if (fd > 2) changes_fd(fd); return next(fd, from, size); }
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t to) { NEXT(ssize_t, pwrite64, int, const void *, size_t, off64_t); changes_fd(fd); return next(fd, from, size, to); }
#define OPEN(name) int name(const char *path, int flags, ...) { \
    NEXT(int, name, const char *, int, ...); va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
    if (flags & (O_CREAT | O_TRUNC)) changes(path); return next(path, flags, mode); }
OPEN(open)
OPEN(open64)
