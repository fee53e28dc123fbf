"""What an archive holds, member by member, each by its own first and last bytes."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import decompress, detect, pickles, safetensors, zip_directory
from orchestrator.formats.bounded import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD_BYTES = 1 << 20  # of a member, which cannot be read twice in a compressed tar
_CHUNK_BYTES = 1 << 20


class ArchiveEntry(NamedTuple):
    """One file of an archive: all that it can be taken for, and what is wrong with its header ("": nothing)."""

    name: str
    faces: tuple[detect.Detected, ...]
    fault: str


def entries(kind: str, file: IO[bytes], length: int, ask: Callable[[], None]) -> Iterator[ArchiveEntry]:
    """Read an archive, file by file; links in a tar are what they lead to, and that is a file too.

    Args:
        kind: "zip" or "tar", compressed or not.
        file: the archive, open and seekable.
        length: its length in bytes.
        ask: called between pieces; it may raise to end the reading.

    Raises:
        DamagedError: it is damaged, encrypted, packed in an unknown way, or unpacks to too much.
        OSError: it cannot be read.
    """
    for name, size, content in _contents(kind, file, length, ask):
        if content is not None:
            with readable():
                entry = _entry(name, content, size, ask)
            yield entry


def _contents(
    kind: str, file: IO[bytes], length: int, ask: Callable[[], None]
) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """The name, size in bytes and content of each entry; no content where it is no file."""
    if kind == "zip":
        for zipped, content in decompress.zip_entries(file, length, ask):
            yield zipped.filename, zipped.file_size, content
    else:
        for tarred, content in decompress.tar_entries(file, length, ask):
            yield tarred.name, tarred.size, content


def _entry(name: str, content: IO[bytes], length: int, ask: Callable[[], None]) -> ArchiveEntry:
    head = content.read(HEAD_BYTES)
    while (more := min(_CHUNK_BYTES, safetensors.header_bytes(head) - len(head))) > 0 and (chunk := content.read(more)):
        head += chunk
    tail = head[-zip_directory.TAIL_BYTES :]
    while chunk := content.read(_CHUNK_BYTES):
        ask()
        tail = (tail + chunk)[-zip_directory.TAIL_BYTES :]
    found = detect.formats_of(head[: detect.HEAD_BYTES] if len(head) < length else head, length, tail)
    # What its head leaves open cannot be walked to its end here, and counts as the worst.
    far = pickles.walk(io.BytesIO(head), length, ask)
    doubtful = far in (pickles.Walk.CALLS, pickles.Walk.CUT, pickles.Walk.BEGUN)
    if doubtful and not any(seen.format == "pickle" for seen in found):
        found = (detect.Detected("pickle"), *found)
    is_tensors = any(seen.format == "safetensors" for seen in found)
    return ArchiveEntry(name, found, safetensors.safetensors_fault(head, length) if is_tensors else "")
