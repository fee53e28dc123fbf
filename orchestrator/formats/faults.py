"""What is wrong with a file's bytes, and what they are, in words for people."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from orchestrator.formats import archives, heads, tensors

if TYPE_CHECKING:
    from orchestrator.formats.heads import Seen

SAID_MOST = 120
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


def words(seen: Seen) -> str:
    """`seen` as people say it: "a pickle (torch)", "an HTML page"."""
    return f"{_NAMES[seen.format]} ({seen.detail})" if seen.detail else _NAMES[seen.format]


def fault(head: bytes, length: int, tail: bytes = b"") -> str:
    """Why a file of `length` bytes cannot be what it begins as: cut short, or something else put there; "" if nothing.

    `head` and `tail` as in `faces`; without a tail a zip's end is not looked for.
    """
    seen = heads.look(head, length)
    if seen.format == "safetensors":
        return tensors.safetensors_fault(head, length)
    if head.startswith(b"PK\x03\x04") and tail and archives.directory(tail, length) is None:
        return "a zip archive without its end"
    if seen.format == "hdf5" and not seen.detail:
        end = _hdf5_end(head)
        return f"an HDF5 file that wants {end - length} bytes more than it has" if end > length else ""
    return ""


def said(head: bytes) -> str:
    """What a server's page says for itself, one line: an HTML title, the message of a JSON or XML error; else ""."""
    kind = heads.look(head).format
    found = ""
    if kind == "html":
        match = re.search(rb"<title[^>]*>(.*?)</title>", head, re.I | re.S)
        found = match[1].decode("utf-8", "replace") if match else ""
    elif kind == "xml":
        match = re.search(rb"<Message>(.*?)</Message>", head, re.S) or re.search(rb"<Code>(.*?)</Code>", head, re.S)
        found = match[1].decode("utf-8", "replace") if match else ""
    elif kind == "json":
        try:
            found = _message(json.loads(head))
        except (ValueError, RecursionError):
            found = ""
    return " ".join(found.split())[:SAID_MOST]


def _message(data: Any) -> str:
    for key in ("error", "message", "detail", "error_description", "errors"):
        value = data.get(key) if isinstance(data, dict) else None
        if isinstance(value, dict):
            return _message(value)
        if isinstance(value, str):
            return value
    return ""


def _hdf5_end(head: bytes) -> int:
    """Where the file ends by its own superblock (HDF5 file format specification 3.0, II.A); 0 where that is unsaid."""
    at = head.find(b"\x89HDF\r\n\x1a\n")
    version = head[at + 8] if len(head) > at + 8 else 255
    offset_bytes = at + (13 if version < 2 else 9)
    place = at + {0: 24, 1: 28, 2: 12, 3: 12}.get(version, len(head))
    if len(head) <= offset_bytes:
        return 0
    width = head[offset_bytes]
    end = head[place + 2 * width : place + 3 * width]  # base address, one more, end of file
    return int.from_bytes(end, "little") if width in (4, 8) and len(end) == width else 0
