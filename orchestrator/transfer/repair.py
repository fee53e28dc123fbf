"""Repair a wrong file whose piece hashes are known: find its bad pieces and their source, and download only those."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends import aria2c
from orchestrator.backends.base import Job, Want
from orchestrator.backends.shared import subtract
from orchestrator.events import Mismatched
from orchestrator.faults import Fault, Kind
from orchestrator.store import blobs, intake, quarantine
from orchestrator.store.partials import Info
from orchestrator.store.store import open_to_read
from orchestrator.text import size_text
from orchestrator.transfer.check import EARLIER_RUN
from orchestrator.transfer.retry import Attempt
from orchestrator.verify import check
from orchestrator.verify.pieces import decode

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.model import Artifact, Range
    from orchestrator.store import Store
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.check import FinishedFile
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.verify.pieces import Pieces


LEAST_PIECE_BYTES = 1 << 20  # of aria2c
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)


class Damage(NamedTuple):
    """A wrong file: the digest that it has, its pieces as they should be, and which ranges are bad, at least one."""

    found: str
    pieces: Pieces
    bad: tuple[Range, ...]

    @property
    def bad_bytes(self) -> int:
        """How many bytes are to be fetched again."""
        return sum(end - start for start, end in self.bad)

    @property
    def words(self) -> str:
        """How much is bad, and where it begins."""
        size, at = self.pieces.size, self.bad[0].start
        return f"{self.bad_bytes} of its {size} bytes are bad, the first of them in the piece at {at}"


def examine(
    path: str, artifact: Artifact, stop: threading.Event, reading: Callable[[int], None] | None = None
) -> Damage | None:
    """Read a wrong file and say which pieces are bad; None where that is not known, or no piece is good.

    `reading` is told how far it is, in bytes.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    pieces = decode(artifact.pieces, artifact.size)
    if pieces is None:
        return None
    found, hashes = check.digest_and_pieces(path, pieces.length, stop, reading)
    damage = Damage(found, pieces, pieces.bad(hashes))
    return damage if 0 < damage.bad_bytes < pieces.size else None


def quarantine_pieces(store: Store, path: str, damage: Damage, about: Mapping[str, str]) -> str:
    """Keep the bad pieces for a look; the good ones need no second copy. Gives their folder.

    Raises:
        StoreError: the disk said no.
    """
    where = " ".join(f"{start}-{end}" for start, end in damage.bad)
    return quarantine.keep_ranges(store, path, damage.found, damage.bad, {**about, "bad": where})


def request_pieces(partial: Partial, damage: Damage, path: str = "") -> None:
    """Make a wrong file the partial's, with nothing but its bad pieces missing.

    `path` is where it lies (default: it is the partial's own already). It is moved where it can be, and nobody else
    has it; else it stays and is copied. The state is written first: bytes without it would count as nothing.

    Raises:
        OSError: the disk said no; what was at `path` is there or in the partial.
        PlacementError: the path leads through another user's link, or, as root, a folder that everyone can write.
    """
    size = damage.pieces.size
    info = Info(length=size, repaired=True, condemned=partial.info.condemned)
    _request(partial, info, damage.pieces.length, damage.bad, path)


def _request(partial: Partial, info: Info, piece_bytes: int, ranges: tuple[Range, ...], path: str = "") -> None:
    """As `request_pieces`, of any ranges; `info` is what is known of the bytes, their length among it."""
    assert info.length is not None
    job = Job((Want((), partial.file, info.length, info.length),), partial.folder, piece_bytes=piece_bytes)
    if path:
        partial.remove_file()
    partial.info = info
    partial.change_writer(aria2c.NAME, piece_bytes, aria2c.SIDECAR, aria2c.sidecar(job, ranges))
    if path:
        _take(path, partial.file)
    fd = partial.open_file()
    try:
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, info.length)
        _punch(fd, ranges)
    finally:
        os.close(fd)


def _take(path: str, target: str) -> None:
    """Move a file (its path by `Folder.at`) to `target`, ready to be written, if it is ours alone; else copy it."""
    fd = open_to_read(path)
    try:
        if intake.move_in(path, fd, target):
            os.fchmod(fd, 0o600)
        else:
            blobs.copy(fd, target)
    finally:
        os.close(fd)


