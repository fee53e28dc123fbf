"""Fill the holes of a partial for a program that only appends: curl downloads them as ranges."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.backends import aria2c, axel
from orchestrator.backends.base import Job, Trait, Want
from orchestrator.backends.shared import subtract
from orchestrator.model import Range
from orchestrator.transfer.partial import total

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend
    from orchestrator.transfer.partial import PartialState

LEAST_BYTES = 1 << 20  # fewer that lie behind a hole are downloaded again: each hole costs a request
MOST_BYTES = 64 << 20  # of one request: a run that is killed loses no more
_MIB = 1 << 20


def lost_bytes(on_disk: PartialState, backend: Backend) -> int:
    """How many good bytes a program would cut off: those behind the first hole, where it only appends."""
    missing, length = on_disk.missing(), on_disk.length()
    if backend.SIDECAR is not None or Trait.HTTP not in backend.TRAITS or not missing or length is None:
        return 0
    return length - missing[0].start - total(missing)


def next_part(on_disk: PartialState, backend: Backend) -> Range | None:
    """The range to ask for next; None where what is behind the first hole is not worth it."""
    missing = on_disk.missing()
    if not missing or lost_bytes(on_disk, backend) < LEAST_BYTES:
        return None
    start, end = missing[0]
    return Range(start, min(end, start + MOST_BYTES))


def splice(on_disk: PartialState, source: int, part: Range, length: int, most_piece: int = _MIB) -> None:
    """Write a range into the partial, and then claim it: a claim without bytes is none.

    Args:
        on_disk: the partial.
        source: an open file that holds the bytes of `part`, from its own first byte on.
        part: where they belong.
        length: of the whole file, in bytes.
        most_piece: the longest piece of a state, in bytes.

    Raises:
        OSError: the disk said no.
    """
    partial, missing = on_disk.partial, on_disk.missing()
    missing = (Range(0, length),) if missing is None else missing
    writer: Backend = axel if partial.info.backend == axel.NAME else aria2c  # each knows its own state exactly
    is_same = partial.info.backend == writer.NAME
    piece_bytes = min((partial.info.piece_bytes if is_same else 0) or _MIB, most_piece)
    job = Job((Want((), partial.file, length, length),), partial.folder, piece_bytes=piece_bytes)
    if not is_same:  # from now on it is no prefix by its length
        partial.change_writer(writer.NAME, piece_bytes, writer.SIDECAR, writer.sidecar(job, missing))
    target = os.open(partial.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        at = part.start
        while at < part.end:
            block = os.pread(source, min(_MIB, part.end - at), at - part.start)
            os.pwrite(target, block, at)
            at += len(block)
    finally:
        os.close(target)
    left = subtract(missing, (part,))
    partial.change_writer(writer.NAME, piece_bytes, writer.SIDECAR, writer.sidecar(job, left) if left else None)
