"""The paths and modes of a store's files, and opening a store that only trusted users may write."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import Stopped, StoreError
from orchestrator.files import LOCK_POLL_S, NewFile, store_error, sweep, sync_folder, unwritable
from orchestrator.folders import open_folder
from orchestrator.store.owners import judge_folder, refuse_in_folder_of, shares_group

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    from orchestrator.folders import Folder
    from orchestrator.model import Pin, StoreBelow

CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of model weights made by orch.\n"
    "# For information about cache directory tags see https://bford.info/cachedir/\n"
)
FOLDERS = ("blobs", "blobs/sha256", "partial", "quarantine", "places")
NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Store(msgspec.Struct, frozen=True, gc=False):
    """A store at `path` (absolute); making this value does not touch the disk.

    `state` is the folder of this host's local state, for file systems that keep no nanoseconds. Waits for another orch
    in this store end once `stop` is set. `shared`: the site file lets the group of its folders write into them.
    `trusted` are the folders below which the site file lets places be, whoever may write there. `below` are stores
    that are only read, in order. `read_only`: there is none that may be written, and this is the first of those below.
    """

    path: str
    state: str
    stop: threading.Event | None = None
    shared: bool = False
    trusted: tuple[str, ...] = ()
    below: tuple[StoreBelow, ...] = ()
    read_only: bool = False

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
    def relay(self) -> str:
        """The folder where unfinished files are published, if `orch serve` made it."""
        return f"{self.path}/relay"

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

    A private one that is there already, of an older orch or of a careless member of the group, is closed as well.

    Raises:
        StoreError: it is to be private, everyone may write into it, and we may not change that.
        OSError: something else stands there (a link: NotADirectoryError), or the disk failed.
    """
    mode = folder_mode(os.path.dirname(path))
    if private:
        writers = mode & 0o222
        mode = mode & stat.S_ISGID | writers | writers << 1 | writers >> 1
    is_new = False
    with suppress(FileExistsError):
        os.mkdir(path, mode & 0o777)
        is_new = True
    if not is_new and not private:
        return
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # removed by a writer who found it empty
        return
    try:
        now = stat.S_IMODE(os.fstat(fd).st_mode)
        narrowed = mode if is_new else now & (mode | ~0o777)
        if now != narrowed:
            _narrow(path, fd, narrowed)
    finally:
        os.close(fd)


def _narrow(path: str, fd: int, mode: int) -> None:
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    except PermissionError:  # another user's
        if os.fstat(fd).st_mode & stat.S_IWOTH:
            raise StoreError(
                f"store: {path} can be written by everyone", f"chmod o-w {path}", code="store-access"
            ) from None


def open_file(path: str, flags: int) -> int:
    """Open a file of the store, and make it first if it is missing (usable as the `opener` of open()).

    Symbolic links are not followed.

    Raises:
        OSError: the disk failed; with O_EXCL: the file exists.
    """
    return _open(path, flags, file_mode(os.path.dirname(path)))


def open_lock(path: str, flags: int = os.O_RDWR) -> int:
    """Open a lock file of the store; users who may not write there cannot open it, and so cannot block others.

    One that they can open, which an older orch made, is closed to them if it is ours.

    Raises:
        OSError: it is no regular file, or the disk failed.
    """
    writers = folder_mode(os.path.dirname(path)) & 0o222
    mode = writers | writers << 1
    fd = _open(path, flags, mode)
    with suppress(OSError):  # another user's
        if (now := stat.S_IMODE(os.fstat(fd).st_mode)) & ~mode:
            os.fchmod(fd, now & mode)
    return fd


@contextmanager
def locked(path: str, stop: threading.Event | None) -> Iterator[None]:
    """Hold a lock file of the store alone; where the file system has no locks, nobody is kept out.

    Raises:
        OSError: it cannot be opened.
        Stopped: a stop was asked for while another process had it.
    """
    fd = open_lock(path)
    try:
        try:
            hold(fd, fcntl.LOCK_EX, stop)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(fd)


def _open(path: str, flags: int, mode: int) -> int:
    """Open a regular file of the store; what else stands there, or a link, is not waited for and not followed."""
    while True:
        if not flags & os.O_EXCL:
            with suppress(FileNotFoundError):
                return open_there(path, flags & ~(os.O_CREAT | os.O_EXCL))
        with NewFile(os.path.dirname(path)) as new:  # so that it never has another mode
            os.fchmod(new.fd, mode)
            try:
                new.publish(path, replace=False)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
        flags &= ~os.O_EXCL


