"""Trees: the folder that an archive's content stands in, checked, sealed, and there in one step."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import verify
from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import exchange, sync_folder
from orchestrator.placement import archive
from orchestrator.placement.archive import ArchiveError
from orchestrator.store import seal, trees

if TYPE_CHECKING:
    from typing import IO

    from orchestrator.placement.archive import Member
    from orchestrator.store import Store
    from orchestrator.world import World

_CHUNK_BYTES = 1 << 20
_PREFIX = ".orch-tree-"
_FRESH_S = 60.0  # so new that its maker may not have laid its hand on it yet


def put(world: World, store: Store, sha256: str, folder: str) -> None:
    """Make `folder` the content of the archive of this digest; a tree that stands there is exchanged for it.

    Raises:
        PlacementError: no archive, one that leads out of itself, more than the disk has, a file came out wrong.
        OSError: the disk said no.
        StoreError: the store's disk did.
        Stopped: a stop was asked for.
    """
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    _sweep(world, parent)
    temporary = f"{parent}/{_PREFIX}{secrets.token_hex(6)}"
    os.mkdir(temporary)
    guard = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)  # ours until we are gone
        unpacking = _Unpacking(world, temporary)
        try:
            for member in archive.members(store.blob(sha256)):
                unpacking.take(member)
            listing = unpacking.finish()
        except ArchiveError as problem:
            hint = "look at the archive, or leave out `unpack` and say `to:` for it as it is"
            raise PlacementError(f"{folder}: the archive is not unpacked: {problem}", hint) from None
        _prove(world, store, temporary, listing)
        trees.write(store, sha256, listing)
        _swap_in(temporary, folder)
        sync_folder(parent)
    finally:
        os.close(guard)
        shutil.rmtree(temporary, ignore_errors=True)


class _Unpacking:
    """One archive on its way into a folder; what it makes may not be more than the disk has free."""

    def __init__(self, world: World, folder: str) -> None:
        self._world, self._folder = world, folder
        status = os.statvfs(folder)
        self._bytes_left = status.f_bavail * status.f_frsize
        self._inodes_left = status.f_favail if status.f_files else 1 << 60
        self._listing: dict[str, tuple[int, str]] = {}
        self._links: list[tuple[str, str]] = []

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
            with archive.readable():
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
                if self._world.stop.is_set():
                    raise Stopped("stopped while unpacking")
                self._bytes_left -= len(chunk)
                if self._bytes_left < 0:
                    raise ArchiveError("it holds more than the disk has room for")
                hasher.update(chunk)
                size += file.write(chunk)
        self._listing[path] = (size, hasher.hexdigest())


def _prove(world: World, store: Store, folder: str, listing: trees.Listing) -> None:
    """Read what was written, seal it, make it durable.

    Raises:
        PlacementError: a file is not what was written.
    """
    names = [(sha256, f"{folder}/{name}") for name, (_, sha256) in listing.items()]
    if not all(verdict.is_good for verdict in verify.check(world, names)):
        raise PlacementError(f"{folder}: a file came out wrong", "check that disk: `dmesg | tail`")
    for sha256, path in names:
        seal.seal(store, path, sha256)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    for parent, _, _ in os.walk(folder):
        sync_folder(parent)


def _swap_in(temporary: str, folder: str) -> None:
    """Give the new tree its name; one that stood there then has the temporary name. Nobody sees a gap."""
    if os.path.islink(folder):
        os.unlink(folder)
    try:
        os.rename(temporary, folder)
        return
    except OSError:
        if not os.path.isdir(folder):
            raise
    with suppress(OSError):
        exchange(temporary, folder)
        return
    old = f"{temporary}-old"  # a file system without the exchange: there is a gap, of two renames
    os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except OSError:
        os.rename(old, folder)
        raise
    os.rename(old, temporary)


def _sweep(world: World, parent: str) -> None:
    """Remove what died half unpacked a while ago: nobody holds it any more."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            path = f"{parent}/{name}"
            with suppress(OSError):
                if os.stat(path).st_mtime > world.now() - _FRESH_S:
                    continue
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(fd)
