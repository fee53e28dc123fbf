"""The one door to programs: run a command, watch it, stop its whole group. Only importer of sh and psutil."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

import psutil
import sh

from orchestrator.backends.base import Command, Exit

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

STALL_BYTES = 16 * 1024  # axel rewrites its own state while it hangs: a stall is never quite still
LADDER = ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))  # whoever asks waits 3 s for all
TAIL_BYTES = 4096
_PR_SET_PDEATHSIG = 1
_running: dict[int, threading.Event] = {}  # the leaders of the groups that run now, and by what each is stopped


def run(
    command: Command,
    program: str,
    *,
    stop: threading.Event,
    folder: str | None = None,
    environ: Mapping[str, str] | None = None,
    watch: Callable[[int], str | None] | None = None,
    stall_s: float | None = None,
    limit_s: float | None = None,
    keep_fd: int | None = None,
    stdin: BinaryIO | None = None,
    stdout_bytes: int = 64 * 1024,
) -> Exit:
    """Run `command` with the executable `program` and wait for its end, in the calling thread.

    `folder` holds the rc files, stdout and stderr of the child and is its HOME; without it the outputs go to
    memory. `watch` is called about five times a second with the bytes written so far; a word it returns
    ("overrun") ends the child. Less than 16 KiB in `stall_s`, or more than `limit_s` in all, ends it as well.
    The child dies with this thread (PR_SET_PDEATHSIG goes by thread, so the one that waits is the one that
    forks), and inherits no descriptor but `keep_fd`. `stdin`, where given, takes the place of the
    command's and is closed here.

    Returns:
        Exit; a program that cannot be started is code 126 with the reason as stderr.
    """
    env = {"PATH": os.defpath, "HOME": folder or "/nonexistent", **(environ or {}), **command.env, "LC_ALL": "C"}
    if shutil.which(program) is None:  # setpriv would say so with a code that could be the program's own
        return Exit(126, stderr=f"cannot start {program}: not found, or not executable")
    started = time.monotonic()
    with (
        _private(folder or "/nonexistent", command.files),
        stdin or _memory(command.stdin) as given,
        _output(folder, "stdout") as out,
        _output(folder, "stderr") as err,
    ):
        prefix, wish = _death_wish()

        def between_fork_and_exec() -> None:
            if keep_fd is not None:
                os.set_inheritable(keep_fd, True)  # in this child alone; `_pass_fds` leaves close-on-exec as it is
            if wish:
                wish()

        argv = (*prefix, program, *command.argv[1:])
        try:
            child = sh.Command(argv[0])(
                *argv[1:],
                _in=given,
                _out=out,
                _err=err,
                _bg=True,
                _bg_exc=False,
                _new_session=True,
                _tty_out=False,
                _env=env,
                _pass_fds={keep_fd} if keep_fd is not None else set(),
                _preexec_fn=between_fork_and_exec,
                _ok_code=tuple(range(-64, 256)),  # without the negative ones a signal raises
            )
        except (sh.CommandNotFound, sh.ForkException, OSError) as error:
            return Exit(126, stderr=f"cannot start {program}: {error}")
        _running[child.pid] = stop
        try:
            ended, written = _attend(child.pid, stop, watch, stall_s, limit_s)
        finally:
            child.wait()
            _running.pop(child.pid, None)
            over = time.monotonic() + 1.0
            while _signal_group(child.pid, 0) and time.monotonic() < over:  # rsync's receiver still has the guard
                time.sleep(0.005)
        return Exit(
            code=child.exit_code,
            stdout=_tail(out, stdout_bytes),
            stderr=_tail(err, TAIL_BYTES),
            ended=ended,  # type: ignore[arg-type]
            seconds=time.monotonic() - started,
            written_bytes=written,
        )


def kill_all(stop: threading.Event | None = None) -> None:
    """Kill all children and their groups at once, or those that `stop` would stop: nobody waits for them any more."""
    for pid, by in list(_running.items()):
        if stop is None or by is stop:
            _signal_group(pid, signal.SIGKILL)


def _attend(
    pid: int,
    stop: threading.Event,
    watch: Callable[[int], str | None] | None,
    stall_s: float | None,
    limit_s: float | None,
) -> tuple[str, int]:
    """Stay with the child until its group is gone; say who ended it and how many bytes it wrote."""
    gauge = _Gauge(pid)
    began = moved = time.monotonic()
    mark = 0
    gone = _exit_poll(pid)
    try:
        while not gone(0.2 if watch else 1.0):
            now = time.monotonic()
            written = gauge.read(hungry=stall_s is not None and now - moved > stall_s / 2)
            if gauge.blind or written - mark >= STALL_BYTES:
                mark, moved = written, now
            why = watch(written) if watch else None
            if stop.is_set():
                why = "stopped"
            elif stall_s is not None and now - moved > stall_s:
                why = "stalled"
            elif limit_s is not None and now - began > limit_s:
                why = "timeout"
            if why:
                return why, gauge.last
        return "itself", gauge.last
    finally:
        _end(pid, gone)  # what a leader left behind could still write into a file that was checked
        gone(-1)


class _Gauge:
    """Bytes written by a process: `write_chars`, honest on every file system (allocated blocks are not).

    `blind` while it cannot be read (not every kernel counts): then silence proves nothing.
    """

    def __init__(self, pid: int) -> None:
        self.last = 0
        self.blind = False
        self._pid = pid

    def read(self, *, hungry: bool) -> int:
        """Read the counter; `hungry` looks at children too (a wrapper script writes nothing itself)."""
        try:
            process = psutil.Process(self._pid)
            total = process.io_counters().write_chars
            for child in process.children(recursive=True) if hungry else ():
                with suppress(psutil.NoSuchProcess):
                    total += child.io_counters().write_chars
        except (psutil.Error, OSError, AttributeError):
            self.blind = True
            return self.last
        self.blind = False
        self.last = max(self.last, total)
        return self.last


def _exit_poll(pid: int) -> Callable[[float], bool]:
    """Give a function that waits up to so many seconds for the child's end (below 0: lets go of it)."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # gone already, or a kernel before 5.3
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
    end = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
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


def _death_wish() -> tuple[tuple[str, ...], Callable[[], None] | None]:
    """How the child is told to end with us: setpriv in front of it, else prctl between fork and exec."""
    setpriv = shutil.which("setpriv")
    if setpriv:
        return (setpriv, "--pdeathsig", "TERM", "--"), None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return (), None
    return (), lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and None


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
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _output(folder: str | None, name: str) -> BinaryIO:
    """Where the child's output goes: a real file (no pipe, no pty, no memory), or memory without a folder."""
    return open(os.path.join(folder, name), "w+b") if folder else _memory()


def _tail(file: BinaryIO, size: int) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - size))
    return file.read().decode("utf-8", "replace")
