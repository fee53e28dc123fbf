"""Unfinished downloads of others beside a place: taken into the partial where nobody uses them, and judged as all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends import aria2c, control
from orchestrator.errors import HeldError
from orchestrator.events import Noticed
from orchestrator.manifest.urls import UrlError, last_name
from orchestrator.store import blobs, partials
from orchestrator.stream import first_hole
from orchestrator.transfer.holding import Holding, total

if TYPE_CHECKING:
    from orchestrator.model import Artifact
    from orchestrator.store import Store
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.kit import Kit

SUFFIXES = (".part", ".incomplete", ".partial")  # browsers, yt-dlp and curl's habit; huggingface_hub; wget's habit
SMALL_BYTES = 1 << 20  # is fetched in less time than it takes to look around
PREFIX_WRITER = "curl"  # stands for every program that appends: what is there is a prefix


class Find(NamedTuple):
    """An unfinished file: its good bytes by its program's word, and aria2's state where that program wrote it."""

    path: str
    good_bytes: int
    length: int | None
    control: bytes | None


def offered(store: Store, artifact: Artifact) -> Find | None:
    """The best unfinished file that lies beside a place.

    None where the blob is here, where a place has a file that no program calls unfinished, and for a small file.
    """
    if artifact.size is not None and artifact.size <= SMALL_BYTES:
        return None
    if blobs.blob_state(store, artifact.sha256, artifact.size) != "absent" or not _is_clear(artifact):
        return None
    found = [find for path in _names(artifact) if (find := _look(path, artifact.size)) is not None]
    return max(found, key=lambda find: find.good_bytes, default=None)


def adopt(kit: Kit, artifact: Artifact) -> None:
    """Move what is offered into the artifact's partial, and say so.

    It is moved only where no process has it open, and copied where another name leads to the same bytes; it is never
    taken instead of more bytes of our own. The digest judges it in the end: nobody is blamed for what it holds.
    """
    best = offered(kit.store, artifact)
    if best is None:
        return
    if by := user(best):
        kit.emit(Noticed(f"{artifact.name}: {best.path} is left alone: {by} uses it"))
        return
    try:
        partial = partials.acquire(kit.store, artifact.key)
    except HeldError:
        return
    try:
        if best.good_bytes > Holding(partial, artifact.size).good_bytes():
            _take(partial, best)
            kit.emit(Noticed(f"{artifact.name}: going on with {best.path}, {best.good_bytes:,} bytes of it"))
    except OSError as error:
        kit.emit(Noticed(f"{artifact.name}: {best.path} is left alone: {error.strerror or error}"))
    finally:
        if partial.have:
            partial.close()
        else:
            partial.discard()


def _is_clear(artifact: Artifact) -> bool:
    paths = (place.path for wanted in artifact.wanted for place in wanted.places)
    return not any(os.path.lexists(path) and not os.path.lexists(path + aria2c.SIDECAR) for path in paths)


def _names(artifact: Artifact) -> list[str]:
    """The files that a place, or the URL's last name in its folder, may have been begun as."""
    found: dict[str, None] = {}
    for wanted in artifact.wanted:
        lasts = []
        for source in wanted.sources:
            with suppress(UrlError):
                lasts.append(last_name(source.url))
        for place in wanted.places:
            folder, name = os.path.split(place.path)
            if place.unpack or place.target:
                continue
            found.update((f"{folder}/{each}", None) for each in dict.fromkeys((name, *lasts)))
    return [path for name in found for path in (name, *(name + suffix for suffix in SUFFIXES))]


def _look(path: str, size: int | None) -> Find | None:
    """What an unfinished file claims; None where there is none, or it is of another file."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or (size is not None and status.st_size > size):
            return None
        state = partials.read_whole(path + aria2c.SIDECAR)
        if state is not None:
            length = control.length(state)
            if length is None or (size is not None and length != size):
                return None
            missing = total(aria2c.missing(state, length, status.st_size))
            return Find(path, length - missing, length, state) if missing < length else None
        if not path.endswith(SUFFIXES):
            return None  # a whole file: the place's own affair
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            whole = first_hole(fd) == status.st_size  # else a program with several connections left it, and its state
        finally:
            os.close(fd)
    except OSError:
        return None
    return Find(path, status.st_size, None, None) if whole and status.st_size else None


def _take(partial: Partial, find: Find) -> None:
    """Make it the partial's bytes: moved, or copied from another disk or where another name leads to them.

    Raises:
        OSError: it cannot be taken; it is where it was then.
    """
    partial.empty()
    if os.lstat(find.path).st_nlink > 1:
        blobs.copy(find.path, partial.file)
    else:
        try:
            os.rename(find.path, partial.file)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            blobs.copy(find.path, partial.file)
            os.unlink(find.path)
    partial.info.backend = PREFIX_WRITER if find.control is None else aria2c.NAME
    partial.info.length = find.length
    partial.write_sidecar(aria2c.SIDECAR, find.control)
    partial.save_info()
    if find.control is not None:
        os.unlink(find.path + aria2c.SIDECAR)


def user(find: Find) -> str:
    """Who may be using it: a process that has it open, as far as we see them all, or its owner; "" is nobody."""
    files = set()
    for path in (find.path, *((find.path + aria2c.SIDECAR,) if find.control is not None else ())):
        status = os.lstat(path)
        if os.geteuid() not in (0, status.st_uid):
            return f"user {status.st_uid}, whose it is, perhaps"
        files.add((status.st_dev, status.st_ino))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                status = os.stat(entry.path)
                if (status.st_dev, status.st_ino) in files:
                    return f"process {pid}"
        except OSError:  # it ended, or is another user's, who has no business with a file of ours
            continue
    return ""
