"""PURE: read Git LFS pointers, the small texts that stand in a git repository for its large files."""

from __future__ import annotations

import re
from typing import NamedTuple

VERSION = "version https://git-lfs.github.com/spec/v1"  # the first line of a pointer (git-lfs, docs/spec.md)
LARGEST = 1024  # bytes; git-lfs takes no larger file for a pointer
_EXACT = re.compile(  # the second name is that of git-lfs's first release
    rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v1\n"
    rb"(?:ext-.*\n)*oid sha256:[0-9a-f]{64}\nsize [0-9]{1,19}\n?"
)


class Pointer(NamedTuple):
    """What a Git LFS pointer says of its file: `sha256` (64 hex digits, "" if missing), `size` in bytes or None.

    `is_whole` is true where the version comes first, sha256 and size are there, and no key comes twice.
    """

    sha256: str
    size: int | None
    is_whole: bool


def parse(text: str) -> Pointer:
    """Read what can be read of a pointer that an editor or a merge may have damaged.

    A BOM, empty lines, blanks around lines and CRLF are passed over.
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    pairs = [line.partition(" ")[::2] for line in lines]
    values = dict(pairs)
    oid = re.fullmatch("sha256:([0-9a-f]{64})", values.get("oid", ""))
    size = re.fullmatch(r"\s*([0-9]{1,19})\s*", values.get("size", ""))
    is_whole = bool(oid and size and lines[0] == VERSION and len(values) == len(pairs))
    return Pointer(oid[1] if oid else "", int(size[1]) if size else None, is_whole)


def is_exact(content: bytes) -> bool:
    """Whether all the bytes of a file are, to the last one, a pointer that git-lfs writes."""
    return len(content) < LARGEST and _EXACT.fullmatch(content) is not None
