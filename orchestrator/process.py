"""The one door to programs: run a command, watch it, stop its whole group. Only importer of subprocess and psutil."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import psutil

from orchestrator.backends.base import Command, Exit
from orchestrator.context import which

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

Made = TypeVar("Made")

STALL_BYTES = 16 * 1024  # axel rewrites its own state while it hangs: a stall is never quite still
LADDER = ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))  # whoever asks waits 3 s for all
TAIL_BYTES = 4096
FULL_BYTES = 64 * 1024  # a disk with less than this is full
FULL_S = 2.0  # so long may a program write nothing onto a full disk
_TALK_BYTES = 4 << 20  # what a program says is kept in memory: no more of it than this
_PAUSES_S = (0.1, 0.4, 1.5)  # other children end, and leave their descriptors to us
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_PR_SET_PDEATHSIG = 1
_running: dict[int, threading.Event] = {}  # the leaders of the groups that run now, and by what each is stopped
# `setpriv` has asked for the signal; where we were gone before that it will never come, but then the parent is another.
_LEASH = 'test "$PPID" = {pid} || exit 126; unset PWD OLDPWD SHLVL; exec "$@"'
_SETPRIV = ("--pdeathsig", "TERM", "--")


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
) -> Exit:
    """Run `command` with the executable `program` and wait for its end, in the calling thread.

    `folder` holds the rc files of the child and is its HOME; what it says goes to memory. `watch` is called about
    five times a second with the bytes written so far; a word it returns ("overrun") ends the child. Less than 16 KiB
    written (with `reads`: read) in `stall_s`, or more than `limit_s` in all, ends it as well, and so does a full
    disk onto which it writes nothing.
    The child dies with this thread (PR_SET_PDEATHSIG goes by thread, so the one that waits is the one that
    forks), and inherits no descriptor but `keep_fd`. `stdin`, where given, takes the place of the
    command's and is closed here.

    Returns:
        Exit; a program that cannot be started is code 126 with the reason as stderr.

    Raises:
        OSError: a file of its could not be written, or this machine has no descriptor, process or memory to spare.
    """
    env = {"PATH": os.defpath, "HOME": folder or "/nonexistent", **(environ or {}), **command.env, "LC_ALL": "C"}
    env["PATH"] = os.pathsep.join(entry for entry in env["PATH"].split(os.pathsep) if entry.startswith("/"))
    with ExitStack() as stack:
        if stdin is not None:
            stack.enter_context(stdin)
        if not which(program, ""):  # setpriv would say so with a code that could be the program's own
            return Exit(126, stderr=f"cannot start {program}: not found, or not executable")
        stack.enter_context(_private(folder or "/nonexistent", command.files))
        given = stdin or stack.enter_context(_patiently(lambda: _memory(command.stdin), stop))
        out = stack.enter_context(_patiently(_memory, stop))
        err = stack.enter_context(_patiently(_memory, stop))
        argv, wish = _leashed((program, *command.argv[1:]))
        started = time.monotonic()
        try:
            child = _patiently(lambda: _start(argv, wish, given, out, err, env, keep_fd), stop)
        except (OSError, ValueError) as error:  # ValueError: a NUL, or a letter that this locale cannot write
            if isinstance(error, OSError) and error.errno in _SCARCE:
                raise
            return Exit(126, stderr=f"cannot start {program}: {error}")
        _running[child.pid] = stop
        try:
            talk = (err, out) if stdout_bytes <= _TALK_BYTES else (err,)
            ended, written = _attend(child.pid, stop, watch, stall_s, limit_s, folder, talk, reads=reads)
        finally:
            child.wait()
            _running.pop(child.pid, None)
            over = time.monotonic() + 1.0
            while _signal_group(child.pid, 0) and time.monotonic() < over:  # rsync's receiver still has the guard
                time.sleep(0.005)
        return Exit(
            code=child.returncode,
            stdout=_tail(out, stdout_bytes),
            stderr=_tail(err, TAIL_BYTES),
            ended=ended,  # type: ignore[arg-type]
            seconds=time.monotonic() - started,
            written_bytes=max(0, written - _size(out) - _size(err)),
        )


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def kill_all(stop: threading.Event | None = None) -> None:
    """Kill all children and their groups at once, or those that `stop` would stop: nobody waits for them any more."""
    for pid, by in list(_running.items()):
        if stop is None or by is stop:
            _signal_group(pid, signal.SIGKILL)


def _start(
    argv: Sequence[str],
    wish: Callable[[], None] | None,
    given: BinaryIO,
    out: BinaryIO,
    err: BinaryIO,
    env: Mapping[str, str],
    keep_fd: int | None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, pid = pgid.

    By vfork(2), in C: no code of Python's runs between it and exec, nor do the hooks of libraries for a fork, of
    which some forbid two at once (filelock 4, on Python 3.12). No thread is started, no page table copied.
    """
    return subprocess.Popen(  # noqa: S603 - this is the door
        argv,
        stdin=given,
        stdout=out,
        stderr=err,
        env=env,
        pass_fds=() if keep_fd is None else (keep_fd,),
        start_new_session=True,
        preexec_fn=wish,  # None wherever setpriv is: with one it is fork(2), and hooks run
    )


def _patiently(make: Callable[[], Made], stop: threading.Event) -> Made:
    """Make something that takes descriptors or processes; where there are none, again a moment later."""
    for pause_s in _PAUSES_S:
        try:
            return make()
        except OSError as error:
            if error.errno not in _SCARCE or stop.wait(pause_s):
                raise
    return make()


