"""PURE: the hashes of a file's pieces, which a lock file keeps as one short string: they show which pieces are bad.

A repair keeps the good pieces and downloads the bad ones again; only the digest of the whole file proves it right.
A torrent (BEP 3) needs the whole sha1 of pieces of its own length, which a lockfile may keep beside them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_BYTES = 4 << 20
MOST_PIECES = 512
SWARM_LEAST_BYTES = 64 << 20  # a swarm costs seconds: a smaller file is here before that
_MIB, _GIB = 1 << 20, 1 << 30
HASH_BYTES = 8  # of each piece's sha256: 5.5 kB of text for 512 pieces; two pieces are alike by chance once in 2**64
SHA1_BYTES = 20


class Pieces(NamedTuple):
    """The pieces of a file of `size` bytes, each `length` bytes long (the last may be shorter), with short hashes."""

    size: int
    length: int
    hashes: tuple[bytes, ...]

    def range(self, index: int) -> Range:
        """The bytes of one piece."""
        return Range(index * self.length, min((index + 1) * self.length, self.size))

    def bad(self, found: Sequence[bytes]) -> tuple[Range, ...]:
        """The ranges whose hashes differ, adjacent ones joined.

        Args:
            found: the hashes of the file at hand, from its first piece on; fewer where it is shorter.
        """
        ranges: list[Range] = []
        for index, right in enumerate(self.hashes):
            if index < len(found) and found[index] == right:
                continue
            start, end = self.range(index)
            if ranges and ranges[-1].end == start:
                start = ranges.pop().start
            ranges.append(Range(start, end))
        return tuple(ranges)


def piece_bytes(size: int) -> int | None:
    """The piece length in bytes for a file: 4 MiB, doubled until 512 pieces are enough; None where one piece is."""
    length = LEAST_BYTES
    while size > length * MOST_PIECES:
        length *= 2
    return length if size > length else None


def torrent_piece_bytes(size: int) -> int | None:
    """The piece length in bytes of a file's torrent, always the same for a size; None for a file too small for a swarm.

    Every host must make the same torrent: two lengths are two swarms.
    """
    if size < SWARM_LEAST_BYTES:
        return None
    return _MIB if size <= _GIB else 4 * _MIB if size <= 16 * _GIB else 16 * _MIB


class Hasher:
    """Hashes the pieces of a file from its bytes in order, in blocks of any size.

    `length` is that of a piece in bytes; `torrent`: by whole sha1 hashes, and not by the beginnings of sha256 ones.
    """

    def __init__(self, length: int, *, torrent: bool = False) -> None:
        self._length, self._left, self._is_torrent = length, length, torrent
        self._hash = self._new()
        self._hashes: list[bytes] = []

    def update(self, block: bytes | memoryview) -> None:
        """Hash the next bytes."""
        view = memoryview(block)
        while view:
            piece, view = view[: self._left], view[self._left :]
            self._hash.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._next()

    def hashes(self) -> tuple[bytes, ...]:
        """The hashes of all pieces so far, a last one that is short included."""
        if self._left < self._length:
            self._next()
        return tuple(self._hashes)

    def _next(self) -> None:
        kept = SHA1_BYTES if self._is_torrent else HASH_BYTES
        self._hashes.append(self._hash.digest()[:kept])
        self._hash, self._left = self._new(), self._length

    def _new(self) -> hashlib._Hash:
        return hashlib.sha1(usedforsecurity=False) if self._is_torrent else hashlib.sha256()


def encode(length: int, hashes: Iterable[bytes]) -> str:
    """Write `<piece length>:<base64 of the hashes>` for a lockfile."""
    return f"{length}:{base64.b64encode(b''.join(hashes)).decode('ascii')}"


def decode(text: str, size: int | None) -> Pieces | None:
    """Read what `encode` wrote for a file of `size` bytes; None where it is empty, damaged or of another file."""
    length, joined = _split(text, size, HASH_BYTES)
    if size is None or not length:
        return None
    return Pieces(size, length, tuple(joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)))


def decode_torrent(text: str, size: int | None) -> bytes | None:
    """Read the sha1 hashes of a torrent's pieces, joined; None where they are empty, damaged or of another torrent."""
    length, joined = _split(text, size, SHA1_BYTES)
    return joined if size is not None and length and length == torrent_piece_bytes(size) else None


def _split(text: str, size: int | None, hash_bytes: int) -> tuple[int, bytes]:
    """The piece length and the joined hashes of a text; a length of 0 where they are not those of such a file."""
    head, _, tail = text.partition(":")
    try:
        length, joined = int(head), base64.b64decode(tail, validate=True)
    except (ValueError, binascii.Error):
        return 0, b""
    if size is None or length < 1 or len(joined) != -(-size // length) * hash_bytes:
        return 0, b""
    return length, joined
