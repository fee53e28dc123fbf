"""The quarantine: wrong bytes that a source sent, up to 10 GiB; and files moved from their places, until emptied.

Each is `quarantine/<found digest>/bytes` with a note, `about.json`, beside it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from orchestrator.files import NewFile, rename_new, write_atomic
from orchestrator.folders import open_folder, open_regular, read_regular
from orchestrator.store.store import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.folders import Folder
    from orchestrator.model import Range
    from orchestrator.store.store import Store

LIMIT_BYTES = 10 * 1024**3  # of wrong bytes from sources; a file that a user may have made is never dropped
WIRE, DISPLACED = "wire", "displaced"
_MOST_BYTES = 1 << 26  # of a note: it lists the bad pieces of a file
_RANGE = re.compile(r"\b([0-9]{1,18})-([0-9]{1,18})\b")
_DIGEST = re.compile("[0-9a-f]{64}")
_WRITTEN_INTO = "written into: "  # how older versions noted the place of a displaced file


class QuarantineEntry(NamedTuple):
    """One file in quarantine.

    Attributes:
        name: of its folder in the quarantine.
        path: of its bytes.
        size_bytes: what they take on the disk.
        kind: WIRE or DISPLACED.
        found: the digest of its bytes.
        origin: its former place, or the source that sent it.
        when: ISO 8601, UTC.
        why: a phrase.
        place: the path to restore it to; empty for WIRE.
        model: that it belonged to; empty where unknown.
        bad: the ranges that were kept, where only those were.
        expected: the digest of the blob that has the rest of its bytes.
    """

    name: str
    path: str
    size_bytes: int
    kind: str
    found: str
    origin: str
    when: str
    why: str
    place: str = ""
    model: str = ""
    bad: tuple[tuple[int, int], ...] = ()
    expected: str = ""


def move_in(store: Store, path: str, found: str, about: Mapping[str, str], *, kind: str = WIRE) -> str:
    """Move the file at `path` to the quarantine; of a symbolic link the link itself.

    Args:
        path: where others may write, of `Folder.at`; `about` has its `place` then.
        found: the digest of its bytes.
        about: what to note beside it.
        kind: WIRE for what a source sent; DISPLACED for a file that was at a place: it gets a folder of its own, and
            stays until the user empties the quarantine.

    Returns:
        The folder that it is in now.

    Raises:
        StoreError: it could not be moved, and is still at `path`.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, kind, path, about)
        try:
            _move(path, f"{folder}/bytes", LIMIT_BYTES if kind == WIRE else None)
        except OSError:
            _remove_folder(folder)
            raise
    _trim(store, keep=os.path.basename(folder))
    return folder


def secure(store: Store, path: str, found: str, about: Mapping[str, str]) -> str:
    """Put a second link to the file at `path` (or a copy) into the quarantine, before the file is replaced.

    Returns:
        The folder that it is in; `release` removes it again, if the file was not replaced after all.

    Raises:
        StoreError: the disk failed; nothing has changed.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, DISPLACED, path, about)
        try:
            _link_or_copy(path, f"{folder}/bytes")
        except OSError:
            _remove_folder(folder)
            raise
    return folder


def release(folder: str) -> None:
    """Remove what `secure` put into the quarantine: the file is still at its place."""
    _remove_folder(folder)


def keep_ranges(
    store: Store, path: str, found: str, bad: Sequence[Range], about: Mapping[str, str], *, kind: str = WIRE
) -> str:
    """Copy only the bad ranges of a file to the quarantine, at their offsets, as a sparse file.

    Returns:
        The folder that they are in.

    Raises:
        StoreError: the disk failed.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, kind, path, about)
        try:
            with open(path, "rb") as source, open(f"{folder}/bytes", "wb") as target:
                _copy_ranges(source, target, bad)
                target.truncate(os.fstat(source.fileno()).st_size)
        except OSError:
            _remove_folder(folder)
            raise
    _trim(store, keep=os.path.basename(folder))
    return folder


