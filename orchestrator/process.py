"""Run a program, monitor it and stop its whole process group. The only module that imports subprocess and psutil."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

from orchestrator.backends.base import Command, Exit
from orchestrator.context import which

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

Made = TypeVar("Made")

STALL_BYTES = 16 * 1024  # fewer bytes count as none: axel rewrites its state file while it hangs
# The signals that end a group, with the seconds to wait after each.
LADDER = ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))
TAIL_BYTES = 4096
FULL_BYTES = 64 * 1024  # a disk with less than this is full
FULL_S = 2.0  # how long a program may write nothing onto a full disk before it is ended
_OUTPUT_BYTES = 4 << 20  # a program's output is kept in memory, and no more of it than this
_PAUSES_S = (0.1, 0.4, 1.5)  # waits for descriptors or processes that other children give back
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_PR_SET_PDEATHSIG = 1
_PROC = "/proc"
_running: dict[int, threading.Event] = {}  # the leader of each group that runs now, and the event that stops it
# `setpriv` asks for a signal when we die. If we died before that, the signal never comes, but the parent is another.
_CHECK_PARENT = 'test "$PPID" = {pid} || exit 126; {limits}unset PWD OLDPWD SHLVL; exec "$@"'
_SETPRIV = ("--pdeathsig", "TERM", "--")
# The shell's letter of a limit, and its unit in bytes. POSIX has 512 for -f (bash has 1024, and so allows twice as
# much); -v is in KiB in dash, bash, ksh and busybox.
_ULIMITS = {resource.RLIMIT_FSIZE: ("f", 512), resource.RLIMIT_AS: ("v", 1024), resource.RLIMIT_CORE: ("c", 512)}


class Bounds(NamedTuple):
    """What the kernel lets a child do (setrlimit(2)); None: as much as we may ourselves.

    `file_bytes` is how long a file may become that it writes; `memory_bytes` how much memory it may map, used or not.
    `is_room` tells that `file_bytes` is no length of a file but the room that its disk has.
    """

    file_bytes: int | None = None
    memory_bytes: int | None = None
    is_room: bool = False


UNBOUNDED = Bounds()


def run_program(
    command: Command,
    program: str,
    *,
    stop: threading.Event,
    folder: str | None = None,
    environ: Mapping[str, str] | None = None,
    watch: Callable[[int], str | None] | None = None,
    stall_s: float | None = None,
    reads: bool = False,
    limit_s: float | None = None,
    keep_fd: int | None = None,
    stdin: BinaryIO | None = None,
    stdout_bytes: int = 64 * 1024,
    bounds: Bounds = UNBOUNDED,
) -> Exit:
    """Run a command and wait for its end, in the calling thread.

    The child dies when this thread does: PR_SET_PDEATHSIG belongs to the thread that forks, so that thread also
    waits. A child that writes nothing onto a full disk for FULL_S is ended.

    Args:
        command: what to run; its files are written into `folder` while it runs.
        program: the path of the executable, which replaces the first word of the command.
        stop: ends the child when it is set.
        folder: the child's HOME, for its rc files.
        environ: further environment variables of the child.
        watch: called about five times a second with the bytes written so far, or read; a word that it returns, such
            as "overrun", ends the child and becomes `Exit.ended`.
        stall_s: ends the child after so many seconds with less than STALL_BYTES written.
        reads: count the bytes that the child reads, for `stall_s` and `watch`, and not those that it writes.
        limit_s: ends the child after so many seconds in all.
        keep_fd: the only descriptor that the child inherits, besides its standard ones.
        stdin: the child's standard input instead of the command's; it is closed here.
        stdout_bytes: how much of the end of its standard output to return.
        bounds: the limits that the child is given before it begins; a lower one of our own stays in force.

    Returns:
        The exit; a program that cannot be started has code 126 and the reason as stderr.

    Raises:
        OSError: a file in `folder` cannot be written, or this machine has no descriptor, process or memory left.
    """
    env = {"PATH": os.defpath, "HOME": folder or "/nonexistent", **(environ or {}), **command.env, "LC_ALL": "C"}
    env["PATH"] = _absolute(env["PATH"])
    if "LD_LIBRARY_PATH" in env:
        env["LD_LIBRARY_PATH"] = _absolute(env["LD_LIBRARY_PATH"].replace(";", ":"))
    with ExitStack() as stack:
        if stdin is not None:
            stack.enter_context(stdin)
        if not which(program, ""):  # setpriv would report it with a code that could be the program's own
            return Exit(126, stderr=f"cannot start {program}: not found, or not executable")
        stack.enter_context(_private(folder or "/nonexistent", command.files))
        given = stdin or stack.enter_context(_retried(lambda: _memory(command.stdin), stop))
        out = stack.enter_context(_retried(_memory, stop))
        err = stack.enter_context(_retried(_memory, stop))
        limits = _lower_limits(bounds)
        argv, before_exec = _dying_with_us((program, *command.argv[1:]), limits)
        started = time.monotonic()
        try:
            child = _retried(lambda: _start(argv, before_exec, (given, out, err), env, keep_fd), stop)
        except (OSError, ValueError) as error:  # ValueError: a NUL, or a character that this locale cannot encode
            if isinstance(error, OSError) and error.errno in _SCARCE:
                raise
            return Exit(126, stderr=f"cannot start {program}: {error}")
        _running[child.pid] = stop
        try:
            outputs = (err, out) if stdout_bytes <= _OUTPUT_BYTES else (err,)
            ended, written = _wait(
                child.pid, stop, watch, stall_s=stall_s, limit_s=limit_s, folder=folder, outputs=outputs, reads=reads
            )
        finally:
            child.wait()
            _running.pop(child.pid, None)
            end = time.monotonic() + 1.0
            while _signal_group(child.pid, 0) and time.monotonic() < end:  # rsync's receiver still holds the guard
                time.sleep(0.005)
        if ended == "itself" and resource.RLIMIT_FSIZE in limits:
            ended = _met_limit(child.returncode, limits[resource.RLIMIT_FSIZE], folder, bounds) or ended
        return Exit(
            code=child.returncode,
            stdout=_tail(out, stdout_bytes),
            stderr=_tail(err, TAIL_BYTES),
            ended=ended,  # type: ignore[arg-type]
            seconds=time.monotonic() - started,
            written_bytes=max(0, written - _size(out) - _size(err)),
        )


def _absolute(folders: str) -> str:
    """A list of folders without empty and relative ones: they mean the working folder (execvp(3), ld.so(8))."""
    return ":".join(folder for folder in folders.split(":") if folder.startswith("/"))


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def kill_all(stop: threading.Event | None = None) -> None:
    """Kill all children with their groups at once, or only those that `stop` stops, when nobody waits for them."""
    for pid, by in list(_running.items()):
        if stop is None or by is stop:
            _signal_group(pid, signal.SIGKILL)


def _start(
    argv: Sequence[str],
    before_exec: Callable[[], None] | None,
    streams: tuple[BinaryIO, BinaryIO, BinaryIO],
    env: Mapping[str, str],
    keep_fd: int | None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that its pid is also that of its group.

    Without `before_exec` subprocess uses vfork(2): no page table is copied, and no Python code and no library's fork
    hook runs in the child. Some hooks forbid two forks at once (filelock 4, on Python 3.12).
    """
    given, out, err = streams
    return subprocess.Popen(  # noqa: S603 - this is the door
        argv,
        stdin=given,
        stdout=out,
        stderr=err,
        env=env,
        pass_fds=() if keep_fd is None else (keep_fd,),
        start_new_session=True,
        preexec_fn=before_exec,  # None where setpriv is installed; otherwise this is fork(2), and hooks run
    )


