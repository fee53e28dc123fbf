"""Detect the format of a file by its first and last bytes; its name does not count."""

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
from orchestrator.formats.bounded import broken
from orchestrator.formats.html_page import is_html

if TYPE_CHECKING:
    from collections.abc import Iterator


HEAD_BYTES = 64 << 10  # enough for every check here
_MAGIC = (
    (0, b"GGUF", "gguf"),
    (4, b"TFL3", "tflite"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HDF5 = b"\x89HDF\r\n\x1a\n"  # HDF5 file format specification 3.0, II.A: at 0, or behind a user block
_NUMPY = b"\x93NUMPY"
# A header of an array of objects, which numpy.load would unpickle, or one written so that a search could miss that.
_OBJECTS = re.compile(rb"""['"](?:[^'"]*,)?\s*(?:[<>|=]\s*)?(?:O|object)|\\|['"]\s*['"]""")
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled
_BOM = b"\xef\xbb\xbf"
_LAYERS = 2  # compressions inside each other that are looked through; nobody compresses a model more often
_JSON = re.compile(rb'[\[{]\s*(?:["\[\]{}]|-?[0-9]|true\b|false\b|null\b)')


class Detected(NamedTuple):
    """One format that a file has; a file may have several at once.

    `format`: safetensors gguf onnx hdf5 npy tflite pickle zip tar sentencepiece html xml json text lfs empty, or
    `other`. `detail` says more for people ("torch", "joblib", "in gzip"); often "".
    """

    format: str
    detail: str = ""


def identify(head: bytes, length: int | None = None, tail: bytes = b"") -> Detected:
    """Return the most likely format of a file; the arguments are those of `formats_of`."""
    return formats_of(head, length, tail)[0]


def formats_of(
    head: bytes, length: int | None = None, tail: bytes = b"", *, layers: int = _LAYERS
) -> tuple[Detected, ...]:
    """Return every format that a reader could take a file for, the most likely first.

    A file may have several: one that begins as safetensors may end as a zip, and zip readers begin at the end.

    Args:
        head: the file's first bytes; the more, up to HEAD_BYTES, the better.
        length: the file's length in bytes; None if it is not known.
        tail: its last bytes; the more, up to `zip_directory.TAIL_BYTES`, the better; b"" if they were not read.
        layers: how many compressions inside each other to look through.
    """
    if not head:
        return (Detected("empty" if not length else "other"),)
    if length is not None and len(head) >= length and not tail:
        tail = head[-zip_directory.TAIL_BYTES :]
    detected = [item for item in (*_by_magic(head), _compressed(head, layers)) if item is not None]
    if pickled := _pickle(head, length, doubt=not detected):
        detected.insert(0, pickled)
    inside = zip_directory.directory(tail, length) if length is not None else None
    if inside is not None:
        detected = [item for item in detected if item.format != "zip"]
        detected.append(Detected("zip"))
        if any(name.rpartition("/")[2] == "data.pkl" for name in inside.names):
            detected.insert(0, Detected("pickle", "torch"))
    if all(item.format == "zip" for item in detected) and not head.startswith(_ZIP):
        detected.insert(0, _text(head, length, tail) or Detected("other"))
    return tuple(detected)


def _pickle(head: bytes, length: int | None, *, doubt: bool) -> Detected | None:
    """Return what kind of pickle a file is, None if it is none.

    With `doubt` a pickle counts that calls nothing as far as its head shows: nothing else explains the file.
    """
    if head.startswith(_TORCH_LEGACY):
        return Detected("pickle", "torch, before 1.6")
    result = pickles.scan(io.BytesIO(head), length)
    if result in (pickles.ScanResult.NOT_A_PICKLE, pickles.ScanResult.STARTED) or (
        result is not pickles.ScanResult.CALLS and not doubt
    ):
        return None
    for name in (b"joblib", b"torch", b"sklearn", b"numpy"):
        if name in head[:4096]:
            return Detected("pickle", name.decode())
    return Detected("pickle", f"protocol {head[1]}" if head[:1] == b"\x80" else "in text")


def _by_magic(head: bytes) -> Iterator[Detected]:
    """The formats that have magic bytes, or a beginning that nothing else has."""
    for at, magic, name in _MAGIC:
        if head.startswith(magic, at):
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
    """Whether the first header of a tar is there: those from before 1988 have no magic, but all have a checksum."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except broken():
        return False
    return True


def _compressed(head: bytes, layers: int) -> Detected | None:
    """What a compressed file holds, as far as its head can be decompressed."""
    for name, magic, opened in (
        ("gzip", b"\x1f\x8b", lambda: zlib.decompressobj(31)),
        ("bzip2", b"BZh", bz2.BZ2Decompressor),
        ("xz", b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
        ("zlib", b"\x78", zlib.decompressobj),  # joblib's own
    ):
        if not head.startswith(magic):
            continue
        try:
            inner = opened().decompress(head, HEAD_BYTES)
        except OSError:
            continue
        except broken():
            continue
        item = formats_of(inner, layers=layers - 1)[0] if layers else Detected("other")
        if inner and (name != "zlib" or item.format == "pickle"):
            return Detected(item.format, f"{item.detail} in {name}".strip())
    return None


def _text(head: bytes, length: int | None, tail: bytes) -> Detected | None:
    """What kind of text a file is; None if it is no text."""
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
        except broken():
            return Detected("text")
    return Detected("json")


def _is_utf8(data: bytes, *, cut_start: bool = False, cut_end: bool = False) -> bool:
    """Whether bytes are UTF-8 without the control characters that no text has.

    `cut_start` and `cut_end`: the bytes may begin or end in the middle of a character.
    """
    if cut_start:
        data = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", data):
        return False
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return cut_end and error.end >= len(data) and len(data) - error.start < 4
    return True


VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_SIZES = {VARINT: 0, FIXED64: 8, BYTES: 0, FIXED32: 4}  # in bytes; 0 where a length follows


def is_onnx(head: bytes) -> bool:
    """Whether a file begins as an ONNX model: its version, its producer, and then its graph.

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
    """Whether a file begins as a sentencepiece model: pieces, each a text with a score.

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
    """Read the fields of a protobuf message as far as they are sound; the last value may be cut short.

    Yields:
        (number, wire type, value) of each field.
    """
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
    """The varint at `at`, and the offset behind it; -1 where it is cut short or too long."""
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


def describe(item: Detected) -> str:
    """Return a format in words for people: "a pickle (torch)", "an HTML page"."""
    return f"{_NAMES[item.format]} ({item.detail})" if item.detail else _NAMES[item.format]
