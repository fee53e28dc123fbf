"""Write files atomically and durably, lock them, rename without replacing, and explain errors of the disk.

A kill between any two system calls leaves either the old content or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError, Stopped, StoreError
from orchestrator.folders import Folder, open_folder

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from orchestrator.errors import OrchError

TEMPORARY = ".orch-"  # the names of all our temporary files begin so
LOCK_POLL_S = 0.05
_UNLOCKED = f"{TEMPORARY}n-"  # of those made without O_TMPFILE: for a moment after its creation such a file has no lock
_FRESH_S = 60.0  # an unlocked temporary file younger than this may still belong to a living writer
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # renameat2(2)
_AT_FDCWD = -100
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)  # the disk's fault, and not this file's
_OF_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the next file fails in the same way
_MOST_LINKS = 40  # in one path, as in Linux: path_resolution(7)
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)  # "no O_TMPFILE here": open(2), old kernels


class NewFile:
    """A new file in `folder` that has no name until it is published (O_TMPFILE, open(2)), so a kill leaves nothing.

    Where the file system cannot do that, the file has a name that begins with `TEMPORARY` and is locked; `sweep`
    removes it once its writer is dead. A context manager: a file that was not published is removed at its end.

    Who may write into the folder can exchange a name at any time; so all that is done to the file goes by `fd`, and
    `publish` looks once more whether it was this file that got the name.
    """

    def __init__(self, folder: Folder | str, mode: int = 0o666) -> None:
        self._held = folder  # a Folder is open as long as somebody has it
        self._folder = folder.at() if isinstance(folder, Folder) else folder
        self._name = ""
        try:
            self.fd = os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        except OSError as error:
            if error.errno not in _NO_TMPFILE or not os.path.isdir(self._folder):
                raise
            self._name = temporary(self._folder)
            self.fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._name:
            with suppress(OSError):
                os.unlink(self._name)
        os.close(self.fd)

    @property
    def path(self) -> str:
        """A path by which this process and its children can open the file."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def write(self, content: bytes) -> None:
        """Append all of `content`.

        Raises:
            OSError: it cannot be written.
        """
        view = memoryview(content)
        while view:
            view = view[os.write(self.fd, view) :]

    def publish(self, path: str, *, replace: bool) -> None:
        """Give the file its name. For durability call `os.fsync(fd)` before.

        Args:
            path: a path in the file's folder.
            replace: whether what is at `path` may be replaced.

        Raises:
            FileExistsError: something is there, and `replace` is false; or somebody put another file there just now.
            OSError: it cannot be renamed.
        """
        if self._name:
            (os.rename if replace else rename_new)(self._name, path)
            self._name = ""
        else:
            try:
                self._link(path)
            except FileExistsError:
                if not replace:
                    raise
                self._name = f"{self._folder}/{TEMPORARY}{_random_name()}"  # a rename needs a name to begin with
                self._link(self._name)
                os.rename(self._name, path)
                self._name = ""
        if not os.path.samestat(os.lstat(path), os.fstat(self.fd)):
            raise FileExistsError(errno.EEXIST, "another file was put there just now", path)

    def _link(self, path: str) -> None:
        # linkat(2) needs AT_SYMLINK_FOLLOW here; Python passes it only if it is given a folder's descriptor.
        own = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(str(self.fd), path, src_dir_fd=own)
        finally:
            os.close(own)


def temporary(folder: str, *, locked: bool = False) -> str:
    """Return a new path in `folder` for something that is about to be renamed; `sweep` removes it after a kill.

    Args:
        folder: where it is to be.
        locked: this process holds a lock on it, so that `sweep` knows at once when its maker is dead.
    """
    return f"{folder}/{temporary_name(locked=locked)}"


def temporary_name(*, locked: bool = False) -> str:
    """Return a new name for something that is about to be renamed, as `temporary` does."""
    return f"{TEMPORARY if locked else _UNLOCKED}{_random_name()}"


def write_atomic(path: str, content: bytes, *, mode: int | None = None) -> None:
    """Replace the content of a file atomically and durably: after a crash the old or the new content is there.

    Args:
        path: the file, which need not exist; a symbolic link is followed, another user's only to what is his.
        content: its new content.
        mode: its permission bits; None keeps those of the old file (a new one gets 0666 less the umask).

    Raises:
        OSError: it cannot be written; the old content is still there.
        PlacementError: the path leads through another user's link to what is not his.
    """
    folder, name = _follow(path)
    with folder:
        write_in(folder, name, content, mode=mode)


