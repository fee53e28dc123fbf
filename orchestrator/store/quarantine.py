"""Quarantine: wrong bytes from the wire, kept for a look; and what had to make room, kept until its owner says."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.store.store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.model import Range
    from orchestrator.store.store import Store

LIMIT_BYTES = 10 * 1024**3  # of what came over the wire; what a user may have made is never dropped
WIRE, DISPLACED = "wire", "displaced"
_WRITTEN_INTO = "written into: "  # how older versions noted where a displaced file stood


class Kept(NamedTuple):
    """One thing in quarantine: `name` is its folder's, `path` where its bytes lie, `size` what they take.

    `origin` is where it stood (or the source that sent it), `when` ISO 8601 in UTC, `why` a phrase; `place` is the
    path that it can be put back to, "" for what came over the wire; `bad` the ranges that were kept where it is
    not whole, and `expected` the digest whose bytes the rest has.
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
    """Move wrong bytes out of the way: `path` goes to quarantine/<found>/bytes with `about` beside it.

    Of `kind` WIRE they are what a source sent. DISPLACED they stood at a place: they have a folder of their own,
    and stay until somebody empties it. A link is moved itself, never what it leads to.

    Returns:
        The folder they lie in now.

    Raises:
        StoreError: they could not be moved; `path` is then still there.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, kind, path, about)
        try:
            _move(path, f"{folder}/bytes", LIMIT_BYTES if kind == WIRE else None)
        except OSError:
            _forget(folder)
            raise
    _make_room(store, keep=os.path.basename(folder))
    return folder


def secure(store: Store, path: str, found: str, about: Mapping[str, str]) -> str:
    """Give what stands at `path` a second name in quarantine (or a copy of it), before it is replaced.

    Returns:
        The folder it lies in; `release` forgets it, where the place was not replaced after all.

    Raises:
        StoreError: the disk said no; nothing has changed.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, DISPLACED, path, about)
        try:
            _double(path, f"{folder}/bytes")
        except OSError:
            _forget(folder)
            raise
    return folder


def release(folder: str) -> None:
    """Forget what `secure` kept: it still stands at its place."""
    _forget(folder)


def keep(
    store: Store, path: str, found: str, bad: Sequence[Range], about: Mapping[str, str], *, kind: str = WIRE
) -> str:
    """Copy just the bad ranges of a file, to where they lie in it: quarantine/<found>/bytes is sparse.

    Returns:
        The folder they lie in now.

    Raises:
        StoreError: the disk said no.
    """
    with disk(store.quarantine):
        folder = _folder(store, found, kind, path, about)
        try:
            with open(path, "rb") as source, open(f"{folder}/bytes", "wb") as target:
                for begin, end in bad:
                    start = begin
                    source.seek(start)
                    target.seek(start)
                    while start < end and (block := source.read(min(1 << 20, end - start))):
                        start += target.write(block)
                target.truncate(os.fstat(source.fileno()).st_size)
        except OSError:
            _forget(folder)
            raise
    _make_room(store, keep=os.path.basename(folder))
    return folder


def listed(store: Store) -> list[Kept]:
    """All that lies in quarantine, oldest first.

    Raises:
        StoreError: it cannot be read.
    """
    with disk(store.quarantine):
        try:
            names = os.listdir(store.quarantine)
        except FileNotFoundError:
            return []
    found = [kept for name in names if (kept := _read(f"{store.quarantine}/{name}")) is not None]
    return sorted(found, key=lambda kept: (kept.when, kept.name))


def restore(store: Store, kept: Kept, to: str) -> None:
    """Put something back at `to`, where nothing may stand, and forget it here.

    Raises:
        FileExistsError: something stands there.
        OSError: the disk said no; what was kept is still here.
    """
    from orchestrator import files

    os.makedirs(os.path.dirname(to), exist_ok=True)
    if kept.bad:
        _rebuild(store, kept, to)
    else:
        try:
            files.rename_new(kept.path, to)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_new(kept.path, to)
            os.unlink(kept.path)
    _forget(os.path.dirname(kept.path))


def drop(kept: Kept) -> None:
    """Remove something for good.

    Raises:
        OSError: the disk said no.
    """
    shutil.rmtree(os.path.dirname(kept.path))


