"""Detect the format of each file in an archive, by that file's own first and last bytes."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, NamedTuple

from orchestrator.formats import decompress, detect, pickles, safetensors, zip_directory
from orchestrator.formats.bounded import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD_BYTES = 1 << 20  # kept of each entry: in a compressed tar it cannot be read twice
_CHUNK_BYTES = 1 << 20


class ArchiveEntry(NamedTuple):
    """One file of an archive: its name, its formats, and what is wrong with its safetensors header ("": nothing)."""

    name: str
    formats: tuple[detect.Detected, ...]
    fault: str


def entries(kind: str, file: IO[bytes], length: int, check_stop: Callable[[], None]) -> Iterator[ArchiveEntry]:
    """Read an archive and detect the formats of each file in it; a link counts as the file that it leads to.

    Args:
        kind: "zip" or "tar", compressed or not.
        file: the archive, open and seekable.
        length: its length in bytes.
        check_stop: called between pieces; it may raise to end the reading.

    Raises:
        DamagedError: it is damaged, encrypted, packed in an unknown way, or unpacks to too much.
        OSError: it cannot be read.
    """
    for name, size, content in _contents(kind, file, length, check_stop):
        if content is not None:
            with readable():
                entry = _entry(name, content, size, check_stop)
            yield entry


def _contents(
    kind: str, file: IO[bytes], length: int, check_stop: Callable[[], None]
) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """The name, size in bytes and content of each entry; no content where it is no file."""
    if kind == "zip":
        for zipped, content in decompress.zip_entries(file, length, check_stop):
            yield zipped.filename, zipped.file_size, content
    else:
        for tarred, content in decompress.tar_entries(file, length, check_stop):
            yield tarred.name, tarred.size, content


def _entry(name: str, content: IO[bytes], length: int, check_stop: Callable[[], None]) -> ArchiveEntry:
    head = content.read(HEAD_BYTES)
    while (more := min(_CHUNK_BYTES, safetensors.header_bytes(head) - len(head))) > 0 and (chunk := content.read(more)):
        head += chunk
    tail = head[-zip_directory.TAIL_BYTES :]
    while chunk := content.read(_CHUNK_BYTES):
        check_stop()
        tail = (tail + chunk)[-zip_directory.TAIL_BYTES :]
    detected = detect.formats_of(head[: detect.HEAD_BYTES] if len(head) < length else head, length, tail)
    # Only the head can be scanned here: what may still become a pickle behind it counts as one.
    result = pickles.scan(io.BytesIO(head), length, check_stop)
    doubtful = result in (pickles.ScanResult.CALLS, pickles.ScanResult.CUT, pickles.ScanResult.STARTED)
    if doubtful and not any(item.format == "pickle" for item in detected):
        detected = (detect.Detected("pickle"), *detected)
    is_tensors = any(item.format == "safetensors" for item in detected)
    return ArchiveEntry(name, detected, safetensors.safetensors_fault(head, length) if is_tensors else "")
