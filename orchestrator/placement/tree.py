"""Trees: unpack an archive, check and seal its files, and install them in a folder where other files may be.

Of what is in that folder only the files of archives are ours: everything else stays where it is. Others may write into
it, and into the folder that it is in: all names go by descriptors, and a link leads nowhere. What is unpacked, or taken
out, lies in a folder that nobody else may enter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import NewFile, exchange, is_left, place_error, rename_new, sync_folder
from orchestrator.folders import Folder, open_regular
from orchestrator.formats.bounded import readable
from orchestrator.placement.archive import ArchiveError, members
from orchestrator.store import quarantine, seal, tree_records
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from orchestrator.context import Context
    from orchestrator.placement.archive import Member
    from orchestrator.store import Store
    from orchestrator.store.tree_records import Listing
    from orchestrator.verify.check import Verdict

_SWAP = ".orch-swap-"  # a whole tree that is being exchanged with its place; it may hold files of the user
_CHUNK_BYTES = 1 << 20
_PREFIX = ".orch-tree-"
_NEW = ".orch-new-"  # the folder of an unpacking before it is locked
_INNER = ".orch-t"  # the tree itself in such a folder, which is closed to others


class Spot(NamedTuple):
    """The place of a tree: the open folder that it is in, and its name there."""

    parent: Folder
    name: str

    @property
    def path(self) -> str:
        """For messages and records."""
        return f"{self.parent.path.rstrip('/')}/{self.name}"

    def at(self) -> str:
        """The place by its parent's descriptor."""
        return self.parent.at(self.name)


