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
from orchestrator.errors import HeldError, Stopped
from orchestrator.events import Failed, Mismatched, Noticed, Progressed, Started, Verified, Waiting
from orchestrator.faults import Fault, Kind
from orchestrator.files import store_error
from orchestrator.formats import wrong_file
from orchestrator.process import run
from orchestrator.store import blobs, partials, quarantine
from orchestrator.store.store import disk
from orchestrator.transfer.attempt import environment
from orchestrator.transfer.context import Finding
from orchestrator.transfer.disk_full import check_limit, full, sharpen
from orchestrator.transfer.download import LOCK_POLL_S
from orchestrator.transfer.monitor import PROGRESS_S
from orchestrator.transfer.retry import MIN_GAIN_BYTES, Attempt
from orchestrator.transfer.shown import shown_command, without_login
from orchestrator.urls import host_of
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.backends.base import Backend, Exit
    from orchestrator.errors import OrchError
    from orchestrator.model import Artifact
    from orchestrator.sources.route import Reach
    from orchestrator.transfer.context import Kit
    from orchestrator.transfer.download import Receipt
    from orchestrator.verify.check import Verdict


OVERRUN_BYTES = 4 << 20  # beyond all sizes together: what the program reports is written as well
LEAST = 8  # small files live by round trips: a share by their bytes would starve them

_OF_ALL = (Kind.NETWORK, Kind.STALLED, Kind.TLS, Kind.BROKEN)  # what else a program tells is one file's matter


def fetch_together(kit: Kit, backend: Backend, way: Reach, loads: Sequence[Load], receipt: Receipt) -> None:
    """Make blobs of as many as one run of `backend` on their `url` brings; each load says what became of it.

    Raises:
        StoreError: the disk is full or read-only.
        Stopped: a stop was asked for; what was fetched stays.
    """
    began = kit.world.monotonic()
    _wait(kit, loads)
    waiting, told = {load.artifact.key: load for load in loads}, False
    try:
        while waiting:
            bundle, held = partials.acquire_batch(kit.store, {key: load.size for key, load in waiting.items()})
            # Only now: who had them may have finished just before.
            for key in [key for key, load in waiting.items() if is_here(kit, load)]:
                waiting.pop(key).came = "here"
            if bundle is not None:
                mine = [load for key, load in waiting.items() if key not in held]
                _Carrier(kit, backend, way, bundle, mine, receipt).carry()
            waiting = {key: load for key, load in waiting.items() if key in held}
            if waiting and not kit.wait:
                for key, load in waiting.items():
                    load.error = held[key]
                return
            if waiting:
                _tell_who(kit, waiting, held, told=told)
                told = True
                if kit.world.sleep(LOCK_POLL_S):
                    raise Stopped("stopped while waiting for another orch")
    finally:
        receipt.seconds = kit.world.monotonic() - began


def _wait(kit: Kit, loads: Sequence[Load]) -> None:
    """Wait once for all of them, where the host failed before."""
    load = max(loads, key=lambda load: load.wait_s)
    if load.wait_s:
        wanted = load.artifact.wanted[0]
        kit.emit(Waiting(wanted.model, wanted.file, round(load.wait_s, 1), load.attempts[-1].fault.message))
        if kit.world.sleep(load.wait_s):
            raise Stopped("stopped while waiting")


def _tell_who(kit: Kit, waiting: dict[str, Load], held: dict[str, HeldError], *, told: bool) -> None:
    if not told:
        key, load = next(iter(waiting.items()))
        more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        kit.emit(Noticed(f"{load.artifact.name}{more}: waiting, {held[key].message}"))


