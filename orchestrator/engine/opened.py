"""The file at a path, opened once: read, compared and sealed by its descriptor, also if its name changes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from orchestrator.folders import open_regular
from orchestrator.store import seal

if TYPE_CHECKING:
    from typing import Self, TypeAlias

    from orchestrator.folders import Folder, Folders
    from orchestrator.placement.link import Stamp
    from orchestrator.store import Store


# What `facts` gives: inode, size in bytes, mtime in nanoseconds.
Facts: TypeAlias = "tuple[int, int, int]"


class OpenedFile:
    """The regular file at a path, or behind a link there. A context manager.

    Attributes:
        path: as it is recorded and told.
        folder: the open folder that it is in.
        own: the `lstat` of the path itself.
        text: what the link says that stands there; "" where none does.
        fd: the descriptor of the file, and `status` its status, when it was opened.
        is_behind_link: whether a link leads to the file, so that it is not in the place's own folder.
    """

    def __init__(self, folder: Folder, name: str, path: str = "", *, is_behind_link: bool = False) -> None:
        self.path = path or f"{folder.path.rstrip('/')}/{name}"
        self.folder, self._name = folder, name
        own = os.open(self.at, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.own, self.text, target = os.fstat(own), "", self.at
            if stat.S_ISLNK(self.own.st_mode):
                self.text = os.readlink("", dir_fd=own)
                target = os.path.join(self.folder.at(), self.text)
            self.fd = open_regular(target, follow=bool(self.text))
        finally:
            os.close(own)
        self.status, self.is_behind_link = os.fstat(self.fd), is_behind_link or bool(self.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @property
    def at(self) -> str:
        """The path by the folder's descriptor, for calls that change the name."""
        return self.folder.at(self._name)

    @property
    def content(self) -> str:
        """A path of the file itself, for this process and for programs."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def stamp(self) -> Stamp:
        """What `link.put` compares before it replaces what stands there."""
        return (self.own.st_dev, self.own.st_ino, self.own.st_size, self.own.st_mtime_ns)

    @property
    def has_other_names(self) -> bool:
        """Whether the file has hard links elsewhere, perhaps where somebody else has his."""
        return os.fstat(self.fd).st_nlink > 1

    def is_unchanged(self) -> bool:
        """Whether nothing was written since it was opened, and the path still leads to it."""
        return facts(os.fstat(self.fd)) == facts(self.status) and is_at(self.at, self.own)

    def attest(self, store: Store, sha256: str, *, ours: bool) -> None:
        """Seal a file that is right; another's that has other names, or that is behind a link, is only remembered."""
        touch = ours or not (self.is_behind_link or self.has_other_names)
        seal.attest(store, self.content, sha256, touch=touch, read_only=ours, name=self.path)


def open_file(folders: Folders, path: str) -> OpenedFile:
    """Open what stands at a path.

    Raises:
        PlacementError: its folder is none that a place may be in.
        OSError: there is none, it is of another kind (EINVAL), or it cannot be read.
    """
    return OpenedFile(*folders.in_folder(path), path)


def open_in_tree(folders: Folders, tree: str, name: str) -> OpenedFile:
    """Open the file `name` of a tree; one that a link leads to, on the way or itself, as a file behind a link.

    Raises:
        PlacementError, OSError: as `open_file`.
    """
    path, (above, base) = f"{tree}/{name}", os.path.split(name)
    parent, top = folders.in_folder(tree)
    try:
        with parent.below(top) as place:
            return OpenedFile(place.below(above), base, path)
    except NotADirectoryError:
        return OpenedFile(*folders.in_folder(path), path, is_behind_link=True)


def facts(status: os.stat_result) -> Facts:
    """What changes where a file is written or replaced."""
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def is_at(path: str, status: os.stat_result) -> bool:
    """Whether `path` itself is that file."""
    try:
        return os.path.samestat(os.lstat(path), status)
    except OSError:
        return False
