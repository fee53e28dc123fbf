"""`allow:` - whether all that a file can be taken for is allowed, its members included."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from typing import IO, NamedTuple

from orchestrator.formats import archives, heads, pickles, tensors
from orchestrator.formats.spoken import words

# Runs nothing wherever it is read, and no model comes without it: configurations, vocabularies, cards.
ALWAYS = frozenset(("text", "json", "xml", "html", "lfs", "empty", "sentencepiece"))
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, ValueError,
               RuntimeError, NotImplementedError)  # fmt: skip


class Refusal(NamedTuple):
    """Why a file is not allowed: what it is, in words, and the word of `allow:` that would let it in ("": none)."""

    words: str
    word: str = ""


def refusal(file: IO[bytes], length: int, allow: tuple[str, ...]) -> Refusal | None:
    """What of `file`, open and seekable, of `length` bytes, is not among `allow` (its words); None: nothing.

    All of its faces must be allowed: a file that begins as safetensors and ends as a zip is both. Members of
    archives are judged by their own bytes; of one that is not to be judged (encrypted, an archive in an archive)
    the whole is refused.

    Raises:
        OSError: it cannot be read.
    """
    file.seek(0)
    head = file.read(heads.HEAD_BYTES)
    file.seek(max(0, length - archives.TAIL_BYTES))
    tail = file.read(archives.TAIL_BYTES)
    found = heads.faces(head, length, tail)
    if "pickle" in allow and any(seen.format == "pickle" for seen in found):
        found = tuple(seen for seen in found if seen.format != "zip")  # its coat is no archive to ask for
    if refused := _of_faces(found, allow) or _walked(file, length, found, allow):
        return refused
    kinds = {seen.format for seen in found}
    if "safetensors" in kinds:
        file.seek(0)
        if fault := tensors.safetensors_fault(file.read(tensors.header_bytes(head)), length):
            return Refusal(f"a broken safetensors file: {fault}")
    in_zip = _of_zip(file, allow) if "zip" in kinds else None
    return in_zip or (_of_tar(file, allow) if "tar" in kinds else None)


def _of_faces(found: tuple[heads.Seen, ...], allow: tuple[str, ...]) -> Refusal | None:
    for seen in found:
        if seen.format not in ALWAYS and seen.format not in allow:
            return Refusal(words(seen), seen.format)
    return None


def _walked(file: IO[bytes], length: int, found: tuple[heads.Seen, ...], allow: tuple[str, ...]) -> Refusal | None:
    """Walk the whole of it as a pickle: what a head leaves open is settled."""
    if "pickle" in allow:
        return None
    file.seek(0)
    if pickles.walk(file, length) in (pickles.Walk.CALLS, pickles.Walk.CUT):
        return Refusal(f"{words(found[0])} and a pickle", "pickle")
    return None


def _of_zip(file: IO[bytes], allow: tuple[str, ...]) -> Refusal | None:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            for about in archive.infolist():
                if about.flag_bits & 1:
                    return Refusal(f"a zip archive with an encrypted member ({about.filename})")
                if about.is_dir():
                    continue
                with archive.open(about) as member:
                    head = member.read(heads.HEAD_BYTES)
                if refused := _of_member(head, about.file_size, about.filename, allow):
                    return refused
    except _UNREADABLE as error:
        return Refusal(f"a zip archive that cannot be read ({error})")
    return None


def _of_tar(file: IO[bytes], allow: tuple[str, ...]) -> Refusal | None:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for about in archive:
                member = archive.extractfile(about) if about.isreg() else None
                if member is None:
                    continue
                head = member.read(heads.HEAD_BYTES)
                if refused := _of_member(head, about.size, about.name, allow):
                    return refused
    except _UNREADABLE as error:
        return Refusal(f"a tar archive that cannot be read ({error})")
    return None


def _of_member(head: bytes, length: int, name: str, allow: tuple[str, ...]) -> Refusal | None:
    found = heads.faces(head, length)
    refused = _of_faces(found, allow)
    if refused is None and "pickle" not in allow and pickles.walk(io.BytesIO(head), length) is pickles.Walk.CALLS:
        refused = Refusal("a pickle", "pickle")
    if refused is None and any(seen.format in ("zip", "tar") for seen in found):
        refused = Refusal("an archive in an archive")
    return Refusal(f"an archive with {refused.words} in it ({name})", refused.word) if refused else None
