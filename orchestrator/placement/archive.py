"""Read an archive (tar, tar.gz, tar.bz2, tar.xz, zip) member by member; none may lead out of its folder."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import decompress
from orchestrator.formats.bounded import DamagedError as ArchiveError
from orchestrator.formats.bounded import broken, readable
from orchestrator.manifest.trust import name_fault
from orchestrator.text import NAME_BYTES, has_unseen, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ArchiveError", "Member", "members", "safe"]

# A compression that may hold one file only, and what a tar in it would be called.
_ONE_FILE = {"gzip": ".tar.gz", "bzip2": ".tar.bz2", "xz": ".tar.xz"}


class Member(NamedTuple):
    """One entry of an archive.

    A folder has neither `content` nor `same_as`; a link has `same_as`, the path of another file of the archive.
    `size` is in bytes.
    """

    path: str
    size: int = 0
    content: IO[bytes] | None = None
    same_as: str | None = None


def members(path: str, ask: Callable[[], None] = lambda: None) -> Iterator[Member]:
    """Iterate over the members of the archive at `path`, whose format is detected from its bytes.

    The content of a member must be read before the next one is asked for. Modes, owners and times are ignored.

    Args:
        ask: called between blocks; it may raise to end the iteration.

    Raises:
        ArchiveError: it is no archive of these formats, is damaged, unpacks to too much, or has a member that leads
            out of it or is no file, folder or link.
        OSError: the disk failed.
    """
    with open(path, "rb") as file:
        head, length = file.read(tarfile.BLOCKSIZE), os.fstat(file.fileno()).st_size
        if head.startswith(b"PK"):
            yield from _of_zip(file, length, ask)
            return
        packed = decompress.compression(head)
        if not packed and not _is_tar(head):
            raise ArchiveError("it is not an archive that orch can unpack (tar, tar.gz, tar.bz2, tar.xz, zip)")
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
    except broken():
        return False
    return True


def _is_one_file(path: str) -> bool:
    """Whether the compressed content is no tar, by its first bytes."""
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
            yield Member(name, same_as=_link_target(name, entry.linkname))
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
            yield Member(name, same_as=_link_target(name, target))
        else:
            yield Member(name, entry.file_size, content)


def safe(name: str) -> str:
    """A member's name as a path below the tree, without `./`; "" is the tree itself.

    Raises:
        ArchiveError: it leads out of the tree, or cannot be a file's name.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        raise ArchiveError(f"`{shown(name)}` in it leads out of it")
    if "\\" in name:
        raise ArchiveError(f"`{shown(name)[:80]}` in it has backslashes, as some Windows programs write them")
    if has_unseen(name) or any(len(part.encode(errors="replace")) > NAME_BYTES for part in parts):
        raise ArchiveError(f"`{shown(name)[:80]}` in it cannot be a file's name")
    if fault := name_fault("/".join(parts)):
        raise ArchiveError(f"a name in it: {fault}")
    return "/".join(parts)


def _link_target(name: str, target: str) -> str:
    """The target of a symlink in the archive, as a path below the tree.

    Raises:
        ArchiveError: it leads out of the tree.
    """
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
