"""Trees: the folder that an archive's content stands in, checked, sealed, and there in one step."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tarfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import sync_folder
from orchestrator.formats import decompress
from orchestrator.formats.bounded import BROKEN, readable
from orchestrator.formats.bounded import DamagedError as ArchiveError
from orchestrator.placement import install_tree
from orchestrator.store import seal, tree_records
from orchestrator.text import NAME_BYTES, has_unseen, shown
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from orchestrator.context import Context
    from orchestrator.store import Store


_CHUNK_BYTES = 1 << 20
_PREFIX = ".orch-tree-"
_NEW = ".orch-new-"  # the same before its maker has locked it


def put(
    context: Context,
    store: Store,
    sha256: str,
    folder: str,
    *,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Make `folder` hold the content of the archive of this digest.

    Where nothing but files of ours stands in it, it is exchanged as a whole. Else each file is moved in by itself:
    what the archive does not have stays where it is, a file of an archive that somebody changed goes to quarantine,
    and so does, with `force`, a user's own at the path of one of ours. `tell` gets a line of each that went.

    Raises:
        PlacementError: no archive, one that leads out of itself, more than the disk has, a file came out wrong; with
            the fault `foreign`: something that is not ours stands in the way, and nothing was changed.
        OSError: the disk said no.
        StoreError: the store's disk did.
        Stopped: a stop was asked for.
    """
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    sweep(store, parent)
    temporary, guard = _new_folder(parent)
    try:
        unpacking = _Unpacking(context, temporary)
        try:
            for member in members(store.blob(sha256), unpacking.ask):
                unpacking.take(member)
            listing = unpacking.finish()
        except ArchiveError as problem:
            hint = "look at the archive, or leave out `unpack` and say `to:` for it as it is"
            raise PlacementError(f"{folder}: the archive is not unpacked: {problem}", hint) from None
        _prove(context, store, temporary, listing)
        tree_records.write(store, sha256, listing)
        install_tree.TreeInstall(context, store, folder, listing, force=force, tell=tell).plant(temporary)
        sync_folder(parent)
    finally:
        os.close(guard)
        for _ in range(2):  # a disk that refused once is asked once more; what it keeps is left to `sweep`
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(store: Store, parent: str) -> None:
    """Remove what died half unpacked beside a tree, and of what died in an exchange all that is ours."""
    for name in os.listdir(parent):
        path = f"{parent}/{name}"
        if not name.startswith((_PREFIX, _NEW, install_tree.PREFIX)):
            continue
        with suppress(OSError):
            if name.startswith(_NEW):
                os.rmdir(path)  # its maker makes another one, if it lives
                continue
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if name.startswith(install_tree.PREFIX):
                    install_tree.clear(store, path)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _new_folder(parent: str) -> tuple[str, int]:
    """A new folder in `parent` and a descriptor of it, whose lock says that its maker lives."""
    while True:
        made = f"{parent}/{_NEW}{secrets.token_hex(6)}"
        os.mkdir(made)
        guard = -1
        try:
            guard = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks, where nothing is swept either
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary = f"{parent}/{_PREFIX}{secrets.token_hex(6)}"
            os.rename(made, temporary)
        except BaseException as error:
            if guard >= 0:
                os.close(guard)
            if not isinstance(error, FileNotFoundError) or not os.path.isdir(parent):
                raise
            continue  # another orch swept it away before it was locked
        return temporary, guard


class _Unpacking:
    """One archive on its way into a folder; what it makes may not be more than the disk has free."""

    def __init__(self, context: Context, folder: str) -> None:
        self._context, self._folder = context, folder
        status = os.statvfs(folder)
        self._bytes_left = status.f_bavail * status.f_frsize
        self._inodes_left = status.f_favail if status.f_files else 1 << 60
        self._listing: dict[str, tuple[int, str]] = {}
        self._links: list[tuple[str, str]] = []

    def ask(self) -> None:
        """Ask for the stop.

        Raises:
            Stopped.
        """
        if self._context.stop.is_set():
            raise Stopped("stopped while unpacking")

    def take(self, member: Member) -> None:
        """Write one member.

        Raises:
            ArchiveError, OSError, Stopped.
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
        """Make the links, as files of their own, and give what stands there now.

        Raises:
            ArchiveError: a link leads to no file of the archive, or there is no file at all.
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
            file = open(f"{self._folder}/{path}", "xb")  # noqa: SIM115 - what follows must not be taken for its error
        except FileExistsError:
            raise ArchiveError(f"`{path}` is in it twice") from None
        with file:
            while chunk := content.read(_CHUNK_BYTES):
                self.ask()
                self._bytes_left -= len(chunk)
                if self._bytes_left < 0:
                    raise ArchiveError("it holds more than the disk has room for")
                hasher.update(chunk)
                size += file.write(chunk)
        self._listing[path] = (size, hasher.hexdigest())


