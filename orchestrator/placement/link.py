"""Places made from their blobs: reflink, hard link, symlink or checked copy, each in one atomic step."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator import verify
from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import place_error, rename_new
from orchestrator.model import Link
from orchestrator.store import blobs, seal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.model import Place
    from orchestrator.store import Store
    from orchestrator.verify import Verdict
    from orchestrator.world import World


Stamp = tuple[int, int, int, int]  # device, inode, size, mtime in nanoseconds


def stamp(path: str) -> Stamp | None:
    """What stands at `path` itself, as it can be compared later; None where nothing does."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def put(world: World, store: Store, sha256: str, place: Place, over: Stamp | None = None) -> str:
    """Make `place` from the blob of `sha256`; only what still has the stamp `over` is replaced.

    Returns:
        How it was made: reflink, hard, symlink or copy.

    Raises:
        PlacementError: the folder cannot be written, the link mode cannot be had, a copy came out wrong.
        Stopped: a stop was asked for.
    """
    made = put_all(world, store, [(sha256, place)], {place.path: over} if over else {})[0]
    if isinstance(made, PlacementError):
        raise made
    return made


def put_all(
    world: World, store: Store, places: Sequence[tuple[str, Place]], over: Mapping[str, Stamp] | None = None
) -> list[str | PlacementError]:
    """Make many places, each from the blob of its digest; what is learnt of a folder is learnt once.

    `over` has the stamps of what may be replaced, by path; nothing else is.

    Returns:
        Of each, how it was made, or why it was not.

    Raises:
        Stopped: a stop was asked for.
    """
    results: list[str | PlacementError] = []
    copies: list[_Copy] = []
    over = over or {}
    putter = _Putter(world, store, over)
    try:
        for sha256, place in places:
            try:
                made = putter.put(sha256, place)
            except PlacementError as error:
                results.append(error)
                continue
            except OSError as error:
                results.append(place_error(error, place.path))
                continue
            if isinstance(made, _Copy):
                made.number = len(results)
                copies.append(made)
                if world.stop.is_set():
                    raise Stopped("stopped while copying")
                made = "copy"
            results.append(made)
        if copies:
            verdicts = verify.check(world, [(copy.sha256, copy.temporary) for copy in copies])
            for copy, verdict in zip(copies, verdicts, strict=True):
                results[copy.number] = _finish(store, copy, verdict, over)
    finally:
        for copy in copies:
            with suppress(OSError):
                os.unlink(copy.temporary)
    return results


@dataclass(slots=True)
class _Copy:
    """A copy that is made and not yet proved."""

    sha256: str
    temporary: str
    path: str
    number: int = 0


