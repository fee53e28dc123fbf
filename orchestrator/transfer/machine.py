"""What the orch processes of one user on a machine share: each host's connections, and the limit of bandwidth.

A file of the local state stands for each such thing, and locks on its bytes say who uses it: the kernel takes them back
when a process dies, however it dies. They are open file description locks (fcntl(2), Linux 3.15): all threads of a
process use one descriptor, and so one owner. Where such a file cannot be made or locked, a process goes on alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.local_state import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, pid
_PROCESSES = 1 << 32  # from this byte on one for each process; before it one for each part that can be taken
_MOST_PROCESSES = 1 << 16
_WAITING = 1 << 40  # locked, shared, by every process that waits for a part
_BUSY = (errno.EAGAIN, errno.EACCES)
_LONGEST_NAME = 200


class Machine:
    """The things that processes share, by name; `folder` is in the local state."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._used: dict[str, Common] = {}

    @contextmanager
    def using(self, name: str) -> Iterator[Common | None]:
        """Be one of those that use a thing, while the block runs; None where nobody can be told."""
        with self._mutex:
            common = self._used.get(name)
            if common is None and (common := self._open(name)) is not None:
                self._used[name] = common
            if common is not None:
                common.users += 1
        try:
            yield common
        finally:
            if common is not None:
                with self._mutex:
                    common.users -= 1
                    if not common.users:
                        self._used.pop(name).close()

    def _open(self, name: str) -> Common | None:
        path = os.path.join(self._folder, quote(name, safe=""))
        if len(path) - len(self._folder) > _LONGEST_NAME:
            return None
        try:
            make_folder(self._folder)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            return Common(fd)
        except OSError:
            os.close(fd)
            return None


class Common:
    """One thing that this process uses, maybe beside others; its threads share the object."""

    def __init__(self, fd: int) -> None:
        self.users = 0
        self._fd = fd
        self._mine: set[int] = set()
        self._waiting = 0
        self._mutex = threading.Lock()
        self._place = next(at for at in range(_PROCESSES, _PROCESSES + _MOST_PROCESSES) if self._lock(at))

    def processes(self) -> int:
        """How many processes use it, this one included."""
        count, at = 1, _PROCESSES
        while (found := self._holder(at, _PROCESSES + _MOST_PROCESSES)) is not None:
            count, at = count + 1, found + 1
        return count

    def take(self, parts: int, number: int) -> tuple[int, ...]:
        """Take up to `number` of its `parts`, which no other process has; give them back by `give`."""
        taken: list[int] = []
        with self._mutex, suppress(OSError):
            for part in range(parts):
                if len(taken) == number:
                    break
                if part not in self._mine and self._lock(part):
                    taken.append(part)
                    self._mine.add(part)
        return tuple(taken)

    def give(self, taken: tuple[int, ...]) -> None:
        """Give parts back."""
        with self._mutex:
            for part in taken:
                self._mine.discard(part)
                with suppress(OSError):
                    self._set(fcntl.F_UNLCK, part)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the others see, while the block runs, that somebody waits for a part."""
        with self._mutex:
            self._waiting += 1
            with suppress(OSError):
                self._set(fcntl.F_RDLCK, _WAITING)
        try:
            yield
        finally:
            with self._mutex:
                self._waiting -= 1
                if not self._waiting:
                    with suppress(OSError):
                        self._set(fcntl.F_UNLCK, _WAITING)

    def is_awaited(self) -> bool:
        """Whether another process waits for a part."""
        return self._holder(_WAITING, _WAITING + 1) is not None

    def close(self) -> None:
        """Give all back."""
        os.close(self._fd)

    def _lock(self, at: int) -> bool:
        try:
            self._set(fcntl.F_WRLCK, at)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _set(self, kind: int, at: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))

    def _holder(self, start: int, end: int) -> int | None:
        """The first byte from `start` on that another process has locked; None where there is none before `end`."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        try:
            kind, _, at, *_ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        except OSError:
            return None
        return None if kind == fcntl.F_UNLCK else max(start, at)
