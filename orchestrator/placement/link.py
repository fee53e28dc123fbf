"""Make places from their blobs: by reflink, hard link, symlink or checked copy, each in one atomic step.

Nothing is replaced that the caller did not inspect: without its word a place is made by a call that replaces nothing
(link(2), symlink(2), linkat(2)); where it passes the stamp of what it inspected, that is compared at the last moment.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from orchestrator import files
from orchestrator.errors import PlacementError
from orchestrator.files import NewFile, place_error
from orchestrator.model import Link
from orchestrator.store import blobs, extra_files, records, seal
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from orchestrator.context import Context
    from orchestrator.model import ExtraFile, Place
    from orchestrator.store import Store
    from orchestrator.verify.check import Verdict


# What was at a path when it was inspected: device, inode, size in bytes, mtime in nanoseconds; of a link, its own.
Stamp: TypeAlias = "tuple[int, int, int, int]"

_T = TypeVar("_T")
_MODE = 0o444  # less the umask
_COPIES_AT_ONCE = 16  # each holds a descriptor until it is checked
_TREES = (".orch-tree-", ".orch-new-", ".orch-swap-")
_SWEEP_EVERY_S = 60.0  # seconds within which a folder is not searched again for the files of dead runs
_swept: dict[str, float] = {}


def stamp(path: str) -> Stamp | None:
    """The stamp of what is at `path` (of a link itself, not of its target), for `put`; None where nothing is.

    Raises:
        OSError: the path cannot be read.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def put(
    context: Context,
    store: Store,
    sha256: str,
    place: Place,
    over: Stamp | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Make one place from the blob of `sha256`.

    Args:
        over: the `stamp` of what was inspected there and may be replaced; None: nothing may be.
        force, tell: as of `put_all`.

    Returns:
        How it was made: reflink, hard, symlink, copy or unpacked.

    Raises:
        PlacementError: the folder cannot be written, the link mode is impossible there, or a copy came out wrong;
            with the fault `foreign`: something else is there than was inspected.
        StoreError: the store's disk failed.
        Stopped: a stop was asked for.
    """
    known = {} if over is None else {place.path: over}
    made = put_all(context, store, [(sha256, place)], known, force=force, tell=tell)[0]
    if isinstance(made, PlacementError):
        raise made
    return made


def put_all(
    context: Context,
    store: Store,
    places: Sequence[tuple[str, Place]],
    over: Mapping[str, Stamp] | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[str | PlacementError]:
    """Make many places, each from the blob of its digest.

    A layout's own links are made last, and only where their targets are there.

    Args:
        places: (sha256, place) of each.
        over: by path, the `stamp` of each place that was inspected and may be replaced.
        force: in the folder of a tree, move a user's file to quarantine where the tree has one of its name.
        tell: gets a line for each file that was moved so.

    Returns:
        For each, how it was made, or why it was not.

    Raises:
        StoreError: the store's disk failed.
        Stopped: a stop was asked for.
    """
    results: list[str | PlacementError] = [""] * len(places)
    putter = _Putter(context, store, over or {}, force=force, tell=tell)
    with ExitStack() as held:
        copies: list[_Copy] = []

        def finish() -> None:
            verdicts = check.check(context, [(copy.sha256, copy.new.path) for copy in copies])
            for copy, verdict in zip(copies, verdicts, strict=True):
                results[copy.number] = _told(partial(putter.finish, copy, verdict), copy.place.path)
            copies.clear()
            held.close()

        for number, (sha256, place) in enumerate(places):
            if place.target:
                continue
            made = _told(partial(putter.put, sha256, place), place.path)
            if isinstance(made, _Copy):
                made.number = number
                copies.append(made)
                held.enter_context(made.new)
                if len(copies) == _COPIES_AT_ONCE:
                    finish()
            else:
                results[number] = made
        if copies:
            finish()
    # A layout's own links, whose targets are among the places above.
    failed = {p.path: made for (_, p), made in zip(places, results, strict=True) if isinstance(made, PlacementError)}
    for number, (_, place) in enumerate(places):
        if place.target:
            results[number] = _told(partial(putter.alias, place, failed), place.path)
    return results


def sweep(store: Store, folders: Iterable[str]) -> None:
    """Remove the unfinished files of dead runs from these folders; those of a running one stay."""
    now = time.monotonic()
    for folder in folders:
        if now < _swept.get(folder, now):
            continue
        _swept[folder] = now + _SWEEP_EVERY_S
        files.sweep(folder)
        with suppress(OSError):
            if any(name.startswith(_TREES) for name in os.listdir(folder)):
                from orchestrator.placement import tree

                tree.sweep(store, folder)


@dataclass(slots=True)
class _Copy:
    """A copy that is not checked yet and has no name."""

    sha256: str
    new: files.NewFile
    place: Place
    number: int = 0


class _Putter:
    """Makes places; remembers the device of each folder, and which devices have no reflinks."""

    def __init__(
        self,
        context: Context,
        store: Store,
        over: Mapping[str, Stamp],
        *,
        force: bool,
        tell: Callable[[str], None] | None,
    ) -> None:
        self._context, self._store, self._over, self._force, self._tell = context, store, over, force, tell
        self._device: dict[str, int] = {}
        self._no_reflink: set[int] = set()

    def put(self, sha256: str, place: Place) -> str | _Copy:
        if place.unpack:
            from orchestrator.placement import tree  # it imports tarfile and zipfile

            tree.put(self._context, self._store, sha256, place.path, force=self._force, tell=self._tell)
            return "unpacked"
        folder = self._folder(place.path)
        blob = self._store.blob(sha256)
        how = self._how(blob, folder, place)
        if how == "reflink":
            with files.NewFile(folder, _MODE) as new:
                if blobs.clone_into(blob, new.fd):
                    self._publish(sha256, new, place)
                    return how
            if place.link is Link.REFLINK:
                raise PlacementError(
                    f"no reflink to {folder}: the file system has none, or it is another one", "use `link: auto`"
                )
            self._no_reflink.add(self._device[folder])
            how = self._hard_or_copy(blob, folder, place)
        if how == "symlink":
            self._name(sha256, place, lambda path: os.symlink(blob, path))
            return how
        if how == "hard":
            try:
                self._name(sha256, place, lambda path: os.link(blob, path))
            except OSError:  # one disk mounted twice, or a blob that has all the links it may have
                if place.link is Link.HARD:
                    raise
            else:
                with suppress(OSError):
                    seal.remember(self._store, place.path, sha256)
                return how
        return self._copy(blob, sha256, folder, place)

    def finish(self, copy: _Copy, verdict: Verdict) -> str:
        """Give a copy its name, if its bytes are right."""
        if verdict.error is not None:
            raise verdict.error
        if not verdict.is_good:
            raise PlacementError(
                f"the copy to {os.path.dirname(copy.place.path)} came out wrong", "check that disk: `dmesg | tail`"
            )
        self._publish(copy.sha256, copy.new, copy.place)
        return "copy"

    def alias(self, place: Place, failed: Mapping[str, PlacementError]) -> str:
        """Make a layout's own link to another place of the same file."""
        folder = os.path.dirname(place.path)
        target = os.path.normpath(f"{folder}/{place.target}")
        if target in failed:
            raise failed[target]
        if not os.path.exists(target):
            raise PlacementError(f"{place.path}: what it should lead to is not there: {target}", "run the same again")
        self._folder(place.path)
        self._name("", place, lambda path: os.symlink(place.target, path))
        return "symlink"

    def _folder(self, path: str) -> str:
        """The folder of a place: made where it is missing, else swept once."""
        folder = os.path.dirname(path)
        if folder not in self._device:
            if os.path.isdir(folder):
                sweep(self._store, (folder,))
            os.makedirs(folder, exist_ok=True)
            self._device[folder] = os.stat(folder).st_dev
        return folder

    def _copy(self, blob: str, sha256: str, folder: str, place: Place) -> _Copy:
        new = files.NewFile(folder, _MODE)
        try:
            blobs.copy_into(blob, new.fd, self._context.stop)
        except BaseException:
            new.__exit__()
            raise
        return _Copy(sha256, new, place)

    def _publish(self, sha256: str, new: files.NewFile, place: Place) -> None:
        """Seal a new, checked file, flush it, and give it its name."""
        mode = stat.S_IMODE(os.fstat(new.fd).st_mode)  # by the umask
        seal.seal(self._store, new.path, sha256)
        os.fchmod(new.fd, mode)
        os.fsync(new.fd)
        with self._minding(sha256, place):
            new.publish(place.path, replace=self._may_replace(place))
        with suppress(OSError):
            seal.remember(self._store, place.path, sha256)

    def _name(self, sha256: str, place: Place, make: Callable[[str], None]) -> None:
        """Make a link at a place; by one rename where it replaces what was inspected there."""
        with self._minding(sha256, place):
            if not self._may_replace(place):
                make(place.path)
                return
            temporary = files.temporary(os.path.dirname(place.path))
            make(temporary)
            try:
                os.rename(temporary, place.path)
            finally:  # rename(2) does nothing where both names are of one inode
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _may_replace(self, place: Place) -> bool:
        """Whether a place may be replaced: what is there is what was inspected, or a link of ours; False: it is empty.

        Raises:
            PlacementError: a folder is there.
        """
        now = stamp(place.path)
        if now is None:
            return False
        if now == self._over.get(place.path):
            if stat.S_ISDIR(os.lstat(place.path).st_mode):
                raise _a_folder(place.path)
            return True
        return self._leads_to_us(place)

    def _leads_to_us(self, place: Place) -> bool:
        """Whether a link into the store is there, or a layout's own link whose target is gone."""
        try:
            text = os.readlink(place.path)
        except OSError:
            return False
        return text.startswith(f"{self._store.path}/") or bool(place.target and not os.path.exists(place.path))

    @contextmanager
    def _minding(self, sha256: str, place: Place) -> Iterator[None]:
        """Where a file appeared at a place meanwhile: accept it if it is the right one, else raise `foreign`."""
        try:
            yield
        except FileExistsError:
            if not self._is_right(sha256, place):
                raise _foreign(place.path) from None

    def _is_right(self, sha256: str, place: Place) -> bool:
        """Whether the file at a place is the right one by its seal, since another orch made it meanwhile."""
        status = os.lstat(place.path)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(place.path) in (place.target, self._store.blob(sha256) if sha256 else "")
        if not sha256:
            return False
        blob = os.stat(self._store.blob(sha256))
        shared = (blob.st_dev, blob.st_ino) == (status.st_dev, status.st_ino)
        return not (shared and place.private) and seal.fits(self._store, status, sha256, blob.st_size)

    def _how(self, blob: str, folder: str, place: Place) -> str:
        """How to make a place first: reflink, hard, symlink or copy."""
        if place.link is not Link.AUTO:
            return str(place.link.value)
        return "reflink" if self._device[folder] not in self._no_reflink else self._hard_or_copy(blob, folder, place)

    def _hard_or_copy(self, blob: str, folder: str, place: Place) -> str:
        """`hard` where blob and place share a file system and the blob is owned by this user; else `copy`."""
        if place.private:
            return "copy"
        status = os.stat(blob)
        mine = status.st_dev == self._device[folder] and status.st_uid == os.geteuid()
        return "hard" if mine else "copy"


def _told(make: Callable[[], _T], path: str) -> _T | PlacementError:
    """Call `make`; return its result, or the error that it raised, as a PlacementError."""
    try:
        return make()
    except PlacementError as error:
        return error
    except OSError as error:
        return place_error(error, path)


def _a_folder(path: str) -> PlacementError:
    return PlacementError(f"{path} is a folder", f"move it away, or change `to:` ({os.path.basename(path)})")


def _foreign(path: str) -> PlacementError:
    if os.path.isdir(path) and not os.path.islink(path):
        return _a_folder(path)
    what = f"a link to {os.readlink(path)}" if os.path.islink(path) else "a file"
    hint = f"move it away, or let it be replaced: --force (`ls -l {path}`)"
    return PlacementError(f"{path}: {what} stands there that orch did not make", hint, "foreign")


def write_extra_file(
    store: Store, host: str, manifest: str, extra_file: ExtraFile
) -> Literal["made", "there", "other", "back"]:
    """Write an extra file where nothing is, or where the one there is `outdated`.

    Returns:
        `made`; `there` (it had its text already); `other` (a file of somebody else, which stays); or `back`: somebody
        had changed the text that orch wrote, and it is the lockfile's again.

    Raises:
        PlacementError: the folder cannot be written.
        StoreError: the store's disk failed.
    """
    had = extra_files.read_text(extra_file.path)
    word = extra_files.state(store, manifest, extra_file)
    if word in ("there", "other"):
        return word
    moved = had is not None and records.of(store, manifest).get(extra_file.path) != extra_files.record_of(had)
    records.record(store, host, manifest, {extra_file.path: extra_files.record_of(extra_file.text)})
    folder = os.path.dirname(extra_file.path)
    try:
        os.makedirs(folder, exist_ok=True)
        sweep(store, (folder,))
        with NewFile(folder) as new:
            new.write(extra_file.text.encode())
            os.fsync(new.fd)
            if had is not None and extra_files.read_text(extra_file.path) != had:
                return "other"  # it changed just now
            try:
                new.publish(extra_file.path, replace=had is not None)
            except FileExistsError:
                return "there" if extra_files.read_text(extra_file.path) == extra_file.text else "other"
    except OSError as error:
        raise place_error(error, extra_file.path) from error
    return "back" if moved else "made"
