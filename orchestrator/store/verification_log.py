"""When this machine last read a file's bytes and found them right: `reads.jsonl` in the local state.

The access time would not do (every reader sets it, most mounts do not), nor the modification time (a backup would take
every verified file for a new one). Losing the log costs one more reading.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator import local_state

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

OLD_S = 400 * 86400.0
_SLACK_LINES = 1000

Key = tuple[int, str, int, int]  # inode, sha256, size, mtime in nanoseconds: device numbers change with a boot
_Line = tuple[Key, float]


class VerificationLog:
    """The log in `folder`; `now` is the time in seconds since the epoch."""

    def __init__(self, folder: str, now: float) -> None:
        self._path, self._now = f"{folder}/reads.jsonl", now
        self._known, lines = self._read()
        if lines > 2 * len(self._known) + _SLACK_LINES:
            self._rewrite()

    def age_s(self, status: os.stat_result, sha256: str) -> float | None:
        """How many seconds ago the file, as its status is now, was read and right; None where that is unknown."""
        when = self.read_at(status, sha256)
        return None if when is None else self._now - when

    def read_at(self, status: os.stat_result, sha256: str) -> float | None:
        """When the file, as its status is now, was read and right, in seconds since the epoch; None if unknown."""
        when = self._known.get(_key(status, sha256))
        return None if when is None or when > self._now else when

    def add(self, read: Iterable[tuple[os.stat_result, str]]) -> None:
        """Record files that were read and are right: the status of each before it was read, and its sha256."""
        lines = [(_key(status, sha256), self._now) for status, sha256 in read]
        if not lines:
            return
        self._known.update(lines)
        with suppress(OSError):  # a disk that cannot be written is ignored
            local_state.append(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def _read(self) -> tuple[dict[Key, float], int]:
        """Read the records that are not too old (the last line of a file counts), and the number of lines."""
        known: dict[Key, float] = {}
        count = 0
        with suppress(OSError), local_state.open_to_read(self._path) as file:
            for line in file:
                count += 1
                with suppress(ValueError, RecursionError):
                    key, when = msgspec.json.decode(line, type=_Line)
                    if self._now - when < OLD_S:
                        known[key] = when
        return known, count

    def _rewrite(self) -> None:
        """Keep each file's last line only; a line that another process adds at this moment may be lost."""
        from orchestrator.files import write_atomic

        with suppress(OSError):
            write_atomic(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in self._known.items()))


def _key(status: os.stat_result, sha256: str) -> Key:
    return status.st_ino, sha256, status.st_size, status.st_mtime_ns