def entries(store: Store) -> list[QuarantineEntry]:
    """All files in quarantine, oldest first.

    Raises:
        StoreError: it cannot be read.
    """
    with disk(store.quarantine):
        try:
            names = os.listdir(store.quarantine)
        except FileNotFoundError:
            return []
    found = [entry for name in names if (entry := _read_entry(f"{store.quarantine}/{name}")) is not None]
    return sorted(found, key=lambda entry: (entry.when, entry.name))


def restore(store: Store, entry: QuarantineEntry, to: str) -> None:
    """Move a file from the quarantine to `to`, where nothing may be.

    Raises:
        FileExistsError: something is there.
        PlacementError: it is in a folder that no place may be in.
        OSError: the disk failed; the file is still in quarantine.
    """
    above, name = os.path.split(to)
    with open_folder(above, make=True, trusted=store.trusted) as folder:
        if entry.bad:
            _restore_ranges(store, entry, folder, name)
        else:
            _move_new(entry.path, folder, name)
    _remove_folder(os.path.dirname(entry.path))


def drop(entry: QuarantineEntry) -> None:
    """Delete a file from the quarantine.

    Raises:
        OSError: the disk failed.
    """
    shutil.rmtree(os.path.dirname(entry.path))


def _folder(store: Store, found: str, kind: str, path: str, about: Mapping[str, str]) -> str:
    """Make the folder for one file and write its note, before the bytes come.

    Wrong bytes of a source have one folder a digest, since the same bytes again tell nothing new. A displaced file has
    always its own, since each had a place.
    """
    os.makedirs(store.quarantine, exist_ok=True)
    name = folder = ""
    for number in range(1, 100_000):
        name = found if number == 1 else f"{found}-{number}"
        folder = f"{store.quarantine}/{name}"
        try:
            os.mkdir(folder)
            break
        except FileExistsError:
            if kind == WIRE and _kind(_read_note(folder)) == WIRE:
                break
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    note = {"found": found, "time": when, "kind": kind, **about}
    if kind == DISPLACED:
        note["place"] = about.get("place", path)
    _write_note(store, folder, note)
    return folder


def _write_note(store: Store, folder: str, note: Mapping[str, str]) -> None:
    mode = os.stat(store.path).st_mode & 0o666
    write_atomic(f"{folder}/about.json", json.dumps(note).encode("ascii"), mode=mode)


def _read_note(folder: str) -> dict[str, str]:
    try:
        note = json.loads(read_regular(f"{folder}/about.json", _MOST_BYTES))
        return {str(key): str(value) for key, value in note.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _kind(note: Mapping[str, str]) -> str:
    """WIRE or DISPLACED; a note that does not say it may be of a user's file."""
    if "kind" in note:
        return note["kind"]
    return WIRE if note and not note.get("source", "").startswith(_WRITTEN_INTO) else DISPLACED


def _read_entry(folder: str) -> QuarantineEntry | None:
    path = f"{folder}/bytes"
    try:
        status = os.lstat(path)
    except OSError:
        return None  # only a note: its bytes were never moved in
    note = _read_note(folder)
    kind, source = _kind(note), note.get("source", "")
    place = note.get("place", source.removeprefix(_WRITTEN_INTO)) if kind == DISPLACED else ""
    when = note.get("time") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.lstat(folder).st_mtime))
    usual = "a source sent wrong bytes" if kind == WIRE else "wrong bytes"
    size = min(status.st_size, status.st_blocks * 512) or status.st_size  # a tiny one may have no block of its own
    return QuarantineEntry(
        os.path.basename(folder),
        path,
        size,
        kind,
        note.get("found", ""),
        place or source or "unknown",
        when,
        note.get("why") or usual,
        place,
        note.get("model", ""),
        tuple((int(start), int(end)) for start, end in _RANGE.findall(note.get("bad", ""))),
        note.get("expected", "") if _DIGEST.fullmatch(note.get("expected", "")) else "",
    )


def _remove_folder(folder: str) -> None:
    """Remove the folder of a file whose bytes are elsewhere now, or were never moved in."""
    for name in ("bytes", "about.json"):
        with suppress(OSError):
            os.unlink(f"{folder}/{name}")
    with suppress(OSError):
        os.rmdir(folder)


