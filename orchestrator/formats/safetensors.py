"""Read and check safetensors headers: they say which tensors follow, and so how long the file must be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.formats.bounded import LARGEST, broken, has_too_many_values
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

# safetensors 0.8, src/tensor.rs: MAX_HEADER_SIZE, validate(), Dtype::bitsize().
HEADER_MOST = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip


def header_bytes(head: bytes) -> int:
    """Return how many bytes of a file, from its first on, hold its whole header.

    That is 8 bytes for the header's length, and that length. 0 where `head` is not the beginning of a safetensors
    file, or shorter than 8 bytes.
    """
    if len(head) < 8:
        return 0
    length = int.from_bytes(head[:8], "little")
    return 8 + length if 2 <= length <= HEADER_MOST and head[8:9] in (b"{", b"") else 0


def safetensors_fault(head: bytes, length: int) -> str:
    """Say what is wrong with a safetensors file of `length` bytes that begins with `head`; "" if nothing.

    The tensors must follow each other without a gap and end exactly at the file's end. Where `head` is shorter than
    `header_bytes` says, only its length is checked.
    """
    if length < 8:
        return f"{length} bytes are not a safetensors file"
    whole = header_bytes(head)
    if not whole:
        return "does not begin with a safetensors header"
    if whole > length:
        return f"its header requires {_bytes(whole - length)} more than the file has"
    if len(head) < whole:
        return ""
    if has_too_many_values(head[8:whole]):
        return "its header has more values than that of any model"
    try:
        header = json.loads(head[8:whole].decode(), object_pairs_hook=_once)
    except broken():
        return "its header is not JSON"
    if not isinstance(header, dict):
        return "its header is not a JSON object"
    return _tensors(header, length - whole)


def whole_bytes(head: bytes) -> int | None:
    """Return the length in bytes that a safetensors file must have by its header.

    None where `head` does not hold the whole header, or the header is not sound.
    """
    whole = header_bytes(head)
    if not whole or len(head) < whole or has_too_many_values(head[8:whole]):
        return None
    try:
        header = json.loads(head[8:whole])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except broken():
        return None
    return whole + max(ends, default=0) if all(map(_is_count, ends)) else None


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < LARGEST


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice")
    return keys


def _tensors(header: dict[str, Any], room: int) -> str:
    """What is wrong with a header's tensors, if its file has `room` bytes for them."""
    spans = []
    for name, about in header.items():
        if name == "__metadata__":
            if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
                return "its __metadata__ is not a map of text"
            continue
        try:
            (start, end), shape, bits = about["data_offsets"], about["shape"], BITS.get(about["dtype"])
            sound = all(map(_is_count, (start, end, *shape)))
        except broken():
            sound = False
        name = shown(name[:80].encode(errors="replace").decode())
        if not sound:
            return f"its header describes `{name}` wrongly"
        if bits is not None and _product(shape, bits) != (end - start) * 8:
            return f"`{name}` has another size than its shape and type give"
        spans.append((start, end, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at or end < start:
            return f"`{name}` does not begin where the tensor before it ends"
        at = end
    if at > room:
        return f"its tensors require {_bytes(at - room)} more than the file has"
    return f"{_bytes(room - at)} too many after the last tensor" if at < room else ""


def _product(shape: Iterable[int], bits: int) -> int:
    """The bits of a tensor; capped near LARGEST, so that a forged shape costs no time."""
    product = bits
    for count in shape:
        product = min(product * count, LARGEST * 8) if 0 not in (product, count) else 0
    return product


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"