def _attend(
    pid: int,
    stop: threading.Event,
    watch: Callable[[int], str | None] | None,
    stall_s: float | None,
    limit_s: float | None,
    folder: str | None,
    talk: Sequence[BinaryIO],
    *,
    reads: bool,
) -> tuple[str, int]:
    """Stay with the child until its group is gone; say who ended it and how many bytes it wrote."""
    gauge = _Gauge(pid)
    disk = _FullDisk(folder, gauge)
    began = moved = time.monotonic()
    mark = 0
    gone = _exit_poll(pid)
    why: str | None = None
    try:
        while not gone(0.2 if watch else 1.0):
            now = time.monotonic()
            gauge.look(hungry=stall_s is not None and now - moved > stall_s / 2)
            done = gauge.read if reads else gauge.written
            if gauge.blind or done - mark >= STALL_BYTES:
                mark, moved = done, now
            why = watch(gauge.written) if watch else None
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
            for file in talk:
                _bound(file)
    finally:
        _end(pid, gone)  # what a leader left behind could still write into a file that was checked
        gone(-1)
    gauge.look(hungry=False)  # of what is dead and not yet waited for: the whole sum
    return why or "itself", gauge.written


class _Gauge:
    """Bytes that a process wrote and read: honest on every file system (allocated blocks are not).

    `blind` while they cannot be seen (not every kernel counts): then silence proves nothing.
    """

    def __init__(self, pid: int) -> None:
        self.written = self.read = 0
        self.blind = False
        self._pid = pid

    def look(self, *, hungry: bool) -> None:
        """Look at the counters; `hungry` looks at children too (a wrapper script writes nothing itself)."""
        try:
            process = psutil.Process(self._pid)
            counts = [process.io_counters()]
            for child in process.children(recursive=True) if hungry else ():
                with suppress(psutil.NoSuchProcess):
                    counts.append(child.io_counters())
            written, read = sum(c.write_chars for c in counts), sum(c.read_chars for c in counts)
        except (psutil.Error, OSError, AttributeError):
            self.blind = True
            return
        self.blind = False
        self.written, self.read = max(self.written, written), max(self.read, read)


class _FullDisk:
    """Whether the disk of a folder is full, and a program has written nothing since: some go on for ever."""

    def __init__(self, folder: str | None, gauge: _Gauge) -> None:
        self._folder, self._gauge = folder, gauge
        self._looked = self._since = 0.0  # 0: it was not full
        self._mark = 0

    def is_in_the_way(self, now: float) -> bool:
        """Look, once a second at most."""
        if self._folder is None or now - self._looked < 1.0:
            return False
        self._looked = now
        try:
            status = os.statvfs(self._folder)
        except OSError:
            return False
        free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
        if free * status.f_frsize >= FULL_BYTES or self._gauge.blind:
            self._since = 0.0
            return False
        self._gauge.look(hungry=True)  # rsync writes in a child
        if not self._since or self._gauge.written - self._mark >= STALL_BYTES:
            self._since, self._mark = now, self._gauge.written
        return now - self._since > FULL_S


def _exit_poll(pid: int) -> Callable[[float], bool]:
    """Give a function that waits up to so many seconds for the child's end (below 0: lets go of it)."""
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
    """Climb the ladder INT, TERM, KILL on the whole group until the leader is gone, then sweep the rest."""
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


def _leashed(argv: Sequence[str]) -> tuple[Sequence[str], Callable[[], None] | None]:
    """Let a child end with us: by setpriv and a shell in front of it, else by prctl between fork and exec.

    Both ask for the signal first and then whether we still live: whenever we die, one of the two finds out.
    """
    own = os.getpid()
    setpriv = which("setpriv", os.environ.get("PATH") or os.defpath)
    if setpriv and os.path.basename(os.path.realpath(setpriv)) != "busybox" and which("/bin/sh", ""):
        # The shell's own name says what came before it: one line for who looks with ps or pgrep.
        name = " ".join(("setpriv", *_SETPRIV))
        return (setpriv, *_SETPRIV, "/bin/sh", "-c", _LEASH.format(pid=own), name, *argv), None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return argv, None

    def between_fork_and_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != own:
            os._exit(126)

    return argv, between_fork_and_exec


@contextmanager
def _private(folder: str, files: Sequence[tuple[str, bytes]]) -> Iterator[None]:
    """Write 0600 files that were not there before (a planted link is never followed); remove them at the end."""
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
    """A file in memory: a job's stdin may hold a signed URL, and a full disk must not matter."""
    file = os.fdopen(os.memfd_create("orch"), "w+b")
    try:
        file.write(content)
        file.flush()
        file.seek(0)
    except OSError:
        file.close()
        raise
    return file


def _bound(file: BinaryIO) -> None:
    """Let go of what a program said long ago; it goes on at its own offset, behind a hole."""
    fd = file.fileno()
    status = os.fstat(fd)
    if status.st_blocks * 512 > _TALK_BYTES:
        last = max(0, status.st_size - (64 << 10))
        kept = os.pread(fd, 64 << 10, last)
        os.ftruncate(fd, 0)
        os.pwrite(fd, kept, last)


def _tail(file: BinaryIO, size: int) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - size))
    return file.read().decode("utf-8", "replace")