def _retried(make: Callable[[], Made], stop: threading.Event) -> Made:
    """Make something that needs descriptors or processes; where none are left, try again a moment later."""
    for pause_s in _PAUSES_S:
        try:
            return make()
        except OSError as error:
            if error.errno not in _SCARCE or stop.wait(pause_s):
                raise
    return make()


def _wait(
    pid: int,
    stop: threading.Event,
    watch: Callable[[int], str | None] | None,
    *,
    stall_s: float | None,
    limit_s: float | None,
    folder: str | None,
    outputs: Sequence[BinaryIO],
    reads: bool,
) -> tuple[str, int]:
    """Wait until the child's group is gone; return what ended it and how many bytes it wrote."""
    counters = _Counters(pid)
    disk = _FullDisk(folder, counters)
    began = moved = time.monotonic()
    counted = 0
    gone = _exit_poll(pid)
    why: str | None = None
    try:
        while not gone(0.2 if watch else 1.0):
            now = time.monotonic()
            counters.update(children=stall_s is not None and now - moved > stall_s / 2)
            done = counters.read if reads else counters.written
            if counters.unknown or done - counted >= STALL_BYTES:
                counted, moved = done, now
            why = watch(done) if watch else None
            if stop.is_set():
                why = "stopped"
            elif stall_s is not None and now - moved > stall_s:
                why = "stalled"
            elif limit_s is not None and now - began > limit_s:
                why = "timeout"
            elif not why and disk.is_in_the_way(now):
                why = "full"
            if why:
                break
            for file in outputs:
                _drop_old_output(file)
    finally:
        _end(pid, gone)  # a process that the leader left behind could still write into a file that was checked
        gone(-1)
    counters.update(children=False)  # a dead leader that nobody waited for yet has the sum of its group
    return why or "itself", counters.written