def _folder(store: Store, found: str, kind: str, path: str, about: Mapping[str, str]) -> str:
    """Make the folder of one thing, with its note: that is there before the bytes are.

    What came over the wire has one folder a digest: the same bytes again are the same. What was displaced has each
    its own, for it stood somewhere.
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
            if kind == WIRE and _kind(_note(folder)) == WIRE:
                break
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    note = {"found": found, "time": when, "kind": kind, **about}
    if kind == DISPLACED:
        note["place"] = about.get("place", path)
    _describe(store, folder, note)
    return folder


def _describe(store: Store, folder: str, note: Mapping[str, str]) -> None:
    from orchestrator import files

    mode = os.stat(store.path).st_mode & 0o666
    files.write_atomic(f"{folder}/about.json", json.dumps(note).encode("ascii"), mode=mode)


def _note(folder: str) -> dict[str, str]:
    try:
        with open(f"{folder}/about.json", encoding="utf-8") as file:
            return {str(key): str(value) for key, value in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _kind(note: Mapping[str, str]) -> str:
    """Where something came from; what says nothing of it may be a user's."""
    if "kind" in note:
        return note["kind"]
    return WIRE if note and not note.get("source", "").startswith(_WRITTEN_INTO) else DISPLACED


def _read(folder: str) -> Kept | None:
    path = f"{folder}/bytes"
    try:
        status = os.lstat(path)
    except OSError:
        return None  # a note whose bytes never came
    note = _note(folder)
    kind, source = _kind(note), note.get("source", "")
    place = note.get("place", source.removeprefix(_WRITTEN_INTO)) if kind == DISPLACED else ""
    when = note.get("time") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.lstat(folder).st_mtime))
    usual = "a source sent wrong bytes" if kind == WIRE else "its bytes were not those that are wanted"
    size = min(status.st_size, status.st_blocks * 512) if note.get("bad") else status.st_size
    return Kept(
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
        tuple((int(start), int(end)) for start, end in re.findall(r"(\d+)-(\d+)", note.get("bad", ""))),
        note.get("expected", ""),
    )


def _forget(folder: str) -> None:
    """Remove a folder whose bytes are elsewhere, or never came."""
    for name in ("bytes", "about.json"):
        with suppress(OSError):
            os.unlink(f"{folder}/{name}")
    with suppress(OSError):
        os.rmdir(folder)


def _move(path: str, target: str, limit: int | None) -> None:
    """Move a file, or a link itself; from another disk it is copied, and gone only once the copy is whole.

    Of what is larger than `limit` bytes there only the note is kept.
    """
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # st_dev would not tell: two mounts may share it and still not rename
            raise
        with suppress(FileNotFoundError):
            os.unlink(target)  # the same wrong bytes, sent before
        if limit is None or os.lstat(path).st_size <= limit:
            _copy_new(path, target)
        os.unlink(path)


def _double(path: str, target: str) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:  # another disk, no links there, or another's file (fs.protected_hardlinks)
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _copy_new(path, target)


def _copy_new(path: str, target: str) -> None:
    """Copy a file (with its times and mode) or a link to where nothing stands.

    Raises:
        OSError: the disk said no; nothing is left at `target` then.
    """
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    from orchestrator.store import blobs

    blobs.copy(path, target)
    with suppress(OSError):
        shutil.copystat(path, target)


def _rebuild(store: Store, kept: Kept, to: str) -> None:
    """Make a file again of which only the ranges were kept that differ from a blob."""
    from orchestrator import files
    from orchestrator.store import blobs

    blob, folder = store.blob(kept.expected), os.path.dirname(to)
    if not os.path.isfile(blob):
        raise FileNotFoundError(errno.ENOENT, "the rest of its bytes is no longer in the store", blob)
    temporary = f"{os.path.dirname(kept.path)}/whole"
    blobs.copy(blob, temporary)
    try:
        os.chmod(temporary, 0o644)
        with open(kept.path, "rb") as bad, open(temporary, "r+b") as whole:
            for start, end in kept.bad:
                bad.seek(start)
                whole.seek(start)
                while start < end and (block := bad.read(min(1 << 20, end - start))):
                    start += whole.write(block)
            whole.truncate(os.fstat(bad.fileno()).st_size)
        try:
            files.rename_new(temporary, to)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_new(temporary, to)
        files.sync_folder(folder)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _make_room(store: Store, keep: str) -> None:
    """Drop the oldest that came over the wire until the rest of it fits; the newest stays whatever its size."""
    entries = list(_wire(store))
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= LIMIT_BYTES:
            return
        if name != keep:
            shutil.rmtree(f"{store.quarantine}/{name}", ignore_errors=True)
            total -= size


def _wire(store: Store) -> Iterator[tuple[float, int, str]]:
    for name in os.listdir(store.quarantine):
        folder = f"{store.quarantine}/{name}"
        with suppress(OSError):  # gone meanwhile
            kept = os.lstat(f"{folder}/bytes")
            if _kind(_note(folder)) == WIRE:
                # Some are sparse.
                yield os.stat(folder).st_mtime, min(kept.st_size, kept.st_blocks * 512), name