def write_in(folder: Folder, name: str, content: bytes, *, mode: int | None = None) -> None:
    """Replace the content of a file of an open folder as `write_atomic` does; of a link the link itself.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    if mode is None:
        with suppress(FileNotFoundError):
            status = os.lstat(folder.at(name))
            mode = status.st_mode & 0o7777 if stat.S_ISREG(status.st_mode) else None
    sweep(folder)
    with NewFile(folder) as new:
        if mode is not None:
            os.fchmod(new.fd, mode)
        new.write(content)
        os.fsync(new.fd)
        new.publish(folder.at(name), replace=True)
    folder.sync()


def _follow(path: str) -> tuple[Folder, str]:
    """Open the folder that a file is in, and give its name there, where links at the end of `path` are followed."""
    owner, path = 0, os.path.join(os.getcwd(), path) if not os.path.isabs(path) else path
    for _ in range(_MOST_LINKS):
        above, name = os.path.split(path)
        if not name:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        folder = open_folder(above, open_to_all=True)
        if owner not in (0, os.geteuid(), folder.owner()):
            raise PlacementError(
                f"{path} is behind a link of another user's (uid {owner}), and its folder is not his",
                f"name {path} itself (`ls -l {above}`)",
            )
        try:
            status = os.lstat(folder.at(name))
        except FileNotFoundError:
            return folder, name
        if not stat.S_ISLNK(status.st_mode):
            return folder, name
        owner = owner if owner not in (0, os.geteuid()) else status.st_uid
        path = os.path.join(above, os.readlink(folder.at(name)))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def sweep(folder: Folder | str) -> None:
    """Remove the temporary files that killed writers left in a folder; one that cannot be removed stays."""
    at = folder.at() if isinstance(folder, Folder) else folder
    try:
        with os.scandir(at) as entries:
            leftovers = [e for e in entries if e.name.startswith(TEMPORARY)]
    except OSError:
        return
    for entry in leftovers:
        path = entry.path
        with suppress(OSError):
            if entry.is_symlink():  # a symlink cannot be locked, so its age decides
                if time.time() - os.lstat(path).st_ctime > _FRESH_S:
                    os.unlink(path)
                continue
            if not entry.is_file(follow_symlinks=False):
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if f"/{_UNLOCKED}" not in path or time.time() - os.fstat(fd).st_ctime > _FRESH_S:
                    os.unlink(path)
            finally:
                os.close(fd)


@contextmanager
def locked(path: str, stop: threading.Event | None = None, tell: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the exclusive flock(2) of a file or folder.

    Where the file system has no locks, nobody is kept out: write with `write_atomic`, and compare before.

    Args:
        path: the file or folder.
        stop: ends the wait.
        tell: called once if we have to wait.

    Raises:
        OSError: it cannot be opened.
        Stopped: a stop was asked for while waiting.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    break
                raise
            if tell is not None:
                tell()
                tell = None
            if stop is None:
                time.sleep(LOCK_POLL_S)
            elif stop.wait(LOCK_POLL_S):
                raise Stopped("stopped while waiting for another orch")
        yield
    finally:
        os.close(fd)


def rename_new(source: str, target: str) -> None:
    """Rename `source` to `target` without replacing anything (RENAME_NOREPLACE, renameat2(2)).

    Raises:
        FileExistsError: something is at `target`.
        OSError: it cannot be renamed.
    """
    try:
        _renameat2(source, target, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        if os.path.isdir(source) and not os.path.islink(source):
            os.mkdir(target)  # fails if something is there; rename(2) then replaces the empty folder
            os.rename(source, target)
        else:
            os.link(source, target, follow_symlinks=False)
            os.unlink(source)


def exchange(one: str, other: str) -> None:
    """Exchange two paths in one step (RENAME_EXCHANGE, renameat2(2)).

    Raises:
        OSError: one is missing, or the file system cannot do it (EINVAL).
    """
    _renameat2(one, other, _RENAME_EXCHANGE)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable (fsync).

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def store_error(error: OSError, path: str) -> StoreError:
    """Turn an OSError about the store at `path` into an error for people, with a hint by its errno."""
    hint = _hint(error, path, "--store DIR")
    if error.errno in (errno.EACCES, errno.EPERM):
        in_the_way = str(error.filename or path)
        while not os.path.lexists(in_the_way) and in_the_way != os.path.dirname(in_the_way):
            in_the_way = os.path.dirname(in_the_way)
        bits = "g+rwx" if os.path.isdir(in_the_way) else "g+rw"
        hint = f"let its owner type `chmod {bits} {in_the_way}`, or choose a store that you can write: --store DIR"
    message = f"store: {error.filename or path}: {reason(error)}"
    return StoreError(message, hint, of_one_file=error.errno not in _OF_ALL)


def place_error(error: OSError, path: str) -> PlacementError:
    """Turn an OSError about the place `path` into an error for people, with a hint by its errno."""
    hint = _hint(error, os.path.dirname(path), "`to:`")
    return PlacementError(f"cannot place {path}: {reason(error)}", hint)


def write_error(error: OSError, path: str) -> OrchError:
    """Turn an OSError about a file of the user's, such as a manifest, into an error for people, by its errno."""
    kind = StoreError if error.errno in _DISK else PlacementError
    folder = os.path.dirname(path)
    hint = _hint(error, folder, "another path")
    if error.errno == errno.ENOENT:
        hint = f"make the folder first: `mkdir -p {folder}`"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        hint = f"something of another kind stands there: choose another path (`ls -ld {path}`)"
    return kind(f"cannot write {path}: {reason(error)}", hint)


def reason(error: OSError) -> str:
    """Return the system's message for an error, and whose limit it is where it is one on open files."""
    text = error.strerror or str(error) or type(error).__name__
    return {errno.EMFILE: f"{text} (this process's limit)", errno.ENFILE: f"{text} (this machine's limit)"}.get(
        error.errno or 0, text
    )


def _hint(error: OSError, path: str, other: str) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"free some space, or use another disk: {other} (`df -h {path}; df -i {path}`)"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"choose a folder that you can write: {other} (`ls -ld {path}`)"
        case errno.EIO | errno.ESTALE:
            return f"check that disk or mount: `dmesg | tail`, `mount | grep {path}`"
        case errno.EFBIG:
            return "raise the limit on file sizes: `ulimit -f unlimited`"
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit on open files (`ulimit -n 4096`), or work on fewer at once: --jobs 1"
        case errno.EAGAIN | errno.ENOMEM:
            return "raise the limits on processes and memory (`ulimit -u; ulimit -v`), or --jobs 1"
        case _:
            return f"look at it: `ls -ld {path}`"


def _random_name() -> str:
    import secrets  # imported here, as ctypes below: a run with nothing to do writes nothing

    return secrets.token_hex(6)


def _renameat2(source: str, target: str, flags: int) -> None:
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), target) from None
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
