"""What a file is, by its first and last bytes; its name is never asked."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.formats import lfs, pickles, safetensors, zip_directory
from orchestrator.formats.bounded import BROKEN
from orchestrator.formats.html_page import is_html

if TYPE_CHECKING:
    from collections.abc import Iterator


HEAD_BYTES = 64 << 10  # enough for every judgement here
_MARKS = (
    (0, b"GGUF", "gguf"),
    (4, b"TFL3", "tflite"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HDF5 = b"\x89HDF\r\n\x1a\n"  # HDF5 file format specification 3.0, II.A: at 0, or behind a user block
_NUMPY = b"\x93NUMPY"
# A header that numpy.load would read as one of objects, which are pickled, or that hides its types from a search.
_OBJECTS = re.compile(rb"""['"](?:[^'"]*,)?\s*(?:[<>|=]\s*)?(?:O|object)|\\|['"]\s*['"]""")
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled
_BOM = b"\xef\xbb\xbf"
_COATS = 2  # so many compressions in each other are looked through; nobody packs a model in more
_JSON = re.compile(rb'[\[{]\s*(?:["\[\]{}]|-?[0-9]|true\b|false\b|null\b)')


class Detected(NamedTuple):
    """One thing that a file is.

    `format`: safetensors gguf onnx hdf5 npy tflite pickle zip tar sentencepiece html xml json text lfs empty, or
    `other`. `detail` says more in words for people ("torch", "joblib", "in gzip"); often "".
    """

    format: str
    detail: str = ""


def identify(head: bytes, length: int | None = None, tail: bytes = b"") -> Detected:
    """The likeliest thing that a file is: the first of its `faces`."""
    return formats_of(head, length, tail)[0]


def formats_of(
    head: bytes, length: int | None = None, tail: bytes = b"", *, coats: int = _COATS
) -> tuple[Detected, ...]:
    """All that readers could take a file for, the likeliest first: one that begins well may end as a zip.

    `head` are its first bytes (the more, up to `HEAD_BYTES`, the better), `length` all of them in bytes (None:
    nobody knows), `tail` its last ones (the more, up to `archives.TAIL_BYTES`, the better; b"": not looked at). So many
    `coats` of compression are looked through.
    """
    if not head:
        return (Detected("empty" if not length else "other"),)
    if length is not None and len(head) >= length and not tail:
        tail = head[-zip_directory.TAIL_BYTES :]
    found = [seen for seen in (*_marked(head), _packed(head, coats)) if seen is not None]
    if pickled := _pickle(head, length, doubt=not found):
        found.insert(0, pickled)
    inside = zip_directory.directory(tail, length) if length is not None else None
    if inside is not None:
        found = [seen for seen in found if seen.format != "zip"]
        found.append(Detected("zip"))
        if any(name.rpartition("/")[2] == "data.pkl" for name in inside.names):
            found.insert(0, Detected("pickle", "torch"))
    if all(seen.format == "zip" for seen in found) and not head.startswith(_ZIP):
        found.insert(0, _text(head, length, tail) or Detected("other"))
    return tuple(found)


def _pickle(head: bytes, length: int | None, *, doubt: bool) -> Detected | None:
    """The pickle that it is; `doubt`: also one that calls nothing, as far as its head tells."""
    if head.startswith(_TORCH_LEGACY):
        return Detected("pickle", "torch, before 1.6")
    far = pickles.walk(io.BytesIO(head), length)
    if far in (pickles.Walk.NOWHERE, pickles.Walk.BEGUN) or (far is not pickles.Walk.CALLS and not doubt):
        return None
    for name in (b"joblib", b"torch", b"sklearn", b"numpy"):
        if name in head[:4096]:
            return Detected("pickle", name.decode())
    return Detected("pickle", f"protocol {head[1]}" if head[:1] == b"\x80" else "in text")


def _marked(head: bytes) -> Iterator[Detected]:
    """What has a mark of its own, or looks like nothing else."""
    for at, mark, name in _MARKS:
        if head.startswith(mark, at):
            yield Detected(name)
    if head.startswith(_ZIP):
        yield Detected("zip")
    if any(head.startswith(_HDF5, at) for at in (0, 512, 1024, 2048, 4096, 8192)):
        yield Detected("hdf5")
    if head.startswith(_NUMPY):
        size = int.from_bytes(head[8:10] if head[6:7] == b"\x01" else head[8:12], "little")
        yield Detected("pickle", "numpy objects") if _OBJECTS.search(head, 10, 12 + size) else Detected("npy")
    if _is_tar(head):
        yield Detected("tar")
    if safetensors.header_bytes(head[:9]) and head[8:9] and head[9:10] in b'"} \n\t\r':
        yield Detected("safetensors")
    if is_onnx(head):
        yield Detected("onnx")
    if is_sentencepiece(head):
        yield Detected("sentencepiece")


def _is_tar(head: bytes) -> bool:
    """Whether a tar's first header stands there; those of before 1988 have no mark, but all have a checksum."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except BROKEN:
        return False
    return True


def _packed(head: bytes, coats: int) -> Detected | None:
    """What a compressed file holds, by as much of it as its head gives."""
    for name, mark, opened in (
        ("gzip", b"\x1f\x8b", lambda: zlib.decompressobj(31)),
        ("bzip2", b"BZh", bz2.BZ2Decompressor),
        ("xz", b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
        ("zlib", b"\x78", zlib.decompressobj),  # joblib's own
    ):
        if not head.startswith(mark):
            continue
        try:
            inner = opened().decompress(head, HEAD_BYTES)
        except (*BROKEN, OSError):
            continue
        seen = formats_of(inner, coats=coats - 1)[0] if coats else Detected("other")
        if inner and (name != "zlib" or seen.format == "pickle"):
            return Detected(seen.format, f"{seen.detail} in {name}".strip())
    return None


def _text(head: bytes, length: int | None, tail: bytes) -> Detected | None:
    """What kind of text it is; None where it is none."""
    whole = length is not None and len(head) >= length
    body = head.removeprefix(_BOM).lstrip()
    if lfs.is_exact(head) or (not whole and head.startswith(b"version https://git-lfs.github.com/spec/")):
        return Detected("lfs")
    if is_html(body):
        return Detected("html")
    if not _is_utf8(head, cut_end=not whole) or not _is_utf8(tail, cut_start=True):
        return None
    if body.startswith(b"<?xml") or re.match(rb"<(?:Error|ListBucketResult)\b", body):
        return Detected("xml")
    if not _JSON.match(body):
        return Detected("text")
    if whole:
        try:
            json.loads(body)
        except BROKEN:
            return Detected("text")
    return Detected("json")


def _is_utf8(data: bytes, *, cut_start: bool = False, cut_end: bool = False) -> bool:
    """Whether it is UTF-8 without control characters that no text has; a character cut at an end is none's fault."""
    if cut_start:
        data = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", data):
        return False
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return cut_end and error.end >= len(data) and len(data) - error.start < 4
    return True


VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {VARINT: 0, FIXED64: 8, BYTES: 0, FIXED32: 4}  # bytes, where the wire type alone tells


def is_onnx(head: bytes) -> bool:
    """Whether a file begins as an ONNX model: its version, who made it, and then its graph.

    onnx.proto, ModelProto: ir_version 1, producer_name 2, ..., graph 7, opset_import 8.
    """
    for count, (number, kind, value) in enumerate(fields(head)):
        if count == 0:
            if (number, kind) != (1, VARINT) or not isinstance(value, int) or not 1 <= value < 64:
                return False
        elif number in (7, 8) and kind == BYTES:
            return True
        elif number in (2, 3, 4, 6) and kind == BYTES and isinstance(value, bytes):
            if not value.decode("utf-8", "replace").isprintable() and number != 6:
                return False  # saved_model.pb begins in the same way, with a graph for its second field
        elif (number, kind) != (5, VARINT):
            return False
    return False


def is_sentencepiece(head: bytes) -> bool:
    """Whether a file begins as a sentencepiece model: piece after piece, each text with a score.

    sentencepiece_model.proto, ModelProto: pieces 1; SentencePiece: piece 1, score 2 (float), type 3.
    """
    pieces = 0
    for number, kind, value in fields(head):
        if number == 1 and kind == BYTES and isinstance(value, bytes):
            if [(n, k) for n, k, _ in fields(value)][:2] not in ([(1, BYTES), (2, FIXED32)], [(1, BYTES)]):
                return False
            pieces += 1
        else:
            return pieces >= 3 and number in (2, 3, 4, 5)
    return pieces >= 3


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """The fields of a message, (number, wire type, value), as far as they are sound; the last may be cut short."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if key < 8 or kind not in _SIZES:
            return
        size = _SIZES[kind]
        if kind in (VARINT, BYTES):
            size, at = _varint(data, at)
            if size < 0:
                return
        if kind == VARINT:
            yield number, kind, size
            continue
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where the next thing begins; -1 where it is cut or too long."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return -1, len(data)


_NAMES = {
    "safetensors": "a safetensors file",
    "gguf": "a GGUF file",
    "onnx": "an ONNX model",
    "hdf5": "an HDF5 file",
    "npy": "a numpy array",
    "tflite": "a TensorFlow Lite model",
    "pickle": "a pickle",
    "zip": "a zip archive",
    "tar": "a tar archive",
    "sentencepiece": "a sentencepiece model",
    "html": "an HTML page",
    "xml": "an XML document",
    "json": "JSON",
    "text": "plain text",
    "lfs": "a Git LFS pointer",
    "empty": "an empty file",
    "other": "of no format that orch knows",
}


def describe(seen: Detected) -> str:
    """`seen` as people say it: "a pickle (torch)", "an HTML page"."""
    return f"{_NAMES[seen.format]} ({seen.detail})" if seen.detail else _NAMES[seen.format]