def _prove(context: Context, store: Store, folder: str, listing: tree_records.Listing) -> None:
    """Read what was written, seal it, make it durable.

    Raises:
        PlacementError: a file is not what was written.
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


# What is one file's compression, and the name of a tar in it.
_ONE_FILE = {"gzip": ".tar.gz", "bzip2": ".tar.bz2", "xz": ".tar.xz"}


class Member(NamedTuple):
    """One entry: a folder where `content` and `same_as` are None; `same_as` is another file of the archive."""

    path: str
    size: int = 0
    content: IO[bytes] | None = None
    same_as: str | None = None


def members(path: str, ask: Callable[[], None] = lambda: None) -> Iterator[Member]:
    """Go through the archive at `path`: tar (plain, gzip, bzip2, xz) or zip, told by its bytes.

    A member's content is to be read before the next one is asked for. Modes, owners and times are left out. `ask` is
    called between pieces, and may raise to end it.

    Raises:
        ArchiveError: it is none of these, is damaged, unpacks to too much, or a member leads out of it or is a device.
        OSError: the disk said no.
    """
    with open(path, "rb") as file:
        head, length = file.read(tarfile.BLOCKSIZE), os.fstat(file.fileno()).st_size
        if head.startswith(b"PK"):
            yield from _of_zip(file, length, ask)
            return
        packed = decompress.compression(head)
        if not packed and not _is_tar(head):
            raise ArchiveError("it is no archive that orch unpacks (tar, tar.gz, tar.bz2, tar.xz, zip)")
        begun = False
        try:
            for member in _of_tar(file, length, ask):
                begun = True
                yield member
        except ArchiveError:
            if begun or not packed or not _is_one_file(path):
                raise
            raise ArchiveError(f"it is {packed} of one file, and no archive ({_ONE_FILE[packed]})") from None


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except BROKEN:
        return False
    return True


def _is_one_file(path: str) -> bool:
    """Whether what is compressed begins as no tar does."""
    from orchestrator import formats

    with open(path, "rb") as file:
        return formats.identify(file.read(formats.HEAD_BYTES)).format != "tar"


def _of_tar(file: IO[bytes], length: int, ask: Callable[[], None]) -> Iterator[Member]:
    for entry, content in decompress.tar_entries(file, length, ask):
        name = safe(entry.name)
        if entry.isdir():
            yield Member(name)
        elif not name:
            raise ArchiveError(f"a member has no name: `{shown(entry.name)}`")
        elif content is not None:
            yield Member(name, entry.size, content)
        elif entry.islnk():
            yield Member(name, same_as=safe(entry.linkname))
        elif entry.issym():
            yield Member(name, same_as=_beside(name, entry.linkname))
        else:
            raise ArchiveError(f"`{shown(name)}` in it is neither a file nor a folder")


def _of_zip(file: IO[bytes], length: int, ask: Callable[[], None]) -> Iterator[Member]:
    for entry, content in decompress.zip_entries(file, length, ask):
        name = safe(entry.orig_filename)
        mode = entry.external_attr >> 16
        kind = stat.S_IFMT(mode) if entry.create_system == 3 else 0
        if content is None:
            yield Member(name)
        elif not name or kind not in (0, stat.S_IFREG, stat.S_IFLNK):
            raise ArchiveError(f"`{shown(entry.orig_filename)}` in it is neither a file nor a folder")
        elif kind == stat.S_IFLNK:
            with readable():
                target = content.read(4096).decode()
            yield Member(name, same_as=_beside(name, target))
        else:
            yield Member(name, entry.file_size, content)


def safe(name: str) -> str:
    """A member's name as a path below the tree ("" is the tree itself): `./` goes, the rest is as it was.

    Raises:
        ArchiveError: it leads elsewhere, or has what no file's name should have.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        raise ArchiveError(f"`{shown(name)}` in it leads out of it")
    if "\\" in name:
        raise ArchiveError(f"`{shown(name)[:80]}` in it has backslashes, as some Windows programs write them")
    if has_unseen(name) or any(len(part.encode(errors="replace")) > NAME_BYTES for part in parts):
        raise ArchiveError(f"`{shown(name)[:80]}` in it cannot be a file's name")
    return "/".join(parts)


def _beside(name: str, target: str) -> str:
    """Where a symlink leads, as a path below the tree."""
    if target.startswith("/"):
        raise ArchiveError(f"`{shown(name)}` in it is a link that leads out of it")
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == ".." and not parts:
            raise ArchiveError(f"`{shown(name)}` in it is a link that leads out of it")
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return safe("/".join(parts))
