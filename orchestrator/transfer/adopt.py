"""Adopt an unfinished download of another program: go on with what lies beside a place, where nobody uses it."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends import aria2_control, aria2c
from orchestrator.errors import HeldError, PlacementError
from orchestrator.events import Noticed
from orchestrator.files import store_error
from orchestrator.folders import open_folder
from orchestrator.store import blobs, intake, partials
from orchestrator.store.store import open_to_read
from orchestrator.transfer.partial import PREFIX_WRITER, PartialState, total
from orchestrator.urls import UrlError, last_name
from orchestrator.verify.stream import first_hole

if TYPE_CHECKING:
    import threading

    from orchestrator.folders import Folder
    from orchestrator.model import Artifact
    from orchestrator.store import Store
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.run_context import RunContext

SUFFIXES = (".part", ".incomplete", ".partial")  # browsers, yt-dlp and curl's habit; huggingface_hub; wget's habit
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ELOOP)  # the folder or the file forbids it
SMALL_BYTES = 1 << 20  # is fetched in less time than it takes to look around


class Find(NamedTuple):
    """An unfinished file: how many good bytes it claims, its length where that is known, and aria2c's state file."""

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
    if blobs.blob_state(store, artifact.sha256, artifact.size) != "absent" or not _holds_no_file(artifact):
        return None
    found = [find for path in _possible_paths(artifact) if (find := _read_unfinished(path, artifact.size)) is not None]
    return max(found, key=lambda find: find.good_bytes, default=None)


def adopt(run: RunContext, artifact: Artifact) -> None:
    """Move the best unfinished file of another program into the artifact's partial, and say so.

    It is moved only where no process has it open, and copied where another name leads to the same bytes, or another
    user could write them; it is never taken instead of more bytes of our own. The digest judges it in the end: nobody
    is blamed for what it holds.

    Raises:
        StoreError: our disk said no; the unfinished file is where it was.
        Stopped: a stop was asked for.
    """
    best, orphans = offered(run.store, artifact), _find_sidecars(artifact)
    if best is None and not orphans:
        return
    if best is not None and (by := user(best)):
        run.emit(Noticed(f"{artifact.name}: {best.path} is left alone: {by} uses it"))
        best = None
    try:
        partial = partials.acquire(run.store, artifact.key)
    except HeldError:
        return
    try:
        _remove_sidecars(partial, orphans)
        if best is not None:
            good = PartialState(partial, artifact.size).good_bytes()
            if best.good_bytes > good:
                _take(partial, best, run.context.stop)
                run.emit(Noticed(f"{artifact.name}: going on with {best.path}, {best.good_bytes:,} bytes of it"))
            elif partial.info.adopted == _identity(best.path, os.lstat(best.path)):
                with open_folder(os.path.dirname(best.path)) as folder:
                    _remove_original(folder, best)  # a run that was ended had copied it all
    except (OSError, PlacementError) as error:
        if isinstance(error, OSError) and error.errno not in _FORBIDDEN:  # anew it would only fill the disk further
            raise store_error(error, run.store.path) from error
        where = best.path if best else orphans[0]
        why = error.message if isinstance(error, PlacementError) else error.strerror or error
        run.emit(Noticed(f"{artifact.name}: {where} is left alone: {why}"))
    finally:
        partial.release()


def _find_sidecars(artifact: Artifact) -> list[str]:
    """The paths whose aria2c state file is there and whose bytes are not."""
    return [
        path
        for path in _possible_paths(artifact)
        if os.path.lexists(path + aria2c.SIDECAR) and not os.path.lexists(path)
    ]


def _remove_sidecars(partial: Partial, orphans: list[str]) -> None:
    """Remove the state files of a file that an earlier run adopted and did not come to remove them."""
    for path in orphans:
        if partial.info.adopted is not None and partial.info.adopted[0] == path:
            with open_folder(os.path.dirname(path)) as folder:
                os.unlink(folder.at(os.path.basename(path) + aria2c.SIDECAR))


def _holds_no_file(artifact: Artifact) -> bool:
    """Whether no place has a file, but for one that aria2c has not finished."""
    paths = (place.path for wanted in artifact.wanted for place in wanted.places)
    return not any(os.path.lexists(path) and not os.path.lexists(path + aria2c.SIDECAR) for path in paths)


def _possible_paths(artifact: Artifact) -> list[str]:
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


def _read_unfinished(path: str, size: int | None) -> Find | None:
    """Read what an unfinished file claims; None where there is none, or it is of another file."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or (size is not None and status.st_size > size):
            return None
        state = partials.read_whole(path + aria2c.SIDECAR)
        if state is not None:
            length = aria2_control.length(state)
            if length is None or (size is not None and length != size):
                return None
            missing = total(aria2c.missing(state, length, status.st_size))
            return Find(path, length - missing, length, state) if missing < length else None
        if not path.endswith(SUFFIXES):
            return None  # a whole file: the place's own affair
        fd = open_to_read(path)
        try:
            whole = first_hole(fd) == status.st_size  # else a program with several connections left it, and its state
        finally:
            os.close(fd)
    except OSError:
        return None
    return Find(path, status.st_size, None, None) if whole and status.st_size else None


def _take(partial: Partial, find: Find, stop: threading.Event) -> None:
    """Make an unfinished file the partial's: moved, or copied from another disk or where others could write it.

    Whose bytes they are is on the disk before they move: a run that ends anywhere leaves them where they were, or in
    a partial that claims them.

    Raises:
        OSError: it cannot be taken; it is where it was then.
        PlacementError: its folder is not to be trusted.
        Stopped: a stop was asked for.
    """
    name = os.path.basename(find.path)
    with open_folder(os.path.dirname(find.path)) as folder:
        fd = open_to_read(folder.at(name))
        try:
            status = os.fstat(fd)
            movable = intake.is_ours_alone(status)
            partial.empty()
            partial.info.length = find.length
            partial.info.adopted = _identity(find.path, status) if movable else None
            writer, suffix = (PREFIX_WRITER, None) if find.control is None else (aria2c.NAME, aria2c.SIDECAR)
            partial.change_writer(writer, 0, suffix, find.control)
            if not intake.move_in(folder.at(name), fd, partial.file):
                blobs.copy(fd, partial.file, stop)
        finally:
            os.close(fd)
        if movable:
            _remove_original(folder, find, status)


def _remove_original(folder: Folder, find: Find, status: os.stat_result | None = None) -> None:
    """Remove the original, which is in the partial by now: the bytes, where they were copied, then their state.

    `status` is that of the bytes that were taken: what else is there by now stays.
    """
    name = os.path.basename(find.path)
    with suppress(FileNotFoundError):
        if status is None or os.path.samestat(os.lstat(folder.at(name)), status):
            os.unlink(folder.at(name))
    if find.control is not None:
        os.unlink(folder.at(name + aria2c.SIDECAR))


def _identity(path: str, status: os.stat_result) -> tuple[str, int, int]:
    return path, status.st_ino, status.st_mtime_ns


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