class _Carrier:
    """One bundle's folder and the loads that go into it."""

    def __init__(
        self, kit: Kit, backend: Backend, way: Reach, bundle: partials.BatchFolder, loads: list[Load], receipt: Receipt
    ) -> None:
        self._kit, self._backend, self._way, self._bundle = kit, backend, way, bundle
        self._loads, self._receipt = loads, receipt
        self._blamed: set[int] = set()  # loads whose own bytes were wrong

    def carry(self) -> None:
        """Run the program for what is not here, judge all that is, commit what is right."""
        finished = False
        for load in self._loads:
            load.host_failed = False
        try:
            for load in self._loads:  # none at all where who had them finished just before
                check_limit(self._kit.store, load.artifact.name, load.size)
            here = self._whole()
            before = {id(load) for load in here}
            self._receipt.bytes_reused += sum(load.size for load in here)
            absent = [load for load in self._loads if id(load) not in before]
            fault = self._run(absent) if absent else None
            if fault is not None:
                fault = sharpen(fault, self._bundle.folder, max(self._bundle.sizes().values(), default=0))
            if fault is not None and fault.kind is Kind.DISK:
                raise full(self._kit.store, absent[0].artifact.name, fault)
            self._judge(self._ended(), before)
            if fault is not None and fault.kind in _OF_ALL:
                self._blame_host(absent, fault)
            finished = True
        except OSError:
            with disk(self._kit.store.path):
                raise
        finally:
            if finished:
                self._bundle.discard()
            else:
                self._bundle.close()

    def _whole(self) -> list[Load]:
        """The loads whose file is here with the right size: one listing."""
        sizes = self._bundle.sizes()
        return [load for load in self._loads if sizes.get(load.artifact.key) == load.size]

    def _ended(self) -> list[Load]:
        """The loads whose file is here, whatever its size: a digest says more than a manifest's `size:`."""
        sizes = self._bundle.sizes()
        begun = {name.removesuffix(aria2c.SIDECAR) for name in sizes if name.endswith(aria2c.SIDECAR)}
        return [load for load in self._loads if load.artifact.key in sizes.keys() - begun]

    def _run(self, loads: list[Load]) -> Fault | None:
        kit, url = self._kit, loads[0].url
        with (
            kit.budget.file(sum(load.size for load in loads)) as ticket,
            kit.budget.connections(kit.world, host_of(url), ticket, self._way.connections, least=LEAST) as number,
        ):
            return self._run_with(loads, min(number, len(loads)))

    def _run_with(self, loads: list[Load], connections: int) -> Fault | None:
        kit, backend, bundle = self._kit, self._backend, self._bundle
        program = kit.programs[backend.NAME].path
        job = Job(
            wants=tuple(Want((load.url,), bundle.file(load.artifact.key), load.size, 0) for load in loads),
            folder=bundle.folder,
            connections=connections,
            timeout_s=max(4, int(kit.stall_s)),
            ca=self._way.ca,
            proxy=self._way.proxy,
            user_agent=self._way.user_agent,
            bearer=self._way.bearer,
        )
        first, size = loads[0], sum(load.size for load in loads)
        name = (first.artifact.wanted[0].model, first.artifact.wanted[0].file)
        shown = shown_command(backend, job, program)
        kit.emit(Started(*name, backend.NAME, first.url, shown, 0, size, files=len(loads)))
        exit_: Exit | None = None
        try:
            exit_ = run(
                backend.command(job),
                program,
                stop=kit.world.stop,
                folder=job.folder,
                environ=environment(kit.world.environ),
                watch=_Watch(kit, name, size, len(loads)),
                stall_s=kit.stall_s,
                keep_fd=bundle.guard_fd,
            )
        finally:
            sizes = bundle.sizes()
            landed = sum(sizes.get(load.artifact.key, 0) for load in loads)
            self._receipt.bytes_fetched += landed
        kit.emit(Progressed(*name, min(landed, size), size, len(loads)))
        if exit_.ended == "stopped":
            raise Stopped("stopped; what was fetched is kept")
        fault = backend.diagnose(job, exit_)
        return fault and replace(fault, message=without_login(fault.message, self._way.proxy))

    def _judge(self, whole: list[Load], before: set[int]) -> None:
        """One check for all; the good ones become blobs in one commit, the wrong ones go to quarantine."""
        kit, sizes = self._kit, self._bundle.sizes()
        paths = [self._bundle.file(load.artifact.key) for load in whole]
        pairs = zip(whole, paths, strict=True)
        pinned = [(load.artifact.sha256, p) for load, p in pairs if load.artifact.sha256]
        judged = check.check(kit.world, pinned, kit.stall_s)
        if line := check.complaint(judged, kit.told):
            kit.emit(Noticed(line))
        verdicts = iter(judged)
        found = [self._fits(load, path, verdicts) for load, path in zip(whole, paths, strict=True)]
        for load, sha256 in zip(whole, found, strict=True):
            if sha256:  # named before it is there, as in the loop
                blobs.learn(kit.store, sha256, load.artifact.pins)
        blobs.commit(kit.store, [(path, sha256) for path, sha256 in zip(paths, found, strict=True) if sha256])
        for load, path, sha256 in zip(whole, paths, found, strict=True):
            artifact, wanted = load.artifact, load.artifact.wanted[0]
            if sha256:
                load.artifact = msgspec.structs.replace(artifact, sha256=sha256)
                load.came = "here" if id(load) in before else "wire"
                kit.emit(Verified(wanted.model, wanted.file, sha256))
                if (notice := artifact.misjudged(sizes[artifact.key])) is not None:
                    kit.emit(Noticed(notice))
                continue
            if sizes[artifact.key] != load.size:
                continue  # cut off, or another file: the loop looks at the source
            source = "an earlier run" if id(load) in before else load.url
            digest = check.digest(path, kit.world.stop)
            what = check.look_into(path, wrong_file.wish(wanted))
            about = {"expected": artifact.expected, "source": source, "model": wanted.model}
            folder = quarantine.banish(kit.store, path, digest, about)
            kit.emit(Mismatched(wanted.model, wanted.file, source, artifact.expected, digest, folder, what.words))
            if id(load) not in before:
                self._blame(load, Fault(Kind.CORRUPT, artifact.contradicted(digest, what.after), hint=what.hint))

    def _fits(self, load: Load, path: str, verdicts: Iterator[Verdict]) -> str:
        """The sha256 of a right file; empty for a wrong one.

        Raises:
            StoreError: it cannot be read.
        """
        if load.artifact.sha256:
            verdict = next(verdicts)
            if verdict.error is not None:
                raise store_error(verdict.error, path)
            if not verdict.is_good:
                return ""
        return self._prove(load, path)

    def _prove(self, load: Load, path: str) -> str:
        """The sha256 of a file that fits its own, if it has one, and all its pins; else empty."""
        artifact, findings = load.artifact, self._kit.findings
        if not artifact.pins and findings is None:
            return artifact.sha256
        found = check.digests(path, [pin.kind for pin in artifact.pins], stop=self._kit.world.stop)
        if not found.fit(artifact.sha256, artifact.pins):
            return ""
        if findings is not None:
            findings[artifact.key] = Finding(found, load.url, "")
        return found.sha256

    def _blame_host(self, absent: list[Load], fault: Fault) -> None:
        """Book a fault that ended all of it on each file that is still wanted, and tell it once."""
        came = sum(load.size for load in absent if load.came)
        gained = max(came, MIN_GAIN_BYTES) if any(load.came for load in absent) else 0  # a whole file is progress
        left = [load for load in absent if not load.came and id(load) not in self._blamed]
        for load in left:
            load.host_failed = True
            load.attempts.append(Attempt(self._backend.NAME, load.url, fault, gained, load.wait_s))
        if left:
            self._tell(absent[0], fault)

    def _blame(self, load: Load, fault: Fault) -> None:
        """Book an attempt, as the loop will read it."""
        self._blamed.add(id(load))
        load.attempts.append(Attempt(self._backend.NAME, load.url, fault))
        self._tell(load, fault)

    def _tell(self, load: Load, fault: Fault) -> None:
        wanted = load.artifact.wanted[0]
        self._kit.emit(
            Failed(wanted.model, wanted.file, self._backend.NAME, load.url, fault.kind.value, fault.message, 0)
        )


class _Watch:
    """Called some five times a second: progress by the bytes written, which costs nothing however many files."""

    def __init__(self, kit: Kit, name: tuple[str, str], size: int, files: int) -> None:
        self._kit, self._name, self._size, self._files = kit, name, size, files
        self._told = kit.world.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        if written_bytes > self._size + OVERRUN_BYTES:
            return "overrun"
        now = self._kit.world.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            self._kit.emit(Progressed(*self._name, min(written_bytes, self._size), self._size, self._files))
        return None


@dataclass(slots=True)
class Load:
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


def is_here(kit: Kit, load: Load) -> bool:
    """Whether the store has a load's bytes; their sha256 is known then."""
    artifact = load.artifact
    sha256 = artifact.sha256 or blobs.find(kit.store, artifact.pins)
    if blobs.blob_state(kit.store, sha256, load.size) != "sealed":
        return False
    load.artifact = msgspec.structs.replace(artifact, sha256=sha256)
    return True
