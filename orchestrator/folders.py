"""Open the folders that others may write into: component by component, each link judged, then by descriptor.

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
_MOST_LINKS = 40  # in one path, as in Linux: path_resolution(7)


class Folder:
    """An open folder. A context manager; `at` gives a path to a name in it, which is resolved from its descriptor.

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

    def below(self, names: str, *, make: bool = False) -> Folder:
        """Open the folder `names` (a relative path) below this one; a link on the way is refused.

        Args:
            names: components without `..`; empty gives this folder once more.
            make: make what is missing.

        Raises:
            OSError: one is missing, no folder, or a link (ENOTDIR).
        """
        fd = os.dup(self.fd)
        try:
            for name in filter(None, names.split("/")):
                fd = _step(fd, name, make=make)
                _refuse_link(fd, f"{self.path}/{names}")
        except BaseException:
            os.close(fd)
            raise
        return Folder(f"{self.path}/{names}" if names else self.path, fd)

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
    error: type[PlacementError] | type[StoreError] = PlacementError,
) -> Folder:
    """Open the folder at `path`, with no way for another user to lead us into a folder of somebody else.

    A link in the path is followed if it is this user's or root's; another user's only to a folder of that same user
    (systemd's CHASE_SAFE has this rule). As root, every folder on the way that all users can write, and that has no
    sticky bit, is refused: anyone could exchange what lies in it.

    Args:
        path: absolute.
        make: make the folders that are missing, with 0777 less the umask.
        trusted: folders in and below which neither is judged.
        error: what a refusal raises.

    Raises:
        PlacementError, StoreError: the path leads through another user's link, or a folder that everyone can write.
        OSError: it is missing, no folder, or may not be searched.
    """
    walk = _Walk(path, tuple(trusted), error)
    try:
        walk.go(make=make)
    except BaseException:
        os.close(walk.fd)
        raise
    return Folder(path, walk.fd)


class _Walk:
    """One walk from `/` to a folder: `fd` is where it is, `todo` the components that are left, the next one last."""

    def __init__(self, path: str, trusted: tuple[str, ...], error: type[PlacementError] | type[StoreError]) -> None:
        self._path, self._trusted, self._error = path, trusted, error
        self._todo: list[str | tuple[int, str]] = _components(path)
        self._links = 0
        self._foreign = 0  # links of other users whose text is not walked yet
        self.fd = os.open("/", _LOOK | os.O_DIRECTORY)

    def go(self, *, make: bool) -> None:
        self._judge()
        while self._todo:
            name = self._todo.pop()
            if isinstance(name, tuple):
                self._end_of_link(*name)
                continue
            before = os.dup(self.fd)
            try:
                # Nothing is made where another user's link leads: that folder is not his.
                self.fd = _step(self.fd, name, make=make and not self._foreign)
                if stat.S_ISLNK(os.fstat(self.fd).st_mode):
                    self._follow(before)
                else:
                    self._judge()
            except OSError as error:
                error.filename = self._path
                raise
            finally:
                os.close(before)

    def _follow(self, folder: int) -> None:
        """Go on from `folder`, which has the link that was just opened, with that link's text."""
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        text, owner, where = os.readlink("", dir_fd=self.fd), os.fstat(self.fd).st_uid, _name_of(self.fd)
        if owner not in (0, os.geteuid()):
            self._foreign += 1
            self._todo.append((owner, where))
        self._todo += _components(text)
        os.close(self.fd)
        self.fd = os.open("/", _LOOK | os.O_DIRECTORY) if text.startswith("/") else os.dup(folder)

    def _end_of_link(self, owner: int, where: str) -> None:
        self._foreign -= 1
        if os.fstat(self.fd).st_uid != owner and not self._is_trusted():
            leads_to = _name_of(self.fd)
            raise self._error(
                f"{where} is a link of another user's (uid {owner}) to {leads_to}, which is not his",
                f"name {leads_to} itself, or let the site file trust it: `trust: {{roots: [{leads_to}]}}`",
            )

    def _judge(self) -> None:
        if os.geteuid() != 0:
            return
        mode = os.fstat(self.fd).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and stat.S_ISDIR(mode) and not self._is_trusted():
            where = _name_of(self.fd)
            raise self._error(
                f"{where} can be written by everyone, so anyone could exchange what root puts there",
                f"`chmod o-w {where}`, or let the site file trust it: `trust: {{roots: [{where}]}}`",
            )

    def _is_trusted(self) -> bool:
        where = _name_of(self.fd) if self._trusted else ""
        return any(where == root or where.startswith(f"{root.rstrip('/')}/") for root in self._trusted)


def read_regular(path: str, limit_bytes: int) -> bytes:
    """Read a file that another may have made: a regular one, no link, of at most `limit_bytes`.

    Raises:
        OSError: there is none, it is of another kind (EINVAL; a link ELOOP), or it is larger (EFBIG).
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        found = bytearray()
        while chunk := file.read(limit_bytes + 1 - len(found)):
            found += chunk
        if len(found) > limit_bytes:
            raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
        return bytes(found)


def _step(fd: int, name: str, *, make: bool) -> int:
    """Open `name` in the folder `fd`, and close `fd`; a link is opened itself.

    Raises:
        OSError: there is none and it is not to be made, or the folder may not be searched; `fd` is still open.
    """
    try:
        found = os.open(name, _LOOK, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # another process made it meanwhile
            os.mkdir(name, dir_fd=fd)
        found = os.open(name, _LOOK, dir_fd=fd)
    mode = os.fstat(found).st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
        os.close(found)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    os.close(fd)
    return found


def _refuse_link(fd: int, path: str) -> None:
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "a link stands where a folder should be", path)


def _components(path: str) -> list[str | tuple[int, str]]:
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _name_of(fd: int) -> str:
    """The path of an open folder or link, by /proc."""
    return os.readlink(f"/proc/self/fd/{fd}")