class _Counters:
    """The bytes that a process wrote and read: right on every file system, which allocated blocks are not.

    `unknown` while they cannot be read (not every kernel has them): then no stall can be told.
    """

    def __init__(self, pid: int) -> None:
        self.written = self.read = 0
        self.unknown = False
        self._pid = pid

    def update(self, *, children: bool) -> None:
        """Read the counters; with `children` those of child processes too (a wrapper script writes nothing itself)."""
        try:
            counts = [_io_counters(self._pid)]
            for pid in _descendants(self._pid) if children else ():
                with suppress(OSError):  # it ended meanwhile
                    counts.append(_io_counters(pid))
        except (OSError, ValueError):
            self.unknown = True
            return
        read, written = (sum(numbers) for numbers in zip(*counts, strict=True))
        self.unknown = False
        self.written, self.read = max(self.written, written), max(self.read, read)


def _io_counters(pid: int) -> tuple[int, int]:
    """The bytes that a process read and wrote, by proc(5): psutil takes 5 ms to import, and most programs end sooner.

    Raises:
        OSError: it is gone, or this kernel keeps no such file (CONFIG_TASK_IO_ACCOUNTING).
        ValueError: the file says something else.
    """
    with open(f"{_PROC}/{pid}/io", "rb") as file:
        (_, read), (_, written), *_ = (line.split(b": ") for line in file)
    return int(read), int(written)


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error as error:
        raise OSError(errno.ESRCH, str(error)) from error


class _FullDisk:
    """Detects a program that hangs because the disk of its folder is full: some try for ever."""

    def __init__(self, folder: str | None, counters: _Counters) -> None:
        self._folder, self._counters = folder, counters
        self._checked = self._since = 0.0  # 0: it was not full
        self._written = 0

    def is_in_the_way(self, now: float) -> bool:
        """Whether the disk has been full, and the program has written nothing, for FULL_S; checked once a second."""
        if self._folder is None or now - self._checked < 1.0:
            return False
        self._checked = now
        try:
            status = os.statvfs(self._folder)
        except OSError:
            return False
        free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
        if free * status.f_frsize >= FULL_BYTES or self._counters.unknown:
            self._since = 0.0
            return False
        self._counters.update(children=True)  # rsync writes in a child
        if not self._since or self._counters.written - self._written >= STALL_BYTES:
            self._since, self._written = now, self._counters.written
        return now - self._since > FULL_S


