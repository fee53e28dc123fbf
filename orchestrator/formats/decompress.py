"""The entries of tar and zip archives, one after the other, within bounds: a small archive stays small.

An archive of `length` bytes may unpack to `fence.most_bytes` of them, headers and the holes of sparse members
included; `ask` is called between any two pieces, and may raise to end it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
from typing import IO, TYPE_CHECKING, Any

from orchestrator.formats.bounded import DamagedError, most_bytes, readable, too_much

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_READ = 4 << 20  # bytes at once: tarfile would take a header's word for its length
LONGEST_HEADER = 1 << 20
_SKIP_BYTES = 1 << 20
_COATS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_LONG_NUMBER = re.compile(rb"[0-9]{100}")  # tarfile's own expressions take the square of its length over one
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile gives no bound to what the others unpack


def coat(head: bytes) -> str:
    """What an archive that begins with `head` is packed in: gzip, bzip2, xz, or "" for none of these."""
    names = ("gzip", "bzip2", "xz")
    return next((name for name, (magic, _) in zip(names, _COATS, strict=True) if head.startswith(magic)), "")


def tar_entries(
    file: IO[bytes], length: int, ask: Callable[[], None]
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of a tar, compressed or not, each with its content where it is a file.

    A content is to be read before the next entry is asked for.

    Raises:
        DamagedError: it is damaged, or unpacks to too much.
        OSError: the disk said no.
    """
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    opened = next((opener for magic, opener in _COATS if head.startswith(magic)), None)
    source = _Source(opened(file) if opened else file, length, ask)
    total = at = 0
    with readable(), tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload]
        while True:
            ask()
            source.in_header = True
            entry = tar.next()
            source.in_header = False
            if entry is None:
                return
            tar.members.clear()  # else it remembers all of them
            total += entry.size
            if entry.size < 0 or tar.offset <= at:
                raise DamagedError("it leads back to what was read")
            if total > most_bytes(length):
                raise too_much(length)
            at = tar.offset
            yield entry, tar.extractfile(entry) if entry.isreg() else None


def zip_entries(
    file: IO[bytes], length: int, ask: Callable[[], None]
) -> Iterator[tuple[zipfile.ZipInfo, IO[bytes] | None]]:
    """The entries of a zip, wherever in `file` it begins, each with its content where it is no folder.

    Raises:
        DamagedError: it is damaged, encrypted, packed in another way than deflate, or unpacks to too much.
        OSError: the disk said no.
    """
    file.seek(0)
    total = 0
    with readable(), zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            ask()
            total += entry.file_size
            if total > most_bytes(length):
                raise too_much(length)
            if entry.is_dir():
                yield entry, None
                continue
            if entry.compress_type not in _ZIP_METHODS:
                raise DamagedError(f"an entry is packed by a method that orch does not read ({entry.compress_type})")
            with archive.open(entry) as content:
                yield entry, content


class _Source:
    """A tar's bytes, read forward only, bounded and sober."""

    def __init__(self, file: IO[bytes], length: int, ask: Callable[[], None]) -> None:
        self._file, self._length, self._ask = file, length, ask
        self._left = most_bytes(length)
        self._at = self._read_to = 0  # where the reader stands, and what was read
        self._last = b""
        self.in_header = True

    def tell(self) -> int:
        """As a file's own."""
        return self._at

    def seek(self, to: int) -> int:
        """Go forward to `to`, or back by one byte, which tarfile does to see that an entry is whole."""
        while self._read_to < to:
            if not self._take(min(_SKIP_BYTES, to - self._read_to)):
                break
        if to not in (self._read_to, self._read_to - len(self._last)) and to < self._read_to:
            raise DamagedError("it leads back to what was read")
        self._at = to
        return to

    def read(self, size: int = -1) -> bytes:
        """As a file's own, but never without a size."""
        if not 0 <= size <= (LONGEST_HEADER if self.in_header else LONGEST_READ):
            raise DamagedError("it has a header of an impossible size")
        if self._at > self._read_to:
            return b""  # it ended before
        before = self._last[: max(0, min(size, self._read_to - self._at))]
        got = before + self._take(size - len(before))
        self._at += len(got)
        if self.in_header and len(got) > tarfile.BLOCKSIZE and _LONG_NUMBER.search(got):
            raise DamagedError("it has a header with an impossible number")
        return got

    def _take(self, size: int) -> bytes:
        self._ask()
        got = self._file.read(size) if size else b""
        self._left -= len(got)
        if self._left < 0:
            raise too_much(self._length)
        self._read_to += len(got)
        self._last = got[-1:] or self._last
        return got
