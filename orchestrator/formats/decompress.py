"""Read the entries of tar and zip archives one after the other, and refuse archive bombs.

An archive of `length` bytes may unpack to `bounded.most_bytes(length)`, headers and holes of sparse entries included.
`check_stop` is called between any two pieces; it may raise to end the reading.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
from typing import IO, TYPE_CHECKING, Any

from orchestrator.formats.bounded import DamagedError, most_bytes, most_entries, readable, too_much

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_READ = 4 << 20  # bytes at once: tarfile would read as many as a header claims
LONGEST_HEADER = 1 << 20
_SKIP_BYTES = 1 << 20
_COMPRESSIONS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lambda file: _Xz(file)),
)
_XZ_MEMORY = 256 << 20  # bytes; `xz -9` needs 65 MiB
_XZ_CHUNK = 64 << 10
_LONG_NUMBER = re.compile(rb"[0-9]{100}")  # tarfile's own expressions take quadratic time on a long number
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile cannot limit what the other methods unpack


def compression(head: bytes) -> str:
    """Return how an archive that begins with `head` is compressed: gzip, bzip2, xz, or "" for none of these."""
    names = ("gzip", "bzip2", "xz")
    return next((name for name, (magic, _) in zip(names, _COMPRESSIONS, strict=True) if head.startswith(magic)), "")


def tar_entries(
    file: IO[bytes], length: int, check_stop: Callable[[], None]
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Read the entries of a tar, compressed or not.

    Args:
        file: the archive, open and seekable.
        length: its length in bytes.
        check_stop: called between pieces; it may raise.

    Yields:
        Each entry with its content, or None where it is no file. Read the content before the next entry.

    Raises:
        DamagedError: it is damaged, or unpacks to too much.
        OSError: the disk could not be read.
    """
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    opened = next((opener for magic, opener in _COMPRESSIONS if head.startswith(magic)), None)
    source = _Source(opened(file) if opened else file, length, check_stop)
    total = at = count = 0
    with readable(), tarfile.open(fileobj=source, mode="r:") as tar:  # type: ignore[call-overload]
        while True:
            check_stop()
            source.in_header = True
            entry = tar.next()
            source.in_header = False
            if entry is None:
                return
            tar.members.clear()  # tarfile would keep all entries in memory
            total += entry.size
            count += 1
            if entry.size < 0 or tar.offset <= at:
                raise DamagedError("its parts overlap")
            if total > most_bytes(length):
                raise too_much(length)
            if count > most_entries(length):
                raise DamagedError(f"it has more than {most_entries(length)} entries")
            at = tar.offset
            yield entry, tar.extractfile(entry) if entry.isreg() else None


def zip_entries(
    file: IO[bytes], length: int, check_stop: Callable[[], None]
) -> Iterator[tuple[zipfile.ZipInfo, IO[bytes] | None]]:
    """Read the entries of a zip, wherever in `file` it begins; the arguments are those of `tar_entries`.

    Yields:
        Each entry with its content, or None for a folder.

    Raises:
        DamagedError: it is damaged, encrypted, compressed by another method than deflate, or unpacks to too much.
        OSError: the disk could not be read.
    """
    file.seek(0)
    total = 0
    with readable(), zipfile.ZipFile(file) as archive:
        if len(archive.infolist()) > most_entries(length):
            raise DamagedError(f"it has more than {most_entries(length)} entries")
        for entry in archive.infolist():
            check_stop()
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


class _Xz:
    """The content of an xz file; unlike lzma.LZMAFile with a bound on the memory that its header may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder, self._rest = file, self._new(), b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end.

        Raises:
            EOFError: the file is cut off.
            LZMAError: it is damaged, or needs too much memory.
        """
        got = b""
        while len(got) < size:
            if self._decoder.eof and not self._begin_stream():
                break
            if self._decoder.needs_input and not self._rest:
                self._rest = self._file.read(_XZ_CHUNK)
                if not self._rest:
                    raise EOFError("it ends in the middle")
            chunk, self._rest = self._rest, b""
            got += self._decoder.decompress(chunk, size - len(got))
        return got

    def _begin_stream(self) -> bool:
        """Go on with the next stream, if there is one: several may follow each other, with zeros between them."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            chunk = self._file.read(_XZ_CHUNK)
            if not chunk:
                return False
            rest = chunk.lstrip(b"\0")
        self._decoder, self._rest = self._new(), rest
        return True


class _Source:
    """The decompressed bytes of a tar, for tarfile: read forward only, and never more than is allowed."""

    def __init__(self, file: IO[bytes], length: int, check_stop: Callable[[], None]) -> None:
        self._file, self._length, self._check_stop = file, length, check_stop
        self._left = most_bytes(length)
        self._at = self._read_to = 0  # the reader's position, and how far the bytes were read
        self._last = b""
        self.in_header = True

    def tell(self) -> int:
        """Return the reader's position in bytes."""
        return self._at

    def seek(self, to: int) -> int:
        """Go forward to the position `to`, or back by one byte, as tarfile does to check that an entry is whole."""
        while self._read_to < to:
            if not self._take(min(_SKIP_BYTES, to - self._read_to)):
                break
        if to not in (self._read_to, self._read_to - len(self._last)) and to < self._read_to:
            raise DamagedError("its parts overlap")
        self._at = to
        return to

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; a read without a size, or beyond the limits, is refused.

        Raises:
            DamagedError: a header claims an impossible size or number, or the tar unpacks to too much.
        """
        if not 0 <= size <= (LONGEST_HEADER if self.in_header else LONGEST_READ):
            raise DamagedError("it has a header of an impossible size")
        if self._at > self._read_to:
            return b""  # the tar ended before this position
        before = self._last[: max(0, min(size, self._read_to - self._at))]
        got = before + self._take(size - len(before))
        self._at += len(got)
        if self.in_header and len(got) > tarfile.BLOCKSIZE and _LONG_NUMBER.search(got):
            raise DamagedError("it has a header with an impossible number")
        return got

    def _take(self, size: int) -> bytes:
        self._check_stop()
        got = self._file.read(size) if size else b""
        self._left -= len(got)
        if self._left < 0:
            raise too_much(self._length)
        self._read_to += len(got)
        self._last = got[-1:] or self._last
        return got
