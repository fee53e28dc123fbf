"""The seal: nanoseconds of a file's mtime, derived from its digest, that prove it unchanged since it was checked.

Every write changes the mtime, also one through mmap or another hard link. A seal finds accidents, not forgers.
Where a file system keeps no nanoseconds, or a file may not be touched, `seals.jsonl` in the local state remembers the
file's size, times and inode instead.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestrator import local_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.store.store import Store

_SECOND_NS = 10**9
_FILE = "seals.jsonl"
_COMPACTED = "compacted"  # key of the line that says how long the file was, in bytes, when it was last shortened
_SLACK_BYTES = 1 << 14
_sealed_here: dict[tuple[str, str], list[object]] = {}  # what this process sealed, by state folder and file


def nanoseconds(sha256: str) -> int:
    """The nanoseconds of the mtime of a sealed file with this digest."""
    return int(sha256[:12], 16) % _SECOND_NS


def fits(store: Store, status: os.stat_result, sha256: str, size: int | None) -> bool:
    """Whether a file's status (one stat) has the seal of `sha256`; a size of None is not compared."""
    if not stat.S_ISREG(status.st_mode) or (size is not None and status.st_size != size):
        return False
    try:
        if status.st_mtime_ns % _SECOND_NS == nanoseconds(sha256):
            return True
    except ValueError:  # no digest: the record that named it is damaged
        return False
    # Some file systems keep no nanoseconds, or only multiples of 100: then the local state tells.
    return _knows(store, status, sha256)


def seal(store: Store, path: str | int, sha256: str, *, read_only: bool = True, name: str = "") -> bool:
    """Seal a file whose digest was just checked, by its path or its descriptor; `read_only` makes it that for all.

    Who may not read it still may not: a store of one user keeps its blobs to him. `name` is a path by which it can be
    found later, where `path` is none.

    Returns:
        Whether its mtime has the seal; else the local state remembers the file, by a ctime that a rename changes.

    Raises:
        OSError: the file is gone, or owned by somebody else.
    """
    status = os.stat(path)
    if read_only and status.st_mode & 0o7333:
        os.chmod(path, status.st_mode & 0o444)
    whole_s = status.st_mtime_ns // _SECOND_NS * _SECOND_NS
    os.utime(path, ns=(status.st_atime_ns, whole_s + nanoseconds(sha256)))
    if os.stat(path).st_mtime_ns % _SECOND_NS == nanoseconds(sha256):
        return True
    if read_only:
        # This file system keeps whole seconds: a write in the second of the sealing must change the mtime too.
        os.utime(path, ns=(status.st_atime_ns, whole_s - 2 * _SECOND_NS))
    remember(store, path, sha256, name=name)
    return False


def attest(
    store: Store, path: str, sha256: str, *, touch: bool = True, read_only: bool = False, name: str = ""
) -> None:
    """Seal a file that is right; where that is not possible, remember in the local state that it is right.

    Args:
        touch: False leaves the file as it is, because a user's link leads to it.
        read_only: also make it read-only.
        name: its own path, where `path` leads to it by a descriptor.

    Where neither can be written (a read-only root, another user's home) the next run reads the file again.
    """
    with suppress(OSError):
        if touch:
            seal(store, path, sha256, read_only=read_only, name=name)
            return
    with suppress(OSError):
        if not _knows(store, os.stat(path), sha256):
            remember(store, path, sha256, name=name)


def remember(store: Store, path: str | int, sha256: str, *, name: str = "") -> None:
    """Remember a right file in the local state, where its mtime does not have the nanoseconds of its seal.

    `name` is its own path, where `path` leads to it by a descriptor.
    If the state cannot be written, this process still remembers, and the next run reads the file once more.

    Raises:
        OSError: the file is gone.
    """
    status = os.stat(path)
    if status.st_mtime_ns % _SECOND_NS == nanoseconds(sha256):
        return
    from orchestrator.files import locked

    key, facts = _key(status), _facts(status, sha256)
    _sealed_here[store.state, key] = facts
    with suppress(OSError):
        local_state.make_folder(store.state)
        # Or a line would be lost that is added while another run shortens the file.
        with locked(store.state, store.stop):
            _compact(
                f"{store.state}/{_FILE}",
                local_state.append(f"{store.state}/{_FILE}", _line(key, facts, name or str(path))),
            )


def _line(key: str, facts: object, path: str = "") -> bytes:
    import json  # here and below: where nanoseconds are kept, nothing is remembered

    return json.dumps([key, facts, path]).encode() + b"\n"


def was_judged(store: Store, status: os.stat_result) -> bool:
    """Whether the local state remembers this inode: if its seal does not fit now, the file was changed since."""
    return (store.state, _key(status)) in _sealed_here or _key(status) in _remembered(store)


def _knows(store: Store, status: os.stat_result, sha256: str) -> bool:
    key, facts = _key(status), _facts(status, sha256)
    return _sealed_here.get((store.state, key)) == facts or _remembered(store).get(key) == facts


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _facts(status: os.stat_result, sha256: str) -> list[object]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, sha256]


def _remembered(store: Store) -> dict[str, list[object]]:
    """The remembered files, by `_key`; the last line of a file counts, a damaged line is skipped."""
    path = f"{store.state}/{_FILE}"
    try:
        status = os.stat(path)
    except OSError:
        return {}
    return _read(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # asked once a file, by runs of many thousands
def _read(path: str, _as_of: tuple[int, int]) -> dict[str, list[object]]:
    try:
        with local_state.open_to_read(path) as file:
            return {key: facts for key, facts, _ in _lines(file)}
    except OSError:
        return {}


def _lines(file: Iterable[bytes]) -> Iterator[tuple[str, list[object], str]]:
    """Parse the lines: a file's key, its facts, and its path (empty in lines of older versions)."""
    import json

    for line in file:
        try:
            key, facts, *more = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(key, str):
            yield key, facts, str(more[0]) if more else ""


def _compact(path: str, size: int) -> None:
    """Shorten the file, of `size` bytes, once it has doubled: keep one line for each file that is as remembered."""
    if size <= _SLACK_BYTES:
        return
    from orchestrator.files import write_atomic

    with local_state.open_to_read(path) as file:
        for key, before, _ in _lines([file.readline()]):
            if key == _COMPACTED and isinstance(before, int) and size <= 2 * before + _SLACK_BYTES:
                return
        lines = list(_lines(file))
    known = {key: facts for key, facts, _ in lines}
    file_state: dict[str, bytes] = {}
    for key, facts, name in lines:  # any of an inode's names will do: a place may be gone while its blob stays
        if name and key not in file_state and known.get(key) == facts:
            with suppress(OSError):
                status = os.stat(name)
                if _key(status) == key and _facts(status, str(facts[3])) == facts:
                    file_state[key] = _line(key, facts, name)
    kept = b"".join(file_state.values())
    write_atomic(path, _line(_COMPACTED, len(kept)) + kept)
