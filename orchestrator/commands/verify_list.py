"""A file of checksums, as values and as wanted files; what cannot be read of one is told, a few lines of many."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from orchestrator import checksums
from orchestrator.errors import ManifestError, Problem
from orchestrator.model import Pin, Place, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.checksums import Checksums, Entry

TOLD = 3  # lines that are told of a file that is no list; the others are counted
_ENDING = re.compile(r"(?i)\.(sha256|sha512|sha1|md5)(sums?)?(\.txt)?$")


def read_bytes(path: str) -> bytes:
    """Read a list, as far as one may go.

    Raises:
        ManifestError: it is missing or unreadable.
    """
    try:
        with open(path, "rb") as file:
            return file.read(checksums.MOST_BYTES + 1)
    except OSError as error:
        problem = Problem(path, 0, "", (error.strerror or str(error)).lower())
        raise ManifestError((problem,), f"look at it: `ls -l {path}`") from error


def read_text(path: str) -> str:
    """Read a list as text.

    Raises:
        ManifestError: it is missing, unreadable, or no text.
    """
    try:
        return checksums.decode(read_bytes(path))
    except checksums.ChecksumsError as error:
        raise ManifestError((Problem(path, 0, "", error.message),), error.hint) from None


def refusal(path: str, odd: Sequence[tuple[int, str]], hint: str) -> ManifestError:
    """The error for the lines of `path`, (number from 1, why) each, that are none: the first few, and how many more."""
    problems = [Problem(path, number, "", why) for number, why in odd[:TOLD]]
    if len(odd) > TOLD:
        problems.append(Problem(path, 0, "", f"and {len(odd) - TOLD:,} more such lines"))
    return ManifestError(tuple(problems), hint)


def alone(path: str) -> str:
    """The name of the file that a digest without a name is of, by its list's: `w.pth` of `w.pth.sha256`; or ""."""
    name = _ENDING.sub("", os.path.basename(path))
    return name if name != os.path.basename(path) else ""


def nameless(path: str, entries: Sequence[Entry]) -> str:
    """Why the digests without a name cannot be of the file that `alone` names; "" where they can."""
    mine = {(entry.kind, entry.hex) for entry in entries if not entry.name}
    if not mine:
        return ""
    if not alone(path):
        return "a digest without a name, and the list's name does not say of which file it is: call it NAME.sha256"
    return "several digests and no names" if len({kind for kind, _ in mine}) < len(mine) else ""


def read_sums(path: str) -> tuple[Wanted, ...]:
    """Read a file of checksums, its names relative to it, as wanted files.

    Raises:
        ManifestError: it cannot be read, has a line that is none, or no line at all.
    """
    base = os.path.dirname(path)
    found: Checksums = checksums.parse(read_text(path))
    odd = [(line.line, line.why) for line in found.odd]
    first = next((entry for entry in found.entries if not entry.name), None)
    if first is not None and (why := nameless(path, found.entries)):
        odd.append((first.line, why))
    wanted = []
    for entry in found.entries:
        name = _name(base, path, entry)
        if not name:
            odd.append((entry.line, entry.doubt))
        place = Place(os.path.join(base, name))
        pins = () if entry.kind == "sha256" else (Pin(entry.kind, entry.hex),)
        sha256 = "" if pins else entry.hex
        wanted.append(Wanted(path, os.path.basename(path), name, sha256, None, (), (place,), pins=pins))
    if odd:
        raise refusal(path, sorted(odd), "mend these lines, or check the files by `sha256sum -c`")
    if not wanted:
        raise ManifestError((Problem(path, 0, "", "no digest in this file"),), f"expected lines {checksums.SHAPES}")
    return tuple(dict.fromkeys(wanted))


def _name(base: str, path: str, entry: Entry) -> str:
    """The name by which a file stands there; "" where the line may mean something else, and none does."""
    names = (entry.name, entry.path) if entry.name else (alone(path),)
    there = next((name for name in names if os.path.lexists(os.path.join(base, name))), "")
    return there or ("" if entry.doubt else names[0])
