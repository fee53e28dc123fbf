"""The judge behind a running download: `sha256sum -c --strict` fed with the good prefix, done with the last byte.

Only for a program that appends: what was fed must be what is there at the end.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
import time
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.limits import start
from orchestrator.process import run_program
from orchestrator.verify.tools import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.backends.base import Exit
    from orchestrator.context import Context
    from orchestrator.model import Range
    from orchestrator.verify.tools import ChecksumTool

HOLD_BACK_BYTES = 1 << 20  # the newest bytes are left alone until the program is gone
LOOK_S = 0.05
CHUNK_BYTES = 4 << 20
_PIPE_BYTES = 1 << 20
_TALK_BYTES = 256 << 10  # what a program may write besides its file: headers, a report, a line a try
_STATE_BYTES_PER_S = 8 << 10  # and the state that it saves each second: more for a file of many pieces
_PUSH_BYTES = 32 << 20  # dirty pages go to the disk behind the download, or the flush at its end takes seconds
_SYNC_FILE_RANGE_WRITE = 2


class StreamVerdict(Enum):
    """What a streamed check says; only GOOD is believed, the others get a plain check."""

    GOOD = "good"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"


def first_hole(fd: int) -> int:
    """The good prefix of a file that a program fills in order without preallocation (49 us a look)."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # an empty file has not even a hole
            return 0
        raise


def end_of_file(fd: int) -> int:
    """The good prefix of a file that a program only appends to."""
    return os.fstat(fd).st_size


