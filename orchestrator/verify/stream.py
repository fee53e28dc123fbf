"""Check a file while a program still downloads it: feed its good prefix to a checksum tool.

The check then ends soon after the last byte. It is only for a program that appends: the bytes that were fed must be
those that are there at the end.
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

from orchestrator.errors import OrchError, Stopped
from orchestrator.limits import start
from orchestrator.process import run_program
from orchestrator.verify.tools import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.backends.base import Exit
    from orchestrator.context import Context
    from orchestrator.model import Range
    from orchestrator.verify.tools import ChecksumTool

HOLD_BACK_BYTES = 1 << 20  # the newest bytes are not fed before the program has ended
POLL_S = 0.05
CHUNK_BYTES = 4 << 20
_PIPE_BYTES = 1 << 20
_OUTPUT_BYTES = 256 << 10  # what a program may write besides its file: headers, a report, a line a try
_STATE_BYTES_PER_S = 8 << 10  # and the state that it saves each second: more for a file of many pieces
_PUSH_BYTES = 32 << 20  # dirty pages go to the disk behind the download, or the flush at its end takes seconds
_SYNC_FILE_RANGE_WRITE = 2


class StreamVerdict(Enum):
    """The result of a streamed check; only GOOD is trusted, after the others the file is read again."""

    GOOD = "good"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"


def first_hole(fd: int) -> int:
    """The length of the good prefix of a file that a program fills in order, without preallocation (takes 49 us)."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # an empty file has not even a hole
            return 0
        raise


def end_of_file(fd: int) -> int:
    """The length of the good prefix of a file that a program only appends to."""
    return os.fstat(fd).st_size


def is_clear(path: str, missing: Sequence[Range]) -> bool:
    """Whether the missing ranges of a file hold no bytes: old ones might be fed before they are written over.

    A block at the edge of a range, which may hold both, is ignored.
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
    """One streamed check of one file that a program is appending to.

    Args:
        choose: gives the checksum tool to feed; what it takes to find out which delays no download.
        prefix: gives, for a descriptor of the file, how many bytes are good so far. It only feeds the hash: where it
            is wrong, the file is read again, and no more.
        missing_bytes: how many bytes the program has to write.
        stall_s: how many seconds the tool may read nothing once all bytes are there.

    Raises:
        OSError: this machine has no descriptor or thread left.
    """

    def __init__(
        self,
        context: Context,
        choose: Callable[[], ChecksumTool],
        sha256: str,
        path: str,
        prefix: Callable[[int], int],
        missing_bytes: int,
        *,
        stall_s: float = STALL_S,
    ) -> None:
        self._context, self._choose, self._path, self._prefix = context, choose, path, prefix
        self._tool: ChecksumTool | None = None
        self._sha256 = sha256
        self._missing, self._stall_s = missing_bytes, stall_s
        self._only_appended = False
        self._frugal = _memory_is_limited()
        self._pos = self._pushed = 0
        self._source = -1
        self._final: int | None = None
        self._moved = (0, 0.0)  # how much had been fed when that last changed, and when
        self._abandoned = threading.Event()
        self._wake = threading.Event()
        self._exit: Exit | None = None
        read_end, self._pipe = os.pipe()
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        pipe = os.fdopen(read_end, "rb")
        self._threads: tuple[threading.Thread, ...] = (
            threading.Thread(target=self._run_tool, args=(pipe,), name="orch-tool", daemon=True),
            threading.Thread(target=self._feed, name="orch-feeder", daemon=True),
        )
        try:
            started = start(self._threads)
        except OSError:
            pipe.close()
            os.close(self._pipe)
            raise
        if started < len(self._threads):
            os.close(self._pipe)  # the tool sees the end of its input
            self._threads = self._threads[:started]
            self.abandon()
            raise OSError(errno.EAGAIN, "cannot start a thread")

    def account(self, exit_: Exit, *, state_bytes: int = 0) -> None:
        """Compare what the program wrote with what was missing; without this call no result is GOOD.

        A program that wrote more than was missing wrote some of it twice; one that wrote less was not counted right.
        In both cases the bytes that were fed may not be those that are there.

        Args:
            exit_: how the program ended.
            state_bytes: the most that its saved state took.
        """
        beside = _OUTPUT_BYTES + int((exit_.seconds + 2) * (_STATE_BYTES_PER_S + state_bytes))
        self._only_appended = self._missing - HOLD_BACK_BYTES <= exit_.written_bytes <= self._missing + beside

    def finish(self) -> StreamVerdict:
        """Feed the rest, once the program and its children have ended, and wait for the result."""
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
        tool = self._tool
        if (
            exit_ is None
            or tool is None
            or fed is None
            or fed.st_ino != status.st_ino
            or sent != self._final
            or after is None
        ):
            return StreamVerdict.UNKNOWN
        if (after.st_ino, after.st_size, after.st_mtime_ns) != (status.st_ino, status.st_size, status.st_mtime_ns):
            return StreamVerdict.UNKNOWN
        if tool.kind.is_good(exit_, self._sha256):
            return StreamVerdict.GOOD
        return StreamVerdict.MISMATCH if tool.kind.is_mismatch(exit_, self._sha256) else StreamVerdict.UNKNOWN

    def abandon(self) -> None:
        """End the tool without a result."""
        self._abandoned.set()
        self._join()
        self._close()

    @property
    def fed_bytes(self) -> int:
        """How many bytes have been fed so far."""
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

    def _run_tool(self, pipe: BinaryIO) -> None:
        """Run the tool; its sums file is in memory and names the pipe as the file to check."""
        with pipe, suppress(OSError, OrchError, Stopped):  # closing the pipe ends a feeder that waits for a reader
            tool = self._tool = self._choose()
            sums = os.memfd_create("orch-sums")
            try:
                os.write(sums, f"{self._sha256}  {tool.kind.stdin}\n".encode())
                os.lseek(sums, 0, os.SEEK_SET)
                self._exit = run_program(
                    tool.kind.command(f"/dev/fd/{sums}"),
                    tool.path,
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
        if self._final is None:  # it waits for the download
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
                self._wake.wait(POLL_S)
        except OSError:  # the tool has ended, or the file system knows no holes: the file is read again
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
    """Whether this process has a cgroup memory limit: then the page cache of hashed bytes is given back."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            return int(file.read()) < 1 << 50  # "max" is no number
    return False


def _push(fd: int, start: int, length: int) -> None:
    """Start to write dirty pages to the disk without waiting (sync_file_range(2)); failure does not matter."""
    with suppress(AttributeError, OSError):
        call = ctypes.CDLL(None).sync_file_range
        call(fd, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
