"""Trees: unpack an archive, check and seal its files, and install them in a folder where other files may be.

Of what is in that folder only the files of archives are ours: everything else stays where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import exchange, place_error, rename_new, sync_folder
from orchestrator.formats.bounded import readable
from orchestrator.placement.archive import ArchiveError, members
from orchestrator.store import quarantine, seal, tree_records
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context
    from orchestrator.placement.archive import Member
    from orchestrator.store import Store
    from orchestrator.store.tree_records import Listing

_SWAP = ".orch-swap-"  # a whole tree that is being exchanged with its place; it may hold files of the user
_CHUNK_BYTES = 1 << 20
_PREFIX = ".orch-tree-"
_NEW = ".orch-new-"  # the folder of an unpacking before it is locked


def put(
    context: Context,
    store: Store,
    sha256: str,
    folder: str,
    *,
    ours: bool = False,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Unpack the archive of this digest into `folder`.

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
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    sweep(store, parent)
    temporary, guard = _new_folder(parent)
    try:
        unpacking = _Unpacking(context, temporary)
        try:
            for member in members(store.blob(sha256), unpacking.raise_if_stopped):
                unpacking.write(member)
            listing = unpacking.finish()
        except ArchiveError as problem:
            hint = "look at the archive, or leave out `unpack` and say `to:` for it as it is"
            raise PlacementError(f"{folder}: the archive is not unpacked: {problem}", hint) from None
        _check_and_seal(context, store, temporary, listing)
        tree_records.write(store, sha256, listing)
        TreeInstall(context, store, folder, listing, ours=ours, force=force, tell=tell).install(temporary)
        sync_folder(parent)
    finally:
        os.close(guard)
        for _ in range(2):  # tried twice, since a disk may fail once; what stays is left to `sweep`
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(store: Store, parent: str) -> None:
    """Remove the folders of dead runs in `parent`: half unpacked ones whole, exchanged ones except a user's files."""
    for name in os.listdir(parent):
        path = f"{parent}/{name}"
        if not name.startswith((_PREFIX, _NEW, _SWAP)):
            continue
        with suppress(OSError):
            if name.startswith(_NEW):
                os.rmdir(path)  # if the run that made it still lives, it makes another one
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if name.startswith(_SWAP):
                    _clear(store, path)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _new_folder(parent: str) -> tuple[str, int]:
    """Make a folder in `parent`; its path, and a descriptor whose lock says that this run lives."""
    while True:
        made = f"{parent}/{_NEW}{secrets.token_hex(6)}"
        os.mkdir(made)
        guard = -1
        try:
            guard = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks, where `sweep` removes nothing
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary = f"{parent}/{_PREFIX}{secrets.token_hex(6)}"
            os.rename(made, temporary)
        except BaseException as error:
            if guard >= 0:
                os.close(guard)
            if not isinstance(error, FileNotFoundError) or not os.path.isdir(parent):
                raise
            continue  # another orch removed it before it was locked
        return temporary, guard


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
            raise ArchiveError("it holds more than the disk has room for")
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
                raise ArchiveError(f"`{path}` in it is a link to no file of it")
            if self._listing[same_as][0] > self._bytes_left:
                raise ArchiveError("it holds more than the disk has room for")
            with open(f"{self._folder}/{same_as}", "rb") as content:
                self._write(path, content)
        if not self._listing:
            raise ArchiveError("it holds no file")
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
                    raise ArchiveError("it holds more than the disk has room for")
                hasher.update(chunk)
                size += file.write(chunk)
        self._listing[path] = (size, hasher.hexdigest())