def _punch(fd: int, ranges: tuple[Range, ...]) -> None:
    """Make holes of bad bytes, so that a judge behind the download knows how far all is good; a help, no more."""
    with suppress(AttributeError, OSError):
        call = ctypes.CDLL(None).fallocate64
        for start, end in ranges:
            call(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start))


class Given(NamedTuple):
    """A range that came in this run: by which program, and from which sources, of which one gave it."""

    range: Range
    backend: str
    sources: tuple[str, ...]


def given(before: tuple[Range, ...], after: tuple[Range, ...], backend: str, sources: tuple[str, ...]) -> list[Given]:
    """What a program brought: the ranges that were missing before it and are not after it."""
    return [Given(piece, backend, sources) for piece in subtract(before, after)]


class Attribution(NamedTuple):
    """Who gave bad pieces: `blamed` maps a source that alone gave one to the program that brought it.

    `suspects` are sources that may have, together with others (`EARLIER_RUN` among them).
    """

    blamed: dict[str, str]
    suspects: tuple[str, ...]

    @property
    def givers(self) -> str:
        """All of them, in words."""
        return " and ".join(dict.fromkeys((*self.blamed, *self.suspects)))


def attribute(bad: tuple[Range, ...], brought: Sequence[Given], *, is_inherited: bool) -> Attribution:
    """Say who gave bad ranges; what nobody brought in this run is an earlier one's, where `is_inherited`."""
    blamed: dict[str, str] = {}
    suspects: dict[str, None] = {}
    for hole in bad:
        parts = [part for part in brought if part.range.start < hole.end and hole.start < part.range.end]
        givers = dict.fromkeys(url for part in parts for url in part.sources)
        if is_inherited and subtract((hole,), tuple(part.range for part in parts)):
            givers[EARLIER_RUN] = None
        if len(givers) == 1 and parts:
            blamed[parts[0].sources[0]] = parts[0].backend
        else:
            suspects.update(givers or {EARLIER_RUN: None})
    return Attribution(blamed, tuple(url for url in suspects if url not in blamed))


def keep_good_pieces(run: RunContext, file: FinishedFile, partial: Partial, damage: Damage, givers: str) -> None:
    """Send the bad pieces of a wrong file to quarantine, tell who gave them, and ask for just them again.

    Raises:
        OSError, StoreError: the disk said no.
    """
    note = {**file.quarantine_note, "source": givers}
    folder = quarantine_pieces(run.store, file.path, damage, note)
    run.emit(Mismatched(*file.title, givers, file.artifact.sha256, damage.found, folder, damage.words))
    request_pieces(partial, damage)


def keep_what_came(
    run: RunContext, file: FinishedFile, partial: Partial, doubted: tuple[Range, ...], sha256: str
) -> None:
    """Send the doubted ranges of a wrong file to quarantine, and ask for just them again.

    Args:
        run: for the stop, the store and the events.
        file: the wrong file.
        partial: where it is.
        doubted: the ranges that no source of this run gave.
        sha256: that of the whole file, "" where it is not known yet: it is read then.

    Raises:
        OSError, StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    found = sha256 or check.digest(file.path, run.context.stop)
    where = " ".join(f"{at}-{end}" for at, end in doubted)
    why = "it was here before, as an unfinished download; the whole file had a wrong checksum"
    note = {**file.quarantine_note, "source": EARLIER_RUN, "bad": where, "why": why}
    folder = quarantine.keep_ranges(run.store, file.path, found, doubted, note)
    words = f"{size_text(sum(end - at for at, end in doubted))} were here before and are downloaded again"
    run.emit(Mismatched(*file.title, file.givers, file.artifact.sha256, found, folder, words))
    _request(partial, replace(partial.info, adopted=None), LEAST_PIECE_BYTES, doubted)


def piece_faults(damage: Damage, found: Attribution, backend: str, source: str) -> tuple[Attempt, ...]:
    """An attempt for each source that gave bad pieces: CORRUPT where it is plain who did.

    Where several gave a bad piece together, the one that was asked (`backend`, `source`) is only set aside.
    """
    if found.blamed:
        hint = "add a mirror and run `orch sync` again: the good pieces are kept, the others downloaded again"
        fault = Fault(Kind.CORRUPT, f"wrong bytes: {damage.words}", hint=hint, mendable=True)
        return tuple(Attempt(program, url, fault) for url, program in found.blamed.items())
    fault = Fault(Kind.UNRESUMABLE, f"wrong bytes from several sources: {damage.words}", mendable=True)
    return (Attempt(backend, source, fault),)
