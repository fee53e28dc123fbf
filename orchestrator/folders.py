"""Open the folders that others may write into: component by component, with a check of each link, then by descriptor.

Whoever may write into a folder can exchange what is in it between two of our calls. A path that is resolved again can
therefore lead anywhere; a folder that is open stays the same, and calls on names in it follow no link.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # of a link it opens the link itself: open(2)
_CHUNK_BYTES = 1 << 20
_MOST_LINKS = 40  # in one path, as in Linux: path_resolution(7)
_HELD_AT_ONCE = 16  # folders: each holds a descriptor, of which a process may have only 256 (macOS, some services)


class Folder:
    """An open folder. A context manager; `at` gives a path to a name in it, which is resolved from its descriptor.

    Like a file of Python's it is closed at the latest when nobody has it any more: a path of `at` is good as long as
    somebody holds the folder.

    Attributes:
        path: as it was asked for, for messages and records.
        fd: a descriptor opened with O_PATH.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def at(self, name: str = "") -> str:
        """A path to `name` (one component; empty: the folder itself) for calls of this process.

        link(2), rename(2), unlink(2), symlink(2) and lstat(2) follow no link at a path's end; open(2) needs O_NOFOLLOW.
        """
        return f"/proc/self/fd/{self.fd}/{name}" if name else f"/proc/self/fd/{self.fd}"

    def for_child(self, name: str = "") -> str:
        """A path to `name` for a program that this process starts."""
        return f"/proc/{os.getpid()}/fd/{self.fd}/{name}"

    def below(self, names: str, *, make: bool = False, mode: int = 0o777) -> Folder:
        """Open the folder `names` (a relative path) below this one; a link on the way is refused.

        Args:
            names: components without `..`; empty gives this folder once more.
            make: make what is missing, with `mode` less the umask.

        Raises:
            OSError: one is missing, no folder, or a link (ENOTDIR).
        """
        fd = os.dup(self.fd)
        try:
            for name in filter(None, names.split("/")):
                before = fd
                fd, status = _step(before, name, make=make, mode=mode)
                os.close(before)
                if stat.S_ISLNK(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "a link is where a folder should be", self.path)
        except BaseException:
            os.close(fd)
            raise
        return Folder(f"{self.path}/{names}" if names else self.path, fd)

    def owner(self) -> int:
        """The uid of the folder's owner."""
        return os.fstat(self.fd).st_uid

    def sync(self) -> None:
        """Make the names in it durable (fsync).

        Raises:
            OSError: it cannot be opened for reading, or the disk failed.
        """
        fd = os.open(self.at(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def open_folder(
    path: str,
    *,
    make: bool = False,
    trusted: Iterable[str] = (),
    open_to_all: bool = False,
    error: type[PlacementError] | type[StoreError] = PlacementError,
) -> Folder:
    """Open the folder at `path`, with no way for another user to lead us into a folder of somebody else.

    A link in the path is followed if it is this user's or root's; another user's only to a folder of that same user
    (systemd's CHASE_SAFE has this rule). As root, every folder on the way that all users can write, and that has no
    sticky bit, is refused: anyone could exchange what lies in it. The home and the folders above it are not judged:
    who can exchange the home has the site file in it, which says what is trusted.

    Args:
        path: absolute.
        make: make the folders that are missing, with 0777 less the umask; as root none that everyone can write.
        trusted: folders in and below which neither is judged.
        open_to_all: folders that all users can write are accepted, also as root.
        error: what a refusal raises.

    Raises:
        PlacementError, StoreError: the path leads through another user's link, or a folder that everyone can write.
        OSError: it is missing, no folder, or may not be searched.
    """
    with suppress(OSError):
        os.stat(f"{path}/.")  # mounts what is mounted on demand (autofs), which O_PATH alone does not: open(2)
    walk = _Walk(path, tuple(trusted), error, judge_modes=os.geteuid() == 0 and not open_to_all)
    try:
        walk.go(make=make)
    except BaseException:
        os.close(walk.fd)
        raise
    return Folder(path, walk.fd)


class _Walk:
    """One walk from `/` to a folder: `fd` is where it is, `todo` the components that are left, the next one last."""

    def __init__(
        self,
        path: str,
        trusted: tuple[str, ...],
        error: type[PlacementError] | type[StoreError],
        *,
        judge_modes: bool,
    ) -> None:
        self._path, self._trusted, self._error, self._judge_modes = path, trusted, error, judge_modes
        self._todo: list[str | tuple[int, str]] = _components(path)
        self._links = 0
        self._foreign = 0  # links of other users whose text is not walked yet
        self.fd = os.open("/", _LOOK | os.O_DIRECTORY)

    def go(self, *, make: bool) -> None:
        self._judge(os.fstat(self.fd).st_mode)
        try:
            while self._todo:
                name = self._todo.pop()
                if isinstance(name, tuple):
                    self._end_of_link(*name)
                    continue
                # Nothing is made where another user's link leads: that folder is not his.
                found, status = _step(self.fd, name, make=make and not self._foreign)
                before, self.fd = self.fd, found
                try:
                    if stat.S_ISLNK(status.st_mode):
                        self._follow(before, status.st_uid)
                    else:
                        self._judge(status.st_mode)
                finally:
                    os.close(before)
        except OSError as error:
            error.filename = self._path
            raise

    def _follow(self, folder: int, owner: int) -> None:
        """Go on from `folder`, which has the link that was just opened, with that link's text."""
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        text = os.readlink("", dir_fd=self.fd)
        if owner not in (0, os.geteuid()):
            self._foreign += 1
            self._todo.append((owner, _name_of(self.fd)))
        self._todo += _components(text)
        after = os.open("/", _LOOK | os.O_DIRECTORY) if text.startswith("/") else os.dup(folder)
        os.close(self.fd)
        self.fd = after

    def _end_of_link(self, owner: int, where: str) -> None:
        self._foreign -= 1
        if os.fstat(self.fd).st_uid != owner and not self._is_trusted():
            leads_to = _name_of(self.fd)
            raise self._error(
                f"{where} is a link of another user's (uid {owner}) to {leads_to}, which that user does not own",
                f"name {leads_to} itself, or {self._or_else(leads_to)}",
            )

    def _judge(self, mode: int) -> None:
        if not self._judge_modes or not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
            return
        where = _name_of(self.fd)
        if not self._is_trusted() and not _leads_home(where):
            raise self._error(
                f"everyone may write to {where}, so anyone could replace what root puts there",
                f"`chmod o-w {where}`, or {self._or_else(where)}",
                code="store-access",
            )

    def _or_else(self, folder: str) -> str:
        if self._error is StoreError:
            return "choose another store: --store DIR"
        return f"let the site file trust it: `trust: {{roots: [{folder}]}}`"

    def _is_trusted(self) -> bool:
        where = _name_of(self.fd) if self._trusted else ""
        return any(where == root or where.startswith(f"{root.rstrip('/')}/") for root in self._trusted)


def _leads_home(folder: str) -> bool:
    """Whether a folder is the home that $HOME names, or above it."""
    home = os.environ.get("HOME", "")
    return os.path.isabs(home) and f"{os.path.realpath(home)}/".startswith(f"{folder.rstrip('/')}/")


def refuse_anothers(path: str, variable: str) -> None:
    """See that a folder which anyone could have made before us, below a temporary one, is this user's or root's.

    Args:
        path: the folder, which need not be there.
        variable: the environment variable that names another one.

    Raises:
        PlacementError: it is another user's, or a link of his.
        OSError: it cannot be looked at.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) and status.st_uid in (0, os.geteuid()):
            status = os.stat(path)
    except FileNotFoundError:
        return
    if status.st_uid not in (0, os.geteuid()):
        raise PlacementError(
            f"{path} is another user's (uid {status.st_uid}), who could replace what is put there",
            f"set {variable} to a folder of your own",
            "foreign",
        )


class Folders:
    """Folders opened by path, each once: of many only those that were used last stay open."""

    def __init__(self, trusted: Iterable[str] = (), *, open_to_all: bool = False) -> None:
        self._trusted, self._open_to_all = tuple(trusted), open_to_all
        self._open: dict[str, Folder] = {}

    def open(self, path: str, *, make: bool = False) -> Folder:
        """Open a folder as `open_folder` does, or give the one that is open; whoever holds it keeps it open."""
        folder = self._open.pop(path, None)
        if folder is None:
            folder = open_folder(path, make=make, trusted=self._trusted, open_to_all=self._open_to_all)
            if len(self._open) >= _HELD_AT_ONCE:
                del self._open[next(iter(self._open))]
        self._open[path] = folder
        return folder

    def in_folder(self, path: str, *, make: bool = False) -> tuple[Folder, str]:
        """The open folder that `path` is in, and its name there. Raises as `open`."""
        above, name = os.path.split(path)
        return self.open(above, make=make), name


def open_regular(path: str, *, follow: bool = False) -> int:
    """Open a regular file for reading, and nothing else: no FIFO is waited for, no device is touched.

    Args:
        path: best from `Folder.at`.
        follow: whether a link at the end of the path is followed.

    Raises:
        OSError: there is none, it is of another kind (EINVAL; a link ELOOP), or it cannot be read.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            number = errno.ELOOP if stat.S_ISLNK(mode) else errno.EINVAL
            raise OSError(number, "a link" if stat.S_ISLNK(mode) else "not a regular file", path)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def read_regular(path: str, limit_bytes: int) -> bytes:
    """Read a file that another may have made: a regular one, no link, of at most `limit_bytes`.

    Raises:
        OSError: there is none, it is of another kind (EINVAL; a link ELOOP), or it is larger (EFBIG).
    """
    with open(open_regular(path), "rb", buffering=0) as file:
        found = bytearray()
        while chunk := file.read(min(_CHUNK_BYTES, limit_bytes + 1 - len(found))):  # read(n) allocates n bytes first
            found += chunk
        if len(found) > limit_bytes:
            raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
        return bytes(found)


def _step(fd: int, name: str, *, make: bool, mode: int = 0o777) -> tuple[int, os.stat_result]:
    """Open `name`, a folder or a link, in the folder `fd`; a link is opened itself.

    Raises:
        OSError: there is none and it is not to be made, it is of another kind, or the folder may not be searched.
    """
    try:
        found = os.open(name, _LOOK, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # another process made it meanwhile
            os.mkdir(name, mode if os.geteuid() else mode & ~stat.S_IWOTH, dir_fd=fd)
        found = os.open(name, _LOOK, dir_fd=fd)
    status = os.fstat(found)
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        os.close(found)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    return found, status


def _components(path: str) -> list[str | tuple[int, str]]:
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _name_of(fd: int) -> str:
    """The path of an open folder or link, by /proc."""
    return os.readlink(f"/proc/self/fd/{fd}")
