"""One artifact's whole effort: ask policy, run a backend, diagnose, verify, commit. The only loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import DigestError, HeldError, NoBackendError, OrchError, StoreError, TransferError
from orchestrator.events import Noticed, Waiting
from orchestrator.faults import Fault, Kind
from orchestrator.policy import Attempt, GiveUp, Try, next_step
from orchestrator.programs import install_hint
from orchestrator.store import aliases, blobs, partials
from orchestrator.transfer.attempt import try_once
from orchestrator.transfer.effort import Effort
from orchestrator.transfer.glance import still_as_begun
from orchestrator.transfer.pace import book

if TYPE_CHECKING:
    from orchestrator.model import Artifact
    from orchestrator.transfer.kit import Kit

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
        InterruptedError: a stop was asked for; the partial stays.
    """
    partial = _acquire(kit, artifact)
    if partial is None:  # another orch finished it while we waited
        receipt.sha256 = artifact.sha256 or aliases.find(kit.store, artifact.pins)
        return
    effort = Effort(kit, artifact, partial)
    began, committed = kit.world.monotonic(), False
    try:
        receipt.bytes_reused += effort.holding.good_bytes()
        with kit.budget.file(artifact.size or 0) as effort.ticket:
            _loop(effort, receipt)
        receipt.sha256, committed = effort.found, True
    finally:
        effort.drop_stream()
        receipt.bytes_fetched += effort.bytes_fetched
        receipt.seconds = kit.world.monotonic() - began
        if committed or not partial.have:
            partial.discard()
        else:
            partial.close()


def _acquire(kit: Kit, artifact: Artifact) -> partials.Partial | None:
    """Take the right to write, or wait for who has it; None once the blob is there."""
    told = False
    while True:
        sha256 = artifact.sha256 or aliases.find(kit.store, artifact.pins)
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
            raise InterruptedError("stopped while waiting for another orch")


def _loop(effort: Effort, receipt: Receipt) -> None:
    kit = effort.kit
    options, effort.attempts = effort.options(), receipt.attempts
    if not any(options.values()):
        why = effort.obstacles(*options)
        raise NoBackendError(f"{effort.artifact.name}: no usable program: {why}", install_hint(options))
    effort.emit_left_out(options)
    if effort.holding.is_complete() and _settle(effort) is None:
        return
    while True:
        step = next_step(options, receipt.attempts, retries=kit.retries, jitter=kit.world.jitter())
        if isinstance(step, GiveUp):
            raise _despair(effort, receipt.attempts, step.fault)
        _wait(effort, step, receipt)
        attempt = _try(effort, step)
        book(effort, step.backend, step.source, attempt.fault if attempt else None)
        if attempt is None:
            receipt.backend, receipt.source = step.backend, step.source
            return
        receipt.attempts.append(attempt)
        effort.doubted.add(attempt.source)
        effort.emit_failed(attempt)
        if attempt.fault.kind is Kind.DISK:
            hint = f"free some space (`df -h {kit.store.path}`), or use another disk: --store DIR"
            raise StoreError(f"{effort.artifact.name}: {attempt.fault.message}", hint)


def _wait(effort: Effort, step: Try, receipt: Receipt) -> None:
    if step.wait_s:
        effort.kit.emit(Waiting(*effort.talk, round(step.wait_s, 1), receipt.attempts[-1].fault.message))
        if effort.kit.world.sleep(step.wait_s):
            raise InterruptedError("stopped while waiting")


def _try(effort: Effort, step: Try) -> Attempt | None:
    """Run one attempt and judge what it left; None when the blob is committed."""
    holding = effort.holding
    if step.afresh or effort.must_part(step.source):
        effort.empty()
    before = holding.good_bytes()
    fault = try_once(effort, step.backend, step.source)
    if holding.is_complete() and (fault is None or fault.kind is not Kind.DISK):
        fault = _settle(effort)  # whatever the exit code: it proves nothing either way
        if fault is None:
            return None
    elif holding.is_too_long():
        fault = effort.banish()
    effort.drop_stream()
    assert fault is not None
    gained = max(0, holding.good_bytes() - before)
    return Attempt(step.backend, step.source, fault, gained, step.wait_s, step.afresh)


def _settle(effort: Effort) -> Fault | None:
    """Check the complete file: commit it when its digests fit, send it to quarantine when not."""
    store, path = effort.kit.store, effort.holding.partial.file
    if effort.artifact.is_blind and (doubt := still_as_begun(effort)):
        return doubt
    sha256 = "" if effort.holding.is_too_long() else effort.prove()
    if not sha256:
        return effort.banish()
    effort.emit_verified(sha256)
    blobs.commit(store, [(path, sha256)])
    aliases.learn(store, sha256, effort.artifact.pins)
    effort.found = sha256
    return None


def _despair(effort: Effort, attempts: list[Attempt], fault: Fault | None) -> OrchError:
    """The error for people: what became of each source, wrong bytes before all."""
    tried = {(attempt.source, attempt.backend): attempt.fault.message for attempt in attempts}
    history = "; ".join(f"{source} ({backend}): {message}" for (source, backend), message in tried.items())
    name = effort.artifact.name
    if fault is not None and fault.kind is Kind.CORRUPT:
        hint = "compare the digest in the manifest with the publisher's; wrong bytes are kept in "
        return DigestError(f"{name}: no source gave the right bytes: {history}", hint + effort.kit.store.quarantine)
    word = fault.kind.value if fault else Kind.NETWORK.value
    return TransferError(f"{name}: every source failed: {history}", _hint(effort, fault), word)


def _hint(effort: Effort, fault: Fault | None) -> str:
    match fault.kind if fault else None:
        case Kind.MISSING:
            return "look at the URL in the manifest: the file may have moved"
        case Kind.REFUSED:
            return "the server wants a login, or refuses this program; see the commands: `orch sync -v`"
        case Kind.TLS:
            return "name the server's CA in the manifest, `hosts: {NAME: {ca: FILE}}`, or set SSL_CERT_FILE"
        case Kind.BROKEN:
            return "see what the program says: `orch sync -v`, or try another one: --backend NAME"
        case _ if effort.proxies():
            return f"is the proxy right? https_proxy, http_proxy or all_proxy says {', '.join(effort.proxies())}"
        case _:
            return "run `orch sync` again: it goes on where it stopped; or add a mirror to the manifest"
