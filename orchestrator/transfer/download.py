"""One artifact's whole effort: ask policy, run a backend, diagnose, verify, commit. The only loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import HeldError, NoBackendError, Stopped
from orchestrator.events import Noticed, Waiting
from orchestrator.faults import Kind
from orchestrator.formats.wrong_file import EMPTY, EMPTY_PIN, EMPTY_PIN_HINT
from orchestrator.programs import install_hint
from orchestrator.store import blobs, partials, store
from orchestrator.transfer import disk_full, wrong_sources
from orchestrator.transfer.attempt import try_once
from orchestrator.transfer.explain import despair
from orchestrator.transfer.monitor import book
from orchestrator.transfer.repair import keep_good
from orchestrator.transfer.retry import Attempt, GiveUp, Try, next_step
from orchestrator.transfer.revalidate import glance, here_already, names, still_as_begun
from orchestrator.transfer.state import Effort

if TYPE_CHECKING:
    from orchestrator.model import Artifact
    from orchestrator.transfer.context import Kit

LOCK_POLL_S = 0.5


@dataclass(slots=True)
class Receipt:
    """What a transfer did: bytes that came over the wire, bytes that were here already, and from where.

    `sha256` is the blob's, also where the artifact knew none.
    """

    sha256: str = ""
    bytes_fetched: int = 0
    bytes_reused: int = 0
    backend: str = ""
    source: str = ""
    seconds: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)


def fetch(kit: Kit, artifact: Artifact, receipt: Receipt) -> None:
    """Make the blob of `artifact` exist in the store, verified and sealed; fill in `receipt` on the way.

    Raises:
        TransferError, DigestError: every source and backend was tried; the attempts are the message.
        NoBackendError: no program here serves any of the sources.
        StoreError: the disk is full or read-only.
        HeldError: another orch holds it, and the run does not wait.
        Stopped: a stop was asked for; the partial stays.
    """
    with store.disk(kit.store.path):  # what no attempt accounts for, from the first file here to the last
        _fetch(kit, artifact, receipt)


def _fetch(kit: Kit, artifact: Artifact, receipt: Receipt) -> None:
    partial = _acquire(kit, artifact)
    if partial is None:  # another orch finished it while we waited
        receipt.sha256 = artifact.sha256 or blobs.find(kit.store, artifact.pins)
        return
    try:
        disk_full.check_limit(kit.store, artifact.name, artifact.size)
        effort = Effort(kit, artifact, partial)
    except BaseException:
        partial.release()
        raise
    began, committed = kit.world.monotonic(), False
    try:
        if artifact.is_blind and (sha256 := here_already(effort)):
            receipt.sha256, committed = sha256, True
            return
        receipt.bytes_reused += effort.holding.good_bytes()
        with kit.budget.file(artifact.size or 0) as effort.ticket:
            _loop(effort, receipt)
        receipt.sha256, committed = effort.found, True
    finally:
        effort.drop_stream()
        receipt.bytes_fetched += effort.bytes_fetched
        receipt.seconds = kit.world.monotonic() - began
        if committed:
            partial.discard()
        else:
            partial.release()


def _acquire(kit: Kit, artifact: Artifact) -> partials.Partial | None:
    """Take the right to write, or wait for who has it; None once the blob is there."""
    told = False
    while True:
        sha256 = artifact.sha256 or blobs.find(kit.store, artifact.pins)
        if sha256 and blobs.blob_state(kit.store, sha256, artifact.size) == "sealed":
            return None
        try:
            return partials.acquire(kit.store, artifact.key)
        except HeldError as held:
            if not kit.wait:
                raise
            if not told:
                kit.emit(Noticed(f"{artifact.name}: waiting, {held.message}"))
                told = True
        if kit.world.sleep(LOCK_POLL_S):
            raise Stopped("stopped while waiting for another orch")


def _loop(effort: Effort, receipt: Receipt) -> None:
    kit = effort.kit
    options, effort.attempts = _options(effort), receipt.attempts
    bundled = len(receipt.attempts)  # tries in bundles, which have waited for the host already
    effort.emit_left_out(options)
    if effort.holding.is_complete() and _settle(effort, "", "") is None:
        return
    shunned = wrong_sources.remembered(effort)
    while True:
        options = _options(effort)  # each look, and each source whose answers are odd, may change them
        asked = {url: programs for url, programs in options.items() if url not in shunned}
        step = next_step(asked, receipt.attempts, retries=kit.retries, jitter=kit.world.jitter())
        if isinstance(step, GiveUp) and any(options[url] for url in shunned):
            for url, why in shunned.items():
                kit.emit(Noticed(f"{effort.artifact.name}: {url} is asked last: it gave {why} in an earlier run"))
            wrong_sources.pardon(effort)
            shunned = {}
            continue
        if isinstance(step, GiveUp):
            raise despair(effort, receipt.attempts, step.fault)
        if effort.is_strange(step.source):
            effort.met[step.source] = glance(effort, step.source)
            continue
        if len(receipt.attempts) == bundled:
            step = replace(step, wait_s=0.0)
        _wait(effort, step, receipt)
        attempts = _try(effort, step)
        own = next((attempt.fault for attempt in attempts or () if attempt.source == step.source), None)
        book(effort, step.backend, step.source, own)
        if attempts is None:
            receipt.backend, receipt.source = step.backend, step.source
            return
        for attempt in attempts:
            receipt.attempts.append(attempt)
            effort.doubted.add(attempt.source)
            effort.emit_failed(attempt)
            if attempt.fault.kind is Kind.DISK:
                raise disk_full.full(kit.store, effort.artifact.name, attempt.fault)


def _options(effort: Effort) -> dict[str, tuple[str, ...]]:
    """Each source and the backends that may serve it; first who gave the bytes that an earlier run left.

    Raises:
        NoBackendError: there is none for any of them.
    """
    options, sources = effort.options(), effort.artifact.sources
    if effort.inherited:
        gave = effort.holding.partial.info.sources
        first = [s.url for s in sources if s.url in gave and not effort.known.is_doubtful(s, sources)]
        options = {url: options[url] for url in dict.fromkeys((*first, *options))}
    if not any(options.values()):
        why = effort.obstacles(*options)
        raise NoBackendError(f"{effort.artifact.name}: no usable program: {why}", install_hint(options))
    return options


def _wait(effort: Effort, step: Try, receipt: Receipt) -> None:
    if step.wait_s:
        effort.kit.emit(Waiting(*effort.talk, round(step.wait_s, 1), receipt.attempts[-1].fault.message))
        if effort.kit.world.sleep(step.wait_s):
            raise Stopped("stopped while waiting")


def _try(effort: Effort, step: Try) -> tuple[Attempt, ...] | None:
    """Run one attempt and judge what it left; None when the blob is committed, else who failed, if anybody."""
    holding = effort.holding
    last = next((a.fault for a in reversed(effort.attempts) if a.source == step.source), None)
    if (step.afresh and not (last and last.mendable)) or effort.must_part(step.source):
        _begin_anew(effort, step.source)
    fault = try_once(effort, step.backend, step.source)
    if holding.is_complete() and (fault is None or fault.kind is not Kind.DISK):
        found = _settle(effort, step.backend, step.source)  # whatever the exit code: it proves nothing either way
    elif holding.is_too_long():
        found = _settle(effort, step.backend, step.source)
    else:
        assert fault is not None
        fault = disk_full.sharpen(fault, holding.partial.folder, holding.partial.have)
        found = (Attempt(step.backend, step.source, fault),)
    effort.drop_stream()
    if found is None:
        return None
    good = holding.good_bytes()
    gained, effort.reached = max(0, good - effort.reached), max(good, effort.reached)
    return tuple(replace(attempt, gained_bytes=gained, waited_s=step.wait_s, afresh=step.afresh) for attempt in found)


def _begin_anew(effort: Effort, source: str) -> None:
    """Throw all away for a source. Twice for the same one is no progress: two sources would take turns for ever."""
    effort.empty()
    if source not in effort.begun:
        effort.begun.add(source)
        effort.reached = 0


def _settle(effort: Effort, backend: str, source: str) -> tuple[Attempt, ...] | None:
    """Check the complete file: commit it when its digests fit (None), send its wrong bytes to quarantine when not.

    Gives an attempt for each source that is to blame, `source` or another; none where it was an earlier run.
    """
    store, artifact, path = effort.kit.store, effort.artifact, effort.holding.partial.file
    if artifact.is_blind and effort.holding.is_too_long():
        return (Attempt(backend, source, effort.banish()),)
    if artifact.is_blind and (doubt := still_as_begun(effort)):
        return (Attempt(backend, source, doubt),)
    sha256 = effort.prove()
    if not sha256:
        kept = keep_good(effort, backend, source)
        attempts = kept if kept is not None else (Attempt(backend, source, effort.banish()),)
        wrong_sources.remember(effort, attempts)
        return attempts
    effort.emit_verified(sha256)
    if (notice := artifact.misjudged(effort.holding.partial.have)) is not None:
        effort.kit.emit(Noticed(notice))
    if sha256 in EMPTY and artifact.size is None:
        effort.kit.emit(Noticed(f"{artifact.name}: {EMPTY_PIN}; if it is not meant to be empty, {EMPTY_PIN_HINT}"))
    # Named before it is there: a run that ends between the two leaves a name that leads nowhere yet, not a blob that
    # nobody knows to be this one, and the partial is still here.
    blobs.learn(store, sha256, names(effort))
    blobs.commit(store, [(path, sha256)])
    effort.found = sha256
    return None
