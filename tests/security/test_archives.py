"""Archives that unpack to more than anybody wants: refused early, by the gate and where they are unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import tarfile
import threading
import time
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import PlacementError, Stopped
from orchestrator.formats import bounded, decompress, safetensors
from orchestrator.formats.policy import refusal
from orchestrator.model import Place, Wanted
from orchestrator.placement import allow, archive
from tests.orch import made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
SECONDS = 30.0  # of this process; each takes a fraction of a second, and a reader without bounds takes minutes


def tarred(*files: tuple[str, int], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of files of zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, size in files:
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
    return out.getvalue()


def sparse(real: int) -> bytes:
    """A GNU sparse entry that is all hole."""
    entry = tarfile.TarInfo("hole")
    entry.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (0, 0)
    head[483:495] = b"%011o\0" % real
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)


def claiming(size: int, behind: int) -> bytes:
    """A tar whose only entry claims `size` bytes, with so many zeros behind its header."""
    entry = tarfile.TarInfo("big.bin")
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(behind)


def deflated(files: int, size: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
        for number in range(files):
            zipped.writestr(f"{number}.bin", bytes(size))
    return out.getvalue()


def greedy_xz() -> bytes:
    """An xz whose header asks for a dictionary of 3 GiB (xz format 1.2, 5.3.1)."""
    data = bytearray(lzma.compress(tarred(("a.bin", 5000)), preset=0))
    length = (data[12] + 1) * 4
    assert data[14:16] == b"\x21\x01"  # the filter LZMA2 with one byte of properties
    data[16] = 39
    data[12 + length - 4 : 12 + length] = zlib.crc32(data[12 : 12 + length - 4]).to_bytes(4, "little")
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a hole of 8 GiB": lambda: sparse(0o77777777777),
    "bzip2 that claims 2 TiB": lambda: bz2.compress(claiming(2 << 40, 80 * MIB)),
    "gzip of 80 MiB": lambda: gzip.compress(claiming(80 * MIB, 80 * MIB), mtime=0),
    "xz of 80 MiB": lambda: lzma.compress(claiming(80 * MIB, 80 * MIB), preset=0),
    "xz with a dictionary of 3 GiB": greedy_xz,
    "a zip of many": lambda: deflated(4, 20 * MIB),
    "a zip of more entries than files": lambda: deflated(2000, 0),
    "a tar of more entries than files": lambda: gzip.compress(
        tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT) * 2000, mtime=0
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused_early(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "entries" in what:
        monkeypatch.setattr(bounded, "_ENTRIES", 1000)
    content = BOMBS[what]()
    path = tmp_path / "a"
    path.write_bytes(content)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    read = 0
    with pytest.raises(archive.ArchiveError, match=r"too large|xz of one file|more than"):
        for member in archive.members(str(path)):
            while member.content is not None:
                with bounded.readable():
                    block = member.content.read(MIB)
                if not block:
                    break
                read += len(block)
    assert read <= bounded.most_bytes(len(content))
    refused = refusal(io.BytesIO(content), len(content), ("other", "tar", "zip"), unpacked=True)
    assert "dictionary" in what or (refused is not None and "cannot be read" in refused.words)  # else it is `other`
    assert time.process_time() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10


def test_what_compresses_well_and_is_honest_is_unpacked(tmp_path: Path) -> None:
    """Zeros compress a thousand times: up to 64 MiB, or a hundred times the archive, are no bomb."""
    path = tmp_path / "a"
    for content in (
        gzip.compress(tarred(("zeros.bin", 60 * MIB)), mtime=0),
        lzma.compress(tarred(("a.bin", MIB))),
        deflated(1000, 50_000),
    ):
        path.write_bytes(content)
        read = 0
        for member in archive.members(str(path)):
            while member.content is not None and (block := member.content.read(MIB)):
                read += len(block)
        assert read >= MIB


def test_xz_is_read_as_its_own_library_does() -> None:
    streams = lzma.compress(made(200_000)) + bytes(8) + lzma.compress(made(70_000, 2)) + bytes(4)
    reader, got = decompress._Xz(io.BytesIO(streams)), b""
    for size in (1, 100, 150_000, 10 * MIB, 5):
        got += reader.read(size)
    assert got == made(200_000) + made(70_000, 2)
    with pytest.raises(EOFError):
        decompress._Xz(io.BytesIO(streams[:150_000])).read(MIB)


def test_a_header_with_more_values_than_any_model_is_not_parsed() -> None:
    header = b"{" + b'"a":[[],[]],' * 1_500_000 + b'"b":0}'
    content = len(header).to_bytes(8, "little") + header
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert safetensors.safetensors_fault(content, len(content)) == "its header has more values than that of any model"
    assert safetensors.whole_bytes(content) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_the_gate_hears_a_stop_and_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar.bz2"
    path.write_bytes(bz2.compress(claiming(50 * MIB, 50 * MIB)))
    places = (Place(f"{tmp_path}/p", unpack=True),)
    wanted = Wanted("/team.yaml", "m", "a.tar.bz2", "0" * 64, None, (), places, allow=("gguf",))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        allow.check(str(path), wanted, stop)
    monkeypatch.setattr(allow, "LIMIT_S", -1.0)
    with pytest.raises(PlacementError, match="takes longer than") as caught:
        allow.check(str(path), wanted)
    assert caught.value.hint