def _check_and_seal(context: Context, store: Store, folder: str, listing: Listing) -> None:
    """Read what was written, seal it, and flush it.

    Raises:
        PlacementError: a file has other bytes than were written.
    """
    names = [(sha256, f"{folder}/{name}") for name, (_, sha256) in listing.items()]
    if not all(verdict.is_good for verdict in check.check(context, names)):
        raise PlacementError(f"{folder}: a file came out wrong", "check that disk: `dmesg | tail`")
    for sha256, path in names:
        mode = os.stat(path).st_mode & 0o444  # by the umask
        seal.seal(store, path, sha256)
        os.chmod(path, mode)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for parent, _, _ in os.walk(folder):
        sync_folder(parent)


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
        folder: str,
        listing: Listing,
        *,
        ours: bool,
        force: bool,
        tell: Callable[[str], None] | None,
    ) -> None:
        self._context, self._store, self._folder, self._listing = context, store, folder, listing
        self._ours, self._force = ours, force
        self._tell = tell or (lambda _: None)
        self._links: set[str] = set()  # of the user's, which --force replaces

    def install(self, tree: str) -> None:
        """Move the folder `tree`, or its files one by one, to the place, on the same file system.

        Raises:
            PlacementError: something that is not ours is in the way (`foreign`), or it cannot be read.
            OSError, StoreError: a disk failed. What was moved stays, and the next run goes on from there.
            Stopped: a stop was asked for.
        """
        try:
            rename_new(tree, self._folder)
        except FileExistsError:
            pass
        else:
            return
        if os.path.islink(self._folder):
            self._replace_link(tree)
            return
        if not os.path.isdir(self._folder):
            raise self._foreign(self._folder, "a file stands where the folder should be")
        # With --force the folder may be a user's, whose right files were sealed when it was adopted: all of them stay.
        is_ours = self._ours or not self._force
        old = tree_records.standing_in(self._store, self._folder) if is_ours else []
        if not (self._is_ours_alone(old) and self._exchange(tree)):
            self._install_files(tree, old)

    def _replace_link(self, tree: str) -> None:
        """Replace a user's link by the tree (with --force); its target is not touched."""
        leads_to = os.readlink(self._folder)
        if not self._force:
            raise self._foreign(self._folder, f"a link to {leads_to} stands there that orch did not make")
        self._keep_link(self._folder)
        rename_new(tree, self._folder)

    def _is_ours_alone(self, old: list[Listing]) -> bool:
        """Whether the folder holds nothing but whole files of archives."""
        known = [*old, self._listing]
        folders = {folder for listing in known for name in listing for folder in _folders_of(name)}
        for name, entry in _walk(self._folder):
            if entry.is_dir(follow_symlinks=False):
                if name not in folders:
                    return False
            elif not tree_records.is_whole(self._store, self._folder, name, known):
                return False
        return True

    def _exchange(self, tree: str) -> bool:
        """Exchange the whole folder in one step (renameat2(2)); False where the file system cannot."""
        swap = f"{os.path.dirname(self._folder)}/{_SWAP}{secrets.token_hex(6)}"
        os.rename(tree, swap)  # by this name `sweep` knows that it may hold files of the user
        try:
            exchange(swap, self._folder)
        except OSError:
            os.rename(swap, tree)
            return False
        if left := _clear(self._store, swap):  # files that were added after we had looked
            for name in left:
                os.makedirs(os.path.dirname(f"{self._folder}/{name}"), exist_ok=True)
                with suppress(FileExistsError):  # it stays in the other folder
                    rename_new(f"{swap}/{name}", f"{self._folder}/{name}")
            _clear(self._store, swap)
        return True

    def _install_files(self, tree: str, old: list[Listing]) -> None:
        """Install each file that is missing or wrong; remove whole files of an earlier archive that this one lacks."""
        steps = [step for name in self._listing if (step := self._plan_step(name, old)) is not None]
        for path in self._links:
            self._keep_link(path)
        touched = set()
        for step in steps:
            self._raise_if_stopped()
            path = f"{self._folder}/{step.name}"
            if step.found:
                self._quarantine(path, step)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if step.had is not None and not step.found and _stamp(path) not in (None, step.had):
                raise self._foreign(path, "it was changed just now")
            if step.had is not None and not step.found:
                os.rename(f"{tree}/{step.name}", path)
            else:
                try:
                    rename_new(f"{tree}/{step.name}", path)
                except FileExistsError:
                    raise self._foreign(path, "a file appeared there just now") from None
            touched.add(os.path.dirname(path))
        for folder in touched:
            sync_folder(folder)
        for name in {name for listing in old for name in listing if name not in self._listing}:
            if tree_records.is_whole(self._store, self._folder, name, old):
                os.unlink(f"{self._folder}/{name}")
                for folder in _folders_of(name):
                    with suppress(OSError):  # something is in it
                        os.rmdir(f"{self._folder}/{folder}")

    def _plan_step(self, name: str, old: list[Listing]) -> _Step | None:
        """Decide how to install one file of the new tree; None: it is there already."""
        path, (_, sha256) = f"{self._folder}/{name}", self._listing[name]
        for folder in reversed(_folders_of(name)):
            above = f"{self._folder}/{folder}"
            if os.path.islink(above):
                if not self._force:
                    raise self._foreign(above, "a link stands where a folder of the archive should be")
                self._links.add(above)
                return _Step(name)
            if os.path.lexists(above) and not os.path.isdir(above):
                raise self._foreign(above, "a file stands where a folder of the archive should be")
        had = _stamp(path)
        if had is None:
            return _Step(name)
        if tree_records.is_whole(self._store, self._folder, name, [self._listing]):
            return None
        if tree_records.is_whole(self._store, self._folder, name, old):
            return _Step(name, had)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode) and self._force:
            self._links.add(path)
            return _Step(name)
        if not stat.S_ISREG(mode) and not (stat.S_ISLNK(mode) and os.path.isfile(path)):
            raise self._foreign(path, "something that is no file stands where one of the archive should be")
        verdict = check.check(self._context, [(sha256, path)])[0]
        if verdict.error is not None:
            raise place_error(verdict.error, path)
        was_ours = any(name in listing for listing in old)
        if verdict.is_good:
            if stat.S_ISREG(mode):
                seal.attest(self._store, path, sha256, read_only=was_ours)
            else:
                seal.remember(self._store, path, sha256)
            return None
        if stat.S_ISLNK(mode) or not (was_ours or self._force):
            raise self._foreign(path, "a file that orch did not make stands where one of the archive should be")
        return _Step(name, had, verdict.sha256)

    def _quarantine(self, path: str, step: _Step) -> None:
        """Move a file that somebody made or changed to quarantine."""
        if _stamp(path) != step.had:
            raise self._foreign(path, "it was changed just now")
        about = {"expected": self._listing[step.name][1], "source": f"stood at: {path}", "place": path}
        where = quarantine.move_in(self._store, path, step.found, about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: it was not the archive's any more; it lies in {where} now")

    def _keep_link(self, path: str) -> None:
        """Move a user's link, which --force replaces, to quarantine; its target is not touched."""
        leads_to = os.readlink(path)
        about = {"source": f"stood at: {path}", "place": path, "why": "replaced (--force)"}
        where = quarantine.move_in(self._store, path, "unread", about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: it was a link to {leads_to}, and is replaced (--force); the link lies in {where} now")

    def _foreign(self, path: str, why: str) -> PlacementError:
        hint = f"move it away, or let it be replaced: --force (`ls -l {path}`)"
        return PlacementError(f"{path}: {why}", hint, "foreign")

    def _raise_if_stopped(self) -> None:
        if self._context.stop.is_set():
            raise Stopped("stopped while placing a tree")


def _clear(store: Store, tree: str) -> list[str]:
    """Remove our files, by their seals, from `tree`, and every folder that is then empty.

    Returns:
        The paths of the files that are left.
    """
    known = tree_records.standing_in(store, tree)
    left = []
    folders = [tree]
    for name, entry in _walk(tree):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif tree_records.is_whole(store, tree, name, known):
            os.unlink(entry.path)
        else:
            left.append(name)
    for folder in reversed(folders):
        with suppress(OSError):
            os.rmdir(folder)
    return left


def _walk(folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below a folder with its path there, a folder before its content; links are not followed."""
    pending = [""]
    while pending:
        at = pending.pop()
        with os.scandir(f"{folder}/{at}") as entries:
            for entry in list(entries):
                name = f"{at}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                yield name, entry


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
