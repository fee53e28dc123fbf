"""An archive's members, one after the other, as far as they may be trusted: files, folders, links within it."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import decompress
from orchestrator.formats.bounded import BROKEN, readable
from orchestrator.formats.bounded import DamagedError as ArchiveError
from orchestrator.text import NAME_BYTES, has_unseen, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        packed = decompress.coat(head)
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
        return formats.look(file.read(formats.HEAD_BYTES)).format != "tar"


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
