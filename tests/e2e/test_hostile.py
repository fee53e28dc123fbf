"""Foreign bytes that were made to hang a reader, to fill a disk or to end a run: each has an answer, and soon."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import signal
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import formats
from orchestrator.errors import PlacementError, Stopped
from orchestrator.formats import bounded, decompress, policy, wrong_file
from orchestrator.formats.bounded import DamagedError, most_bytes, readable
from orchestrator.model import Place, Wanted
from orchestrator.placement import allow, archive
from tests.formats.test_formats import KINDS, PICKLES, TENSORS, tarred, zipped

pytestmark = pytest.mark.filterwarnings("ignore")  # pickletools' and zipfile's own, of noise
WISH = wrong_file.ExpectedFile("m.safetensors", 1 << 20, "0" * 64)
ASK: Callable[[], None] = lambda: None  # noqa: E731
SPENT_S = 20  # of the processor, where an answer takes far less than one


@contextmanager
def soon() -> Iterator[None]:
    """End this process where what is done here takes too much of the processor: an expression keeps all else out."""
    signal.setitimer(signal.ITIMER_PROF, SPENT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def header(**entry: Any) -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}}).encode()
    return struct.pack("<Q", len(text)) + text


def stored(content: bytes) -> bytes:
    """Gzip that makes nothing smaller."""
    coat = zlib.compressobj(0, zlib.DEFLATED, 31)
    return coat.compress(content) + coat.flush()


def nested(times: int, content: bytes) -> bytes:
    for _ in range(times):
        content = stored(content)
    return content


def pax(records: bytes, size: int | None = None) -> bytes:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, len(records) if size is None else size
    return entry.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + claims("f", 0) + bytes(1024)


def claims(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def sparse(real: int) -> bytes:
    """An old GNU sparse member: nothing is stored, and `real` bytes of holes come out."""
    block = bytearray(claims("sparse", 0, tarfile.GNUTYPE_SPARSE))
    block[386:398] = block[398:410] = b"%011o\0" % 0
    block[483:495] = b"%011o\0" % real
    return checked(block) + bytes(1024)


def checked(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def backwards() -> bytes:
    """A member of a size below zero: some readers go round and round between it and the one before."""
    block = bytearray(claims("a", 0))
    block[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024
    return checked(bytearray(claims("b", 0))) + checked(block) + bytes(1024)


def pax_sparse(real: int) -> bytes:
    records = b""
    for key, value in (("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1"), ("GNU.sparse.name", "s"),
                       ("GNU.sparse.size", str(real)), ("GNU.sparse.map", "0,0")):  # fmt: skip
        body = f" {key}={value}\n".encode()
        length = len(body) + 2
        records += str(length if len(str(length)) == 2 else length + 1).encode() + body
    return pax(records)


def overlapping(copies: int) -> bytes:
    """A zip whose entries all lead to the same bytes: a small one becomes large."""
    one = zipped(zipfile.ZIP_DEFLATED, a=bytes(3 << 20))
    at = one.index(b"PK\x01\x02")
    end = one.rindex(b"PK\x05\x06")
    entry = one[at:end]
    tail = bytearray(one[end:])
    tail[8:12] = struct.pack("<HH", copies, copies)
    tail[12:16] = struct.pack("<I", len(entry) * copies)
    return one[:at] + entry * copies + bytes(tail)


BOMBS = {
    "sparse": lambda: sparse(8 << 30),
    "sparse of pax": lambda: pax_sparse(8 << 30),
    "claimed": lambda: gzip.compress(claims("big", 2 << 40) + bytes(1 << 20)),
    "bzip2": lambda: bz2.compress(claims("big", 8 << 20) + bytes(8 << 20) + bytes(1024), 9),
    "headers": lambda: bz2.compress(claims("f", 0) * 10_000),
    "overlapping": lambda: overlapping(20),
    "a long header": lambda: gzip.compress(claims("x", 8 << 30, tarfile.XHDTYPE) + bytes(8 << 20)),
    "a number": lambda: gzip.compress(pax(b"9" * 900_000)),
    "backwards": backwards,
    "a chain of headers": lambda: claims("x", 0, tarfile.XHDTYPE) * 3000,
    "a zip of bzip2": lambda: zipped(zipfile.ZIP_BZIP2, a=bytes(8 << 20)),
    "a zip of lzma": lambda: zipped(zipfile.ZIP_LZMA, a=bytes(8 << 20)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_archive_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(bounded, "_BESIDES", 4 << 20)
    path = tmp_path / "archive"
    path.write_bytes(BOMBS[name]())
    length, came = path.stat().st_size, 0
    with soon(), pytest.raises(DamagedError):
        for member in archive.members(str(path)):
            while member.content is not None and (chunk := member.content.read(1 << 20)):
                came += len(chunk)
                assert came <= most_bytes(length)
        pytest.fail("it was read to its end")
    wanted = Wanted("/t.yaml", "m", "a.tar", "0" * 64, None, (), (Place("/x", unpack=True),), allow=("other",))
    with soon(), pytest.raises(PlacementError):
        allow.check(str(path), wanted)


def test_a_stop_ends_the_reading_of_an_archive(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    path = tmp_path / "archive"
    for content in (tarred("w:gz", a=bytes(1 << 20)), zipped(a=bytes(1 << 20))):
        path.write_bytes(content)
        wanted = Wanted("/t.yaml", "m", "a", "0" * 64, None, (), (), allow=("safetensors", "zip", "tar"))
        with pytest.raises(Stopped):
            allow.check(str(path), wanted, stop)


HANGS = {
    "comments": b"<!--a-->" * 8000 + b"x",
    "a comment without an end": b"<!--" * 16_000,
    "comments and blanks": (b"<!---->" + b" " * 2000) * 30 + b"x",
    "numpy's header of blanks": b"\x93NUMPY\x01\x00\xff\xff'," + b" " * 65_000,
    "numpy's header of commas": b"\x93NUMPY\x01\x00\xff\xff'" + b", " * 32_000,
    "JSON of brackets": b"[" * 60_000,
    "JSON of blanks": b'{"error": ' + b" " * 60_000,
    "a title": b"<html>" + b"<title" * 10_000,
    "gzips in each other": nested(1200, b"x"),
    "ends of zips": b"PK\x05\x06" * 16_000,
    "protocols": b"\x80\x04" * 30_000,
    "a number of a pickle": b"I" + b"9" * 60_000 + b"\n.",
    "a tensor of many sides": header(shape=[9] * 100_000),
    "a tensor of a long number": header(shape=[int("9" * 4000)] * 20),
    "an end of a long number": header(data_offsets=[0, int("9" * 4200)]),
    "an end without an end": header().replace(b"[0, 4]", b"[0,1e999]"),
    "deep JSON": struct.pack("<Q", 50_008) + b'{"a":' + b"[" * 50_003,
    "a type that is a list": header(dtype=[]),
    "a name that is no text": header().replace(b'"a"', b'"\\ud800"'),
}


@pytest.mark.parametrize("name", HANGS)
def test_what_was_made_to_hang_has_an_answer(name: str) -> None:
    content = HANGS[name]
    with soon():
        assert formats.describe(formats.identify(content, len(content)))
        formats.safetensors_fault(content, len(content)).encode()
        wrong_file.diagnose(content, content[-wrong_file.TAIL_BYTES :], len(content), WISH).words.encode()
        refused = policy.refusal(io.BytesIO(content), len(content), ("safetensors",))
    assert refused is None or refused.words.encode()


def test_two_coats_are_looked_through_and_no_more() -> None:
    pickle = PICKLES["calls, protocol 4"]
    assert formats.identify(gzip.compress(gzip.compress(pickle))).format == "pickle"
    assert formats.identify(nested(3, pickle)).format == "other"


def test_an_honest_archive_is_read_whole(tmp_path: Path) -> None:
    files = {f"d{number % 7}/f{number}": bytes([number % 256]) * (number * 512) for number in range(200)}
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        content = tarred(mode, **files)
        got = {}
        for entry, body in decompress.tar_entries(io.BytesIO(content), len(content), ASK):
            got[entry.name] = body.read() if body and entry.size % 1024 else None  # others are passed over
        assert got == {name: body if len(body) % 1024 else None for name, body in files.items()}


def damaged(chance: random.Random, pool: list[bytes]) -> bytes:
    content = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(content) or 1)
        new = chance.choice(
            (b"", bytes(8), b"\xff" * 8, chance.randbytes(3), content[at // 2 : at // 2 + 40], b"9" * 30)
        )
        content[at : at + chance.choice((0, 1, 4, 9, 300))] = new
    return bytes(content) or b"x"


def fuzz(seed: int, rounds: int, folder: Path) -> None:
    """Damage what the libraries wrote, and ask every reader: nothing but its own error may come."""
    chance = random.Random(seed)
    small = [content for content in (*KINDS.values(), *PICKLES.values()) if 0 < len(content) < 20_000]
    packed = [compress(content) for compress in (gzip.compress, bz2.compress, lzma.compress) for content in small[:6]]
    archives = [tarred(mode, form, a=TENSORS, **{"b/c": b"text"}) for mode in ("w", "w:gz") for form in (0, 1, 2)]
    archives += [zipped(a=TENSORS, b=b"text"), zipped(8, a=TENSORS), sparse(4096), pax_sparse(4096), backwards()]
    path = folder / "fuzzed"
    for number in range(rounds):
        content = damaged(chance, archives if number % 2 else small + packed + archives)
        length = len(content)
        formats.describe(formats.identify(content[:4096], length, content[-4096:]))
        formats.safetensors_fault(content, length)
        wrong_file.diagnose(content[:4096], content[-4096:], length, WISH).words.encode()
        policy.refusal(io.BytesIO(content), length, ("safetensors", "zip", "tar"))
        path.write_bytes(content)
        try:
            for member in archive.members(str(path)):
                with readable():
                    while member.content is not None and member.content.read(1 << 16):
                        pass
        except DamagedError:
            pass


def test_noise_ends_no_reader(tmp_path: Path) -> None:
    with soon():
        fuzz(11, 600, tmp_path)