def _refuse_irregular(fd: int, path: str) -> int:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def open_there(path: str, flags: int) -> int:
    """Open a file that another may have made: a regular one and no link, never waiting for it.

    Raises:
        OSError: there is none, or it is of another kind (EINVAL; a link ELOOP).
    """
    return _refuse_irregular(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), path)


def open_to_read(path: str) -> int:
    """Open a file that another may have made for reading. Raises as `open_there`."""
    return open_there(path, os.O_RDONLY)


def replace_file(path: str, *content: bytes | Iterable[bytes]) -> None:
    """Replace the content of a file of the store, atomically and durably; a link in its place goes, it is not followed.

    Args:
        path: the file.
        content: its new bytes, in parts; an iterable gives parts that need not all be in memory at once.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    folder = os.path.dirname(path)
    sweep(folder)
    with NewFile(folder) as new:
        os.fchmod(new.fd, file_mode(folder))
        for part in content:
            for each in (part,) if isinstance(part, bytes) else part:
                new.write(each)
        os.fsync(new.fd)
        new.publish(path, replace=True)
    sync_folder(folder)


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


def open_store(path: str, state: str, *, shared: bool = False) -> Store:
    """Open a store: make its missing folders, and check that nobody but who is trusted may change what is in them.

    Args:
        path: absolute.
        state: the folder of the local state.
        shared: whether the site file lets the folders' group write into them, setgid or not.

    Raises:
        StoreError: it cannot be made or written, or somebody else could change it.
    """
    store = Store(path, state, shared=shared)
    if not path.isprintable():
        # aria2c cuts its folder's name at a line break, writes elsewhere and exits 0.
        raise StoreError(f"store: {path!r} has control characters in its name", "choose another one: --store DIR")
    with disk(path), _make_top(path) as folder:
        top = judge_folder(folder, shared=shared)
        for name in FOLDERS:
            with _naming(f"{path}/{name}"), folder.below(os.path.dirname(name)) as above:
                make_folder(above.at(os.path.basename(name)))
        _judge_below(folder, top, shared=shared)
        if not os.path.lexists(folder.at("CACHEDIR.TAG")):
            with (
                suppress(FileExistsError),
                open(folder.at("CACHEDIR.TAG"), "x", encoding="ascii", opener=open_file) as file,
            ):
                file.write(CACHEDIR_TAG)
        refuse_unwritable(path)  # where all folders exist, nothing above has noticed it
    return store


def refuse_unwritable(path: str) -> None:
    """Refuse a store, or the folder in which it would be made, where this user may not write; nothing is made.

    Raises:
        StoreError: it says so, and where it is a read-only mount.
    """
    nearest = _nearest(path)
    error = unwritable(nearest)
    if error is not None and error.errno == errno.EROFS:
        raise store_error(error, nearest)
    if error is not None:
        what = "written" if nearest == path else "made"
        raise StoreError(f"store: {path} cannot be {what}", f"choose another one: --store DIR (`ls -ld {nearest}`)")


def judge_store(path: str, *, shared: bool = False) -> None:
    """Refuse a store as `open_store` does, and make nothing; where there is none, refuse where it would be made.

    Raises:
        StoreError: somebody else could change it.
    """
    with disk(path):
        nearest = _nearest(path)
        with open_folder(nearest, trusted=(path,), error=StoreError) as folder:
            if nearest == path:
                _judge_below(folder, judge_folder(folder, shared=shared), shared=shared)
            else:
                refuse_in_folder_of(folder)


def _make_top(path: str) -> Folder:
    """Open the store's folder; make it and its missing parents first, for us alone unless they will be a group's."""
    nearest = _nearest(path)
    folder = open_folder(nearest, trusted=(path,), error=StoreError)  # the store itself is judged by its own rule
    if nearest == path:
        return folder
    with folder:
        refuse_in_folder_of(folder)
        mode = 0o775 if shares_group(os.fstat(folder.fd)) else 0o755
        with _naming(path):
            return folder.below(os.path.relpath(path, nearest), make=True, mode=mode)


def _nearest(path: str) -> str:
    """The path itself, or the nearest folder above it that is there."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _judge_below(folder: Folder, top: os.stat_result, *, shared: bool) -> None:
    """Judge all folders of a store whose own was judged, but for those of single partials and quarantined files."""
    more = []
    with suppress(OSError), os.scandir(folder.at("blobs")) as entries:
        more = [f"blobs/{entry.name}" for entry in entries if not entry.is_file(follow_symlinks=False)]
    for name in dict.fromkeys((*FOLDERS, *more, "places/trees", "relay")):
        with _naming(f"{folder.path}/{name}"), suppress(FileNotFoundError), folder.below(name) as each:
            judge_folder(each, shared=shared, top=top)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an OSError in the block name `path`, and not how we came there."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise
