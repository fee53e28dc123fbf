"""Which bytes of an unfinished file are present, by the state file of its program."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.backends import BACKENDS, by_name
from orchestrator.model import Range
from orchestrator.store.store import open_to_read
from orchestrator.verify.stream import first_hole

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend
    from orchestrator.store.partials import Partial

PREFIX_WRITER = "curl"  # stands for every program that appends: what is there is a prefix


class PartialState:
    """A partial as its last writer's state describes it; `size` is the manifest's in bytes, or None.

    The claims are hints about progress, never evidence: what is complete goes to the judge.
    """

    def __init__(self, partial: Partial, size: int | None) -> None:
        self.partial = partial
        self.size = size
        self.ended_well = False  # whether the last program exited 0: all that is known of a file without length

    @property
    def writer(self) -> Backend | None:
        """The backend that wrote last; where a crash spoiled the note of it, the one that the bytes look like."""
        if self.partial.info.backend or not self.partial.have:
            return by_name(self.partial.info.backend)
        for backend in BACKENDS:
            if backend.SIDECAR and self.partial.sidecar(backend.SIDECAR) is not None:
                return backend
        return by_name(PREFIX_WRITER) if self._has_no_hole() else None

    def length(self) -> int | None:
        """The file's length in bytes: the manifest's, else what a source said."""
        return self.size if self.size is not None else self.partial.info.length

    def missing(self) -> tuple[Range, ...] | None:
        """The ranges that are not here; None where nobody knows the length."""
        length, writer = self.length(), self.writer
        if length is None:
            return None
        if writer is None:
            return (Range(0, length),) if length else ()
        have = self.partial.have
        found = writer.missing(self.partial.sidecar(writer.SIDECAR), length, have)
        if found and writer.SIDECAR and (kept := self.partial.kept_sidecar()) is not None:
            return min(found, writer.missing(kept, length, have), key=total)  # a full disk empties the sidecar
        return found

    def _has_no_hole(self) -> bool:
        try:
            fd = open_to_read(self.partial.file)
        except OSError:
            return False
        try:
            return first_hole(fd) == self.partial.have
        except OSError:
            return False
        finally:
            os.close(fd)

    def good_bytes(self) -> int:
        """How many bytes are claimed to be here."""
        length, missing = self.length(), self.missing()
        if length is not None and missing is not None:
            return length - total(missing)
        writer = self.writer
        return self.partial.have if writer is not None and writer.SIDECAR is None else 0

    def is_complete(self) -> bool:
        """Whether nothing is missing; without a known length, whether its program ended well and tidied up."""
        writer = self.writer
        if writer is None:
            return False
        try:
            os.lstat(self.partial.file)  # not `os.path.exists`, for which a disk that fails is a file that is not there
        except FileNotFoundError:
            return False
        missing = self.missing()
        if missing is None:
            return self.ended_well and self.partial.sidecar(writer.SIDECAR) is None
        return not missing

    def is_too_long(self) -> bool:
        """Whether more bytes are here than the file has."""
        length = self.length()
        return length is not None and self.partial.have > length


def total(ranges: tuple[Range, ...]) -> int:
    """The bytes in all of the ranges."""
    return sum(end - start for start, end in ranges)