def is_clear(path: str, missing: Sequence[Range]) -> bool:
    """Whether no bytes lie where bytes are missing: what is written over old ones may have been fed before.

    A block at the edge of a range may hold both.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        block = os.fstatvfs(fd).f_bsize
        for start_, end in missing:
            try:
                if os.lseek(fd, -(-start_ // block) * block, os.SEEK_DATA) < end:
                    return False
            except OSError as error:
                if error.errno != errno.ENXIO:  # no data behind it
                    return False
        return True
    finally:
        os.close(fd)


class Stream:
    """One streamed check of one file that is still growing by a program that appends.

    `prefix` says from a descriptor how many bytes are good so far. The prefix only
    feeds the hash; claims come from `missing`. A wrong guess costs no more than the plain check.
    `missing_bytes` is how many the program has to write; `stall_s` how long the judge may take nothing once it could.

    Raises:
        OSError: this machine has no descriptor or thread to spare for it.
    """

    def __init__(
        self,
        context: Context,
        judge: ChecksumTool,
        sha256: str,
        path: str,
        prefix: Callable[[int], int],
        missing_bytes: int,
        stall_s: float = STALL_S,
    ) -> None:
        self._context, self._judge, self._path, self._prefix = context, judge, path, prefix
        self._missing, self._stall_s = missing_bytes, stall_s
        self._only_appended = False
        self._frugal = _memory_is_limited()
        self._pos = self._pushed = 0
        self._source = -1
        self._final: int | None = None
        self._moved = (0, 0.0)  # how much was fed when it last had moved, and when that was
        self._abandoned = threading.Event()
        self._wake = threading.Event()
        self._exit: Exit | None = None
        read_end, self._pipe = os.pipe()
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        pipe = os.fdopen(read_end, "rb")
        self._threads: tuple[threading.Thread, ...] = (
            threading.Thread(target=self._run_judge, args=(sha256, pipe), name="orch-judge", daemon=True),
            threading.Thread(target=self._feed, name="orch-feeder", daemon=True),
        )
        try:
            started = start(self._threads)
        except OSError:
            pipe.close()
            os.close(self._pipe)
            raise
        if started < len(self._threads):
            os.close(self._pipe)  # the judge hears that nothing comes
            self._threads = self._threads[:started]
            self.abandon()
            raise OSError(errno.EAGAIN, "cannot start a thread")

    def account(self, exit_: Exit, *, state_bytes: int = 0) -> None:
        """Take in how the program ended, whose saved state was at most so long; without that nothing is GOOD.

        A program that wrote more than was missing wrote some of it twice, and one that wrote less was not the one
        that was counted: of neither is it known that what was fed is what is there.
        """
        beside = _TALK_BYTES + int((exit_.seconds + 2) * (_STATE_BYTES_PER_S + state_bytes))
        self._only_appended = self._missing - HOLD_BACK_BYTES <= exit_.written_bytes <= self._missing + beside

    def finish(self) -> StreamVerdict:
        """Send what is left, now that the program's whole group is gone, and wait for the verdict."""
        status = self._status()
        if status is None or not self._only_appended:
            self.abandon()
            return StreamVerdict.UNKNOWN
        self._moved = (self._pos, time.monotonic())
        self._final = status.st_size
        self._join()
        after = self._status()
        exit_, sent = self._exit, self._pos
        fed = os.fstat(self._source) if self._source >= 0 else None
        self._close()
        if exit_ is None or fed is None or fed.st_ino != status.st_ino or sent != self._final or after is None:
            return StreamVerdict.UNKNOWN
        if (after.st_ino, after.st_size, after.st_mtime_ns) != (status.st_ino, status.st_size, status.st_mtime_ns):
            return StreamVerdict.UNKNOWN
        if self._judge.kind.is_good(exit_):
            return StreamVerdict.GOOD
        return StreamVerdict.MISMATCH if self._judge.kind.is_mismatch(exit_) else StreamVerdict.UNKNOWN

    def abandon(self) -> None:
        """End the judge without a verdict."""
        self._abandoned.set()
        self._join()
        self._close()

    @property
    def fed_bytes(self) -> int:
        """How many bytes the judge has been given so far."""
        return self._pos

    def _join(self) -> None:
        self._wake.set()
        for thread in self._threads:
            thread.join()

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)
        except OSError:
            return None

    def _close(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1

    def _run_judge(self, sha256: str, pipe: BinaryIO) -> None:
        """Run the judge; its sums file lies in memory and names what comes through the pipe."""
        with pipe, suppress(OSError):  # a feeder that waits for a reader must hear that there is none
            sums = os.memfd_create("orch-sums")
            try:
                os.write(sums, f"{sha256}  {self._judge.kind.stdin}\n".encode())
                os.lseek(sums, 0, os.SEEK_SET)
                self._exit = run_program(
                    self._judge.kind.command(f"/dev/fd/{sums}"),
                    self._judge.path,
                    stop=self._context.stop,
                    watch=self._ended_early,
                    stdin=pipe,
                    keep_fd=sums,
                )
            finally:
                os.close(sums)

    def _ended_early(self, _: int) -> str | None:
        if self._abandoned.is_set():
            return "stopped"
        if self._final is None:  # it waits for the download, as it should
            return None
        now = time.monotonic()
        if self._pos != self._moved[0]:
            self._moved = (self._pos, now)
        return "stalled" if now - self._moved[1] > self._stall_s else None

    def _feed(self) -> None:
        try:
            while not self._abandoned.is_set():
                if self._source < 0:
                    with suppress(OSError):
                        self._source = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
                final = self._final
                if self._source >= 0:
                    self._send(self._prefix(self._source) - HOLD_BACK_BYTES if final is None else final)
                if final is not None:
                    return
                self._wake.wait(LOOK_S)
        except OSError:  # the judge is gone, or the file system knows no holes: the plain check says
            return
        finally:
            os.close(self._pipe)

    def _send(self, until: int) -> None:
        while self._pos < until and not self._abandoned.is_set():
            sent = os.sendfile(self._pipe, self._source, self._pos, min(CHUNK_BYTES, until - self._pos))
            if sent == 0:
                return
            self._pos += sent
            if self._pos - self._pushed >= _PUSH_BYTES:
                _push(self._source, self._pushed, self._pos - self._pushed)
                if self._frugal:  # what was pushed the last time is on the disk by now
                    os.posix_fadvise(self._source, 0, self._pushed, os.POSIX_FADV_DONTNEED)
                self._pushed = self._pos


def _memory_is_limited() -> bool:
    """Whether we run under a cgroup memory limit: there the page cache of what was hashed is better let go."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            return int(file.read()) < 1 << 50  # "max" is no number
    return False


def _push(fd: int, start: int, length: int) -> None:
    """Start writing dirty pages out without waiting (sync_file_range(2)); a hint, no more."""
    with suppress(AttributeError, OSError):
        call = ctypes.CDLL(None).sync_file_range
        call(fd, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
