"""Adopt an unfinished download of another program: resume one beside a place, if no program uses it."""

from __future__ import annotations

import errno
import os
import re
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
from orchestrator.text import size_text
from orchestrator.transfer.partial import PREFIX_WRITER, PartialState, total
from orchestrator.urls import UrlError, last_name
from orchestrator.verify.stream import first_hole

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from orchestrator.folders import Folder
    from orchestrator.model import Artifact
    from orchestrator.store import Store
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.run_context import RunContext

# Firefox, yt-dlp and curl's habit; huggingface_hub; wget's habit; Chrome; Safari.
SUFFIXES = (".part", ".incomplete", ".partial", ".crdownload", ".download")
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ELOOP)  # the folder or the file forbids it
_DIGEST = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")
SMALL_BYTES = 1 << 20  # above it a file is worth a process, and a look at what is kept of it


class Find(NamedTuple):
    """An unfinished file: how many good bytes it claims, its length where that is known, and aria2c's state file.

    `is_copied`: it is copied and stays, since only a length tells what it is: it may as well be another version, whole.
    `wget -c` and `curl -C -` leave such a file.
    """

    path: str
    good_bytes: int
    length: int | None
    control: bytes | None
    is_copied: bool = False


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
    _adopt(run, artifact, offered(run.store, artifact), _find_sidecars(artifact))


def find_best(artifact: Artifact, paths: Iterable[str]) -> Find | None:
    """The best of some files as an unfinished download of an artifact; a short file under any name counts too."""
    found = [_read_unfinished(path, artifact.size) or _read_prefix(path, artifact.size) for path in paths]
    return max((find for find in found if find is not None), key=lambda find: find.good_bytes, default=None)


def by_length(paths: Iterable[str]) -> dict[int, list[str]]:
    """The files that aria2c has not finished, by the length that its state files beside them say."""
    found: dict[int, list[str]] = {}
    for path in paths:
        with suppress(OSError):
            state = partials.read_whole(path + aria2c.SIDECAR)
            if state is not None and (length := aria2_control.length(state)) is not None:
                found.setdefault(length, []).append(path)
    return found


def adopt_found(run: RunContext, artifact: Artifact, find: Find) -> bool:
    """Take one unfinished file into the artifact's partial, as `adopt` does; whether its bytes are there now.

    Raises:
        StoreError, Stopped: as `adopt`.
    """
    return _adopt(run, artifact, find, [])


def resume_hint(path: str, size: int | None) -> str:
    """What to add to the hint about a file in the way that may be an unfinished download of `size` bytes; "" else."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""
    if not _is_short(status, size):
        return ""
    return f"; if it is an unfinished download: `orch adopt {os.path.dirname(path)}` resumes it"


def _adopt(run: RunContext, artifact: Artifact, best: Find | None, orphans: list[str]) -> bool:
    if best is None and not orphans:
        return False
    if best is not None and (by := user(best)):
        run.emit(Noticed(f"{artifact.name}: {best.path} is left alone: {by} uses it"))
        best = None
    try:
        partial = partials.acquire(run.store, artifact.key)
    except HeldError:
        return False
    try:
        _remove_sidecars(partial, orphans)
        if best is not None:
            good = PartialState(partial, artifact.size).good_bytes()
            if best.good_bytes > good:
                _take(partial, best, run.context.stop)
                what = f"an unfinished download, {size_text(best.good_bytes)} of it are here"
                run.emit(Noticed(f"{artifact.name}: taken from {best.path}: {what}"))
                return True
            if partial.info.adopted == _identity(best.path, os.lstat(best.path)):
                with open_folder(os.path.dirname(best.path)) as folder:
                    _remove_original(folder, best)  # a run that was ended had copied it all
            return best.is_copied  # a run that was ended had copied it: as much of it is here
    except (OSError, PlacementError) as error:
        if isinstance(error, OSError) and error.errno not in _FORBIDDEN:  # anew it would only fill the disk further
            raise store_error(error, run.store.path) from error
        where = best.path if best else orphans[0]
        why = error.message if isinstance(error, PlacementError) else error.strerror or error
        run.emit(Noticed(f"{artifact.name}: {where} is left alone: {why}"))
    finally:
        partial.release()
    return False


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
    paths = [path for name in found for path in (name, *(name + suffix for suffix in SUFFIXES))]
    return [*paths, *(path for name in found if digest_in(name) for path in _hub_unfinished(name))]


def digest_in(path: str) -> str:
    """The sha256 in a file's name, as the caches of the Hugging Face hub have it; "" for none."""
    match = _DIGEST.search(os.path.basename(path))
    return match[0].lower() if match else ""


def _hub_unfinished(blob: str) -> list[str]:
    """What huggingface_hub 2.x, which gives each download a suffix of its own, began as this blob of its cache."""
    folder, name = os.path.split(blob)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [f"{folder}/{each}" for each in sorted(names) if each.startswith(name + ".") and each.endswith(SUFFIXES)]


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
        return Find(path, status.st_size, None, None) if _has_no_hole(path, status.st_size) else None
    except OSError:
        return None


def _read_prefix(path: str, size: int | None) -> Find | None:
    """Take a file that is shorter than the one that is wanted for the begin of it."""
    try:
        status = os.lstat(path)
        if not _is_short(status, size):
            return None
        has_state = os.path.lexists(path + aria2c.SIDECAR) or path.endswith(aria2c.SIDECAR)
        if has_state or not _has_no_hole(path, status.st_size):
            return None
    except OSError:
        return None
    return Find(path, status.st_size, None, None, is_copied=True)


def _is_short(status: os.stat_result, size: int | None) -> bool:
    """Whether a file is shorter than one of `size` bytes, and worth to be gone on with."""
    return size is not None and stat.S_ISREG(status.st_mode) and SMALL_BYTES < status.st_size < size


def _has_no_hole(path: str, size: int) -> bool:
    """Whether a file has bytes, and all of them: else a program with several connections left it, and its state."""
    fd = open_to_read(path)
    try:
        return size > 0 and first_hole(fd) == size
    finally:
        os.close(fd)


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
            movable = intake.is_ours_alone(status) and not find.is_copied
            partial.empty()
            partial.info.length = find.length
            partial.info.adopted = _identity(find.path, status) if movable else None
            writer, suffix = (PREFIX_WRITER, None) if find.control is None else (aria2c.NAME, aria2c.SIDECAR)
            partial.change_writer(writer, 0, suffix, find.control)
            if find.is_copied or not intake.move_in(folder.at(name), fd, partial.file):
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
            return f"perhaps its owner, user {status.st_uid},"
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
