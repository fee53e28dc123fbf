"""What an archive holds, member by member, each by its own first and last bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import archives, heads, pickles, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_BYTES = 1 << 20  # of a member, which cannot be read twice in a compressed tar
_CHUNK_BYTES = 1 << 20
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # a password is wanted, and its child: a compression that is not known
)


class UnreadableError(Exception):
    """Why an archive cannot be judged: a lower-case phrase."""


class Member(NamedTuple):
    """One file of an archive: all that it can be taken for, and what is wrong with its header ("": nothing)."""

    name: str
    faces: tuple[heads.Seen, ...]
    fault: str


def of_zip(file: IO[bytes]) -> Iterator[Member]:
    """The members of a zip, wherever in `file` it begins.

    Raises:
        UnreadableError: it is damaged, encrypted, or packed in an unknown way.
    """
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            for about in archive.infolist():
                if not about.is_dir():
                    with archive.open(about) as content:
                        yield _member(about.filename, content, about.file_size)
    except _UNREADABLE as error:
        raise UnreadableError(f"a zip archive that cannot be read ({error})") from None


def of_tar(file: IO[bytes]) -> Iterator[Member]:
    """The files of a tar, compressed or not; links are what they lead to, and that is a member too.

    Raises:
        UnreadableError: it is damaged.
    """
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for about in archive:
                content = archive.extractfile(about) if about.isreg() else None
                if content is not None:
                    yield _member(about.name, content, about.size)
    except _UNREADABLE as error:
        raise UnreadableError(f"a tar archive that cannot be read ({error})") from None


def _member(name: str, content: IO[bytes], length: int) -> Member:
    head = content.read(HEAD_BYTES)
    if (more := tensors.header_bytes(head) - len(head)) > 0:
        head += content.read(more)
    tail = head[-archives.TAIL_BYTES :]
    while chunk := content.read(_CHUNK_BYTES):
        tail = (tail + chunk)[-archives.TAIL_BYTES :]
    found = heads.faces(head[: heads.HEAD_BYTES] if len(head) < length else head, length, tail)
    # What its head leaves open cannot be walked to its end here, and counts as the worst.
    far = pickles.walk(io.BytesIO(head), length)
    doubtful = far in (pickles.Walk.CALLS, pickles.Walk.CUT, pickles.Walk.BEGUN)
    if doubtful and not any(seen.format == "pickle" for seen in found):
        found = (heads.Seen("pickle"), *found)
    is_tensors = any(seen.format == "safetensors" for seen in found)
    return Member(name, found, tensors.safetensors_fault(head, length) if is_tensors else "")
