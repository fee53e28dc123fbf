"""The paths and modes of a store's files, and opening a store that only trusted users may write."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import Stopped, StoreError
from orchestrator.files import LOCK_POLL_S, NewFile, store_error

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from orchestrator.model import Pin

CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of model weights made by orch.\n"
    "# For information about cache directory tags see https://bford.info/cachedir/\n"
)
FOLDERS = ("blobs", "blobs/sha256", "partial", "quarantine", "places")


class Store(msgspec.Struct, frozen=True, gc=False):
    """A store at `path` (absolute); making this value does not touch the disk.

    `state` is the folder of this host's local state, for file systems that keep no nanoseconds. Waits for another orch
    in this store end once `stop` is set. `trusted` are the folders below which the site file lets places be, whoever
    may write there.
    """

    path: str
    state: str
    stop: threading.Event | None = None
    trusted: tuple[str, ...] = ()

    def blob(self, sha256: str) -> str:
        """The path of a complete, verified, sealed file (of a key that is no sha256: where no file ever is)."""
        return f"{self.path}/blobs/sha256/{sha256}"

    def alias(self, pin: Pin) -> str:
        """The path of a weaker digest: a relative symlink to the blob with these bytes, if one was ever here."""
        return f"{self.path}/blobs/{pin.kind}/{pin.hex}"

    def partials(self, key: str) -> str:
        """The folder with every writer's partial of one sha256 (or of the `key` of a file whose sha256 is unknown)."""
        return f"{self.path}/partial/{key if '-' in key else f'sha256-{key}'}"

    @property
    def bundles(self) -> str:
        """The folder with every writer's unfinished batches of small files."""
        return f"{self.path}/partial/bundles"

    @property
    def quarantine(self) -> str:
        """The folder of quarantined files, each below the digest of its bytes."""
        return f"{self.path}/quarantine"

    @property
    def places(self) -> str:
        """The folder of the records of what was placed where."""
        return f"{self.path}/places"


@contextmanager
def disk(path: str) -> Iterator[None]:
    """Turn an OSError in the block into a StoreError about `path` that says what to type next."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def folder_mode(parent: str) -> int:
    """The mode for a new folder in `parent`: the parent's own, setgid bit included, whatever the umask.

    In this way everything in a store gets its mode from the store's folder, and what a group shares stays shared.

    Raises:
        OSError: `parent` is gone.
    """
    return os.stat(parent).st_mode & (stat.S_ISGID | 0o777)


def file_mode(parent: str) -> int:
    """The mode for a new file in `parent`: the read and write bits of the parent's. Raises as `folder_mode`."""
    return folder_mode(parent) & 0o666


def make_folder(path: str, *, private: bool = False) -> None:
    """Make a folder of the store if it is missing; a `private` one is closed to users who may not write there.

    Raises:
        OSError: the disk failed.
    """
    mode = folder_mode(os.path.dirname(path))
    if private:
        writers = mode & 0o222
        mode = mode & stat.S_ISGID | writers | writers << 1 | writers >> 1
    try:
        os.mkdir(path, mode & 0o777)
    except FileExistsError:
        return
    with suppress(FileNotFoundError):  # removed by a writer who found it empty
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)


def open_file(path: str, flags: int) -> int:
    """Open a file of the store, and make it first if it is missing (usable as the `opener` of open()).

    Symbolic links are not followed.

    Raises:
        OSError: the disk failed; with O_EXCL: the file exists.
    """
    return _open(path, flags, file_mode(os.path.dirname(path)))


def open_lock(path: str, flags: int = os.O_RDWR) -> int:
    """Open a lock file of the store; users who may not write there cannot open it, and so cannot block others.

    Raises:
        OSError: the disk failed.
    """
    writers = folder_mode(os.path.dirname(path)) & 0o222
    return _open(path, flags, writers | writers << 1)


def _open(path: str, flags: int, mode: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        if not flags & os.O_EXCL:
            try:
                return os.open(path, flags & ~os.O_CREAT)
            except FileNotFoundError:
                pass
        with NewFile(os.path.dirname(path)) as new:  # so that it never has another mode
            os.fchmod(new.fd, mode)
            try:
                new.publish(path, replace=False)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
        flags &= ~os.O_EXCL


def make_own(path: str) -> None:
    """Make a dead writer's file ours: replace another user's by a copy (holes kept), since only its owner may seal it.

    What cannot be read, or is no file, is removed.

    Raises:
        OSError: the disk failed.
    """
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.unlink(path)
        return
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            os.unlink(path)
            return
        with NewFile(os.path.dirname(path)) as new:
            os.fchmod(new.fd, file_mode(os.path.dirname(path)))
            _copy_data(source, new.fd)
            new.publish(path, replace=True)
    finally:
        os.close(source)


def _copy_data(source: int, target: int) -> None:
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # the rest is a hole
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, min(end - at, 1 << 24))):
            at += sent


def hold(fd: int, how: int, stop: threading.Event | None) -> None:
    """Take a flock; while another process has it, poll, and obey a stop.

    Args:
        how: LOCK_SH or LOCK_EX.

    Raises:
        OSError: the file system has no locks.
        Stopped: a stop was asked for.
    """
    while True:
        try:
            return fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if stop is None:
                time.sleep(LOCK_POLL_S)
            elif stop.wait(LOCK_POLL_S):
                raise Stopped("stopped while waiting for another orch") from None


def open_store(path: str, state: str) -> Store:
    """Open a store: make its missing folders, and check that not every user may write into them.

    Raises:
        StoreError: it cannot be made or written, or every user may write into it.
    """
    store = Store(path, state)
    if not path.isprintable():
        # aria2c cuts its folder's name at a line break, writes elsewhere and exits 0.
        raise StoreError(f"store: {path!r} has control characters in its name", "choose another one: --store DIR")
    with disk(path):
        _make_folders(path)
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise StoreError(f"store: {path} is not a folder", "choose another one: --store DIR")
        _refuse_world_writable(path, mode)
        for name in FOLDERS:
            make_folder(f"{path}/{name}")
            _refuse_world_writable(f"{path}/{name}", os.stat(f"{path}/{name}").st_mode)
        tag = f"{path}/CACHEDIR.TAG"
        if not os.path.lexists(tag):
            with suppress(FileExistsError), open(tag, "x", encoding="ascii", opener=open_file) as file:
                file.write(CACHEDIR_TAG)
        if not os.access(path, os.W_OK | os.X_OK):  # where all folders exist, nothing above has noticed it
            raise StoreError(f"store: {path} cannot be written", f"choose another one: --store DIR (`ls -ld {path}`)")
    return store


def _make_folders(path: str) -> None:
    """Make a folder and its missing parents, with a mode that not everyone may write, even under umask 0."""
    if not os.path.isdir(path):
        if (above := os.path.dirname(path)) != path:
            _make_folders(above)
        with suppress(FileExistsError):
            os.mkdir(path, 0o775)


def _refuse_world_writable(folder: str, mode: int) -> None:
    if mode & stat.S_IWOTH:
        raise StoreError(
            f"store: {folder} can be written by everyone, so its bytes prove nothing", f"chmod o-w {folder}"
        )
