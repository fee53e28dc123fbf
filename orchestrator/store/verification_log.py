"""When this machine last read a file's bytes and found them right: `reads.jsonl` in the local state.

Not the access time, which every reader sets and most mounts do not, nor the modification time, by which backups would
take each verified file for a new one. To lose it costs one more reading.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

OLD_S = 400 * 86400.0
_SLACK_LINES = 1000

Key = tuple[int, str, int, int]  # inode, sha256, size, mtime in nanoseconds: device numbers change with a boot
_Line = tuple[Key, float]


class VerificationLog:
    """The readings remembered in `folder`; `now` is the time in seconds since the epoch."""

    def __init__(self, folder: str, now: float) -> None:
        self._path, self._now = f"{folder}/reads.jsonl", now
        self._known, lines = self._read()
        if lines > 2 * len(self._known) + _SLACK_LINES:
            self._rewrite()

    def age_s(self, status: os.stat_result, sha256: str) -> float | None:
        """How long ago a file with this status was read as it is; None where that is not known."""
        when = self._known.get(_key(status, sha256))
        return None if when is None or when > self._now else self._now - when

    def add(self, read: Iterable[tuple[os.stat_result, str]]) -> None:
        """Remember files that were read and are right: the status from before, and the digest."""
        lines = [(_key(status, sha256), self._now) for status, sha256 in read]
        if not lines:
            return
        self._known.update(lines)
        with suppress(OSError):  # a disk that says no hurts nobody
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(self._path, "ab") as file:
                file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def _read(self) -> tuple[dict[Key, float], int]:
        """All that is not too old, the last line of a file counting, and how many lines that took."""
        known: dict[Key, float] = {}
        count = 0
        with suppress(OSError), open(self._path, "rb") as file:
            for line in file:
                count += 1
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    key, when = msgspec.json.decode(line, type=_Line)
                    if self._now - when < OLD_S:
                        known[key] = when
        return known, count

    def _rewrite(self) -> None:
        """Write each file's last line only; what another process adds in this moment may be lost."""
        from orchestrator.files import write_atomic

        with suppress(OSError):
            write_atomic(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in self._known.items()))


def _key(status: os.stat_result, sha256: str) -> Key:
    return status.st_ino, sha256, status.st_size, status.st_mtime_ns
