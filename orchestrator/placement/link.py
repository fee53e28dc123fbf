"""Make places from their blobs: by reflink, hard link, symlink or checked copy, each in one atomic step.

Nothing is replaced that the caller did not inspect: without its word a place is made by a call that replaces nothing
(link(2), symlink(2), linkat(2)); where it passes the stamp of what it inspected, that is compared at the last moment.

The folder of a place may be another's, or a group's: it is opened once, and all names in it go by that descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from orchestrator import files
from orchestrator.errors import PlacementError
from orchestrator.files import NewFile, place_error, unwritable
from orchestrator.folders import Folder, Folders, open_folder, refuse_anothers
from orchestrator.model import Link
from orchestrator.store import blobs, extra_files, records, seal
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
_HELD_AT_ONCE = 256  # places of one switch that are held by descriptors, three at most for each
_TREES = (".orch-tree-", ".orch-new-", ".orch-swap-")
_SWEEP_EVERY_S = 60.0  # seconds within which a folder is not searched again for the files of dead runs
_swept: dict[tuple[int, int], float] = {}  # by device and inode of the folder


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


class JudgedFolders:
    """The folders of places that a run has judged already: many files share one.

    Attributes:
        usable: no other user leads us elsewhere by them.
        writable: those of them that may be written, too.
    """

    __slots__ = ("usable", "writable")

    def __init__(self) -> None:
        self.usable: set[str] = set()
        self.writable: set[str] = set()


def judge_folder(store: Store, place: Place, judged: JudgedFolders, *, absent: bool = False) -> None:
    """See, before a byte is fetched for a place, that its folder, or what is there of it, may be used.

    Args:
        store: says whose folders may be used.
        place: the place.
        judged: the folders of which that is known; takes this one.
        absent: nothing is at the place yet: its folder must be one that may be written, too.

    Raises:
        PlacementError: as `open_folder`; the folder must be this user's, and is another's; or it may not be written.
    """
    folder = place.path.rpartition("/")[0] or "/"
    if folder in judged.writable:
        return
    if folder not in judged.usable:
        with suppress(OSError):  # told when the place is made
            if place.own is not None:
                refuse_anothers(*place.own)
            open_folder(_existing(folder), trusted=store.trusted).close()
        judged.usable.add(folder)
    if absent:
        with suppress(OSError):  # as above
            above = _existing(folder)
            if (error := unwritable(above)) is not None:
                raise place_error(error, f"{above}/{os.path.basename(place.path)}")
            judged.writable.add(folder)


def _existing(folder: str) -> str:
    """What is there of a folder."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


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
    maker = _PlaceMaker(context, store, over or {}, force=force, tell=tell)
    with ExitStack() as held:
        copies: list[_New] = []

        def finish() -> None:
            verdicts = check.check(context, [(copy.sha256, copy.path) for copy in copies])
            for copy, verdict in zip(copies, verdicts, strict=True):
                results[copy.number] = _result_or_error(partial(maker.finish, copy, verdict), copy.place.path)
            copies.clear()
            held.close()

        for number, (sha256, place) in enumerate(places):
            if place.target:
                continue
            made = _result_or_error(partial(maker.put, number, sha256, place), place.path)
            if isinstance(made, _New):
                copies.append(made)
                held.callback(made.close)
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
            results[number] = _result_or_error(partial(maker.put_alias, place, failed), place.path)
    return results


