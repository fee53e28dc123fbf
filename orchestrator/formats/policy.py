"""`allow:` - whether all that a file can be taken for is allowed, its members included."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import detect, members, pickles, safetensors, zip_directory
from orchestrator.formats.bounded import DamagedError, readable
from orchestrator.formats.detect import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Runs nothing wherever it is read, and no model comes without it: configurations, vocabularies, cards.
ALWAYS = frozenset(("text", "json", "xml", "html", "lfs", "empty", "sentencepiece"))
ARCHIVES = ("zip", "tar")


class Refusal(NamedTuple):
    """Why a file is not allowed: what it is, in words, and the word of `allow:` that would let it in ("": none)."""

    words: str
    word: str = ""


def refusal(
    file: IO[bytes],
    length: int,
    allow: tuple[str, ...],
    *,
    unpacked: bool = False,
    ask: Callable[[], None] = lambda: None,
) -> Refusal | None:
    """What of `file`, open and seekable, of `length` bytes, is not among `allow` (its words); None: nothing.

    All of its faces must be allowed: a file that begins as safetensors and ends as a zip is both. Members of
    archives are judged by their own bytes; of one that is not to be judged (encrypted, an archive in an archive)
    the whole is refused, and so is what unpacks to too much, or what our readers cannot make out. `unpacked`: the
    archive is no file at a place, and its members alone count. `ask` is called between pieces, and may raise.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with readable():
            return _refusal(file, length, allow, unpacked=unpacked, ask=ask)
    except DamagedError as problem:
        return Refusal(f"not to be judged: {problem}")


def _refusal(
    file: IO[bytes], length: int, allow: tuple[str, ...], *, unpacked: bool, ask: Callable[[], None]
) -> Refusal | None:
    file.seek(0)
    head = file.read(detect.HEAD_BYTES)
    file.seek(max(0, length - zip_directory.TAIL_BYTES))
    tail = file.read(zip_directory.TAIL_BYTES)
    found = detect.formats_of(head, length, tail)
    if "pickle" in allow and any(seen.format == "pickle" for seen in found) and not unpacked:
        found = tuple(seen for seen in found if seen.format != "zip")  # its coat is no archive to ask for
    granted = (*allow, *ARCHIVES) if unpacked else allow
    if refused := _of_faces(found, granted) or _walked(file, length, found, allow, ask):
        return refused
    kinds = {seen.format for seen in found}
    if "safetensors" in kinds:
        file.seek(0)
        if fault := safetensors.safetensors_fault(file.read(safetensors.header_bytes(head)), length):
            return Refusal(f"a broken safetensors file: {fault}")
    for kind in ARCHIVES:
        if kind in kinds:
            try:
                refused = _of_members(members.entries(kind, file, length, ask), allow)
            except DamagedError as problem:
                return Refusal(f"a {kind} archive that cannot be read: {problem}")
            if refused:
                return refused
    return None


def _of_faces(found: tuple[detect.Detected, ...], allow: tuple[str, ...]) -> Refusal | None:
    for seen in found:
        if seen.format not in ALWAYS and seen.format not in allow:
            return Refusal(describe(seen), seen.format)
    return None


def _walked(
    file: IO[bytes], length: int, found: tuple[detect.Detected, ...], allow: tuple[str, ...], ask: Callable[[], None]
) -> Refusal | None:
    """Walk the whole of it as a pickle: what a head leaves open is settled."""
    if "pickle" in allow:
        return None
    file.seek(0)
    if pickles.walk(file, length, ask) in (pickles.Walk.CALLS, pickles.Walk.CUT):
        return Refusal(f"{describe(found[0])} and a pickle", "pickle")
    return None


def _of_members(found: Iterable[members.ArchiveEntry], allow: tuple[str, ...]) -> Refusal | None:
    for member in found:
        refused = _of_faces(member.faces, allow)
        if refused is None and member.fault:
            refused = Refusal(f"a broken safetensors file ({member.fault})")
        if refused is None and any(seen.format in ARCHIVES for seen in member.faces):
            refused = Refusal("an archive of its own")
        if refused is not None:
            return Refusal(f"an archive with {refused.words} in it ({member.name})", refused.word)
    return None