class _Putter:
    """Makes places; remembers which folders are there, on which device, and where a reflink was refused."""

    def __init__(self, world: World, store: Store, over: Mapping[str, Stamp]) -> None:
        self._world, self._store, self._over = world, store, over
        self._device: dict[str, int] = {}
        self._no_reflink: set[int] = set()

    def put(self, sha256: str, place: Place) -> str | _Copy:
        folder, name = os.path.split(place.path)
        if place.target:
            return _alias(self._store, sha256, place, self._over)
        if place.unpack:
            from orchestrator.placement import tree  # and with it the standard library's archives

            tree.put(self._world, self._store, sha256, place.path)
            return "unpacked"
        if folder not in self._device:
            os.makedirs(folder, exist_ok=True)
            self._device[folder] = os.stat(folder).st_dev
        blob = self._store.blob(sha256)
        how = self._how(blob, folder, place)
        if how == "hard":
            with suppress(OSError):
                os.link(blob, place.path)  # where nothing stands this is as atomic as a rename
                seal.remember(self._store, place.path, sha256)
                return "hard"
        if os.path.isdir(place.path) and not os.path.islink(place.path):
            raise PlacementError(f"{place.path} is a folder", f"move it away, or change `to:` ({name})")
        temporary = f"{folder}/.orch-{secrets.token_hex(6)}"
        try:
            if (made := self._make(blob, sha256, temporary, how, place)) == "copy":
                copy, temporary = _Copy(sha256, temporary, place.path), ""
                return copy
            _put_in(self._store, sha256, temporary, place.path, self._over)
        finally:
            if temporary and os.path.lexists(temporary):
                os.unlink(temporary)
        if made != "symlink":
            seal.remember(self._store, place.path, sha256)
        return made

    def _how(self, blob: str, folder: str, place: Place) -> str:
        """The way to try first."""
        if place.link is not Link.AUTO:
            return str(place.link.value)
        return "reflink" if self._device[folder] not in self._no_reflink else self._hard_or_copy(blob, folder, place)

    def _hard_or_copy(self, blob: str, folder: str, place: Place) -> str:
        """A hard link where blob and place share a file system and the blob is ours (others' inodes stay theirs)."""
        if place.private:
            return "copy"
        status = os.stat(blob)
        mine = status.st_dev == self._device[folder] and status.st_uid == os.geteuid()
        return "hard" if mine else "copy"

    def _make(self, blob: str, sha256: str, target: str, how: str, place: Place) -> str:
        folder, link = os.path.dirname(target), place.link
        if how == "reflink":
            if blobs.clone(blob, target):
                seal.seal(self._store, target, sha256)
                return how
            if link is Link.REFLINK:
                raise PlacementError(
                    f"no reflink to {folder}: the file system has none, or it is another one", "use `link: auto`"
                )
            self._no_reflink.add(self._device[folder])
            how = self._hard_or_copy(blob, folder, place)
        if how == "symlink":
            os.symlink(blob, target)
            return how
        if how == "hard":
            try:
                os.link(blob, target)
                return how
            except OSError:  # one disk mounted twice, or a blob that has all the links it may have
                if link is Link.HARD:
                    raise
        blobs.copy(blob, target)
        return "copy"


def _alias(store: Store, sha256: str, place: Place, over: Mapping[str, Stamp]) -> str:
    """Make a layout's own symlink; what it points to is another place of the same file."""
    folder = os.path.dirname(place.path)
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(place.path) and not os.path.islink(place.path):
        raise PlacementError(f"{place.path} is a folder", "move it away")
    temporary = f"{folder}/.orch-{secrets.token_hex(6)}"
    os.symlink(place.target, temporary)
    try:
        _put_in(store, sha256, temporary, place.path, over)
    except (OSError, PlacementError):
        os.unlink(temporary)
        raise
    return "symlink"


def _put_in(store: Store, sha256: str, temporary: str, path: str, over: Mapping[str, Stamp]) -> None:
    now = stamp(path)
    if now is not None and now != over.get(path):
        with suppress(OSError):
            if seal.fits(store, os.stat(path), sha256, None):
                os.unlink(temporary)
                return  # another orch was faster
    if now is not None and now != over.get(path):
        what = "changed" if path in over else "appeared"
        raise PlacementError(f"{path}: it {what} while the file was fetched", "run the same command again", "foreign")
    try:
        rename_new(temporary, path) if now is None else os.rename(temporary, path)
    except FileExistsError:
        raise PlacementError(f"{path}: it appeared while the file was fetched", "run it again", "foreign") from None


def _finish(store: Store, copy: _Copy, verdict: Verdict, over: Mapping[str, Stamp]) -> str | PlacementError:
    """Put a copy in its place, if it came out right."""
    if verdict.error is not None:
        return place_error(verdict.error, copy.path)
    if not verdict.is_good:
        return PlacementError(
            f"the copy to {os.path.dirname(copy.path)} came out wrong", "check that disk: `dmesg | tail`"
        )
    try:
        seal.seal(store, copy.temporary, copy.sha256)
        _put_in(store, copy.sha256, copy.temporary, copy.path, over)
        seal.remember(store, copy.path, copy.sha256)
    except PlacementError as error:
        return error
    except OSError as error:
        return place_error(error, copy.path)
    return "copy"
