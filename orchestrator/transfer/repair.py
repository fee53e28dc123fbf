"""A wrong file whose piece hashes are known: which pieces are bad, and a partial that asks for just those."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends import aria2c
from orchestrator.backends.base import Job, Want
from orchestrator.backends.shared import subtract
from orchestrator.events import Mismatched, Noticed
from orchestrator.faults import Fault, Kind
from orchestrator.store import blobs, quarantine
from orchestrator.store.partials import Info
from orchestrator.transfer.retry import Attempt
from orchestrator.verify import check
from orchestrator.verify.pieces import decode

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from orchestrator.model import Artifact, Range
    from orchestrator.store import Store
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.state import Download
    from orchestrator.verify.pieces import Pieces


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


def examine(path: str, artifact: Artifact, stop: threading.Event) -> Damage | None:
    """Read a wrong file and say which pieces are bad; None where that is not known, or no piece is good.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    pieces = decode(artifact.pieces, artifact.size)
    if pieces is None:
        return None
    found, hashes = check.digest_and_pieces(path, pieces.length, stop)
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
    """
    size = damage.pieces.size
    job = Job((Want((), partial.file, size, size),), partial.folder, piece_bytes=damage.pieces.length)
    if path and os.path.lexists(partial.file):
        os.unlink(partial.file)
    partial.info = Info(length=size, repaired=True, condemned=partial.info.condemned)
    partial.change_writer(aria2c.NAME, damage.pieces.length, aria2c.SIDECAR, aria2c.sidecar(job, damage.bad))
    if path and not _move(path, partial.file):
        blobs.copy(path, partial.file)
    os.chmod(partial.file, 0o600)
    os.truncate(partial.file, size)
    _punch(partial.file, damage.bad)


def _move(path: str, target: str) -> bool:
    """Move a file of ours that nobody else has a link to, ready to be written; false where that cannot be."""
    with suppress(OSError):
        status = os.lstat(path)
        if status.st_nlink == 1 and status.st_uid == os.geteuid():  # its owner could write it after it was judged
            os.chmod(path, 0o600)
            os.rename(path, target)
            return True
    return False


def _punch(path: str, ranges: tuple[Range, ...]) -> None:
    """Make holes of bad bytes, so that a judge behind the download knows how far all is good; a help, no more."""
    fd = os.open(path, os.O_WRONLY)
    try:
        with suppress(AttributeError, OSError):
            call = ctypes.CDLL(None).fallocate64
            for start, end in ranges:
                call(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start))
    finally:
        os.close(fd)


EARLIER = "an earlier run"


class Given(NamedTuple):
    """A range that came in this run: by which program, and from which sources, of which one gave it."""

    range: Range
    backend: str
    sources: tuple[str, ...]


def given(before: tuple[Range, ...], after: tuple[Range, ...], backend: str, sources: tuple[str, ...]) -> list[Given]:
    """What a program brought: the ranges that were missing before it and are not after it."""
    return [Given(piece, backend, sources) for piece in subtract(before, after)]


def keep_good(download: Download, backend: str, source: str) -> tuple[Attempt, ...] | None:
    """Of a complete file with wrong bytes keep the good pieces, if they are known; the bad ones are missing again.

    Returns:
        An attempt for each source that gave wrong bytes: CORRUPT where it is plain who did. Where several gave a bad
        piece together, the one that was asked (`backend`, `source`) is only set aside, and from now on each goes
        alone. Empty where they are of an earlier run. None where no piece is known to be good.
    """
    artifact, partial, run = download.artifact, download.on_disk.partial, download.run
    damage = examine(partial.file, artifact, run.context.stop)
    if damage is None:
        if download.has_pieces:
            download.has_pieces = False
            run.emit(Noticed(f"{artifact.name}: its piece hashes do not help: `orch lock --update` makes them anew"))
        return None
    blamed, suspects = _attribute(download, damage.bad)
    whose = " and ".join(dict.fromkeys((*blamed, *suspects)))
    about = {"expected": artifact.sha256, "source": whose, "model": download.talk[0]}
    folder = quarantine_pieces(run.store, partial.file, damage, about)
    run.emit(Mismatched(*download.talk, whose, artifact.sha256, damage.found, folder, damage.words))
    request_pieces(partial, damage)
    was_inherited, download.inherited, download.given, download.repaired = download.inherited, False, [], True
    if blamed:
        hint = "add a mirror and run `orch sync` again: the good pieces are kept, the others are fetched"
        fault = Fault(Kind.CORRUPT, f"wrong bytes: {damage.words}", hint=hint, mendable=True)
        return tuple(Attempt(program, url, fault) for url, program in blamed.items())
    download.part()
    if was_inherited and EARLIER in suspects:
        return ()
    fault = Fault(Kind.UNRESUMABLE, f"wrong bytes from several sources: {damage.words}", mendable=True)
    return (Attempt(backend, source, fault),)


def _attribute(download: Download, bad: tuple[Range, ...]) -> tuple[dict[str, str], list[str]]:
    """Who alone gave something bad, with the program that brought it; and who may have, together with others."""
    blamed: dict[str, str] = {}
    suspects: dict[str, None] = {}
    for hole in bad:
        brought = [g for g in download.given if g.range.start < hole.end and hole.start < g.range.end]
        givers = dict.fromkeys(url for g in brought for url in g.sources)
        if download.inherited and subtract((hole,), tuple(g.range for g in brought)):
            givers[EARLIER] = None
        if len(givers) == 1 and brought:
            blamed[brought[0].sources[0]] = brought[0].backend
        else:
            suspects.update(givers or {EARLIER: None})
    return blamed, [url for url in suspects if url not in blamed]