def switch_all(
    context: Context,
    store: Store,
    places: Sequence[tuple[str, Place]],
    over: Mapping[str, Stamp] | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> list[str | PlacementError]:
    """Exchange many places in one go: all are made under other names first, then renamed one straight after the other.

    Where one cannot be made or renamed, none changes: what was renamed already goes back. Trees are no part of that:
    they are made file by file, before the renames. The arguments are those of `put_all`.

    Returns:
        Of each, how it was made; where one failed why, and "" of all others.

    Raises:
        StoreError: the store's disk said no.
        Stopped: a stop was asked for; nothing has changed.
    """
    maker = _PlaceMaker(context, store, over or {}, force=force, tell=tell)
    switch = _PlaceSwitch(maker, context, places)
    try:
        for step in (switch.make, switch.unpack, switch.name, switch.rename):
            if (failed := step()) is not None:
                number, error = failed
                return [error if each == number else "" for each in range(len(places))]
        return switch.results
    finally:
        switch.drop()


def sweep(store: Store, folder: Folder) -> None:
    """Remove the unfinished files of dead runs from a folder; those of a running one stay."""
    now, status = time.monotonic(), os.fstat(folder.fd)
    key = (status.st_dev, status.st_ino)
    if now < _swept.get(key, now):
        return
    _swept[key] = now + _SWEEP_EVERY_S
    files.sweep(folder)
    with suppress(OSError):
        if any(name.startswith(_TREES) for name in os.listdir(folder.at())):
            from orchestrator.placement import tree

            tree.sweep(store, folder)


@dataclass(slots=True)
class _New:
    """What is to stand at one place: a file without a name (`new`), or how to make a link (`make`).

    A copy is not checked yet. The rest is of a switch: `temporary` is its name until it is renamed, and `inode` tells
    that it is still this file that has it; `kept` a second name of what it replaces, for as long as that may have to go
    back; `was_absent` says that nothing stood there. `is_sealed`: of a hard link, its mtime says that it is right.
    """

    number: int
    sha256: str
    place: Place
    how: str
    new: files.NewFile | None = None
    make: Callable[[str], None] | None = None
    temporary: str = ""
    inode: tuple[int, int] | None = None
    kept: str = ""
    was_absent: bool = False
    is_sealed: bool = False
    locks: list[int] = field(default_factory=list)  # descriptors that keep others from sweeping these names

    @property
    def may_be_copy(self) -> bool:
        """Whether a copy will do where a link fails: one disk mounted twice, or a blob with all its links used."""
        return self.how == "hard" and self.place.link is not Link.HARD

    @property
    def path(self) -> str:
        """A path by which a program can read the file without a name."""
        assert self.new is not None
        return self.new.path

    def close(self) -> None:
        """Let go of the files."""
        if self.new is not None:
            self.new.__exit__()
        for fd in self.locks:
            os.close(fd)
        self.new = None
        self.locks.clear()


class _PlaceSwitch:
    """Exchanges many places; each step gives the number of the place that failed, and why, or None."""

    def __init__(self, maker: _PlaceMaker, context: Context, places: Sequence[tuple[str, Place]]) -> None:
        self._maker, self._context, self._places = maker, context, places
        self._paths = {place.path for _, place in places}
        self._made: list[_New] = []
        self.results: list[str | PlacementError] = [""] * len(places)

    def make(self) -> tuple[int, PlacementError] | None:
        """Make all files, and check the copies."""
        copies: list[_New] = []
        for number, (sha256, place) in enumerate(self._places):
            if place.unpack:
                continue
            made = _result_or_error(partial(self._maker.make, number, sha256, place, self._paths), place.path)
            if isinstance(made, PlacementError):
                return number, made
            self._made.append(made)
            if made.how == "copy":
                copies.append(made)
            if len(copies) == _COPIES_AT_ONCE or number >= _HELD_AT_ONCE:
                if failed := self._check(copies):
                    return failed
                copies.clear()
            if number >= _HELD_AT_ONCE and made.new is not None:
                error = _result_or_error(partial(self._maker.give_name, made, locked=False), place.path)
                if isinstance(error, PlacementError):
                    return number, error
        return self._check(copies)

    def _check(self, copies: Sequence[_New]) -> tuple[int, PlacementError] | None:
        read = [(copy.sha256, copy.path) for copy in copies]
        for copy, verdict in zip(copies, check.check(self._context, read), strict=True):
            error = _result_or_error(partial(_accept, verdict, copy.place), copy.place.path)
            if isinstance(error, PlacementError):
                return copy.number, error
        return None

    def unpack(self) -> tuple[int, PlacementError] | None:
        """Make the trees."""
        for number, (sha256, place) in enumerate(self._places):
            if place.unpack:
                made = _result_or_error(partial(self._maker.unpack, sha256, place), place.path)
                if isinstance(made, PlacementError):
                    return number, made
                self.results[number] = "unpacked"
        return None

    def name(self) -> tuple[int, PlacementError] | None:
        """Give each file its temporary name, and what it replaces a second one."""
        for made in self._made:
            locked = made.number < _HELD_AT_ONCE
            error = _result_or_error(partial(self._maker.give_temporary, made, locked=locked), made.place.path)
            if isinstance(error, PlacementError):
                return made.number, error
        return None

    def rename(self) -> tuple[int, PlacementError] | None:
        """Rename all; or none, where one cannot be."""
        for count, made in enumerate(self._made):
            error = _result_or_error(partial(self._maker.exchange, made), made.place.path)
            if isinstance(error, PlacementError):
                for before in reversed(self._made[:count]):
                    self._maker.go_back(before)
                return made.number, error
        for made in self._made:
            self._maker.remember(made)
            self.results[made.number] = made.how
        return None

    def drop(self) -> None:
        """Remove what is left under temporary names."""
        for made in self._made:
            made.close()
            self._maker.drop_names(made)


def _accept(verdict: Verdict, place: Place) -> None:
    """See that a copy came out right.

    Raises:
        PlacementError, OSError: it did not, or cannot be read.
    """
    if verdict.error is not None:
        raise verdict.error
    if not verdict.is_good:
        raise PlacementError(
            f"the copy to {os.path.dirname(place.path)} has wrong bytes", "check that disk: `dmesg | tail`"
        )


class _PlaceMaker:
    """Makes places; keeps the folders open that it used last, and remembers which devices have no reflinks."""

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
        self._folders = Folders(store.trusted)
        self._swept: set[str] = set()
        self._no_reflink: set[int] = set()

    def unpack(self, sha256: str, place: Place) -> str:
        """Make a tree."""
        from orchestrator.placement import tree  # it imports tarfile and zipfile

        folder, name = self._in_folder(place)
        over, now = self._over.get(place.path), stamp(folder.at(name))
        ours = over is not None and now is not None and over[:2] == now[:2]  # the rest changes with each file in it
        spot = tree.Spot(folder, name)
        tree.put(self._context, self._store, sha256, spot, ours=ours, force=self._force, tell=self._tell)
        return "unpacked"

    def put(self, number: int, sha256: str, place: Place) -> str | _New:
        """Make one place; of a copy give what is to be checked first, and then to `finish`."""
        if place.unpack:
            return self.unpack(sha256, place)
        made = self.make(number, sha256, place)
        if made.make is not None:
            try:
                self._link_at(made, made.make)
            except OSError:
                if not made.may_be_copy:
                    raise
                self._copy_instead(made)
            else:
                if made.how == "hard" and not made.is_sealed:
                    self.remember(made)
                return made.how
        if made.how == "copy":
            return made
        try:
            self._publish(made)
        finally:
            made.close()
        return made.how

    def make(self, number: int, sha256: str, place: Place, others: Collection[str] = ()) -> _New:
        """Make what is to stand at a place, with no name yet; `others` are the paths that are made with it."""
        folder, _ = self._in_folder(place)
        if place.target:
            target = os.path.normpath(f"{os.path.dirname(place.path)}/{place.target}")
            if target not in others and not os.path.exists(target):
                raise _leads_nowhere(place, target)
            return _New(number, "", place, "symlink", make=lambda path: os.symlink(place.target, path))
        blob = self._store.blob(sha256)
        how = self._how(blob, folder, place)
        if how == "reflink":
            if (new := self._reflink(blob, folder, place)) is not None:
                return _New(number, sha256, place, how, new)
            how = self._hard_or_copy(blob, folder, place)
        if how == "copy":
            return _New(number, sha256, place, how, self._copy(blob, folder))
        if how == "symlink":
            return _New(number, sha256, place, how, make=lambda path: os.symlink(blob, path))
        made = _New(number, sha256, place, how, make=lambda path: os.link(blob, path))
        made.is_sealed = os.lstat(blob).st_mtime_ns % 10**9 == seal.nanoseconds(sha256)
        return made

    def give_temporary(self, made: _New, *, locked: bool) -> None:
        """Give what was made a temporary name beside its place, and what stands there a second one.

        Raises:
            PlacementError: what stands there is not what was judged.
            OSError: the disk said no.
        """
        if not made.temporary:
            self.give_name(made, locked=locked)
        folder, name = self._in_folder(made.place)
        if self._may_replace(made.place, folder.at(name)):
            kept = self._name_for(made, folder.at(name), locked=locked)
            with suppress(OSError):  # another user's file: it cannot go back
                os.link(folder.at(name), folder.at(kept), follow_symlinks=False)
                made.kept = kept

    def give_name(self, made: _New, *, locked: bool) -> None:
        """Give what was made a temporary name beside its place; where it is not to be locked, let go of it.

        Raises:
            OSError: the disk said no.
        """
        folder, _ = self._in_folder(made.place)
        if made.make is not None:
            blob = self._store.blob(made.sha256)
            temporary = self._name_for(made, blob, locked=locked and made.how == "hard")
            try:
                made.make(folder.at(temporary))
            except OSError:
                if not made.may_be_copy:
                    raise
                self._copy_instead(made)
                _accept(check.check(self._context, [(made.sha256, made.path)])[0], made.place)
            else:
                made.temporary = temporary
        if made.new is not None:
            self._seal(made)
            temporary = files.temporary_name(locked=locked)
            made.new.publish(folder.at(temporary), replace=False)
            made.temporary = temporary
        made.inode = self._inode_of(made, folder.at(made.temporary))
        if not locked:
            made.close()

    def _inode_of(self, made: _New, path: str) -> tuple[int, int]:
        """The device and inode of what was just made at `path`.

        Raises:
            FileExistsError: it is another file than the one that was made.
        """
        status = os.lstat(path)
        inode = (status.st_dev, status.st_ino)
        if made.new is not None:
            own = os.fstat(made.new.fd)
        elif made.how == "hard":
            own = os.lstat(self._store.blob(made.sha256))
        else:
            if not stat.S_ISLNK(status.st_mode) or os.readlink(path) != self._text(made):
                raise _exchanged(path)
            return inode
        if inode != (own.st_dev, own.st_ino):
            raise _exchanged(path)
        return inode

    def _text(self, made: _New) -> str:
        """What a link that was made says."""
        return made.place.target or self._store.blob(made.sha256)

    def _copy_instead(self, made: _New) -> None:
        made.how, made.make = "copy", None
        made.new = self._copy(self._store.blob(made.sha256), self._in_folder(made.place)[0])

    def _name_for(self, made: _New, path: str, *, locked: bool) -> str:
        """A temporary name for a second link to `path`, which is locked where it can be."""
        if locked:
            with suppress(OSError):  # too many open files, another user's, or a symbolic link
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                made.locks.append(fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return files.temporary_name(locked=True)
        return files.temporary_name()

    def exchange(self, made: _New) -> None:
        """Rename what was made to its place.

        Raises:
            PlacementError: what stands there is not what was judged.
            OSError: the disk said no.
        """
        folder, name = self._in_folder(made.place)
        with self._accepting_equal(made):
            if self._may_replace(made.place, folder.at(name)):
                os.rename(folder.at(made.temporary), folder.at(name))
                if made.how != "hard":  # of two names of one inode a rename removes neither
                    made.temporary = ""
            else:
                files.rename_new(folder.at(made.temporary), folder.at(name))
                made.temporary, made.was_absent = "", True
            status = os.lstat(folder.at(name))
            if (status.st_dev, status.st_ino) != made.inode:
                self.go_back(made)
                raise _exchanged(made.place.path)

    def go_back(self, made: _New) -> None:
        """Give a place back what it held before the switch; one that is new goes, what cannot go back stays."""
        with suppress(OSError, PlacementError):
            folder, name = self._in_folder(made.place)
            if made.kept:
                os.rename(folder.at(made.kept), folder.at(name))
            elif made.was_absent:
                os.unlink(folder.at(name))

    def drop_names(self, made: _New) -> None:
        """Remove what is left of one file of a switch under temporary names."""
        for temporary in (made.temporary, made.kept):
            if temporary:
                with suppress(OSError, PlacementError):
                    os.unlink(self._in_folder(made.place)[0].at(temporary))

    def remember(self, made: _New) -> None:
        """Note in the local state that what was made at a place is right, where its seal does not say it."""
        if not made.sha256 or made.how == "symlink":
            return
        with suppress(OSError):
            folder, name = self._in_folder(made.place)
            fd = os.open(folder.at(name), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status, blob = os.fstat(fd), self._store.blob(made.sha256)
                inode = (status.st_dev, status.st_ino)
                if inode == made.inode or (made.how == "hard" and os.path.samestat(status, os.lstat(blob))):
                    seal.remember(self._store, f"/proc/self/fd/{fd}", made.sha256, name=made.place.path)
            finally:
                os.close(fd)

    def finish(self, copy: _New, verdict: Verdict) -> str:
        """Give a copy its name, if its bytes are right."""
        _accept(verdict, copy.place)
        self._publish(copy)
        return copy.how

    def put_alias(self, place: Place, failed: Mapping[str, PlacementError]) -> str:
        """Make a layout's own link to another place of the same file."""
        target = os.path.normpath(f"{os.path.dirname(place.path)}/{place.target}")
        if target in failed:
            raise failed[target]
        if not os.path.exists(target):
            raise _leads_nowhere(place, target)
        made = _New(0, "", place, "symlink")
        self._link_at(made, lambda path: os.symlink(place.target, path))
        return "symlink"

    def _in_folder(self, place: Place) -> tuple[Folder, str]:
        """The open folder of a place, made where it is missing, else swept once; and the place's name there.

        Raises:
            PlacementError: it is a folder that no place may be in.
            OSError: it cannot be made or opened.
        """
        if place.own is not None:
            refuse_anothers(*place.own)
        folder, name = self._folders.in_folder(place.path, make=True)
        if folder.path not in self._swept:  # later there may be names of ours that no lock protects
            if place.own is not None and self._folders.open(place.own[0]).owner() not in (0, os.geteuid()):
                raise PlacementError(f"{place.own[0]} was replaced just now", f"set {place.own[1]}", "foreign")
            self._swept.add(folder.path)
            sweep(self._store, folder)
        return folder, name

    def _reflink(self, blob: str, folder: Folder, place: Place) -> files.NewFile | None:
        """Clone a blob into a file without a name; None where there is no reflink from the one to the other.

        Raises:
            PlacementError: `link: reflink` was asked for.
        """
        new = files.NewFile(folder, _MODE)
        try:
            if blobs.clone_into(blob, new.fd):
                return new
        except BaseException:
            new.__exit__()
            raise
        new.__exit__()
        if place.link is Link.REFLINK:
            raise PlacementError(
                f"no reflink to {folder.path}: the file system has none, or it is another one", "use `link: auto`"
            )
        self._no_reflink.add(os.fstat(folder.fd).st_dev)
        return None

    def _copy(self, blob: str, folder: Folder) -> files.NewFile:
        new = files.NewFile(folder, _MODE)
        try:
            blobs.copy_into(blob, new.fd, self._context.stop, self._context.reading)
        except BaseException:
            new.__exit__()
            raise
        return new

    def _publish(self, made: _New) -> None:
        """Seal a new, checked file, flush it, and give it its name."""
        assert made.new is not None
        folder, name = self._in_folder(made.place)
        self._seal(made)
        with self._accepting_equal(made):
            made.new.publish(folder.at(name), replace=self._may_replace(made.place, folder.at(name)))
            with suppress(OSError):
                seal.remember(self._store, made.new.path, made.sha256, name=made.place.path)

    def _seal(self, made: _New) -> None:
        assert made.new is not None
        mode = stat.S_IMODE(os.fstat(made.new.fd).st_mode)  # by the umask
        seal.seal(self._store, made.new.path, made.sha256, name=made.place.path)
        os.fchmod(made.new.fd, mode)
        os.fsync(made.new.fd)

    def _link_at(self, made: _New, make: Callable[[str], None]) -> None:
        """Make a link at a place; by one rename where it replaces what was inspected there."""
        folder, name = self._in_folder(made.place)
        with self._accepting_equal(made):
            if made.place.path not in self._over:
                with suppress(FileExistsError):  # nothing stands there, nearly always
                    make(folder.at(name))
                    return
            if not self._may_replace(made.place, folder.at(name)):
                make(folder.at(name))
                return
            temporary = files.temporary(folder.at())
            make(temporary)
            try:
                os.rename(temporary, folder.at(name))
            finally:  # rename(2) does nothing where both names are of one inode
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
            self._inode_of(made, folder.at(name))

    def _may_replace(self, place: Place, path: str) -> bool:
        """Whether a place may be replaced: what is there is what was inspected, or a link of ours; False: it is empty.

        `path` is the place, by its folder's descriptor.

        Raises:
            PlacementError: a folder is there.
        """
        now = stamp(path)
        if now is None:
            return False
        if now == self._over.get(place.path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                raise _a_folder(place.path)
            return True
        return self._is_our_link(place, path)

    def _is_our_link(self, place: Place, path: str) -> bool:
        """Whether a link into the store is there, or a layout's own link whose target is gone."""
        try:
            text = os.readlink(path)
        except OSError:
            return False
        return text.startswith(f"{self._store.path}/") or bool(place.target and not os.path.exists(path))

    @contextmanager
    def _accepting_equal(self, made: _New) -> Iterator[None]:
        """Where a file appeared at a place meanwhile: accept it if it is the right one, else raise `foreign`."""
        try:
            yield
        except FileExistsError:
            folder, name = self._in_folder(made.place)
            if not self._is_right(made, folder.at(name)):
                raise _foreign(made.place.path) from None

    def _is_right(self, made: _New, path: str) -> bool:
        """Whether the file at a place is the right one by its seal, since another orch made it meanwhile."""
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            blob = self._store.blob(made.sha256) if made.sha256 else ""
            return os.readlink(path) in (made.place.target, blob)
        if not made.sha256:
            return False
        own = os.stat(self._store.blob(made.sha256))
        shared = os.path.samestat(own, status)
        return not (shared and made.place.private) and seal.fits(self._store, status, made.sha256, own.st_size)

    def _how(self, blob: str, folder: Folder, place: Place) -> str:
        """How to make a place first: reflink, hard, symlink or copy."""
        if place.link is not Link.AUTO:
            return str(place.link.value)
        device = os.fstat(folder.fd).st_dev
        return "reflink" if device not in self._no_reflink else self._hard_or_copy(blob, folder, place)

    def _hard_or_copy(self, blob: str, folder: Folder, place: Place) -> str:
        """`hard` where blob and place share a file system and the blob is owned by this user; else `copy`."""
        if place.private:
            return "copy"
        status = os.stat(blob)
        mine = status.st_dev == os.fstat(folder.fd).st_dev and status.st_uid == os.geteuid()
        return "hard" if mine else "copy"


def _result_or_error(make: Callable[[], _T], path: str) -> _T | PlacementError:
    """Call `make`; return its result, or the error that it raised, as a PlacementError."""
    try:
        return make()
    except PlacementError as error:
        return error
    except OSError as error:
        return place_error(error, path)


def _leads_nowhere(place: Place, target: str) -> PlacementError:
    return PlacementError(f"{place.path}: the target of its link does not exist: {target}", "run the command again")


def _a_folder(path: str) -> PlacementError:
    return PlacementError(f"{path} is a folder", f"move it away, or change `to:` ({os.path.basename(path)})")


def _exchanged(path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "another file appeared there just now", path)


def _foreign(path: str) -> PlacementError:
    if os.path.isdir(path) and not os.path.islink(path):
        return _a_folder(path)
    what = f"a link to {os.readlink(path)}" if os.path.islink(path) else "a file"
    hint = "move it away, or replace it: `orch sync --force`"
    return PlacementError(f"{path}: {what} that orch did not make is in the way", hint, "foreign")


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
    try:
        folder, name = Folders(store.trusted).in_folder(extra_file.path, make=True)
        path = folder.at(name)
        sweep(store, folder)
        with NewFile(folder) as new:
            new.write(extra_file.text.encode())
            os.fsync(new.fd)
            if had is not None and extra_files.read_text(path) != had:
                return "other"  # it changed just now
            try:
                new.publish(path, replace=had is not None)
            except FileExistsError:
                return "there" if extra_files.read_text(path) == extra_file.text else "other"
    except OSError as error:
        raise place_error(error, extra_file.path) from error
    return "back" if moved else "made"
