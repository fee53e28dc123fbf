"""Check a file against the manifest's `allow:`: every format that it has, and those of the files in an archive."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import detect, members, pickles, safetensors, zip_directory
from orchestrator.formats.bounded import DamagedError, readable
from orchestrator.formats.detect import describe
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Formats that are always allowed: no reader runs code from them, and every model has configurations or vocabularies.
ALWAYS = frozenset(("text", "json", "xml", "html", "lfs", "empty", "sentencepiece"))
ARCHIVES = ("zip", "tar")


class Refusal(NamedTuple):
    """Why a file is refused: what it is, in words, and the word of `allow:` that would allow it ("" if none would)."""

    words: str
    word: str = ""


def refusal(
    file: IO[bytes],
    length: int,
    allow: tuple[str, ...],
    *,
    unpacked: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> Refusal | None:
    """Check a file's formats against those that are allowed.

    Every format that the file has must be allowed: a file that begins as safetensors and ends as a zip is both. The
    files in an archive are checked by their own bytes. An archive is refused as a whole if a file in it cannot be
    checked (encrypted, itself an archive), if it unpacks to too much, or if it is damaged.

    Args:
        file: the file, open and seekable.
        length: its length in bytes.
        allow: the words of `allow:`.
        unpacked: the archive is unpacked at its place: only the files in it count.
        check_stop: called between pieces; it may raise to end the check.

    Returns:
        Why the file is refused; None if it is allowed.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with readable():
            return _refusal(file, length, allow, unpacked=unpacked, check_stop=check_stop)
    except DamagedError as problem:
        return Refusal(f"cannot be checked: {problem}")


def _refusal(
    file: IO[bytes], length: int, allow: tuple[str, ...], *, unpacked: bool, check_stop: Callable[[], None]
) -> Refusal | None:
    file.seek(0)
    head = file.read(detect.HEAD_BYTES)
    file.seek(max(0, length - zip_directory.TAIL_BYTES))
    tail = file.read(zip_directory.TAIL_BYTES)
    detected = detect.formats_of(head, length, tail)
    if "pickle" in allow and any(item.format == "pickle" for item in detected) and not unpacked:
        detected = tuple(item for item in detected if item.format != "zip")  # torch.save writes its pickle into a zip
    granted = (*allow, *ARCHIVES) if unpacked else allow
    if refused := _refuse_formats(detected, granted) or _refuse_pickle(file, length, detected, allow, check_stop):
        return refused
    kinds = {item.format for item in detected}
    if "safetensors" in kinds:
        file.seek(0)
        if fault := safetensors.safetensors_fault(file.read(safetensors.header_bytes(head)), length):
            return Refusal(f"a broken safetensors file: {fault}")
    for kind in ARCHIVES:
        if kind in kinds:
            try:
                refused = _refuse_entries(members.entries(kind, file, length, check_stop), allow)
            except DamagedError as problem:
                return Refusal(f"a {kind} archive that cannot be read: {problem}")
            if refused:
                return refused
    return None


def _refuse_formats(detected: tuple[detect.Detected, ...], allow: tuple[str, ...]) -> Refusal | None:
    for item in detected:
        if item.format not in ALWAYS and item.format not in allow:
            return Refusal(describe(item), item.format)
    return None


def _refuse_pickle(
    file: IO[bytes],
    length: int,
    detected: tuple[detect.Detected, ...],
    allow: tuple[str, ...],
    check_stop: Callable[[], None],
) -> Refusal | None:
    """Scan the whole file as a pickle, to settle what its head leaves open."""
    if "pickle" in allow:
        return None
    file.seek(0)
    if pickles.scan(file, length, check_stop) in (pickles.ScanResult.CALLS, pickles.ScanResult.CUT):
        return Refusal(f"{describe(detected[0])} and a pickle", "pickle")
    return None


def _refuse_entries(entries: Iterable[members.ArchiveEntry], allow: tuple[str, ...]) -> Refusal | None:
    for entry in entries:
        refused = _refuse_formats(entry.formats, allow)
        if refused is None and entry.fault:
            refused = Refusal(f"a broken safetensors file ({entry.fault})")
        if refused is None and any(item.format in ARCHIVES for item in entry.formats):
            refused = Refusal("an archive of its own")
        if refused is not None:
            return Refusal(f"an archive with {refused.words} in it ({shown(entry.name)})", refused.word)
    return None
