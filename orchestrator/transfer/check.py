"""Finished files: verify them, commit the right ones, move the wrong ones to quarantine and name their source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.events import Mismatched, Noticed, Verified
from orchestrator.faults import Fault, Kind
from orchestrator.files import store_error
from orchestrator.formats import wrong_file
from orchestrator.store import blobs, quarantine
from orchestrator.transfer.run_context import FirstSeen
from orchestrator.verify import check
from orchestrator.verify.check import Digests
from orchestrator.verify.stream import StreamVerdict
from orchestrator.verify.tools import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.model import Artifact, Pin
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.verify.check import Verdict
    from orchestrator.verify.tools import ChecksumTool

EARLIER_RUN = "an earlier run"  # who gave bytes that were here before this run, as events say it


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedFile:
    """A file that seems to be complete.

    `sources` are the URLs that gave its bytes, in order; `is_inherited`: some are of an earlier run. `source` is the
    URL that the run's findings name for it, `etag` what that one called this version. `names` are the pins that its
    bytes are known by from now on. `size` is the one that it must have, in bytes: None where a digest alone decides.
    `streamed` is what a checksum program said of it that read it while it was written.
    """

    artifact: Artifact
    path: str
    sources: tuple[str, ...]
    source: str
    is_inherited: bool = False
    etag: str = ""
    names: tuple[Pin, ...] = ()
    size: int | None = None
    streamed: StreamVerdict = StreamVerdict.UNKNOWN

    @property
    def givers(self) -> str:
        """Who gave its bytes, in words."""
        return " and ".join((*self.sources, *((EARLIER_RUN,) if self.is_inherited or not self.sources else ())))

    @property
    def title(self) -> tuple[str, str]:
        """Model and file, as events name them."""
        first = self.artifact.wanted[0]
        return first.model, first.file

    @property
    def quarantine_note(self) -> dict[str, str]:
        """What is written beside wrong bytes of it."""
        source = " ".join(self.sources) or EARLIER_RUN
        return {"expected": self.artifact.expected, "source": source, "model": self.title[0]}


class Checked(NamedTuple):
    """The result of one file: its sha256, "" where it is wrong; then `found` are its digests, where they are known."""

    sha256: str
    found: Digests | None = None


def check_files(run: RunContext, files: Sequence[FinishedFile], since_fd: int | None = None) -> list[Checked]:
    """Verify files and make blobs of those that are right, in one commit.

    Args:
        run: the run.
        files: those that seem to be complete.
        since_fd: an open file beside them that is older than each of their bytes; None: there is none.

    Returns:
        The result of each; what is wrong is still where it was.

    Raises:
        StoreError: one cannot be read, or the disk is full or read-only.
        Stopped: a stop was asked for.
    """
    checked = _verify(run, files)
    right = [(file, sha256) for file, (sha256, _) in zip(files, checked, strict=True) if sha256]
    sizes = [os.stat(file.path).st_size for file, _ in right]
    # Named before it is there: a run that ends between the two leaves a name that leads nowhere yet, not a blob that
    # nobody knows to be this one, and the partial is still here.
    for file, sha256 in right:
        blobs.learn(run.store, sha256, file.names)
    new = [(file.path, sha256) for file, sha256 in right if not _is_stored(run, file, sha256)]
    blobs.commit(run.store, new, since_fd)
    for (file, sha256), size in zip(right, sizes, strict=True):
        artifact = file.artifact
        run.emit(Verified(*file.title, sha256))
        if (notice := artifact.misjudged(size)) is not None:
            run.emit(Noticed(notice))
        if sha256 in wrong_file.EMPTY and artifact.size is None:
            hint = f"if it is not meant to be empty, {wrong_file.EMPTY_PIN_HINT}"
            run.emit(Noticed(f"{artifact.name}: {wrong_file.EMPTY_PIN}; {hint}"))
    return checked


def _is_stored(run: RunContext, file: FinishedFile, sha256: str) -> bool:
    """Whether a file whose digest nobody knew before is in the store already: its blob is read, and stays if right.

    A new blob would take its name, and the places that are hard links of it would take room of their own.
    """
    if file.artifact.sha256 or blobs.blob_state(run.store, sha256, None) != "sealed":
        return False
    blob = run.store.blob(sha256)
    size = _size(blob)
    with run.reading("verifying", *file.title, size) as context:
        if not check.check_one(context, _judge(run, size), sha256, blob, run.stall_s).is_good:
            return False
    os.unlink(file.path)
    return True


def _verify(run: RunContext, files: Sequence[FinishedFile]) -> list[Checked]:
    """The result of each file. One run of a checksum program reads all that have a sha256."""
    unread = [file for file in files if file.artifact.sha256 and file.streamed is not StreamVerdict.GOOD]
    verdicts = _read(run, unread)
    if line := check.complaint(verdicts, run.told):
        run.emit(Noticed(line))
    wrong = {}
    for file, verdict in zip(unread, verdicts, strict=True):
        if verdict.error is not None:
            raise store_error(verdict.error, file.path)
        if not verdict.is_good:
            wrong[file.path] = Checked("", Digests(verdict.sha256, _size(file.path)) if verdict.sha256 else None)
    return [wrong.get(file.path) or _compute(run, file) for file in files]


def _read(run: RunContext, files: Sequence[FinishedFile]) -> list[Verdict]:
    if not files:
        return []
    sizes = [_size(file.path) for file in files]
    with run.reading("verifying", *files[0].title, sum(sizes)) as context:
        if len(files) != 1:
            return check.check(context, [(file.artifact.sha256, file.path) for file in files], run.stall_s)
        sha256, path = files[0].artifact.sha256, files[0].path
        if files[0].streamed is StreamVerdict.MISMATCH:  # what it was fed may not be what is there: we read it, once
            return [check.compare(sha256, path, context.stop, reading=context.reading)]
        return [check.check_one(context, _judge(run, sizes[0]), sha256, path, run.stall_s)]


def _judge(run: RunContext, size: int) -> ChecksumTool | None:
    """The tool that reads one file of so many bytes."""
    return run.judge() if run.judge is not None and size >= LARGE_BYTES else None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # whoever reads it says why it cannot


def _compute(run: RunContext, file: FinishedFile) -> Checked:
    """The result of a file whose sha256 is right, if it has one: all its pins must fit too.

    What was found is noted in the run's findings, where it keeps any.
    """
    artifact, findings = file.artifact, run.findings
    if artifact.sha256 and not artifact.pins and findings is None:
        return Checked(artifact.sha256)
    kinds = [pin.kind for pin in artifact.pins]
    with run.reading("hashing", *file.title, _size(file.path)) as context:
        found = check.digests(file.path, kinds, pieces=findings is not None, stop=context.stop, reading=context.reading)
    if not found.fit(artifact.sha256, artifact.pins, file.size):
        return Checked("", found)
    if artifact.is_unpinned and check.diagnose_file(file.path, wrong_file.expected_file(artifact.wanted[0])):
        return Checked("", found)  # a page, a pointer, a file that was cut off: nobody means to pin those
    if findings is not None:
        findings[artifact.key] = FirstSeen(found, file.source, file.etag)
    return Checked(found.sha256)


def quarantine_file(run: RunContext, file: FinishedFile, found: Digests | None = None) -> Fault:
    """Send wrong bytes to quarantine and tell who gave them; they are read where their digests were not `found` yet.

    Returns:
        The fault of a source that gave all of them.

    Raises:
        OSError: they cannot be read.
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    artifact = file.artifact
    kinds = [] if artifact.sha256 else [pin.kind for pin in artifact.pins]
    digests = found or check.digests(file.path, kinds, stop=run.context.stop)
    sha256, pins = digests.sha256, "" if artifact.sha256 else " ".join(map(str, digests.pins))
    what = check.diagnose_file(file.path, wrong_file.expected_file(artifact.wanted[0]))
    folder = quarantine.move_in(run.store, file.path, sha256, file.quarantine_note)
    run.emit(Mismatched(*file.title, file.givers, artifact.expected, sha256, folder, what.words, pins))
    return Fault(Kind.CORRUPT, artifact.contradicted(sha256, what.after), hint=what.hint)