def _exit_poll(pid: int) -> Callable[[float], bool]:
    """Return a function that waits up to so many seconds for the child's end; below 0 it closes its descriptor."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3, or no descriptor left
        return lambda seconds: _slow_poll(pid, seconds)
    poll = select.poll()
    poll.register(fd, select.POLLIN)

    def gone(seconds: float) -> bool:
        if seconds < 0:
            os.close(fd)
            return True
        return bool(poll.poll(seconds * 1000))

    return gone


def _slow_poll(pid: int, seconds: float) -> bool:
    end = time.monotonic() + max(seconds, 0)
    with suppress(ChildProcessError):
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    return True


def _end(pid: int, gone: Callable[[float], bool]) -> None:
    """Send INT, TERM and KILL to the whole group until the leader is gone, then kill the rest of the group."""
    for number, patience_s in LADDER:
        _signal_group(pid, number)
        _signal_group(pid, signal.SIGCONT)  # a stopped process takes no INT or TERM
        if gone(patience_s):
            break
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False


def _lower_limits(bounds: Bounds) -> dict[int, int]:
    """The limits to set in a child, in bytes: those of `bounds` that are lower than our own; it dumps no core.

    A core would be a copy of its memory, tokens too, in our working folder.
    """
    wanted = {
        resource.RLIMIT_FSIZE: bounds.file_bytes,
        resource.RLIMIT_AS: bounds.memory_bytes,
        resource.RLIMIT_CORE: 0,
    }
    limits = {}
    for which_, value in wanted.items():
        own = resource.getrlimit(which_)[0]
        if value is not None and (own == resource.RLIM_INFINITY or own > value):
            limits[which_] = value
    return limits


def _met_limit(code: int, limit: int, folder: str | None, bounds: Bounds) -> str | None:
    """What to call the end of a child that our limit on the length of its files stopped; None where it did not.

    The kernel sends it SIGXFSZ. Of a child of its own that was stopped so, rsync's receiver, only the file tells.
    """
    if code == 0:
        return None
    try:
        stopped = code == -signal.SIGXFSZ or (
            folder is not None
            and any(entry.stat(follow_symlinks=False).st_size >= limit for entry in os.scandir(folder))
        )
    except OSError:
        return None
    return ("full" if bounds.is_room else "oversized") if stopped else None


def _dying_with_us(argv: Sequence[str], limits: Mapping[int, int]) -> tuple[Sequence[str], Callable[[], None] | None]:
    """Make a child end when this process dies: by setpriv and a shell in front of it, else by prctl before exec.

    Both ask the kernel for the signal first and then check that we still live, so no moment is left uncovered. Both
    set the child's limits there too: they hold from its first instruction on.

    Args:
        argv: the child's command line.
        limits: what the child is limited to, in bytes, by the number of the limit.

    Returns:
        The command line to run, and the function to call between fork and exec, if any.
    """
    own = os.getpid()
    setpriv = which("setpriv", os.environ.get("PATH") or os.defpath)
    if setpriv and os.path.basename(os.path.realpath(setpriv)) != "busybox" and which("/bin/sh", ""):
        # The shell's $0 repeats setpriv's part, so that ps and pgrep show the whole line.
        name = " ".join(("setpriv", *_SETPRIV))
        script = _CHECK_PARENT.format(pid=own, limits=_ulimit(limits))
        return (setpriv, *_SETPRIV, "/bin/sh", "-c", script, name, *argv), None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return argv, None

    def between_fork_and_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != own:
            os._exit(126)
        for which_, value in limits.items():
            resource.setrlimit(which_, (value, value))

    return argv, between_fork_and_exec


def _ulimit(limits: Mapping[int, int]) -> str:
    """The same limits as commands of a shell; one that its system does not have is left out without a word."""
    commands = ((*_ULIMITS[which_], value) for which_, value in limits.items())
    return "".join(f"ulimit -{letter} {-(-value // unit)} 2>/dev/null; " for letter, unit, value in commands)


@contextmanager
def _private(folder: str, files: Sequence[tuple[str, bytes]]) -> Iterator[None]:
    """Write files with mode 0600 into `folder`, and remove them at the end.

    Each is created anew, so a symlink that somebody planted there is never followed.
    """
    paths = [os.path.join(folder, name) for name, _ in files]
    try:
        for path, (_, content) in zip(paths, files, strict=True):
            if os.path.lexists(path):
                os.unlink(path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
        yield
    finally:
        for path in paths:
            with suppress(OSError):
                os.unlink(path)


def _memory(content: bytes = b"") -> BinaryIO:
    """Make a file in memory: a job's stdin may hold a signed URL, and a full disk must not matter."""
    file = os.fdopen(os.memfd_create("orch"), "w+b")
    try:
        file.write(content)
        file.flush()
        file.seek(0)
    except OSError:
        file.close()
        raise
    return file


def _drop_old_output(file: BinaryIO) -> None:
    """Free the memory of old output; the program continues to write at its own offset, behind a hole."""
    fd = file.fileno()
    status = os.fstat(fd)
    if status.st_blocks * 512 > _OUTPUT_BYTES:
        last = max(0, status.st_size - (64 << 10))
        kept = os.pread(fd, 64 << 10, last)
        os.ftruncate(fd, 0)
        os.pwrite(fd, kept, last)


def _tail(file: BinaryIO, size: int) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - size))
    return file.read().decode("utf-8", "replace")
