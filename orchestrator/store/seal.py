"""The seal: size and the mtime's nanoseconds that prove a file untouched since its digest was checked.

It finds accidents, not forgers: every write changes mtime, also through mmap or another hard link.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.store.layout import Store

_SECOND_NS = 10**9
_SLACK_LINES = 100


def nanoseconds(sha256: str) -> int:
    """The nanoseconds that a sealed file of this digest carries."""
    return int(sha256[:12], 16) % _SECOND_NS


def fits(store: Store, status: os.stat_result, sha256: str, size: int | None) -> bool:
    """Whether a file's status (one `stat`) carries the seal of `sha256`; a size of None is not compared."""
    if not stat.S_ISREG(status.st_mode) or (size is not None and status.st_size != size):
        return False
    if status.st_mtime_ns % _SECOND_NS == nanoseconds(sha256):
        return True
    # Some file systems keep no nanoseconds, or hundreds of them: there the local state remembers.
    return _knows(store, status, sha256)


def seal(store: Store, path: str, sha256: str, *, read_only: bool = True) -> None:
    """Seal a file whose digest was just checked; `read_only` takes the write bits away (mode 0444).

    Raises:
        OSError: the file is gone or not ours.
    """
    if read_only:
        os.chmod(path, 0o444)
    status = os.stat(path)
    whole_s = status.st_mtime_ns // _SECOND_NS * _SECOND_NS
    os.utime(path, ns=(status.st_atime_ns, whole_s + nanoseconds(sha256)))
    if read_only and os.stat(path).st_mtime_ns % _SECOND_NS != nanoseconds(sha256):
        # The clock of this file system is coarse: a write in the very second of the sealing must show too.
        os.utime(path, ns=(status.st_atime_ns, whole_s - 2 * _SECOND_NS))
    remember(store, path, sha256)


def attest(store: Store, path: str, sha256: str, *, touch: bool = True, read_only: bool = False) -> None:
    """Seal a right file where we may; else the local state remembers that it is right.

    Without `touch` the file itself stays as it is: it is what somebody's link leads to. What can be kept nowhere
    (a root that is read-only, a home that is another's) is read again by the next run.
    """
    with suppress(OSError):
        if touch:
            seal(store, path, sha256, read_only=read_only)
            return
    with suppress(OSError):
        if not _knows(store, os.stat(path), sha256):
            remember(store, path, sha256)


def remember(store: Store, path: str, sha256: str) -> None:
    """Keep a sealed file's facts in the local state where it does not carry the nanoseconds of its seal.

    Raises:
        OSError: the file is gone, or the local state cannot be written.
    """
    status = os.stat(path)
    if status.st_mtime_ns % _SECOND_NS == nanoseconds(sha256):
        return
    import json  # here and below: where nanoseconds are kept, nothing is remembered

    file = f"{store.state}/seals.jsonl"
    os.makedirs(store.state, exist_ok=True)
    with open(file, "a", encoding="ascii") as out:
        out.write(json.dumps([_key(status), _facts(status, sha256)]) + "\n")


def was_judged(store: Store, status: os.stat_result) -> bool:
    """Whether the local state knows this very inode as it was: another status now means that it was changed."""
    return _key(status) in _remembered(store)


def _knows(store: Store, status: os.stat_result, sha256: str) -> bool:
    return _remembered(store).get(_key(status)) == _facts(status, sha256)


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _facts(status: os.stat_result, sha256: str) -> list[object]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256]


def _remembered(store: Store) -> dict[str, list[object]]:
    """The remembered seals; the last line of a file wins, a damaged line is skipped."""
    path = f"{store.state}/seals.jsonl"
    try:
        status = os.stat(path)
    except OSError:
        return {}
    return _read(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # asked once a file, by runs of many thousands
def _read(path: str, _as_of: tuple[int, int]) -> dict[str, list[object]]:
    import json

    known: dict[str, list[object]] = {}
    lines = 0
    with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            lines += 1
            with suppress(ValueError, TypeError):
                key, facts = json.loads(line)
                known[key] = facts
    if lines > 2 * len(known) + _SLACK_LINES:
        from orchestrator.files import write_atomic

        # What another process adds in this moment may be lost: that costs one more reading.
        with suppress(OSError):
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in known.items()).encode("ascii"))
    return known
