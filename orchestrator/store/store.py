"""Where things lie in a store, and whether it may be trusted."""

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
    """A store at `path` (absolute); making this value touches no disk.

    `state` is the folder of this host's local state, for file systems that keep no nanoseconds; whoever waits for
    another orch in this store gives up once `stop` is set.
    """

    path: str
    state: str
    stop: threading.Event | None = None

    def blob(self, sha256: str) -> str:
        """Path of a complete, verified, sealed file. (Of a key that is no sha256: a path where nothing ever is.)"""
        return f"{self.path}/blobs/sha256/{sha256}"

    def alias(self, pin: Pin) -> str:
        """Path of a weaker digest: a relative symlink to the blob of the same bytes, where one was ever here."""
        return f"{self.path}/blobs/{pin.kind}/{pin.hex}"

    def partials(self, key: str) -> str:
        """Folder of all writers' unfinished bytes of one sha256, or of the `key` of bytes whose sha256 is not known."""
        return f"{self.path}/partial/{key if '-' in key else f'sha256-{key}'}"

    @property
    def bundles(self) -> str:
        """Folder of all writers' unfinished bundles of small files."""
        return f"{self.path}/partial/bundles"

    @property
    def quarantine(self) -> str:
        """Folder of wrong bytes, each below its found digest."""
        return f"{self.path}/quarantine"

    @property
    def places(self) -> str:
        """Folder of the records of what was placed where."""
        return f"{self.path}/places"


@contextmanager
def disk(path: str) -> Iterator[None]:
    """Turn an OSError about `path` into a StoreError that says what to type next."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def folder_mode(parent: str) -> int:
    """The mode of a folder made in `parent`: the parent's, its setgid bit included, whatever the umask.

    All of a store takes its modes from the store's folder so, and what a group shares stays shared.

    Raises:
        OSError: `parent` is gone.
    """
    return os.stat(parent).st_mode & (stat.S_ISGID | 0o777)


def file_mode(parent: str) -> int:
    """The mode of a file made in `parent`: what the parent's says of reading and writing. Raises as `folder_mode`."""
    return folder_mode(parent) & 0o666


def make_folder(path: str, *, private: bool = False) -> None:
    """Make a folder of the store where there is none; a `private` one is for those only who may write there.

    Raises:
        OSError: the disk said no.
    """
    mode = folder_mode(os.path.dirname(path))
    if private:
        writers = mode & 0o222
        mode = mode & stat.S_ISGID | writers | writers << 1 | writers >> 1
    try:
        os.mkdir(path, mode & 0o777)
    except FileExistsError:
        return
    with suppress(FileNotFoundError):  # already removed, by a writer who found it empty
        if stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)


def open_file(path: str, flags: int) -> int:
    """Open a file of the store, made first where there is none; no symbolic link is followed (an `opener` of open()).

    Raises:
        OSError: the disk said no; with O_EXCL: it is there.
    """
    return _open(path, flags, file_mode(os.path.dirname(path)))


def open_lock(path: str, flags: int = os.O_RDWR) -> int:
    """Open a file of the store that is locked by flock: whoever may not write there cannot hold up those who may.

    Raises:
        OSError: the disk said no.
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
        with NewFile(os.path.dirname(path)) as new:  # so that nobody meets it with another mode
            os.fchmod(new.fd, mode)
            try:
                new.publish(path, replace=False)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
        flags &= ~os.O_EXCL


def make_own(path: str) -> None:
    """Make a dead writer's file ours: another user's is copied, holes kept, for only an owner may seal a file.

    What cannot be read, or is no file, goes.

    Raises:
        OSError: the disk said no.
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
        except OSError:  # only a hole is left
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, min(end - at, 1 << 24))):
            at += sent


def hold(fd: int, how: int, stop: threading.Event | None) -> None:
    """Take a flock and, while another has it, ask again and again whether a stop was asked for.

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
    """Make the store's folders where they are missing and see that nobody else can plant bytes in it.

    Raises:
        StoreError: it cannot be made or written, or every user may write into it.
    """
    store = Store(path, state)
    if not path.isprintable():
        # aria2c takes a line break in its folder's name for the end of it, writes elsewhere and exits 0.
        raise StoreError(f"store: {path!r} has control characters in its name", "choose another one: --store DIR")
    with disk(path):
        _make_whole_path(path)
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise StoreError(f"store: {path} is not a folder", "choose another one: --store DIR")
        _refuse_open(path, mode)
        for name in FOLDERS:
            make_folder(f"{path}/{name}")
            _refuse_open(f"{path}/{name}", os.stat(f"{path}/{name}").st_mode)
        tag = f"{path}/CACHEDIR.TAG"
        if not os.path.lexists(tag):
            with suppress(FileExistsError), open(tag, "x", encoding="ascii", opener=open_file) as file:
                file.write(CACHEDIR_TAG)
        if not os.access(path, os.W_OK | os.X_OK):  # with all folders there, nothing above has told it
            raise StoreError(f"store: {path} cannot be written", f"choose another one: --store DIR (`ls -ld {path}`)")
    return store


def _make_whole_path(path: str) -> None:
    """Make a folder and those above it, none of which everyone may write, also under umask 0."""
    if not os.path.isdir(path):
        if (above := os.path.dirname(path)) != path:
            _make_whole_path(above)
        with suppress(FileExistsError):
            os.mkdir(path, 0o775)


def _refuse_open(folder: str, mode: int) -> None:
    if mode & stat.S_IWOTH:
        raise StoreError(
            f"store: {folder} can be written by everyone, so its bytes prove nothing", f"chmod o-w {folder}"
        )
