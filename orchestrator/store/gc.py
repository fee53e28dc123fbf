"""Find what may be removed from a store: unreferenced blobs, leftovers of dead processes, names without a file.

No symbolic link is followed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.files import TEMPORARY
from orchestrator.store import locks, relay

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator, Mapping

    from orchestrator.store.store import Store

AWAITED_S = 30 * 86400.0
_DIGEST = re.compile("[0-9a-f]{64}")
_JOURNAL = re.compile(r"([0-9a-f]{64}\.json)\.\d+\.journal")
_ALIAS = re.compile("[0-9a-f]{32,128}")
_KEYED = re.compile("(sha256|sha512|sha1|git|md5|url)-([0-9a-f]{32,128})")


class Garbage(NamedTuple):
    """Something that may be removed: `kind` is blob, partial, bundle, alias, temporary or record; or place or tree.

    `frees_bytes` is what the disk gets back: a blob that is hard-linked at a place frees nothing. `identity` tells
    whether it is still the same thing later; `known_as` is a place that was made of its bytes. What is `awaited` stays:
    a sync will resume it. So does what has `kept_until`, in seconds since the epoch: a previous version.
    """

    kind: str
    path: str
    sha256: str
    frees_bytes: int
    identity: tuple[int, int]
    known_as: str = ""
    awaited: bool = False
    kept_until: float = 0.0


def garbage(
    store: Store,
    wanted: Collection[str],
    is_awaited: Callable[[str], bool],
    now: float,
    kept: Mapping[str, float] | None = None,
) -> list[Garbage]:
    """List everything that may be removed, where the digests in `wanted` must stay; nothing is changed.

    Args:
        is_awaited: says of a key (a sha256, or an artifact's) whether somebody will resume its unfinished bytes, which
            is possible for `AWAITED_S` after the last of them came.
        now: the time in seconds since the epoch.
        kept: the previous versions that stay as well: until when (seconds since the epoch), by sha256. Their blobs
            are in the answer, with `kept_until`; the names that lead to them are not.
    """
    kept = kept or {}

    def stays(key: str, folder: str) -> bool:
        return is_awaited(key) and not os.path.lexists(store.blob(key)) and now - _last_change(folder) < AWAITED_S

    return [
        *_blobs(store, wanted, kept),
        *_partials(store, stays),
        *_bundles(store, stays),
        *_aliases(store, {*wanted, *kept}),
        *_temporaries(store),
    ]


def drop(entry: Garbage, state: str, stop: threading.Event | None = None) -> bool:
    """Remove it; false where it is gone, is another thing by now, or is in use.

    Raises:
        OSError: the disk said no.
        Stopped: a stop was asked for while another orch was in its folder.
    """
    try:
        if _identity(os.lstat(entry.path)) != entry.identity:
            return False
        if entry.kind not in ("partial", "bundle"):
            os.unlink(entry.path)
            return True
    except FileNotFoundError:
        return False
    if not _drop_writers(entry.path, state, stop):
        return False
    if entry.sha256:  # else what a killed run published would keep the bytes
        store = os.path.dirname(os.path.dirname(os.path.dirname(entry.path)))
        relay.withdraw(f"{store}/relay", entry.sha256)
    return True


def _drop_writers(folder: str, state: str, stop: threading.Event | None) -> bool:
    parent = os.path.dirname(folder)
    with locks.alone(parent, stop) as still_there:
        if not still_there or not _is_dead(folder, state):
            return False
        shutil.rmtree(folder)
    with suppress(OSError):
        os.rmdir(parent)  # where nobody else is in it
    return True


def _blobs(store: Store, wanted: Collection[str], kept: Mapping[str, float]) -> Iterator[Garbage]:
    for entry in _listed(f"{store.path}/blobs/sha256"):
        if entry.name not in wanted and _DIGEST.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            status = os.lstat(entry.path)
            frees = status.st_size if status.st_nlink == 1 else 0
            until = kept.get(entry.name, 0.0)
            yield Garbage("blob", entry.path, entry.name, frees, _identity(status), kept_until=until)


def _partials(store: Store, stays: Callable[[str, str], bool]) -> Iterator[Garbage]:
    for parent in _listed(f"{store.path}/partial"):
        if (match := _KEYED.fullmatch(parent.name)) and parent.is_dir(follow_symlinks=False):
            key = match[2] if match[1] == "sha256" else parent.name
            for dead in _dead("partial", parent.path, match[2] if match[1] == "sha256" else "", store.state):
                yield dead._replace(awaited=stays(key, dead.path))


def _bundles(store: Store, stays: Callable[[str, str], bool]) -> Iterator[Garbage]:
    if not os.path.islink(store.bundles):
        for dead in _dead("bundle", store.bundles, "", store.state):
            names = (entry.name for entry in _listed(dead.path))
            yield dead._replace(awaited=any(stays(name, dead.path) for name in names))


def _temporaries(store: Store) -> Iterator[Garbage]:
    """List the temporary files that dead processes left: a living one renames its own once it is whole."""
    folders = (store.path, store.places, f"{store.places}/trees", store.quarantine)
    below = (entry.path for above in (f"{store.path}/blobs", store.quarantine) for entry in _listed(above))
    for folder in (*folders, *below):
        for entry in _listed(folder):
            if entry.is_file(follow_symlinks=False) and _is_left(entry.path, entry.name):
                status = os.lstat(entry.path)
                yield Garbage("temporary", entry.path, "", status.st_blocks * 512, _identity(status))


def _is_left(path: str, name: str) -> bool:
    if name.endswith(".new"):  # of an older orch, which held the store's turn while it wrote
        return True
    if match := _JOURNAL.fullmatch(name):  # of a record that was removed
        return not os.path.lexists(f"{os.path.dirname(path)}/{match[1]}")
    return name.startswith(TEMPORARY) and _is_free(path)


def _dead(kind: str, parent: str, sha256: str, state: str) -> Iterator[Garbage]:
    dead = [
        entry.path for entry in _listed(parent) if entry.is_dir(follow_symlinks=False) and _is_dead(entry.path, state)
    ]
    for folder in dead:
        inside = [os.lstat(file.path) for file in _listed(folder)]
        frees = sum(status.st_blocks * 512 for status in inside if status.st_nlink == 1)
        yield Garbage(kind, folder, sha256, frees, _identity(os.lstat(folder)))


def _last_change(folder: str) -> float:
    """Tell when the last byte came into a folder, as seconds since the epoch."""
    times = [os.lstat(folder).st_mtime]
    for entry in _listed(folder):
        with suppress(FileNotFoundError):
            times.append(os.lstat(entry.path).st_mtime)
    return max(times)


def record_of(path: str) -> Garbage | None:
    """Describe a record of places that may be removed; None where it is gone already."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return Garbage("record", path, "", status.st_blocks * 512, _identity(status))


def _is_dead(folder: str, state: str) -> bool:
    """Whether the writer of a folder and all its children are gone."""
    try:
        return locks.find_holder(folder, state) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False  # another user's, or no file of ours


def _is_free(path: str) -> bool:
    """Whether nobody holds a lock on a file, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # another user's, or no file of ours
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # somebody has it, or this file system has no locks
    finally:
        os.close(fd)
    return True


def _aliases(store: Store, wanted: Collection[str]) -> Iterator[Garbage]:
    """List the names of blobs by weaker digests, `blobs/md5/<hex>`, that lead nowhere, or will when their blob goes.

    They stay as long as somebody wants the bytes: a weak pin is looked up by them.
    """
    for kind in _listed(f"{store.path}/blobs"):
        if kind.name == "sha256" or not kind.is_dir(follow_symlinks=False):
            continue
        for entry in _listed(kind.path):
            if entry.is_symlink() and _ALIAS.fullmatch(entry.name):
                sha256 = os.path.basename(os.readlink(entry.path))
                if sha256 not in wanted:
                    yield Garbage("alias", entry.path, sha256, 0, _identity(os.lstat(entry.path)))


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """List a folder by name; nothing where it is not a folder, or a link to one."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return []
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, PermissionError):  # of another user of this store: not ours to remove
        return []


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns
