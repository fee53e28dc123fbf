"""One bad byte costs one piece: the codec, repair of what stands, and repair of what was just fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator import manifest, pieces
from orchestrator.demo.origin import Origin
from orchestrator.manifest import lockfile
from orchestrator.model import Range
from tests.orch import Orch, made, sha256

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


class Team(Orch):
    """An Orch whose manifest has a lock beside it, with the pieces of each file."""

    def want_pieces(self, name: str, content: bytes, url: str, length: int = 4 * MIB, **keys: Any) -> Path:
        self.__dict__.setdefault("locked", {})[name] = (content, length)
        return self.want(name, content, url, **keys)

    def write(self) -> None:
        super().write()
        models = {}
        for model in manifest.parse(self.manifest.read_text(), str(self.manifest), "/").models:
            if model.name not in self.__dict__.get("locked", {}):
                continue
            content, length = self.__dict__["locked"][model.name]
            text = pieces.encode(length, hashes(content, length))
            entry = lockfile.LockedFile(sha256(content), len(content), pieces=text)
            models[model.name] = lockfile.LockedModel(lockfile.fingerprint(model), {model.files[0].name: entry})
        if models:
            Path(manifest.lock_path(str(self.manifest))).write_text(lockfile.write(lockfile.Lock(models)))


SIZE = 48 * MIB
CONTENT = made(SIZE)
BAD_AT = 21 * MIB + 5


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_a_source_with_one_bad_byte_costs_one_piece(team: Team) -> None:
    """The next source gives just the piece that was bad; who gave it is named, and its piece is kept for a look."""
    with Origin() as lying, Origin() as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), mirrors=[bad])
        done = team.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
        assert good.sent("/w.bin") <= 8 * MIB
    (wrong,) = done.named("mismatched")
    assert wrong["source"] == bad
    assert wrong["nature"] == f"{4 * MIB} of its {SIZE} bytes are bad, the first of them in the piece at {20 * MIB}"
    assert [(e["source"], e["fault"]) for e in done.named("failed")] == [(bad, "corrupt")]
    kept = Path(wrong["quarantine"], "bytes")
    assert kept.stat().st_size == SIZE
    assert kept.stat().st_blocks * 512 <= 5 * MIB
    with open(kept, "rb") as file:
        file.seek(BAD_AT)
        assert file.read(1) == bytes([CONTENT[BAD_AT] ^ 0x5A])
