"""Mutations of bytes and texts, the same for the same random generator: what readers of foreign bytes trip over."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

MOST_BYTES = 64 << 10
_LETTERS = "\0\t\n\r\x1b\x7f\x85\x9b\u2028\u202e\ud800\ufeff\\'\"`{}[]()<>&%#@:;,./~-*?|!=+_ \u0661\u00b2\u00bd"
_WORDS = tuple(
    word.encode("utf-8", "surrogatepass")
    for word in (
        *_LETTERS,
        "../", "~/", "--", "- ", "\x1b]0;p\x07", "file:///", "http://", "https://h/", "ftp://", "//h/", "sha256:",
        "%00", "%2e%2e%2f", "%ff", "%u0041", "<!--", "-->", "<![CDATA[", "&lt;", "<!DOCTYPE",
        "null", "true", "false", "nan", "NaN", "inf", "-inf", "Infinity", "0", "-1", "00", "1e999", "-0", "0x10", "1_0",
        "9" * 20, "9" * 400, "9" * 5000, "-" + "1" * 30, "a" * 64, "a" * 300, "\u00e9" * 200,
        "[" * 2000, "{" * 2000, '{"a":' * 1000, "(" * 500, "- " * 1500, "<a>" * 300, "<!--a-->" * 40,
    )
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_FORMS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")


def mutated(data: bytes, others: Sequence[bytes], random: random.Random) -> bytes:
    """Return `data` changed in one to eight places; `others` are inputs whose parts may come in."""
    for _ in range(1 << random.randrange(4)):
        data = _change(data, others, random)
    return data[:MOST_BYTES]


def _change(data: bytes, others: Sequence[bytes], random: random.Random) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((0, 1, 1, 2, 4, 8, 32, 512)))
    match random.randrange(10):
        case 0:
            return data[:start] + random.randbytes(end - start) + data[end:]
        case 1 | 2:
            return data[:start] + random.choice(_WORDS) + data[random.choice((start, end)) :]
        case 3:
            return data[:start] + data[end:]
        case 4:
            return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]
        case 5:
            number, form = random.choice(_NUMBERS), random.choice(_FORMS)
            packed = struct.pack(form, number & (256 ** struct.calcsize(form) - 1))
            return data[:start] + packed + data[start + len(packed) :]
        case 6:
            return data[:start] if random.random() < 0.5 else data[start:]
        case 7:
            return _lines(data, random)
        case 8:
            other = random.choice(others)
            at = random.randrange(len(other) + 1)
            return data[:start] + other[at : at + random.choice((8, 64, 4096))] + data[end:]
        case _:
            if start == len(data):
                return data + b"\0"
            return data[:start] + bytes((data[start] ^ 1 << random.randrange(8),)) + data[start + 1 :]


def _lines(data: bytes, random: random.Random) -> bytes:
    """Move, repeat or drop a line, or exchange two words."""
    parts = data.split(random.choice((b"\n", b" ", b",", b"/")))
    mark = random.choice((b"\n", b" ", b",", b"/"))
    at, to = random.randrange(len(parts)), random.randrange(len(parts))
    match random.randrange(4):
        case 0:
            parts[at], parts[to] = parts[to], parts[at]
        case 1:
            parts.insert(to, parts[at])
        case 2 if len(parts) > 1:
            del parts[at]
        case _:
            parts[at] = random.choice(_WORDS)
    return mark.join(parts)
