"""Read and write aria2's control file (doc/technical-notes in its source): which pieces of a file are there."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from orchestrator.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK = 1 << 14  # bytes; a piece is there chunk by chunk
_HEAD = struct.Struct(">H4sIIQQI")  # version, extension, info hash, piece length, total, uploaded, bitfield
_COUNT = struct.Struct(">I")  # the number of pieces that are partly there
_SHA1_BYTES = 20
_OF_TORRENT = bytes((0, 0, 0, 1, 0, 0, 0, _SHA1_BYTES))  # the extension, and the length of the info hash
_PIECE = struct.Struct(">III")  # index, length, bitfield


def read(control: bytes, length: int) -> list[Range] | None:
    """The missing ranges; None where this is no intact control file of a file of `length` bytes.

    Of a torrent's only whole pieces count: they were hashed, and parts of others may be anybody's bytes.
    """
    is_torrent = control[2:10] == _OF_TORRENT
    if is_torrent:
        control = control[:2] + bytes(8) + control[10 + _SHA1_BYTES :]
    try:
        version, extension, info_hash, size, total, _, room = _HEAD.unpack_from(control)
        count = -(-total // size)
        if (version, extension, info_hash, total, room) != (1, bytes(4), 0, length, -(-count // 8)):
            return None
        there = _unpack(control[_HEAD.size : _HEAD.size + room], count)
        begun = _read_begun(control[_HEAD.size + room :], size, total)
    except (struct.error, IndexError, ZeroDivisionError):
        return None
    if begun is None:
        return None
    holes = []
    for index in (index for index, whole in enumerate(there) if not whole):
        first, last = index * size, min(index * size + size, total)
        if index in begun and not is_torrent:
            starts = (first + chunk * _CHUNK for chunk, got in enumerate(begun[index]) if not got)
            holes += [Range(start, min(start + _CHUNK, last)) for start in starts]
        else:
            holes.append(Range(first, last))
    return holes


def length(control: bytes) -> int | None:
    """The length in bytes of the file of a control file; None where it is none, or damaged."""
    try:
        total = int(_HEAD.unpack_from(control)[4])
    except struct.error:
        return None
    return total if read(control, total) is not None else None


def write(length: int, size: int, missing: Iterable[Range]) -> bytes:
    """Write a control file that asks for these ranges, each enlarged to its 16 KiB chunk and the end of its piece.

    `size` is the length of a piece in bytes. Only the beginning of a piece is ever declared present: where a hole is
    followed by chunks that are present,
    aria2c (1.36.0, 1.37.0) takes the piece for complete at the end of the hole, writes what the server sends next
    into the next piece, and exits 0 over wrong bytes.
    """
    there = [True] * -(-length // size)
    begun: dict[int, int] = {}  # piece -> how many of its first chunks are there
    for start, end in missing:
        for index in range(start // size, -(-end // size)):
            if there[index]:
                there[index] = False
                begun[index] = max(start - index * size, 0) // _CHUNK
    pieces = []
    for index, got in begun.items():
        if got > 0:
            span = min(size, length - index * size)
            bits = _pack([True] * got + [False] * (-(-span // _CHUNK) - got))
            pieces.append(_PIECE.pack(index, span, len(bits)) + bits)
    bits = _pack(there)
    head = _HEAD.pack(1, bytes(4), 0, size, length, 0, len(bits))
    return b"".join((head, bits, _COUNT.pack(len(pieces)), *pieces))


def _read_begun(control: bytes, size: int, total: int) -> dict[int, list[bool]] | None:
    """The chunks of each piece that is partly there; None where a piece is impossible, or more bytes follow."""
    begun: dict[int, list[bool]] = {}
    (pieces,) = _COUNT.unpack_from(control)
    offset = _COUNT.size
    for _ in range(pieces):
        index, span, room = _PIECE.unpack_from(control, offset)
        chunks = -(-span // _CHUNK)
        if span != min(size, total - index * size) or room != -(-chunks // 8):
            return None
        offset += _PIECE.size
        begun[index] = _unpack(control[offset : offset + room], chunks)
        offset += room
    return begun if offset == len(control) else None


def _pack(flags: list[bool]) -> bytes:
    """Pack flags into bytes, the most significant bit first."""
    width = -(-len(flags) // 8)
    text = "".join("1" if flag else "0" for flag in flags).ljust(width * 8, "0")
    return int(text or "0", 2).to_bytes(width, "big")


def _unpack(bits: bytes, count: int) -> list[bool]:
    return [bool(bits[i >> 3] & 0x80 >> (i & 7)) for i in range(count)]
