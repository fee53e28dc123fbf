"""An archive's members, one after the other, as far as they may be trusted: files, folders, links within it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from orchestrator.manifest.text import NAME_BYTES, has_unseen, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_READ = 4 << 20  # bytes at once: an honest header is far smaller, and a file is asked for in smaller pieces
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


class ArchiveError(Exception):
    """Why an archive is not unpacked: a lower-case phrase."""


class Member(NamedTuple):
    """One entry: a folder where `content` and `same_as` are None; `same_as` is another file of the archive."""

    path: str
    size: int = 0
    content: IO[bytes] | None = None
    same_as: str | None = None


@contextmanager
def readable() -> Iterator[None]:
    """Turn what a damaged archive raises into an ArchiveError; errors of the disk pass."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise ArchiveError(f"it is damaged ({error})") from error
    except _BROKEN as error:
        raise ArchiveError(f"it is damaged ({error or type(error).__name__})") from error


def members(path: str) -> Iterator[Member]:
    """Go through the archive at `path`: tar (plain, gzip, bzip2, xz) or zip, told by its bytes.

    A member's content is to be read before the next one is asked for. Modes, owners and times are left out.

    Raises:
        ArchiveError: it is none of these, is damaged, or a member leads out of it or is a device.
        OSError: the disk said no.
    """
    with open(path, "rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(b"PK"):
        yield from _of_zip(path)
        return
    opener = next((opener for magic, opener in _PACKED if head.startswith(magic)), None)
    if opener is None:
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise ArchiveError("it is no archive that orch unpacks (tar, tar.gz, tar.bz2, tar.xz, zip)") from None
    yield from _of_tar(path, opener)


class _Sober:
    """A file that reads no huge piece at once: tarfile would take a header's word for its length."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_READ:
            raise ArchiveError("it has a header of an impossible size")
        return self._read(size)


def _of_tar(path: str, opener: Callable[[str], Any] | None) -> Iterator[Member]:
    with readable(), (opener or _open)(path) as file, tarfile.open(fileobj=_Sober(file), mode="r:") as tar:  # type: ignore[call-overload]
        while (entry := tar.next()) is not None:
            tar.members.clear()  # else it remembers all of them
            name = safe(entry.name)
            if entry.isdir():
                yield Member(name)
            elif not name:
                raise ArchiveError(f"a member has no name: `{shown(entry.name)}`")
            elif entry.isreg():
                yield Member(name, entry.size, tar.extractfile(entry))
            elif entry.islnk():
                yield Member(name, same_as=safe(entry.linkname))
            elif entry.issym():
                yield Member(name, same_as=_beside(name, entry.linkname))
            else:
                raise ArchiveError(f"`{shown(name)}` in it is neither a file nor a folder")


def _of_zip(path: str) -> Iterator[Member]:
    with readable(), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = safe(entry.orig_filename)
            mode = entry.external_attr >> 16
            kind = stat.S_IFMT(mode) if entry.create_system == 3 else 0
            if entry.is_dir():
                yield Member(name)
            elif not name or kind not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise ArchiveError(f"`{shown(entry.orig_filename)}` in it is neither a file nor a folder")
            else:
                with archive.open(entry) as content:
                    if kind == stat.S_IFLNK:
                        yield Member(name, same_as=_beside(name, content.read(4096).decode()))
                    else:
                        yield Member(name, entry.file_size, content)


def safe(name: str) -> str:
    """A member's name as a path below the tree ("" is the tree itself): `./` goes, the rest is as it was.

    Raises:
        ArchiveError: it leads elsewhere, or has what no file's name should have.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise ArchiveError(f"`{shown(name)}` in it leads out of it")
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


def _open(path: str) -> IO[bytes]:
    return open(path, "rb")
