"""One artifact's whole effort: ask policy, run a backend, diagnose, verify, commit. The only loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import NoBackendError, Stopped
from orchestrator.events import Noticed, Waiting
from orchestrator.faults import Kind
from orchestrator.formats.wrong_file import EMPTY, EMPTY_PIN, EMPTY_PIN_HINT
from orchestrator.programs import install_hint
from orchestrator.store import blobs, store
from orchestrator.transfer import disk_full, wrong_sources
from orchestrator.transfer.acquire import acquire, take_partial
from orchestrator.transfer.attempt import try_once
from orchestrator.transfer.explain import explain_failure
from orchestrator.transfer.monitor import book
from orchestrator.transfer.repair import keep_good
from orchestrator.transfer.retry import Attempt, GiveUp, Try, next_step
from orchestrator.transfer.revalidate import here_already, names, revalidate, still_as_begun
from orchestrator.transfer.state import Download

if TYPE_CHECKING:
    from orchestrator.model import Artifact
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.context import RunContext


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


def fetch(run: RunContext, artifact: Artifact, receipt: Receipt) -> None:
    """Make the blob of `artifact` exist in the store, verified and sealed; fill in `receipt` on the way.

    Raises:
        TransferError, DigestError: every source and backend was tried; the attempts are the message.
        NoBackendError: no program here serves any of the sources.
        StoreError: the disk is full or read-only.
        HeldError: another orch holds it, and the run does not wait.
        Stopped: a stop was asked for; the partial stays.
    """
    with store.disk(run.store.path):  # what no attempt accounts for, from the first file here to the last
        _fetch(run, artifact, receipt)


def _fetch(run: RunContext, artifact: Artifact, receipt: Receipt) -> None:
    for round_ in acquire(run, (artifact,), lambda wanted: take_partial(run, wanted)):
        for held in round_.held.values():
            raise held
        if round_.stored:  # another orch finished it while we waited
            receipt.sha256 = round_.stored[artifact.key]
            if round_.folder is not None:
                round_.folder.release()
        elif round_.folder is not None:
            _fetch_into(run, artifact, round_.folder, receipt)


def _fetch_into(run: RunContext, artifact: Artifact, partial: Partial, receipt: Receipt) -> None:
    try:
        disk_full.check_limit(run.store, artifact.name, artifact.size)
        download = Download(run, artifact, partial)
    except BaseException:
        partial.release()
        raise
    began, committed = run.context.monotonic(), False
    try:
        if artifact.is_unpinned and (sha256 := here_already(download)):
            receipt.sha256, committed = sha256, True
            return
        receipt.bytes_reused += download.on_disk.good_bytes()
        with run.connection_limits.file(artifact.size or 0) as download.ticket:
            _loop(download, receipt)
        receipt.sha256, committed = download.found, True
    finally:
        download.drop_stream()
        receipt.bytes_fetched += download.bytes_fetched
        receipt.seconds = run.context.monotonic() - began
        if committed:
            partial.discard()
        else:
            partial.release()


def _loop(download: Download, receipt: Receipt) -> None:
    run = download.run
    options, download.attempts = _options(download), receipt.attempts
    bundled = len(receipt.attempts)  # tries in bundles, which have waited for the host already
    download.emit_left_out(options)
    if download.on_disk.is_complete() and _settle(download, "", "") is None:
        return
    shunned = wrong_sources.remembered(download)
    while True:
        options = _options(download)  # each look, and each source whose answers are odd, may change them
        asked = {url: programs for url, programs in options.items() if url not in shunned}
        step = next_step(asked, receipt.attempts, retries=run.retries, jitter=run.context.jitter())
        if isinstance(step, GiveUp) and any(options[url] for url in shunned):
            for url, why in shunned.items():
                run.emit(Noticed(f"{download.artifact.name}: {url} is asked last: it gave {why} in an earlier run"))
            wrong_sources.pardon(download)
            shunned = {}
            continue
        if isinstance(step, GiveUp):
            raise explain_failure(download, receipt.attempts, step.fault)
        if download.needs_token_probe(step.source):
            download.first_probe[step.source] = revalidate(download, step.source)
            continue
        if len(receipt.attempts) == bundled:
            step = replace(step, wait_s=0.0)
        _wait(download, step, receipt)
        attempts = _try(download, step)
        own = next((attempt.fault for attempt in attempts or () if attempt.source == step.source), None)
        book(download, step.backend, step.source, own)
        if attempts is None:
            receipt.backend, receipt.source = step.backend, step.source
            return
        for attempt in attempts:
            receipt.attempts.append(attempt)
            download.suspect.add(attempt.source)
            download.emit_failed(attempt)
            if attempt.fault.kind is Kind.DISK:
                raise disk_full.full(run.store, download.artifact.name, attempt.fault)


def _options(download: Download) -> dict[str, tuple[str, ...]]:
    """Each source and the backends that may serve it; first who gave the bytes that an earlier run left.

    Raises:
        NoBackendError: there is none for any of them.
    """
    options, sources = download.options(), download.artifact.sources
    if download.inherited:
        gave = download.on_disk.partial.info.sources
        first = [s.url for s in sources if s.url in gave and not download.known.is_doubtful(s, sources)]
        options = {url: options[url] for url in dict.fromkeys((*first, *options))}
    if not any(options.values()):
        why = download.obstacles(*options)
        raise NoBackendError(f"{download.artifact.name}: no usable program: {why}", install_hint(options))
    return options


def _wait(download: Download, step: Try, receipt: Receipt) -> None:
    if step.wait_s:
        download.run.emit(Waiting(*download.talk, round(step.wait_s, 1), receipt.attempts[-1].fault.message))
        if download.run.context.sleep(step.wait_s):
            raise Stopped("stopped while waiting")


def _try(download: Download, step: Try) -> tuple[Attempt, ...] | None:
    """Run one attempt and judge what it left; None when the blob is committed, else who failed, if anybody."""
    on_disk = download.on_disk
    last = next((a.fault for a in reversed(download.attempts) if a.source == step.source), None)
    if (step.afresh and not (last and last.mendable)) or download.must_restart(step.source):
        _begin_anew(download, step.source)
    fault = try_once(download, step.backend, step.source)
    if on_disk.is_complete() and (fault is None or fault.kind is not Kind.DISK):
        found = _settle(download, step.backend, step.source)  # whatever the exit code: it proves nothing either way
    elif on_disk.is_too_long():
        found = _settle(download, step.backend, step.source)
    else:
        assert fault is not None
        fault = disk_full.refine_fault(fault, on_disk.partial.folder, on_disk.partial.have)
        found = (Attempt(step.backend, step.source, fault),)
    download.drop_stream()
    if found is None:
        return None
    good = on_disk.good_bytes()
    gained, download.reached = max(0, good - download.reached), max(good, download.reached)
    return tuple(replace(attempt, gained_bytes=gained, waited_s=step.wait_s, afresh=step.afresh) for attempt in found)


def _begin_anew(download: Download, source: str) -> None:
    """Throw all away for a source. Twice for the same one is no progress: two sources would take turns for ever."""
    download.empty()
    if source not in download.begun:
        download.begun.add(source)
        download.reached = 0


def _settle(download: Download, backend: str, source: str) -> tuple[Attempt, ...] | None:
    """Check the complete file: commit it when its digests fit (None), send its wrong bytes to quarantine when not.

    Gives an attempt for each source that is to blame, `source` or another; none where it was an earlier run.
    """
    store, artifact, path = download.run.store, download.artifact, download.on_disk.partial.file
    if artifact.is_unpinned and download.on_disk.is_too_long():
        return (Attempt(backend, source, download.quarantine()),)
    if artifact.is_unpinned and (doubt := still_as_begun(download)):
        return (Attempt(backend, source, doubt),)
    sha256 = download.prove()
    if not sha256:
        kept = keep_good(download, backend, source)
        attempts = kept if kept is not None else (Attempt(backend, source, download.quarantine()),)
        wrong_sources.remember(download, attempts)
        return attempts
    download.emit_verified(sha256)
    if (notice := artifact.misjudged(download.on_disk.partial.have)) is not None:
        download.run.emit(Noticed(notice))
    if sha256 in EMPTY and artifact.size is None:
        download.run.emit(Noticed(f"{artifact.name}: {EMPTY_PIN}; if it is not meant to be empty, {EMPTY_PIN_HINT}"))
    # Named before it is there: a run that ends between the two leaves a name that leads nowhere yet, not a blob that
    # nobody knows to be this one, and the partial is still here.
    blobs.learn(store, sha256, names(download))
    blobs.commit(store, [(path, sha256)])
    download.found = sha256
    return None