def _move(path: str, target: str, limit: int | None) -> None:
    """Move a file, or a symbolic link; to another disk it is copied, and removed once the copy is whole.

    To another disk a file of more than `limit` bytes is not copied: only its note is kept.
    """
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # st_dev would not tell: rename fails between two mounts of one device
            raise
        with suppress(FileNotFoundError):
            os.unlink(target)  # the same wrong bytes came before
        if limit is None or os.lstat(path).st_size <= limit:
            _copy_new(path, os.path.dirname(target), target)
        os.unlink(path)


def _move_new(path: str, folder: Folder, name: str) -> None:
    """Move a file of the quarantine to a name in `folder`, where nothing may be."""
    try:
        rename_new(path, folder.at(name))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_new(path, folder, folder.at(name))
        os.unlink(path)


def _link_or_copy(path: str, target: str) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:  # another disk, one without hard links, or another user's file (fs.protected_hardlinks)
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _copy_new(path, os.path.dirname(target), target)


def _copy_new(path: str, folder: Folder | str, target: str) -> None:
    """Copy a file (with its times and permissions) or a symbolic link to `target` in `folder`, where nothing is.

    The copy is this user's: it runs as nobody else (setuid), whatever the file did.

    Raises:
        OSError: the disk failed, or it is of another kind; nothing is left at `target`.
    """
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    from orchestrator.store import blobs

    source = open_regular(path)
    try:
        with NewFile(folder, 0o600) as new:
            blobs.copy_into(source, new.fd)
            status = os.fstat(source)
            with suppress(OSError):
                os.fchmod(new.fd, status.st_mode & 0o777)
                os.utime(new.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(new.fd)
            new.publish(target, replace=False)
    finally:
        os.close(source)


def _copy_ranges(source: BinaryIO, target: BinaryIO, ranges: Iterable[tuple[int, int]]) -> None:
    """Copy byte ranges to the same offsets of another file; a range ends early where `source` does."""
    for start, end in ranges:
        at = start
        source.seek(at)
        target.seek(at)
        while at < end and (block := source.read(min(1 << 20, end - at))):
            at += target.write(block)


def _restore_ranges(store: Store, entry: QuarantineEntry, folder: Folder, name: str) -> None:
    """Restore a file of which only the ranges were kept that differ from a blob.

    Raises:
        FileNotFoundError: the blob is gone.
        FileExistsError: something has that name.
        OSError: the disk failed.
    """
    from orchestrator.store import blobs

    blob = store.blob(entry.expected)
    if not os.path.isfile(blob):
        raise FileNotFoundError(errno.ENOENT, "the rest of its bytes is no longer in the store", blob)
    temporary = f"{os.path.dirname(entry.path)}/whole"
    blobs.copy(blob, temporary)
    try:
        os.chmod(temporary, 0o644)
        with open(entry.path, "rb") as bad, open(temporary, "r+b") as whole:
            _copy_ranges(bad, whole, entry.bad)
            whole.truncate(os.fstat(bad.fileno()).st_size)
        _move_new(temporary, folder, name)
        folder.sync()
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _trim(store: Store, keep: str) -> None:
    """Delete the oldest wrong bytes of sources until the rest is within the limit; the folder `keep` stays."""
    wire = list(_wire_entries(store))
    total = sum(size for _, size, _ in wire)
    for _, size, name in sorted(wire):
        if total <= LIMIT_BYTES:
            return
        if name != keep:
            shutil.rmtree(f"{store.quarantine}/{name}", ignore_errors=True)
            total -= size


def _wire_entries(store: Store) -> Iterator[tuple[float, int, str]]:
    """The wrong bytes of sources: (mtime of the folder, bytes on the disk, as some are sparse; name) of each."""
    for name in os.listdir(store.quarantine):
        folder = f"{store.quarantine}/{name}"
        with suppress(OSError):  # gone meanwhile
            status = os.lstat(f"{folder}/bytes")
            if _kind(_read_note(folder)) == WIRE:
                yield os.stat(folder).st_mtime, min(status.st_size, status.st_blocks * 512), name
