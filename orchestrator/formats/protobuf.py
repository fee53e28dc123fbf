"""ONNX and sentencepiece models: protocol buffers have no mark of their own, so it is their first fields that tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


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
        value: int | bytes
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
            value, at = data[at : at + size], at + size
        else:
            return
        if key < 8:
            return
        yield number, kind, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where the next thing begins; -1 and the end where it is cut or too long."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return -1, len(data)
