"""Download one file: the loop that asks for the next step, runs a program, verifies the result, commits it.

`Download` holds all state of one transfer, what its sources have said in `Answers`, and nothing outside this file
changes it: the other files of this room take values and return values.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as replace_struct

from orchestrator.backends import aria2c, by_name, curl
from orchestrator.backends.base import Trait, Want
from orchestrator.backends.shared import subtract, whole
from orchestrator.errors import OrchError, Stopped, StoreError
from orchestrator.events import Failed, Noticed, Waiting
from orchestrator.faults import Fault, Kind, Remedy
from orchestrator.model import Range, Role, Source
from orchestrator.sources.by_digest import is_plain_absence
from orchestrator.sources.host_health import HostsUnavailableError
from orchestrator.sources.knowledge import SourceStats
from orchestrator.sources.redirects import MAX_REDIRECTS, ForbiddenError, follow
from orchestrator.sources.stats import AttemptRecord
from orchestrator.store import store
from orchestrator.text import size_text
from orchestrator.transfer import attempt, check, disk_full, holes, relay, repair, revalidate
from orchestrator.transfer.acquire import acquire, take_partial
from orchestrator.transfer.answers import Answers
from orchestrator.transfer.candidates import COMPARES, Candidates
from orchestrator.transfer.explain import explain_failure, size_line
from orchestrator.transfer.monitor import (
    BytesMonitor,
    FileMonitor,
    SpeedMonitor,
    Throughput,
    also,
    connections_of,
    refine_fault,
    throughput,
)
from orchestrator.transfer.partial import PartialState, total
from orchestrator.transfer.retry import MIN_GAIN_BYTES, Attempt, Await, GiveUp, Try, final_fault, next_step
from orchestrator.transfer.revalidate import ONE_VERSION_HINT
from orchestrator.urls import host_of
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, StreamVerdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator.backends.base import Backend, Exit, Job
    from orchestrator.model import Artifact
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.store.partials import Info, Partial
    from orchestrator.transfer.answers import Reply
    from orchestrator.transfer.rate_limit import Share
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.verify.check import Digests

ASK_BYTES = 8 << 20  # a larger file is worth a round trip: its ETag guards every later resume
MOST_COMPANIONS = 3
CONDEMNED_S = 24 * 3600.0  # a mirror that was repaired is asked again the next day
FULL_BYTES = 1 << 20
TOLD_BYTES = 1 << 20  # so many bytes are not fetched once more without a word
_BY_ASKING = (Kind.CORRUPT, Kind.UNRESUMABLE, Kind.REFUSED)


@dataclass(slots=True)
class Receipt:
    """What a transfer did: bytes that came over the wire, bytes that were here already, and from where.

    `source` is the one that was asked last, `also` are the others that gave bytes. `sha256` is the blob's, also where
    the artifact knew none. `parked_s` is how long it has waited for hosts since its last attempt.
    """

    sha256: str = ""
    bytes_fetched: int = 0
    bytes_reused: int = 0
    backend: str = ""
    source: str = ""
    also: tuple[str, ...] = ()
    seconds: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    parked_s: float = 0.0


def fetch(run: RunContext, artifact: Artifact, receipt: Receipt) -> None:
    """Make the blob of `artifact` exist in the store, verified and sealed; fill in `receipt` on the way.

    Raises:
        TransferError, DigestError: every source and backend was tried; the attempts are the message.
        NoBackendError: no program here serves any of the sources.
        StoreError: the disk is full or read-only.
        HeldError: another orch holds it, and the run does not wait.
        HostsUnavailableError: it waits for hosts, and so should its caller, or try it later; the partial stays.
        Stopped: a stop was asked for; the partial stays.
    """
    if run.known is not None:
        hosts = {host_of(source.url) for source in artifact.sources}
        if all(run.known.health.is_closed(host) for host in hosts):
            raise HostsUnavailableError(hosts)
    with store.disk(run.store.path):  # what no attempt accounts for, from the first file here to the last
        while not _acquire_and_fetch(run, artifact, receipt):
            run.emit(Noticed(f"{artifact.name}: another orch took this download over while this one was stopped"))


def _acquire_and_fetch(run: RunContext, artifact: Artifact, receipt: Receipt) -> bool:
    """Fetch once we may; false where another orch took our partial over meanwhile: it is to be waited for."""
    tried = len(receipt.attempts)
    for acquired in acquire(run, (artifact,), lambda wanted: take_partial(run, wanted)):
        for held in acquired.held.values():
            raise held
        if acquired.stored:  # another orch finished it while we waited
            receipt.sha256 = acquired.stored[artifact.key]
            if acquired.folder is not None:
                acquired.folder.release()
        elif acquired.folder is not None:
            try:
                _fetch_into(run, artifact, acquired.folder, receipt)
            except (OrchError, OSError):
                if not acquired.folder.is_lost():
                    raise
                del receipt.attempts[tried:]  # whatever failed, it was for want of the folder
                return False
    return True


def _fetch_into(run: RunContext, artifact: Artifact, partial: Partial, receipt: Receipt) -> None:
    """Fetch into a partial that is ours, and let it go: it is removed once its bytes are a blob."""
    try:
        disk_full.check_limit(run.store, artifact.name, artifact.size)
        download = Download(run, artifact, partial, receipt)
    except BaseException:
        partial.release()
        raise
    began, committed = run.context.monotonic(), False
    try:
        download.run()
        committed = True
    finally:
        receipt.seconds = run.context.monotonic() - began
        if committed:
            partial.discard()
        else:
            partial.release()


class _ClosedError(Exception):
    """The host where the redirects of a source ended is not to be asked now."""


class _OutrankedError(Exception):
    """Another program is better on this source by now; nothing failed, and every byte is kept."""


class Download:
    """The transfer of one artifact into its partial; the only writer of this state."""

    def __init__(self, run: RunContext, artifact: Artifact, partial: Partial, receipt: Receipt) -> None:
        self._run, self._artifact, self._receipt = run, artifact, receipt
        self._on_disk = PartialState(partial, artifact.size)
        self._title = (artifact.wanted[0].model, artifact.wanted[0].file)
        self._stats = run.known or SourceStats(run.context)
        # Who runs this file alone has nobody to hand it back to: it waits by its own retries.
        self._health = run.known.health if run.known is not None else None
        self._ticket = 0  # of the run's connection limits
        # What was tried: also by batches, before this download.
        self._attempts = receipt.attempts
        self._restarted: set[str] = set()  # sources for which all was thrown away: the next time is no progress
        self._suspect: set[str] = set()  # sources that failed: asked by us before they are tried again
        self._answers = Answers(run, self._on_disk, self._attempts)
        self._size_hint = ""  # where all sources contradict `size:`
        # Which bytes are here, and whose they are.
        self._most_good_bytes = self._on_disk.good_bytes()  # only more than there ever were are progress
        self._is_inherited = self._on_disk.good_bytes() > 0  # bytes of an earlier run: its sources may have changed
        self._reused: tuple[Range, ...] = ()  # where those lie that are still here
        # Where those lie that no source is known to have given: another program's unfinished download.
        self._adopted: tuple[Range, ...] = () if partial.info.sources else self._here()
        self._given: list[repair.Given] = []  # which source brought what, since all that is here was judged last
        self._has_pieces = decode(artifact.pieces, artifact.size) is not None
        self._is_repaired = False  # what was good of a wrong file was kept
        self._versions_differ = False  # what is here may be of two versions of the file
        self._is_isolated = artifact.is_unpinned  # each source must show what it gives by itself
        self._offer = relay.Offer(run, artifact, self._on_disk)  # what other hosts may have of it meanwhile
        # What the program that runs, or ran last, did.
        self._stream: Stream | None = None
        self._throughput = Throughput()
        self._candidates = Candidates(
            run=run,
            artifact=artifact,
            on_disk=self._on_disk,
            stats=self._stats,
            attempts=self._attempts,
            answers=self._answers,
        )

    def run(self) -> None:
        """Fetch the artifact; fill in the receipt, whose sha256 is set once the blob is there.

        Raises:
            As `fetch`.
        """
        try:
            if self._artifact.is_unpinned and self._find_version():
                return
            self._take_probed()
            self._reused = self._here()
            self._receipt.bytes_reused += total(self._reused)
            with self._run.connection_limits.file(self._artifact.size or 0) as self._ticket:
                if not (self._run.swarms and self._fetch_by_swarm()):
                    self._fetch_by_relay()
                    self._loop()
        except Stopped as stop:
            stop.vain_bytes = self._vain_bytes()
            raise
        finally:
            self._drop_stream()
            self._offer.withdraw()

    @property
    def _partial(self) -> Partial:
        return self._on_disk.partial

    @property
    def _info(self) -> Info:
        return self._on_disk.partial.info

    def _here(self) -> tuple[Range, ...]:
        """The ranges that are here."""
        length, missing = self._on_disk.length(), self._on_disk.missing()
        if length is None or missing is None:
            return whole(self._on_disk.good_bytes())
        return subtract(whole(length), missing)

    def _vain_bytes(self) -> int:
        """How many bytes are here that the next run cannot use: all sources have said that they support no ranges."""
        answers = [self._answers.get(source.url) for source in self._artifact.sources]
        is_vain = all(answer is not None and not answer.ranges for answer in answers)
        return self._on_disk.good_bytes() if is_vain and not self._on_disk.is_complete() else 0

    def _count_reused(self) -> None:
        """Count no byte of an earlier run as reused that is missing by now: it comes by the wire once more."""
        before, here = self._reused, self._here()
        self._reused = subtract(before, subtract(before, here))
        self._receipt.bytes_reused += total(self._reused) - total(before)

    # The loop.

    def _loop(self) -> None:
        run = self._run
        batched = len(self._attempts)  # tries of batches, which have waited for the host already
        self._tell_left_out(self._options())
        self._tell_differing()
        if self._on_disk.is_complete() and self._check("", "") is None:
            return
        condemned = self._load_condemned()
        while True:
            options = self._options()  # each answer, and each source whose answers are odd, may change them
            asked = {url: programs for url, programs in options.items() if url not in condemned}
            step = self._next_step(asked)
            if isinstance(step, Await):
                raise self._unavailable(step, is_left=any(options[url] for url in condemned))
            if isinstance(step, GiveUp) and any(options[url] for url in condemned):
                for url, why in condemned.items():
                    run.emit(Noticed(f"{self._artifact.name}: {url} is tried last; an earlier run said: {why}"))
                self._info.condemned.clear()
                condemned = {}
                continue
            if isinstance(step, GiveUp):
                proxies = self._candidates.proxies()
                gone = self._gone(options)
                fault, kept = step.fault, ""
                if (have := self._on_disk.good_bytes()) >= MIN_GAIN_BYTES:
                    length = self._on_disk.length()
                    kept = size_text(have) + (f" of {size_text(length)}" if length is not None else "")
                    kept = "" if self._vain_bytes() else kept
                    fault = final_fault(self._attempts, self._info.sources) or fault
                raise explain_failure(run, self._artifact, self._attempts, fault, proxies, gone, kept=kept)
            if not self._answers.was_asked_first(step.source) and self._must_ask(step):
                self._answers.ask_first(step.source)  # it may be another program's then, or need no token
                continue
            if len(self._attempts) == batched:
                step = replace(step, wait_s=0.0)
            self._wait(step)
            try:
                attempts = self._try(step)
            except (_ClosedError, _OutrankedError):  # a redirect led to a host that is closed, or as it says
                continue
            own = next((each.fault for each in attempts or () if each.source == step.source), None)
            self._record(step, own)
            if attempts is None:
                run.tell_health(self._host(step.source), self._candidates.route(step.source), None)
                self._receipt.backend, self._receipt.source = step.backend, step.source
                gave = dict.fromkeys(url for given in self._given for url in given.sources)
                self._receipt.also = tuple(url for url in gave if url != step.source)
                return
            for each in attempts:
                host, route = self._host(each.source), self._candidates.route(each.source)
                run.tell_health(host, route, each.fault, gained=each.gained_bytes > 0)
            for each in attempts:
                self._book(each)

    def _next_step(self, options: Mapping[str, tuple[str, ...]]) -> Try | Await | GiveUp:
        """What policy wants next, of these sources; those at hosts that are gone are out."""
        run, health = self._run, self._health
        retries, jitter = run.retries, run.context.jitter()
        if health is None:
            return next_step(options, self._attempts, retries=retries, jitter=jitter)
        hosts = {url: self._host(url) for url in options}
        wait_s = run.options.wait_for_sources_s
        return next_step(
            {url: () if health.is_gone(hosts[url]) else programs for url, programs in options.items()},
            self._attempts,
            retries=retries,
            jitter=jitter,
            closed=[url for url, host in hosts.items() if health.is_closed(host)],
            is_patient=any(health.is_waited_for(host, wait_s) for host in hosts.values()),
        )

    def _gone(self, urls: Iterable[str]) -> dict[str, str]:
        """The hosts that are given up or closed, by the URLs of the sources there."""
        health, hosts = self._health, {url: self._host(url) for url in urls}
        if health is None:
            return {}
        return {url: host for url, host in hosts.items() if health.is_gone(host) or health.is_closed(host)}

    def _unavailable(self, step: Await, *, is_left: bool) -> HostsUnavailableError:
        """What hands this file back, until one of its hosts may be asked again; who has tried one is told."""
        hosts = {self._host(url) for url in step.sources}
        last = self._attempts[-1] if self._attempts else None
        if self._health is not None and last is not None and self._host(last.source) in hosts:
            wait_s = min(self._health.opens_in_s(host) for host in hosts)
            self._run.emit(Waiting(*self._title, round(wait_s, 1), last.fault.message))
        return HostsUnavailableError(hosts, fallback=step.fallback or is_left)

    def _host(self, url: str) -> str:
        """The host that a program is sent to for a source: where its redirects ended when it was asked."""
        return host_of(self._candidates.address(url))

    def _options(self) -> dict[str, tuple[str, ...]]:
        """Each source and the backends that may serve it; first who gave the bytes that an earlier run left."""
        sources = self._artifact.sources
        gave = self._info.sources if self._is_inherited else ()
        first = [s.url for s in sources if s.url in gave and not self._stats.is_doubtful(s, sources)]
        return self._candidates.options(first)

    def _tell_left_out(self, options: Mapping[str, tuple[str, ...]]) -> None:
        """Tell once a run and host that no program here can serve a source, and why not."""
        for source in self._artifact.sources:
            host = host_of(source.url)
            if not options[source.url] and host not in self._run.left_out:
                self._run.left_out.add(host)
                self._run.emit(Noticed(f"{host} is left out: {self._candidates.obstacles(source.url)}"))

    def _tell_differing(self) -> None:
        """Tell which sources the probe saw give other bytes than others: at least one of them has a wrong file."""
        run, sources = self._run, self._artifact.sources
        for source in sources:
            others = [host_of(url) for url in self._candidates.differing(source.url)]
            if not others or self._on_disk.is_complete():
                continue
            last = ", and is asked last" if self._stats.is_outvoted(source, sources) else ""
            line = f"{host_of(source.url)} gives other bytes of {self._artifact.name} than {', '.join(others)}{last}"
            if last or not any(self._stats.is_outvoted(each, sources) for each in sources):
                run.emit(Noticed(f"{line}: the checksum decides"))
                break

    def _wait(self, step: Try) -> None:
        if step.wait_s:
            self._run.emit(Waiting(*self._title, round(step.wait_s, 1), self._attempts[-1].fault.message))
            if self._run.context.sleep(step.wait_s):
                raise Stopped("stopped while waiting")

    def _try(self, step: Try) -> tuple[Attempt, ...] | None:
        """Run one attempt and check what it left; None when the blob is committed, else who failed, if anybody."""
        on_disk = self._on_disk
        last = next((each.fault for each in reversed(self._attempts) if each.source == step.source), None)
        if (step.afresh and not (last and last.mendable)) or self._must_restart(step.source):
            self._restart(step.source)
        fault = self._attempt(step.backend, step.source)
        is_complete = on_disk.is_complete() and (fault is None or fault.kind is not Kind.DISK)
        if is_complete or on_disk.is_too_long():  # whatever the exit code: it proves nothing either way
            found = self._check(step.backend, step.source)
        else:
            assert fault is not None
            fault = disk_full.refine_fault(fault, self._partial.folder, self._partial.have)
            found = (Attempt(step.backend, step.source, fault),)
        self._drop_stream()
        if found is None:
            return None
        good = on_disk.good_bytes()
        gained = max(0, good - self._most_good_bytes)
        self._most_good_bytes = max(good, self._most_good_bytes)
        waited_s, self._receipt.parked_s = step.wait_s + self._receipt.parked_s, 0.0
        return tuple(replace(each, gained_bytes=gained, waited_s=waited_s, afresh=step.afresh) for each in found)

    def _must_restart(self, source: str) -> bool:
        """Whether what is here is of sources whose bytes may not meet this one's in one file, and no piece hash tells.

        They did, and were wrong; or the probe saw them differ.
        """
        if self._has_pieces:
            return False
        others = {url for url in self._info.sources if url != source}
        return bool(others if self._is_isolated else others.intersection(self._candidates.differing(source)))

    def _restart(self, source: str) -> None:
        """Throw all away for a source. Twice for the same one is no progress: two sources would take turns for ever."""
        self._tell_restart(source)
        self._empty()
        self._answers.forget_ready(source)
        if source not in self._restarted:
            self._restarted.add(source)
            self._most_good_bytes = 0

    def _tell_restart(self, source: str) -> None:
        """Tell why the bytes of an earlier run are downloaded again, where they are many."""
        lost_bytes = self._on_disk.good_bytes() if self._reused else 0
        why = next((each.fault.message for each in reversed(self._attempts) if each.source == source), "")
        if lost_bytes >= TOLD_BYTES and why:
            again = f"starts over ({size_text(lost_bytes)} again)"
            self._run.emit(Noticed(f"{self._artifact.name}: {host_of(source)}: {why}: {again}"))

    def _empty(self) -> None:
        """Forget all bytes, those of earlier runs too."""
        self._offer.restart(None)
        self._partial.empty()
        self._count_reused()
        self._is_inherited = self._is_repaired = self._versions_differ = False
        self._given, self._adopted = [], ()

    def _book(self, failed: Attempt) -> None:
        """Add a failed attempt to what was tried, and tell it."""
        self._attempts.append(failed)
        self._suspect.add(failed.source)
        kept, fault = self._on_disk.good_bytes(), failed.fault
        if not is_plain_absence(self._artifact, failed.source, fault.kind):
            self._run.emit(Failed(*self._title, failed.backend, failed.source, fault.kind.value, fault.message, kept))
        if fault.kind is Kind.DISK:
            raise disk_full.full(self._run.store, self._artifact.name, fault)

    def _record(self, step: Try, fault: Fault | None) -> None:
        """Remember an attempt for the order of sources, in this run and the next ones."""
        did, self._throughput = self._throughput, Throughput()
        answer, via = self._answers.get(step.source), host_of(step.source)
        host = host_of(answer.last_url) if answer is not None else self._stats.host(step.source)
        self._stats.history.add(
            AttemptRecord(
                time=round(self._run.context.now(), 3),
                host=host,
                backend=step.backend,
                fetched_bytes=did.fetched_bytes,
                seconds=round(did.seconds, 3),
                connections=did.connections,
                round_trip_s=round(answer.round_trip_s, 4) if answer is not None else None,
                fault=fault.kind.value if fault is not None else None,
                via=via if via != host else "",
            )
        )

    # Asking a source.

    def _take_probed(self) -> None:
        """Take what sources said to the run's probe; where bytes are here, the answer at the next one says more."""
        if self._artifact.is_unpinned or self._on_disk.good_bytes():
            return
        for source in self._artifact.sources:
            if answer := self._stats.fresh_answer(source.url):
                self._answers.take_probed(source.url, answer)

    def _must_ask(self, step: Try) -> bool:
        """Whether to ask a source before its first attempt.

        A request of our own is what tells where redirects end. A small file is asked for at once, by a program that
        follows none: it tells as much.
        """
        backend = by_name(step.backend)
        assert backend is not None
        is_large = (self._on_disk.length() or ASK_BYTES) >= ASK_BYTES or Trait.SEGMENTS in backend.TRAITS
        has_token = self._candidates.route(step.source).bearer is not None
        return has_token or is_large or self._artifact.is_unpinned or self._on_disk.good_bytes() > 0

    def _compare(self, url: str, answer: SourceAnswer, *, resumes: bool) -> Fault | None:
        """Compare what a source would serve with what is wanted and what is here; remember it where nothing differs."""
        info, size, unpinned = self._info, self._artifact.size, self._artifact.is_unpinned
        if answer.is_other_range and size is not None:
            answer = replace(answer, length=None)
        if answer.encoding and unpinned:
            return Fault(Kind.CORRUPT, f"the server compresses the file on its way ({answer.encoding})")
        if size is not None and answer.length not in (None, size) and (fault := self._judge_length(url, answer)):
            return fault
        have = self._partial.have
        if (resumes or (unpinned and have)) and (fault := self._detect_change(url, answer)):
            if unpinned or (answer.length is not None and answer.length < have):
                return fault
            self._versions_differ = True  # or its hosts name one version differently: the digest will tell
        if resumes:
            if unpinned and not (self._candidates.is_proven(url, answer) and info.etags.get(url) == answer.etag):
                return Fault(Kind.UNRESUMABLE, "neither a checksum nor an ETag tells whether it is still the same file")
            if not answer.ranges:
                return Fault(Kind.UNRESUMABLE, "the source does not support ranges")
        if answer.etag:
            info.etags[url] = answer.etag
        if answer.modified:
            info.modified[url] = answer.modified
        info.length = answer.length if answer.length is not None else info.length
        if answer.ranges == (url in info.rangeless):
            (info.rangeless.remove if answer.ranges else info.rangeless.append)(url)
        return None

    def _judge_length(self, url: str, answer: SourceAnswer) -> Fault | None:
        """What another length than `size:` means; where all sources agree on it, it is taken for the file's."""
        artifact, length = self._artifact, answer.length
        assert length is not None
        fault = revalidate.judge_length(
            self._run,
            artifact,
            self._candidates.route(url),
            answer,
            lambda: revalidate.all_agree(artifact, url, length, self._answers.last_or_ask),
        )
        if fault is None:
            self._artifact = replace_struct(artifact, size=length)
            self._on_disk.size, self._has_pieces = length, False
            said = f"{size_line(artifact.wanted[0])}: `size:` says {artifact.size}, every source says {length}"
            self._size_hint = f"{said}: is the checksum that of another version?"
            self._run.emit(Noticed(f"{artifact.name}: {said}; the checksum decides"))
        return fault

    def _detect_change(self, url: str, answer: SourceAnswer) -> Fault | None:
        """Why a source has another version than the one that was begun; None where it has not."""
        change = revalidate.detect_change(self._artifact, self._info, url, answer, self._answers.fickle)
        if change.is_fickle:
            self._answers.fickle.add(url)
        return change.fault

    def _doubt_version(self) -> Fault | None:
        """For a whole file that no digest judges: why it may not be what its source says now.

        A source that could not be asked when the file was begun is believed; one that does not answer now is not.
        """
        givers = self._info.sources
        if len(givers) != 1:
            return Fault(Kind.UNRESUMABLE, "the source of these bytes is not known")
        reply = self._answers.ask_end(givers[0], strict=self._answers.get(givers[0]) is not None)
        return reply.fault if reply.answer is None else self._detect_change(givers[0], reply.answer)

    def _find_version(self) -> bool:
        """Whether the store has the version that the first source of an unpinned artifact has now."""
        url = self._artifact.sources[0].url
        answer = self._answers.ask_first(url).answer
        self._receipt.sha256 = revalidate.find_version(self._run, self._artifact, url, answer)
        return bool(self._receipt.sha256)

    # Running a program.

    def _attempt(self, backend_name: str, source: str) -> Fault | None:
        """Run one backend on one source, and once more where it was our way of asking that made it fail.

        Returns:
            The fault, or None where the partial is complete by the program's own word, which is still to be proved.

        Raises:
            Stopped: a stop was asked for; the partial stays.
        """
        backend = by_name(backend_name)
        assert backend is not None
        was_empty = self._on_disk.good_bytes() == 0
        fault = self._attempt_once(backend, source)
        for _ in range(MAX_REDIRECTS):
            if fault is None or not fault.redirects:
                break
            ((_, target),) = fault.redirects
            fault = self._follow(source, target) or self._attempt_once(backend, source)
        if fault is not None and fault.redirects:
            return Fault(Kind.REFUSED, f"redirects {backend.NAME} again and again")
        is_odd = self._on_disk.is_too_long() if fault is None else fault.kind in _BY_ASKING or fault.status == 500
        if was_empty and is_odd and source.startswith("http") and not self._candidates.wants_one_answer(source):
            return self._ask_anew(backend, source, fault)
        return fault

    def _follow(self, source: str, target: str) -> Fault | None:
        """Follow a redirect that a program met, which had been given the last URL that we knew.

        Args:
            source: the source.
            target: where the redirect leads; empty where the program does not say: we ask the source.

        Returns:
            Why it is not followed.
        """
        address = self._candidates.address(source)
        if target:
            url = follow(address, target)
            if isinstance(url, Fault):
                return url
            reply = self._answers.ask(source, begin=url)
            if reply.answer is None and reply.is_seen:  # the program alone was given the cookies for it
                reply = self._answers.ask(source)
        else:
            reply = self._answers.ask(source)
            if reply.fault is None and reply.end == address:
                return Fault(Kind.REFUSED, "redirects this program, and does not redirect orch")
        if reply.fault is None:
            self._answers.take(source, reply)
        return reply.fault

    def _ask_anew(self, backend: Backend, source: str, fault: Fault | None) -> Fault | None:
        """Run the same program once more where an attempt from the first byte failed by the way it asked.

        The server answers a range wrongly and the whole file rightly; or `size:` is wrong, and no file too long for it.

        Returns:
            As `_attempt`.
        """
        answer = self._answers.ask_afterwards(source).answer
        if answer is None:
            return fault
        if answer.bare:
            self._answers.bare.add(source)
            self._drop_stream()
            self._empty()
            return self._attempt_once(backend, source)
        expected = self._artifact.size
        other = self._compare(source, answer, resumes=False)
        if other is not None and self._on_disk.is_too_long() and self._partial.have < (answer.length or 0):
            self._drop_stream()
            self._empty()  # orch ended the program because of `size:`: no digest of these bytes says anything
            return other
        if other is not None or self._artifact.size == expected:
            return fault
        self._drop_stream()
        return fault if self._on_disk.is_complete() else self._attempt_once(backend, source)

    def _attempt_once(self, backend: Backend, source: str) -> Fault | None:
        """Run the backend to its end; where it was ended for another share it goes on with that, and nothing failed.

        Raises:
            _OutrankedError: one connection was to be enough, and was not.
        """
        limit, was_open = self._run.rate_limit, self._candidates.is_open(source)
        with limit.using() if limit is not None else nullcontext():
            while True:
                fault = self._attempt_with_share(backend, source)
                if fault is None or not fault.yielded or self._on_disk.is_complete():
                    return fault
                self._drop_stream()
                if was_open and not self._candidates.is_open(source):
                    raise _OutrankedError

    def _attempt_with_share(self, backend: Backend, source: str) -> Fault | None:
        if fault := self._prepare(backend, source):
            return fault
        if self._health is not None and self._health.is_closed(self._host(source)):
            raise _ClosedError
        run, on_disk = self._run, self._on_disk
        if self._artifact.size is None and (fault := self._judge_room(source)):
            return fault
        try:
            urls = (source, *self._companions(backend, source))
            limits = {url: self._limit(url) for url in urls}
            most, resumes = None if self._may_split(backend, source) else 1, self._may_yield(source)
            with (
                run.connection_limits.shares(run.context, self._ticket, limits, most) as shares,
                run.rate_share(resumes=resumes) as share,
            ):
                if fault := self._answers.renew(source):  # connections may have been waited for
                    return fault
                job = attempt.job_of_one_file(self._candidates, shares, share.rate if share is not None else None)

                def must_yield(left_bytes: int | None) -> bool:
                    return self._must_yield(share, left_bytes, resumes=resumes)

                if (fault := self._fill_holes(backend, source, job, must_yield)) or on_disk.is_complete():
                    return fault
                self._tell_cut(backend)
                launch = attempt.Launch(
                    backend=backend,
                    job=attempt.hand_over(on_disk, backend, job),
                    title=self._title,
                    sources=tuple(shares),
                    have_bytes=on_disk.good_bytes(),
                    size_bytes=on_disk.length(),
                    folder=self._partial,
                )
                self._count_reused()
                missing = on_disk.missing()
                self._offer.restart(missing)
                self._stream = attempt.begin_stream(run, launch, on_disk, self._artifact.sha256)
                monitor = SpeedMonitor(
                    launch,
                    self._candidates,
                    FileMonitor(run, launch, on_disk),
                    must_yield,
                )
                with self._stats.transferring(), self._flowing(launch) as note:
                    exit_ = attempt.start(run, launch, also(also(monitor, note), self._offer.look))
                if self._stream is not None:
                    state = (on_disk.length() or 0) // (8 * job.piece_bytes) if backend.SIDECAR else 0
                    self._stream.account(exit_, state_bytes=state)
                if missing is not None:
                    self._given += repair.given(missing, on_disk.missing() or (), backend.NAME, launch.sources)
            return self._read_end(launch, exit_, monitor.faster_host)
        except ForbiddenError as error:
            return Fault(Kind.REFUSED, str(error))
        except attempt.UnresolvedError as error:
            return error.fault
        except OSError as error:
            return disk_full.fault_of(error, self._partial.folder)

    def _judge_room(self, source: str) -> Fault | None:
        """Why a source is out whose file is larger than the disk, while others may serve the one that is wanted.

        Raises:
            StoreError: no other is left.
        """
        store, rest = self._run.store, total(self._on_disk.missing() or ())
        if not (lack := disk_full.lack_of_room(store, rest)):
            return None
        tried = {source, *(attempt.source for attempt in self._attempts)}
        if tried.issuperset(other.url for other in self._artifact.sources):
            raise disk_full.no_room(store, self._artifact.name, lack)
        if not self._on_disk.good_bytes():
            self._info.length = None  # only this source has said it
        return Fault(Kind.MISSING, lack)

    def _fill_holes(
        self, backend: Backend, source: str, job: Job, must_yield: Callable[[int | None], bool]
    ) -> Fault | None:
        """Fetch what is missing before good bytes by ranges, where a program would cut those off.

        Returns:
            Why it ended early; None where the program may go on, if anything is missing.

        Raises:
            Stopped: a stop was asked for; what came is kept.
            OSError: the disk said no.
        """
        run, on_disk, partial, answer = self._run, self._on_disk, self._partial, self._answers.get(source)
        has_ranges = answer is not None and answer.ranges and not job.bare
        if not has_ranges or not source.startswith("http") or not run.can_run(curl.NAME):
            return None
        is_told, path = True, f"{partial.folder}/part"
        while (part := holes.next_part(on_disk, backend)) is not None:
            if source not in self._info.sources:
                self._info.sources.append(source)
                partial.save_info()
            wants = (Want(job.wants[0].sources[:1], path, part.end - part.start, 0),)
            launch = attempt.Launch(
                backend=curl,
                job=replace(job, wants=wants, connections=1, part=part),
                title=self._title,
                sources=(source,),
                have_bytes=on_disk.good_bytes(),
                size_bytes=on_disk.length(),
                folder=partial,
            )
            watch = BytesMonitor(run, launch, part.end - part.start)
            monitor = SpeedMonitor(launch, self._candidates, watch, must_yield)
            with self._stats.transferring(), self._flowing(launch) as note:
                try:
                    exit_ = attempt.start(run, launch, also(monitor, note), is_told=is_told)
                    landed = self._take_part(source, path, part)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
            is_told = False
            fault = attempt.read_end(run, launch, exit_, on_disk.good_bytes(), "the partial")
            if landed > part.end - part.start:
                fault = Fault(Kind.UNRESUMABLE, "the source does not support ranges")
            elif fault is not None and not fault.redirects:
                fault = self._refine(fault, source, landed, monitor.faster_host)
            elif fault is None and landed < part.end - part.start:
                fault = Fault(Kind.NETWORK, "ended early: bytes are missing")
            if fault is not None:
                return replace(fault, message=self._candidates.masked(fault.message))
        return None

    def _take_part(self, source: str, path: str, part: Range) -> int:
        """Put a fetched range in its place; how many bytes came. None are taken where they are too many."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            size, length = os.fstat(fd).st_size, self._on_disk.length()
            assert length is not None
            if 0 < size <= part.end - part.start:
                came = Range(part.start, part.start + size)
                holes.splice(self._on_disk, fd, came, length)
                self._receipt.bytes_fetched += size
                self._given.append(repair.Given(came, curl.NAME, (source,)))
            return size
        finally:
            os.close(fd)

    def _tell_cut(self, backend: Backend) -> None:
        """Tell that a program will cut off what is behind the first hole."""
        lost = holes.lost_bytes(self._on_disk, backend)
        if lost >= holes.LEAST_BYTES:
            words = f"{backend.NAME} cannot fill holes: {size_text(lost)} on the disk are downloaded again"
            self._run.emit(Noticed(f"{self._artifact.name}: {words}; aria2c, axel and curl keep them"))

    def _must_yield(self, share: Share | None, left_bytes: int | None, *, resumes: bool) -> bool:
        """Whether to end the program for another share: of the limit of bandwidth, or of a host's connections."""
        if share is not None and share.must_yield(left_bytes):
            return True
        return resumes and self._run.connection_limits.must_yield(self._run.context, self._ticket)

    def _may_split(self, backend: Backend, source: str) -> bool:
        """Whether a program can use more than one connection to this source."""
        answer = self._answers.get(source)
        has_ranges = answer is None or answer.ranges
        return Trait.SEGMENTS in backend.TRAITS and has_ranges and not self._candidates.wants_one_answer(source)

    def _may_yield(self, source: str) -> bool:
        """Whether a program on this source may be ended at any time, and go on with every byte that it brought."""
        if self._artifact.is_unpinned or self._on_disk.length() is None or self._candidates.wants_one_answer(source):
            return False
        answer = self._answers.get(source)
        return answer.ranges if answer is not None else not source.startswith("http")

    def _limit(self, url: str) -> int | None:
        """The limit of connections to a source's host: a manifest's, or fewer where it complained of so many."""
        own = self._candidates.route(url).connections
        return own if self._health is None else self._health.limit(self._host(url), own)

    @contextmanager
    def _flowing(self, launch: attempt.Launch) -> Iterator[Callable[[int], None]]:
        """Count a program at its host, where it has only one: gives a function that takes the bytes it has written."""
        if self._health is None or self._run.rate_limit is not None or len(launch.sources) > 1:
            yield lambda _: None
            return
        size = launch.size_bytes - launch.have_bytes if launch.size_bytes is not None else None
        with self._health.flowing(self._host(launch.sources[0]), connections_of(launch), size) as note:
            yield note

    def _prepare(self, backend: Backend, source: str) -> Fault | None:
        """Ask the source where that is worth it, and say why the program should not be started."""
        unpinned, resumes = self._artifact.is_unpinned, self._on_disk.good_bytes() > 0
        if self._answers.was_asked_first(source) or source in self._suspect:
            reply = self._answers.ask_for_attempt(source)
            answer = reply.answer
            if reply.fault is not None:
                return reply.fault
            if fault := self._refuse_unheard(backend, source, reply):
                return fault
            is_proven = self._candidates.is_proven(source, answer) or source.startswith(COMPARES)
            if unpinned and resumes and not is_proven:
                self._empty()  # nothing tells whether what is here and what would come are of one version
                resumes = False
            if answer is not None and (fault := self._compare(source, answer, resumes=resumes)):
                return fault
            if answer is not None and answer.bare:
                self._answers.bare.add(source)
                if backend.NAME == "axel" and answer.is_other_range:
                    return Fault(Kind.REFUSED, "axel would trust the Content-Range, which is wrong")
            if answer is not None and answer.chunked and Trait.CHUNKED not in backend.TRAITS:
                return Fault(Kind.REFUSED, f"{backend.NAME} would write the chunks' headers into the file")
        if unpinned and backend.NAME == "axel" and self._candidates.wants_one_answer(source):
            words = "axel joins several answers, which may be of two versions"
            return Fault(Kind.REFUSED, words, hint=ONE_VERSION_HINT)
        if unpinned:  # on the disk before the first byte is: a killed run must not leave bytes of nobody
            self._info.sources = [source]
        return None

    def _refuse_unheard(self, backend: Backend, source: str, reply: Reply) -> Fault | None:
        """Why an unheard source is not given to a program that follows redirects, or believes any Content-Range."""
        if reply.answer is not None or Trait.SEGMENTS not in backend.TRAITS or not source.startswith("http"):
            return None
        if reply.is_seen and Trait.FOLLOWS in backend.TRAITS:
            return None
        unheard = reply.unheard
        if unheard is not None and unheard.remedy is Remedy.AGAIN:
            return unheard
        why = f": {unheard.message}" if unheard is not None else ""
        return Fault(Kind.REFUSED, f"{backend.NAME} is only given sources that answer orch{why}")

    def _companions(self, backend: Backend, source: str) -> tuple[str, ...]:
        """Other sources to ask for the same large file at the same time: they answer, and have the same file."""
        found, candidates = [source], self._candidates
        for url in () if self._is_isolated else candidates.companions(backend, source):
            if len(found) > MOST_COMPANIONS or host_of(url) in map(host_of, found):
                continue
            if self._ask_companion(url) is not None and candidates.bearer(url) is None:
                found.append(url)
        return tuple(found[1:])

    def _ask_companion(self, url: str) -> SourceAnswer | None:
        """Ask a source beside others: its answer, where it honours ranges and has the same file."""
        answer = self._answers.ask_for_attempt(url).answer
        is_right = answer is not None and answer.ranges and self._compare(url, answer, resumes=False) is None
        return answer if is_right else None

    def _read_end(self, launch: attempt.Launch, exit_: Exit, faster_host: str) -> Fault | None:
        """Account for what a program left, and say why it ended; exit 0 with bytes missing is not done."""
        on_disk, partial, length = self._on_disk, self._partial, self._on_disk.length()
        source, before = launch.sources[0], launch.have_bytes
        on_disk.ended_well = exit_.code == 0 and exit_.ended == "itself"
        after, complete = on_disk.good_bytes(), on_disk.is_complete()
        landed = max(0, (partial.have if complete else after) - before)
        if not complete and length is not None:
            landed = max(landed, min(exit_.written_bytes, length - before))
        self._receipt.bytes_fetched += landed
        self._throughput = throughput(launch, exit_, landed)
        # A program may end before its bytes were counted, and leave a file that is too long to be claimed.
        wrote = landed or partial.have > launch.job.wants[0].have or length == 0
        if wrote and not set(launch.sources) <= set(self._info.sources):
            self._info.sources += [url for url in launch.sources if url not in self._info.sources]
            partial.save_info()
        fault = attempt.read_end(self._run, launch, exit_, after, "the partial")
        if fault is not None and fault.redirects and len(launch.sources) > 1:  # nobody knows whose: they go one by one
            fault = replace(fault, redirects=())
        if fault is not None and not fault.redirects:
            fault = self._refine(fault, source, landed, faster_host)
        if fault is not None:
            return replace(fault, message=self._candidates.masked(fault.message))
        return None if complete else self._explain_short(source)

    def _refine(self, fault: Fault, source: str, landed: int, faster_host: str) -> Fault:
        if fault.slow:
            return replace(fault, message=f"slower than half of {faster_host}")
        now, is_suspect = self._run.context.now(), source in self._suspect
        is_redirected = self._candidates.address(source) != source
        answer = self._answers.get(source)
        refined = refine_fault(fault, answer, landed, now, is_suspect=is_suspect, is_redirected=is_redirected)
        if refined is not None:
            return refined
        told = self._answers.ask_afterwards(source).fault  # the program did not say for how long: the server will
        return told if told is not None and told.kind is Kind.BUSY else fault

    def _explain_short(self, source: str) -> Fault | None:
        """Why a program claimed success and bytes are missing: a full disk, another file, or a line that was cut."""
        status = os.statvfs(self._partial.folder)
        if status.f_bavail * status.f_frsize < FULL_BYTES:
            return Fault(Kind.DISK, "the disk is full")
        reply = self._answers.ask_afterwards(source)
        answer = reply.answer
        if reply.fault is not None:
            return reply.fault
        other = self._compare(source, answer, resumes=False) if answer is not None else None
        if other is None and self._on_disk.is_complete():
            return None  # `size:` was wrong
        if other is None and answer is not None and answer.encoding:
            other = Fault(Kind.CORRUPT, f"the server compresses the file on its way ({answer.encoding})")
        if other is None and answer is not None and answer.bare and source not in self._answers.bare:
            return Fault(Kind.UNRESUMABLE, "the server answers ranges wrongly")
        if other is None:
            return Fault(Kind.NETWORK, "ended early: bytes are missing")
        if other.remedy is Remedy.AFRESH or not os.path.exists(self._partial.file):
            return other
        return self._quarantine()  # what it sent is no part of the file: nothing may be appended to it

    def _fetch_by_swarm(self) -> bool:
        """Fetch it together with other hosts, where that is worth it; false where its own sources are to be asked.

        What a swarm left unfinished are whole pieces with the right hashes: they are kept.

        Raises:
            StoreError, HeldError, Stopped.
        """
        from orchestrator.transfer import swarm

        run, on_disk, artifact = self._run, self._on_disk, self._artifact
        settings = run.swarms.get(artifact.wanted[0].manifest)
        if settings is None or self._attempts or not swarm.is_worth_it(artifact) or on_disk.is_complete():
            return False
        before, had = on_disk.missing() or (), on_disk.good_bytes()
        try:
            torrent = swarm.torrent_for(run, artifact)
            found = swarm.web_seeds(self._candidates, settings, self._ask_companion)
            limits = {url: self._limit(url) for url in found}
            exit_ = swarm.fetch(self._candidates, torrent, settings, limits, self._ticket)
        except swarm.NoSwarmError as error:
            line = f"swarm: {error.message}: downloaded without it"
            if line not in run.told:
                run.told.add(line)
                run.emit(Noticed(line))
            return False
        finally:
            self._receipt.bytes_fetched += max(0, on_disk.good_bytes() - had)
            if self._has_pieces:
                self._given += repair.given(before, on_disk.missing() or (), aria2c.NAME, (settings.tracker,))
        if on_disk.is_complete():
            self._receipt.backend, self._receipt.source = aria2c.NAME, settings.tracker
            return self._check(aria2c.NAME, settings.tracker) is None
        self._most_good_bytes = on_disk.good_bytes()
        why = "no data was received for too long" if exit_.ended == "stalled" else "aria2c ended too early"
        run.emit(Noticed(f"{artifact.name}: swarm: {why}: {self._most_good_bytes} bytes are kept"))
        return False

    def _fetch_by_relay(self) -> None:
        """Fetch what peers have proven that are still downloading it; where one has it whole by then, it is a source.

        Raises:
            StoreError, HeldError, Stopped.
        """
        run, on_disk, artifact = self._run, self._on_disk, self._artifact
        if not run.relays or self._attempts or on_disk.is_complete():
            return
        if not self._has_pieces or not run.can_run(curl.NAME):
            return
        if (artifact.size or 0) < relay.LEAST_BYTES or any(source.role is Role.PEER for source in artifact.sources):
            return
        had = on_disk.good_bytes()
        try:
            found = relay.fetch(self._candidates, self._offer)
        except OSError as error:
            fault = disk_full.fault_of(error, self._partial.folder)
            raise disk_full.full(run.store, artifact.name, fault) from error
        finally:
            self._receipt.bytes_fetched += max(0, on_disk.good_bytes() - had)
            self._most_good_bytes = on_disk.good_bytes()
        self._given += found.given
        if found.given:
            self._receipt.backend, self._receipt.source = curl.NAME, found.given[-1].sources[0]
        if found.whole:
            peers = tuple(Source(url, Role.PEER) for url in found.whole)
            self._artifact = replace_struct(artifact, sources=(*peers, *artifact.sources))
            self._candidates = replace(self._candidates, artifact=self._artifact)

    # Checking what is here.

    def _check(self, backend: str, source: str) -> tuple[Attempt, ...] | None:
        """Check the complete file: commit it when its digests fit (None), send its wrong bytes to quarantine when not.

        Gives an attempt for each source that is to blame, `source` or another; none where it was an earlier run.
        """
        unpinned = self._artifact.is_unpinned
        if unpinned and self._on_disk.is_too_long():
            return (Attempt(backend, source, self._quarantine()),)
        if unpinned and (doubt := self._doubt_version()):
            return (Attempt(backend, source, doubt),)
        self._offer.hold_back()  # nothing that is judged, moved or sealed may have a second name
        stream, self._stream = self._stream, None
        file = self._finished(stream.finish() if stream is not None else StreamVerdict.UNKNOWN)
        ((sha256, found),) = check.check_files(self._run, (file,))
        if sha256:
            self._receipt.sha256 = sha256
            return None
        kept = self._keep_good_pieces(file, backend, source)
        if kept is None and self._keep_what_came(file, found):
            return ()
        attempts = kept if kept is not None else (Attempt(backend, source, self._quarantine(found)),)
        self._condemn(attempts)
        return attempts

    def _finished(self, streamed: StreamVerdict = StreamVerdict.UNKNOWN) -> check.FinishedFile:
        """The file that is here, as `check` takes it."""
        info, artifact = self._info, self._artifact
        source = info.sources[-1] if info.sources else ""
        return check.FinishedFile(
            artifact=artifact,
            path=self._partial.file,
            sources=tuple(dict.fromkeys(info.sources)),
            source=source,
            is_inherited=self._is_inherited,
            etag=info.etags.get(source, ""),
            names=revalidate.names_of(artifact, info, self._answers.fickle),
            size=artifact.size,
            streamed=streamed,
        )

    def _quarantine(self, found: Digests | None = None) -> Fault:
        """Send wrong bytes to quarantine; `found` are their digests, where they were read already.

        Returns:
            CORRUPT where one source gave them all in this run: it is out. UNRESUMABLE where several did, an
            earlier run or nobody knows who: from now on each must show what it gives by itself.
        """
        self._offer.hold_back()
        file = self._finished()
        fault = check.quarantine_file(self._run, file, found)
        is_mixed = self._is_inherited or self._is_repaired or self._versions_differ or len(file.sources) != 1
        self._empty()
        if is_mixed:
            self._is_isolated = True
            return Fault(Kind.UNRESUMABLE, "wrong bytes in a file that came from several sources or runs")
        return replace(fault, hint=self._size_hint or fault.hint)

    def _keep_good_pieces(self, file: check.FinishedFile, backend: str, source: str) -> tuple[Attempt, ...] | None:
        """Of a complete file with wrong bytes keep the good pieces, if they are known; the bad ones are missing again.

        Returns:
            An attempt for each source that gave wrong bytes; where several gave them together, they go one by one from
            now on. Empty where they are of an earlier run. None where no piece is known to be good.
        """
        run = self._run
        damage = repair.examine(file.path, self._artifact, run.context.stop)
        if damage is None:
            if self._has_pieces:
                self._has_pieces = False
                words = "its piece hashes do not help: `orch lock --update` records them again"
                run.emit(Noticed(f"{self._artifact.name}: {words}"))
            return None
        found = repair.attribute(damage.bad, self._given, is_inherited=self._is_inherited)
        repair.keep_good_pieces(run, file, self._partial, damage, found.givers)
        self._count_reused()
        was_inherited, self._is_inherited, self._given, self._is_repaired = self._is_inherited, False, [], True
        if not found.blamed:
            self._is_isolated = True
            if was_inherited and check.EARLIER_RUN in found.suspects:
                return ()
        return repair.piece_faults(damage, found, backend, source)

    def _keep_what_came(self, file: check.FinishedFile, found: Digests | None) -> bool:
        """Of a wrong file keep what came in this run, where another program had begun it: its bytes are missing again.

        Once: what is wrong then was given by a source. Gives whether it is done; not for what is not worth it.
        """
        doubted, self._adopted = self._adopted, ()
        length = self._on_disk.length()
        if not doubted or length is None or self._artifact.is_unpinned or self._on_disk.is_too_long():
            return False
        if length - total(doubted) < TOLD_BYTES:
            return False
        try:
            repair.keep_what_came(self._run, file, self._partial, doubted, found.sha256 if found is not None else "")
        except StoreError:  # no room for a second copy of them: all of it is moved to quarantine
            return False
        self._count_reused()
        self._is_inherited = False
        self._most_good_bytes = self._on_disk.good_bytes()
        return True

    def _condemn(self, attempts: tuple[Attempt, ...]) -> None:
        """Note on the disk which of these attempts gave wrong bytes: later runs ask their sources last, for a day.

        Raises:
            OSError: the disk said no.
        """
        now = self._run.context.now()
        wrong = {each.source: (now, each.fault.message) for each in attempts if each.fault.kind is Kind.CORRUPT}
        if wrong:
            self._info.condemned.update(wrong)
            self._partial.save_info()

    def _load_condemned(self) -> dict[str, str]:
        """The sources that gave wrong bytes in an earlier run, and how; what is old is forgotten."""
        now, urls = self._run.context.now(), {source.url for source in self._artifact.sources}
        self._info.condemned = {
            url: (when, why)
            for url, (when, why) in self._info.condemned.items()
            if url in urls and abs(now - when) < CONDEMNED_S  # a clock may have been set back
        }
        return {url: why for url, (_, why) in self._info.condemned.items()}

    def _drop_stream(self) -> None:
        """End the checksum program behind an attempt that did not complete the file."""
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None
