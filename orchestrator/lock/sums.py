"""PURE: the digests in a publisher's SHA256SUMS, as GNU, BSD and people write them."""

from __future__ import annotations

import re
from typing import NamedTuple

# coreutils sha256sum(1): `\` before a line whose name is escaped; `*` for binary. `sha256sum --tag` and BSD sha256(1).
_GNU = re.compile(r"(\\?)([0-9a-fA-F]{64})[ \t]+\*?(.+)")
_BSD = re.compile(r"(\\?)SHA256 ?\((.+)\) ?= ?([0-9a-fA-F]{64})")
_BARE = re.compile(r"[0-9a-fA-F]{64}")


class Line(NamedTuple):
    """One digest and the name beside it; the name is empty where the digest stands alone."""

    name: str
    sha256: str


def parse(text: str) -> tuple[Line, ...]:
    """The digests of a list; lines that hold none (comments, signatures, other kinds of digests) are passed over."""
    found = []
    for raw in text.splitlines():
        line = raw.strip()
        if match := _BSD.fullmatch(line):
            found.append(Line(_unescaped(match[2], match[1]), match[3].lower()))
        elif match := _GNU.fullmatch(line):
            found.append(Line(_unescaped(match[3], match[1]), match[2].lower()))
        elif _BARE.fullmatch(line):
            found.append(Line("", line.lower()))
    return tuple(found)


def find(lines: tuple[Line, ...], path: str) -> str | None:
    """The sha256 that a list gives for the file at `path` (of its URL, decoded).

    The name with the most last parts in common with `path` counts. A digest that stands alone in its list is its
    file's. None where none is given, or several that differ.
    """
    wanted = path.strip("/").split("/")
    best: dict[int, set[str]] = {}
    for line in lines:
        parts = line.name.removeprefix("./").strip("/").split("/")
        if parts == wanted[-len(parts) :]:
            best.setdefault(len(parts), set()).add(line.sha256)
        elif parts[-1] == wanted[-1]:
            best.setdefault(0, set()).add(line.sha256)
    if not best and len({line.sha256 for line in lines}) == 1 and not lines[0].name:
        return lines[0].sha256
    found = best[max(best)] if best else set()
    return found.pop() if len(found) == 1 else None


def _unescaped(name: str, mark: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name) if mark else name
