"""Many small files of one host by one program, proved by one sha256sum, made durable together.

A bundle asks each source once. What it leaves over is not its business: another bundle's, or the loop's. What ends the
program as a whole is the host's fault, waited for once and not file by file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.backends import aria2c
from orchestrator.backends.base import Job, Want
from orchestrator.errors import Stopped
from orchestrator.events import Failed, Mismatched, Noticed, Progressed, Started, Verified, Waiting
from orchestrator.faults import Fault, Kind
from orchestrator.files import store_error
from orchestrator.formats import wrong_file
from orchestrator.process import run_program
from orchestrator.store import blobs, partials, quarantine
from orchestrator.store.store import disk
from orchestrator.transfer.acquire import acquire
from orchestrator.transfer.attempt import environment
from orchestrator.transfer.context import FirstSeen
from orchestrator.transfer.disk_full import check_limit, full, refine_fault
from orchestrator.transfer.masking import shown_command, without_login
from orchestrator.transfer.monitor import PROGRESS_S
from orchestrator.transfer.retry import MIN_GAIN_BYTES, Attempt
from orchestrator.urls import host_of
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.backends.base import Backend, Exit
    from orchestrator.errors import HeldError, OrchError
    from orchestrator.model import Artifact
    from orchestrator.sources.route import Route
    from orchestrator.transfer.context import RunContext
    from orchestrator.transfer.download import Receipt
    from orchestrator.verify.check import Verdict


OVERRUN_BYTES = 4 << 20  # beyond all sizes together: what the program reports is written as well
LEAST = 8  # small files live by round trips: a share by their bytes would starve them

_OF_ALL = (Kind.NETWORK, Kind.STALLED, Kind.TLS, Kind.BROKEN)  # what else a program tells is one file's matter


def fetch_batch(run: RunContext, backend: Backend, way: Route, items: Sequence[BatchItem], receipt: Receipt) -> None:
    """Make blobs of as many as one run of `backend` on their `url` brings; each load says what became of it.

    Raises:
        StoreError: the disk is full or read-only.
        Stopped: a stop was asked for; what was fetched stays.
    """
    began = run.context.monotonic()
    _wait(run, items)
    by_key = {item.artifact.key: item for item in items}

    def take(wanted: tuple[Artifact, ...]) -> tuple[partials.BatchFolder | None, Mapping[str, HeldError]]:
        return partials.acquire_batch(run.store, {each.key: by_key[each.key].size for each in wanted})

    try:
        for round_ in acquire(run, [item.artifact for item in items], take):
            for key, sha256 in round_.stored.items():
                item = by_key[key]
                item.artifact, item.came = msgspec.structs.replace(item.artifact, sha256=sha256), "here"
            for key, error in round_.held.items():
                by_key[key].error = error
            if round_.folder is not None:
                _BatchRun(run, backend, way, round_.folder, [by_key[key] for key in round_.mine], receipt).carry()
    finally:
        receipt.seconds = run.context.monotonic() - began


def _wait(run: RunContext, items: Sequence[BatchItem]) -> None:
    """Wait once for all of them, where the host failed before."""
    item = max(items, key=lambda item: item.wait_s)
    if item.wait_s:
        wanted = item.artifact.wanted[0]
        run.emit(Waiting(wanted.model, wanted.file, round(item.wait_s, 1), item.attempts[-1].fault.message))
        if run.context.sleep(item.wait_s):
            raise Stopped("stopped while waiting")


class _BatchRun:
    """One bundle's folder and the loads that go into it."""

    def __init__(
        self,
        run: RunContext,
        backend: Backend,
        way: Route,
        bundle: partials.BatchFolder,
        items: list[BatchItem],
        receipt: Receipt,
    ) -> None:
        self._run, self._backend, self._way, self._bundle = run, backend, way, bundle
        self._items, self._receipt = items, receipt
        self._blamed: set[int] = set()  # loads whose own bytes were wrong

    def carry(self) -> None:
        """Run the program for what is not here, judge all that is, commit what is right."""
        finished = False
        for item in self._items:
            item.host_failed = False
        try:
            for item in self._items:  # none at all where who had them finished just before
                check_limit(self._run.store, item.artifact.name, item.size)
            here = self._whole()
            before = {id(item) for item in here}
            self._receipt.bytes_reused += sum(item.size for item in here)
            absent = [item for item in self._items if id(item) not in before]
            fault = self._run_program(absent) if absent else None
            if fault is not None:
                fault = refine_fault(fault, self._bundle.folder, max(self._bundle.sizes().values(), default=0))
            if fault is not None and fault.kind is Kind.DISK:
                raise full(self._run.store, absent[0].artifact.name, fault)
            self._judge(self._ended(), before)
            if fault is not None and fault.kind in _OF_ALL:
                self._blame_host(absent, fault)
            finished = True
        except OSError:
            with disk(self._run.store.path):
                raise
        finally:
            if finished:
                self._bundle.discard()
            else:
                self._bundle.close()

    def _whole(self) -> list[BatchItem]:
        """The loads whose file is here with the right size: one listing."""
        sizes = self._bundle.sizes()
        return [item for item in self._items if sizes.get(item.artifact.key) == item.size]

    def _ended(self) -> list[BatchItem]:
        """The loads whose file is here, whatever its size: a digest says more than a manifest's `size:`."""
        sizes = self._bundle.sizes()
        begun = {name.removesuffix(aria2c.SIDECAR) for name in sizes if name.endswith(aria2c.SIDECAR)}
        return [item for item in self._items if item.artifact.key in sizes.keys() - begun]

    def _run_program(self, items: list[BatchItem]) -> Fault | None:
        run, url = self._run, items[0].url
        with (
            run.connection_limits.file(sum(item.size for item in items)) as ticket,
            run.connection_limits.connections(
                run.context, host_of(url), ticket, self._way.connections, least=LEAST
            ) as number,
        ):
            return self._run_with(items, min(number, len(items)))

    def _run_with(self, items: list[BatchItem], connections: int) -> Fault | None:
        run, backend, bundle = self._run, self._backend, self._bundle
        program = run.programs[backend.NAME].path
        job = Job(
            wants=tuple(Want((item.url,), bundle.file(item.artifact.key), item.size, 0) for item in items),
            folder=bundle.folder,
            connections=connections,
            timeout_s=max(4, int(run.stall_s)),
            ca=self._way.ca,
            proxy=self._way.proxy,
            user_agent=self._way.user_agent,
            bearer=self._way.bearer,
        )
        first, size = items[0], sum(item.size for item in items)
        name = (first.artifact.wanted[0].model, first.artifact.wanted[0].file)
        shown = shown_command(backend, job, program)
        run.emit(Started(*name, backend.NAME, first.url, shown, 0, size, files=len(items)))
        exit_: Exit | None = None
        try:
            exit_ = run_program(
                backend.command(job),
                program,
                stop=run.context.stop,
                folder=job.folder,
                environ=environment(run.context.environ),
                watch=_BatchMonitor(run, name, size, len(items)),
                stall_s=run.stall_s,
                keep_fd=bundle.guard_fd,
            )
        finally:
            sizes = bundle.sizes()
            landed = sum(sizes.get(item.artifact.key, 0) for item in items)
            self._receipt.bytes_fetched += landed
        run.emit(Progressed(*name, min(landed, size), size, len(items)))
        if exit_.ended == "stopped":
            raise Stopped("stopped; what was fetched is kept")
        fault = backend.diagnose(job, exit_)
        return fault and replace(fault, message=without_login(fault.message, self._way.proxy))

    def _judge(self, whole: list[BatchItem], before: set[int]) -> None:
        """One check for all; the good ones become blobs in one commit, the wrong ones go to quarantine."""
        run, sizes = self._run, self._bundle.sizes()
        paths = [self._bundle.file(item.artifact.key) for item in whole]
        pairs = zip(whole, paths, strict=True)
        pinned = [(item.artifact.sha256, p) for item, p in pairs if item.artifact.sha256]
        judged = check.check(run.context, pinned, run.stall_s)
        if line := check.complaint(judged, run.told):
            run.emit(Noticed(line))
        verdicts = iter(judged)
        found = [self._fits(item, path, verdicts) for item, path in zip(whole, paths, strict=True)]
        for item, sha256 in zip(whole, found, strict=True):
            if sha256:  # named before it is there, as in the loop
                blobs.learn(run.store, sha256, item.artifact.pins)
        blobs.commit(run.store, [(path, sha256) for path, sha256 in zip(paths, found, strict=True) if sha256])
        for item, path, sha256 in zip(whole, paths, found, strict=True):
            artifact, wanted = item.artifact, item.artifact.wanted[0]
            if sha256:
                item.artifact = msgspec.structs.replace(artifact, sha256=sha256)
                item.came = "here" if id(item) in before else "wire"
                run.emit(Verified(wanted.model, wanted.file, sha256))
                if (notice := artifact.misjudged(sizes[artifact.key])) is not None:
                    run.emit(Noticed(notice))
                continue
            if sizes[artifact.key] != item.size:
                continue  # cut off, or another file: the loop looks at the source
            source = "an earlier run" if id(item) in before else item.url
            digest = check.digest(path, run.context.stop)
            what = check.diagnose_file(path, wrong_file.expected_file(wanted))
            about = {"expected": artifact.expected, "source": source, "model": wanted.model}
            folder = quarantine.move_in(run.store, path, digest, about)
            run.emit(Mismatched(wanted.model, wanted.file, source, artifact.expected, digest, folder, what.words))
            if id(item) not in before:
                self._blame(item, Fault(Kind.CORRUPT, artifact.contradicted(digest, what.after), hint=what.hint))

    def _fits(self, item: BatchItem, path: str, verdicts: Iterator[Verdict]) -> str:
        """The sha256 of a right file; empty for a wrong one.

        Raises:
            StoreError: it cannot be read.
        """
        if item.artifact.sha256:
            verdict = next(verdicts)
            if verdict.error is not None:
                raise store_error(verdict.error, path)
            if not verdict.is_good:
                return ""
        return self._prove(item, path)

    def _prove(self, item: BatchItem, path: str) -> str:
        """The sha256 of a file that fits its own, if it has one, and all its pins; else empty."""
        artifact, findings = item.artifact, self._run.findings
        if not artifact.pins and findings is None:
            return artifact.sha256
        found = check.digests(path, [pin.kind for pin in artifact.pins], stop=self._run.context.stop)
        if not found.fit(artifact.sha256, artifact.pins):
            return ""
        if findings is not None:
            findings[artifact.key] = FirstSeen(found, item.url, "")
        return found.sha256

    def _blame_host(self, absent: list[BatchItem], fault: Fault) -> None:
        """Book a fault that ended all of it on each file that is still wanted, and tell it once."""
        came = sum(item.size for item in absent if item.came)
        gained = max(came, MIN_GAIN_BYTES) if any(item.came for item in absent) else 0  # a whole file is progress
        left = [item for item in absent if not item.came and id(item) not in self._blamed]
        for item in left:
            item.host_failed = True
            item.attempts.append(Attempt(self._backend.NAME, item.url, fault, gained, item.wait_s))
        if left:
            self._tell(absent[0], fault)

    def _blame(self, item: BatchItem, fault: Fault) -> None:
        """Book an attempt, as the loop will read it."""
        self._blamed.add(id(item))
        item.attempts.append(Attempt(self._backend.NAME, item.url, fault))
        self._tell(item, fault)

    def _tell(self, item: BatchItem, fault: Fault) -> None:
        wanted = item.artifact.wanted[0]
        self._run.emit(
            Failed(wanted.model, wanted.file, self._backend.NAME, item.url, fault.kind.value, fault.message, 0)
        )


class _BatchMonitor:
    """Called some five times a second: progress by the bytes written, which costs nothing however many files."""

    def __init__(self, run: RunContext, name: tuple[str, str], size: int, files: int) -> None:
        self._run, self._name, self._size, self._files = run, name, size, files
        self._told = run.context.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        if written_bytes > self._size + OVERRUN_BYTES:
            return "overrun"
        now = self._run.context.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self._run.emit(Progressed(*self._name, min(written_bytes, self._size), self._size, self._files))
        return None


@dataclass(slots=True)
class BatchItem:
    """One small file, of known size: what was tried for it, and where its bytes come from now.

    `came` is how the blob came to be: over the wire, from here, or not at all yet; `error` what no other way mends.
    `host_failed`: what ended its last bundle was no matter of this file alone. `wait_s` is waited before the next one.
    """

    artifact: Artifact
    url: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    came: Literal["", "wire", "here"] = ""
    error: OrchError | None = None
    host_failed: bool = False
    wait_s: float = 0.0

    @property
    def size(self) -> int:
        """The size in bytes."""
        assert self.artifact.size is not None
        return self.artifact.size