def put(
    context: Context,
    store: Store,
    sha256: str,
    spot: Spot,
    *,
    ours: bool = False,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Unpack the archive of this digest into the folder at `spot`.

    A folder that holds only our files is exchanged as a whole. Otherwise each file is moved in by itself: files that
    the archive does not have stay, and a file of an archive that somebody changed goes to quarantine.

    Args:
        ours: the folder that stands there is the very one that orch made; with `force` it may be a user's instead.
        force: move a user's file to quarantine, too, where it has the path of one of ours.
        tell: gets a line for each file that was moved.

    Raises:
        PlacementError: it is no archive, leads out of its folder, or is larger than the free space; or a file came out
            wrong; with the fault `foreign`: something that is not ours is in the way, and nothing was changed.
        OSError: the disk failed.
        StoreError: the store's disk failed.
        Stopped: a stop was asked for.
    """
    sweep(store, spot.parent)
    aside = _Aside(spot.parent)
    try:
        unpacking = _Unpacking(context, aside.tree)
        try:
            for member in members(store.blob(sha256), unpacking.raise_if_stopped):
                unpacking.write(member)
            listing = unpacking.finish()
        except ArchiveError as problem:
            hint = "check the archive, or leave out `unpack` to install the archive itself"
            raise PlacementError(f"{spot.path}: the archive is not unpacked: {problem}", hint, code="archive") from None
        _check_and_seal(context, store, aside, listing, spot.path)
        tree_records.write(store, sha256, listing)
        TreeInstall(context, store, spot, listing, ours=ours, force=force, tell=tell).install(aside)
        spot.parent.sync()
    finally:
        aside.remove()


def sweep(store: Store, parent: Folder) -> None:
    """Remove the folders of dead runs in `parent`: half unpacked ones whole, exchanged ones except a user's files.

    Another user's folders stay.
    """
    for name in os.listdir(parent.at()):
        if not name.startswith((_PREFIX, _NEW, _SWAP)):
            continue
        with suppress(OSError):
            fd = os.open(parent.at(name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with Folder(f"{parent.path}/{name}", fd) as left:
                if left.owner() != _maker(parent):
                    continue
                if not name.startswith(_NEW):  # if the run that made that one still lives, it makes another one
                    if not is_left(fd):
                        continue
                    if name.startswith(_SWAP):
                        _clear_swap(store, left)
                    else:
                        _empty(left)
                os.rmdir(parent.at(name))


def _maker(folder: Folder) -> int:
    """The uid of what this process makes in a folder: on some file systems not its own."""
    if os.geteuid() == folder.owner():
        return os.geteuid()
    with NewFile(folder) as new:
        return os.fstat(new.fd).st_uid


class _Aside:
    """A folder beside the place that nobody else may enter, for the new tree and, after an exchange, for the old one.

    It is locked, which says that this run lives. `tree` is the path of the folder in it, made with the umask's mode.
    """

    def __init__(self, parent: Folder) -> None:
        self._parent = parent
        while True:
            self._name = f"{_NEW}{os.urandom(6).hex()}"
            os.mkdir(parent.at(self._name), 0o700)
            try:
                self._open()
            except FileNotFoundError:
                if not os.fstat(parent.fd).st_nlink:
                    raise
                continue  # another orch removed it before it was locked
            except BaseException:
                with suppress(OSError):
                    os.rmdir(parent.at(self._name))
                raise
            return

    def _open(self) -> None:
        parent, path = self._parent, f"{self._parent.path}/{self._name}"
        fd = os.open(parent.at(self._name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.folder = Folder(path, fd)
        if self.folder.owner() != _maker(parent):
            raise PlacementError(f"{path}: another user made a folder there", f"`ls -la {parent.path}`")
        if (mode := stat.S_IMODE(os.fstat(fd).st_mode)) & 0o077:  # another folder of ours that was put there
            with suppress(OSError):  # a file system without modes
                os.fchmod(fd, mode & ~0o077)
        with suppress(OSError):  # a file system without locks, where `sweep` removes nothing
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        name = f"{_PREFIX}{os.urandom(6).hex()}"
        os.rename(parent.at(self._name), parent.at(name))
        self._name = name
        os.mkdir(self.folder.at(_INNER))

    @property
    def tree(self) -> str:
        """The tree's path, for this process."""
        return self.folder.at(_INNER)

    def for_child(self, name: str) -> str:
        """The path of a file of the tree, for a program."""
        return self.folder.for_child(f"{_INNER}/{name}")

    def exchange(self, path: str) -> bool:
        """Exchange the tree with the folder at `path` in one step (renameat2(2)); False where that is impossible."""
        swap = f"{_SWAP}{os.urandom(6).hex()}"
        os.rename(self._parent.at(self._name), self._parent.at(swap))  # it may hold files of the user from now on
        try:
            exchange(self.tree, path)
        except OSError:
            os.rename(self._parent.at(swap), self._parent.at(self._name))
            return False
        self._name = swap
        return True

    def remove(self) -> None:
        """Remove the folder, and all in it that is no user's."""
        with self.folder:
            for _ in range(2):  # tried twice, since a disk may fail once; what stays is left to `sweep`
                if not self._name.startswith(_SWAP):
                    _empty(self.folder)
                with suppress(OSError):
                    os.rmdir(self._parent.at(self._name))


class _Unpacking:
    """Writes the members of one archive into a folder, and no more than the disk has free."""

    def __init__(self, context: Context, folder: str) -> None:
        self._context, self._folder = context, folder
        status = os.statvfs(folder)
        self._bytes_left = status.f_bavail * status.f_frsize
        self._inodes_left = status.f_favail if status.f_files else 1 << 60
        self._listing: dict[str, tuple[int, str]] = {}
        self._links: list[tuple[str, str]] = []

    def raise_if_stopped(self) -> None:
        """Check the stop.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._context.stop.is_set():
            raise Stopped("stopped while unpacking")

    def write(self, member: Member) -> None:
        """Write one member; links are left to `finish`.

        Raises:
            ArchiveError: it does not fit on the disk, its content is damaged, or its path is in the archive twice.
            OSError: the disk failed.
            Stopped: a stop was asked for.
        """
        self._inodes_left -= 1
        if member.size > self._bytes_left or self._inodes_left < 0:
            raise ArchiveError("its content is larger than the free disk space")
        if member.same_as is not None:
            self._links.append((member.path, member.same_as))
        elif member.content is None:
            self._make_folder(member.path)
        else:
            with readable():
                self._write(member.path, member.content)

    def finish(self) -> dict[str, tuple[int, str]]:
        """Write each link as a file of its own.

        Returns:
            The listing of all files: size in bytes and sha256 by path.

        Raises:
            ArchiveError: a link leads to no file of the archive, or the archive holds no file.
        """
        for path, same_as in self._links:
            if same_as not in self._listing:
                raise ArchiveError(f"`{path}` in it is a link, but not to one of its files")
            if self._listing[same_as][0] > self._bytes_left:
                raise ArchiveError("its content is larger than the free disk space")
            with open(f"{self._folder}/{same_as}", "rb") as content:
                self._write(path, content)
        if not self._listing:
            raise ArchiveError("it contains no file")
        return self._listing

    def _make_folder(self, path: str) -> None:
        try:
            os.makedirs(f"{self._folder}/{path}", exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ArchiveError(f"`{path}` in it is a file and a folder") from None

    def _write(self, path: str, content: IO[bytes]) -> None:
        self._make_folder(os.path.dirname(path))
        hasher, size = hashlib.sha256(), 0
        try:
            file = open(f"{self._folder}/{path}", "xb")  # noqa: SIM115 - only this call's FileExistsError counts
        except FileExistsError:
            raise ArchiveError(f"`{path}` is in it twice") from None
        with file:
            while chunk := content.read(_CHUNK_BYTES):
                self.raise_if_stopped()
                self._bytes_left -= len(chunk)
                if self._bytes_left < 0:
                    raise ArchiveError("its content is larger than the free disk space")
                hasher.update(chunk)
                size += file.write(chunk)
        self._listing[path] = (size, hasher.hexdigest())


def _check_and_seal(context: Context, store: Store, aside: _Aside, listing: Listing, place: str) -> None:
    """Read what was written, seal it, and flush it.

    Raises:
        PlacementError: a file has other bytes than were written.
    """
    read = [(sha256, aside.for_child(name)) for name, (_, sha256) in listing.items()]
    if not all(verdict.is_good for verdict in check.check(context, read)):
        raise PlacementError(f"{place}: a copied file has wrong bytes", "check that disk: `dmesg | tail`")
    for name, (_, sha256) in listing.items():
        path = f"{aside.tree}/{name}"
        seal.seal(store, path, sha256, name=f"{place}/{name}")
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for folder, _, _ in os.walk(aside.tree):
        sync_folder(folder)


class _Step(NamedTuple):
    """How to install one file of the new tree.

    `had` is the stamp of the file that it replaces (None: there is none); `found` the digest of that file, where it is
    to go to quarantine first.
    """

    name: str
    had: tuple[int, int, int] | None = None  # device, inode, mtime in nanoseconds
    found: str = ""


class TreeInstall:
    """Installs one tree of verified, sealed files in its folder."""

    def __init__(
        self,
        context: Context,
        store: Store,
        spot: Spot,
        listing: Listing,
        *,
        ours: bool,
        force: bool,
        tell: Callable[[str], None] | None,
    ) -> None:
        self._context, self._store, self._spot, self._listing = context, store, spot, listing
        self._ours, self._force = ours, force
        self._tell = tell or (lambda _: None)
        self._links: set[str] = set()  # of the user's, which --force replaces; by their names in the tree

    def install(self, aside: _Aside) -> None:
        """Move the tree, or its files one by one, to the place, on the same file system.

        Raises:
            PlacementError: something that is not ours is in the way (`foreign`), or it cannot be read.
            OSError, StoreError: a disk failed. What was moved stays, and the next run goes on from there.
            Stopped: a stop was asked for.
        """
        spot = self._spot
        try:
            rename_new(aside.tree, spot.at())
        except FileExistsError:
            pass
        else:
            return
        if os.path.islink(spot.at()):
            self._replace_link(aside.tree)
            return
        if not os.path.isdir(spot.at()):
            raise self._foreign(spot.path, "a file is where the folder should be")
        # With --force the folder may be a user's, whose right files were sealed when it was adopted: all of them stay.
        is_ours = self._ours or not self._force
        with spot.parent.below(spot.name) as place:
            old = tree_records.standing_in(self._store, _inside(place)) if is_ours else []
            if not (self._is_ours_alone(place, old) and self._exchange(aside)):
                self._install_files(aside.tree, place, old)

    def _replace_link(self, tree: str) -> None:
        """Replace a user's link by the tree (with --force); its target is not touched."""
        spot = self._spot
        leads_to = os.readlink(spot.at())
        if not self._force:
            raise self._foreign(spot.path, f"a link to {leads_to} that orch did not make is in the way")
        self._keep_link(spot.parent, spot.name)
        rename_new(tree, spot.at())

    def _is_ours_alone(self, place: Folder, old: list[Listing]) -> bool:
        """Whether the folder holds nothing but whole files of archives."""
        known = [*old, self._listing]
        folders = {folder for listing in known for name in listing for folder in _folders_of(name)}
        for name, is_folder in _walk(place):
            if is_folder:
                if name not in folders:
                    return False
            elif not tree_records.is_whole(self._store, _inside(place), name, known):
                return False
        return True

    def _exchange(self, aside: _Aside) -> bool:
        """Exchange the whole folder in one step; False where the file system cannot."""
        if not aside.exchange(self._spot.at()):
            return False
        if left := _clear_swap(self._store, aside.folder):  # files that were added after we had looked
            with self._spot.parent.below(self._spot.name) as place, aside.folder.below(_INNER) as before:
                for name in left:
                    above, base = os.path.split(name)
                    with (
                        before.below(above) as source,
                        place.below(above, make=True) as target,
                        suppress(FileExistsError),  # it stays in the other folder
                    ):
                        rename_new(source.at(base), target.at(base))
            _clear_swap(self._store, aside.folder)
        return True

    def _install_files(self, tree: str, place: Folder, old: list[Listing]) -> None:
        """Install each file that is missing or wrong; remove whole files of an earlier archive that this one lacks."""
        steps = [step for name in self._listing if (step := self._plan_step(place, name, old)) is not None]
        for link in self._links:
            above, base = os.path.split(link)
            with place.below(above) as folder:
                self._keep_link(folder, base)
        touched = set()
        for step in steps:
            self._raise_if_stopped()
            path, (above, base) = f"{self._spot.path}/{step.name}", os.path.split(step.name)
            with place.below(above, make=True) as folder:
                if step.found:
                    self._quarantine(folder, base, step)
                if step.had is not None and not step.found and _stamp(folder.at(base)) not in (None, step.had):
                    raise self._foreign(path, "it was changed just now")
                if step.had is not None and not step.found:
                    os.rename(f"{tree}/{step.name}", folder.at(base))
                else:
                    try:
                        rename_new(f"{tree}/{step.name}", folder.at(base))
                    except FileExistsError:
                        raise self._foreign(path, "a file appeared there just now") from None
            touched.add(above)
        for above in touched:
            with place.below(above) as folder:
                folder.sync()
        for name in {name for listing in old for name in listing if name not in self._listing}:
            if tree_records.is_whole(self._store, _inside(place), name, old):
                _remove_file(place, name)

    def _plan_step(self, place: Folder, name: str, old: list[Listing]) -> _Step | None:
        """Decide how to install one file of the new tree; None: it is there already."""
        inside, (_, sha256) = _inside(place), self._listing[name]
        shown = f"{self._spot.path}/{name}"
        for folder in reversed(_folders_of(name)):
            above = f"{inside}/{folder}"
            if os.path.islink(above):
                if not self._force:
                    raise self._foreign(
                        f"{self._spot.path}/{folder}", "a link is where a folder of the archive should be"
                    )
                self._links.add(folder)
                return _Step(name)
            if os.path.lexists(above) and not os.path.isdir(above):
                raise self._foreign(f"{self._spot.path}/{folder}", "a file is where a folder of the archive should be")
        had = _stamp(f"{inside}/{name}")
        if had is None:
            return _Step(name)
        if tree_records.is_whole(self._store, inside, name, [self._listing]):
            return None
        if tree_records.is_whole(self._store, inside, name, old):
            return _Step(name, had)
        mode = os.lstat(f"{inside}/{name}").st_mode
        is_link = stat.S_ISLNK(mode)
        if is_link and self._force:
            self._links.add(name)
            return _Step(name)
        if not stat.S_ISREG(mode) and not (is_link and os.path.isfile(f"{inside}/{name}")):
            raise self._foreign(shown, "something that is not a file is where one of the archive should be")
        was_ours = any(name in listing for listing in old)
        verdict = self._read(place, name, sha256, is_link=is_link, was_ours=was_ours)
        if verdict.is_good:
            return None
        if is_link or not (was_ours or self._force):
            raise self._foreign(shown, "a file that orch did not make is where one of the archive should be")
        return _Step(name, had, verdict.sha256)

    def _read(self, place: Folder, name: str, sha256: str, *, is_link: bool, was_ours: bool) -> Verdict:
        """Read a file of the folder, and seal it if it is right; what a link leads to is only remembered.

        Raises:
            PlacementError: it cannot be read.
        """
        shown, (above, base) = f"{self._spot.path}/{name}", os.path.split(name)
        try:
            with place.below(above) as folder:
                fd = open_regular(folder.at(base), follow=is_link)
        except OSError as error:
            raise place_error(error, shown) from error
        try:
            path = f"/proc/{os.getpid()}/fd/{fd}"
            verdict = check.check(self._context, [(sha256, path)])[0]
            if verdict.error is not None:
                raise place_error(verdict.error, shown)
            if verdict.is_good:
                touch = not is_link and (was_ours or os.fstat(fd).st_nlink == 1)
                seal.attest(self._store, path, sha256, touch=touch, read_only=was_ours, name=shown)
            return verdict
        finally:
            os.close(fd)

    def _quarantine(self, folder: Folder, base: str, step: _Step) -> None:
        """Move a file that somebody made or changed to quarantine."""
        path = f"{self._spot.path}/{step.name}"
        if _stamp(folder.at(base)) != step.had:
            raise self._foreign(path, "it was changed just now")
        about = {"expected": self._listing[step.name][1], "source": f"stood at: {path}", "place": path}
        where = quarantine.move_in(self._store, folder.at(base), step.found, about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: it was changed since it was unpacked; it was moved to {where}")

    def _keep_link(self, folder: Folder, base: str) -> None:
        """Move a user's link, which --force replaces, to quarantine; its target is not touched."""
        path, leads_to = f"{folder.path}/{base}", os.readlink(folder.at(base))
        about = {"source": f"stood at: {path}", "place": path, "why": "replaced (--force)"}
        where = quarantine.move_in(self._store, folder.at(base), "unread", about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: a link to {leads_to} is replaced (--force); it was moved to {where}")

    def _foreign(self, path: str, why: str) -> PlacementError:
        hint = "move it away, or replace it: `orch sync --force`"
        return PlacementError(f"{path}: {why}", hint, "foreign")

    def _raise_if_stopped(self) -> None:
        if self._context.stop.is_set():
            raise Stopped("stopped while placing a tree")


def _inside(folder: Folder) -> str:
    """The path of an open folder for functions that ask whether a path is a link, as that of a descriptor is."""
    return f"{folder.at()}/."


def _remove_file(place: Folder, name: str) -> None:
    """Remove a file of a tree, and each folder above it that is empty then."""
    with suppress(FileNotFoundError, NotADirectoryError), place.below(os.path.dirname(name)) as folder:
        os.unlink(folder.at(os.path.basename(name)))
    for above in _folders_of(name):
        with suppress(OSError), place.below(os.path.dirname(above)) as folder:  # OSError: something is in it
            os.rmdir(folder.at(os.path.basename(above)))


def _clear_swap(store: Store, swap: Folder) -> list[str]:
    """Clear the tree in an exchanged folder; older versions renamed the tree itself. Returns as `clear`."""
    try:
        tree = swap.below(_INNER)
    except FileNotFoundError:
        return clear(store, swap)
    with tree:
        left = clear(store, tree)
    with suppress(OSError):
        os.rmdir(swap.at(_INNER))
    return left


def clear(store: Store, tree: Folder, among: Collection[str] | None = None) -> list[str]:
    """Remove our files, by their seals, from a folder, and every folder in it that is then empty.

    Args:
        among: the paths below it of the files that may go, if not all.

    Returns:
        The paths of the files that are left.
    """
    known = tree_records.standing_in(store, _inside(tree))
    left = []
    for above, folders, names, fd in os.fwalk(".", topdown=False, dir_fd=tree.fd):
        for base in names:
            name = os.path.normpath(f"{above}/{base}")
            status = os.stat(base, dir_fd=fd, follow_symlinks=False)
            if (among is None or name in among) and tree_records.is_of(store, status, name, known):
                os.unlink(base, dir_fd=fd)
            else:
                left.append(name)
        for base in folders:
            if stat.S_ISLNK(os.stat(base, dir_fd=fd, follow_symlinks=False).st_mode):
                left.append(os.path.normpath(f"{above}/{base}"))
            else:
                with suppress(OSError):  # something is in it
                    os.rmdir(base, dir_fd=fd)
    return left


def _empty(folder: Folder) -> None:
    """Remove all that is in a folder of ours; what cannot be removed stays."""
    for name in os.listdir(folder.at()):
        with suppress(OSError):
            os.unlink(folder.at(name))
            continue
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder.fd)


def _walk(folder: Folder) -> Iterator[tuple[str, bool]]:
    """Every entry below a folder: its path there, and whether it is a folder, a folder before its content."""
    for above, folders, names, fd in os.fwalk(".", dir_fd=folder.fd):
        for base in folders:
            is_folder = stat.S_ISDIR(os.stat(base, dir_fd=fd, follow_symlinks=False).st_mode)
            yield os.path.normpath(f"{above}/{base}"), is_folder
        for base in names:
            yield os.path.normpath(f"{above}/{base}"), False


def _folders_of(name: str) -> list[str]:
    """The folders that a file is in, the innermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
