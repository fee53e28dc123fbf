"""One bad byte costs one piece: the codec, repair of what stands, and repair of what was just fetched."""

from __future__ import annotations

import hashlib

import pytest

from orchestrator import pieces
from orchestrator.model import Range
from tests.orch import made

MIB = 1 << 20


def hashes(content: bytes, length: int, block: int = 1 << 20) -> tuple[bytes, ...]:
    hasher = pieces.Hasher(length)
    for at in range(0, len(content), block):
        hasher.update(content[at : at + block])
    return hasher.hashes()


def test_piece_lengths() -> None:
    assert pieces.piece_bytes(0) is None
    assert pieces.piece_bytes(4 * MIB) is None
    assert pieces.piece_bytes(4 * MIB + 1) == 4 * MIB
    assert pieces.piece_bytes(512 * 4 * MIB) == 4 * MIB
    assert pieces.piece_bytes(512 * 4 * MIB + 1) == 8 * MIB
    assert pieces.piece_bytes(1 << 40) == 2 << 30


@pytest.mark.parametrize("block", [1, 999, 1000, 7777, 100_000])
def test_pieces_there_and_back(block: int) -> None:
    content = made(10_500)
    found = hashes(content, 1000, block)
    assert found[3] == hashlib.sha256(content[3000:4000]).digest()[:8]
    assert found[10] == hashlib.sha256(content[10_000:]).digest()[:8]
    read = pieces.decode(pieces.encode(1000, found), 10_500)
    assert read == pieces.Pieces(10_500, 1000, found)
    assert read.bad(found) == ()
    assert read.bad(found[:9]) == (Range(9000, 10_500),)
    assert read.bad(()) == (Range(0, 10_500),)
    for at, bad in ((0, Range(0, 1000)), (2999, Range(2000, 3000)), (10_499, Range(10_000, 10_500))):
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        assert read.bad(hashes(flipped, 1000)) == (bad,)


@pytest.mark.parametrize(
    "text", ["", "x", "1000", "1000:", "0:AAAA", "-1:AAAA", "1000:a b", "1000:AAAAAAAAAAA=", "ü:ö"]
)
def test_damaged_pieces_are_none(text: str) -> None:
    assert pieces.decode(text, 3000) is None
    assert pieces.decode(pieces.encode(1000, [b"12345678"] * 3), 3001) is None
    assert pieces.decode(pieces.encode(1000, [b"12345678"] * 3), None) is None
