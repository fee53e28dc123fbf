"""PURE: what to do next with one artifact, given what was tried so far: Try, Await or GiveUp."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind, Remedy
from orchestrator.sources.host_health import backoff_s

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
MAX_RETRY_AFTER_S = 300.0
MAX_WAIT_IN_A_ROW_S = 120.0
MIN_GAIN_BYTES = 16 * 1024  # what counts as progress: a byte an attempt would never end
TRIES_BEFORE_NEXT_BACKEND = 2
SLOW_S = 10.0  # a source that was left as slow is taken again before one that must be waited for longer


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of one backend on one source (or a request of ours that failed): what it gained and why it ended.

    `gained_bytes` are new good bytes; `waited_s` what was waited before it; `afresh` that it began with nothing
    on purpose.
    """

    backend: str
    source: str
    fault: Fault
    gained_bytes: int = 0
    waited_s: float = 0.0
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Try:
    """Run this backend on this source after `wait_s`; `afresh` throws the partial away first."""

    backend: str
    source: str
    wait_s: float = 0.0
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """Only `sources` are left, and none of them is to be asked now; `fallback`: without them one would begin afresh."""

    sources: tuple[str, ...]
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nothing is left to try; `fault` is the one that people should read."""

    fault: Fault | None


def next_step(
    options: Mapping[str, Sequence[str]],
    attempts: Sequence[Attempt],
    *,
    retries: int = 5,
    jitter: float = 0.5,
    closed: Collection[str] = (),
    is_patient: bool = False,
) -> Try | Await | GiveUp:
    """Decide the next step.

    `options` maps each source, best first, to the backends that may serve it, best first. `retries` bounds the
    rounds over all sources without new good bytes; progress refills them. `jitter` in [0, 1) spreads the waits.
    `closed` are the sources whose hosts are not to be asked now. `is_patient`: hosts that are down are waited for, so
    that attempts on them count against no budget; whoever says so ends it after a time.
    Any history of faults ends: sources, backends and pairs only go out, rounds are bounded, size is finite.
    """
    past = _Attempts(options, attempts, is_patient=is_patient)
    if past.stopped:
        return GiveUp(past.stopped)
    alive = [s for s in options if past.backends(s) and past.spent[s] <= retries]
    fresh = [s for s in alive if s not in past.stale]
    again = [s for s in alive if s in past.stale and not past.afresh]
    if fresh and past.waited_s <= MAX_WAIT_IN_A_ROW_S:
        ready = [s for s in fresh if s not in closed]
        if not ready:
            return Await(tuple(fresh), bool(again))
        source = past.renewed if past.renewed in ready else min(ready, key=lambda s: past.reluctance(s, jitter))
        backends = past.backends(source)
        backend = backends[past.blamed[source] // TRIES_BEFORE_NEXT_BACKEND % len(backends)]
        return Try(backend, source, past.wait_s(source, jitter))
    if again:
        ready = [s for s in again if s not in closed]
        if not ready:
            return Await(tuple(again))
        return Try(past.backends(ready[0])[0], ready[0], past.wait_s(ready[0], jitter), afresh=True)
    return GiveUp(final_fault(attempts))


class _Attempts:
    """What the attempts so far have ruled out and used up."""

    def __init__(self, options: Mapping[str, Sequence[str]], attempts: Sequence[Attempt], *, is_patient: bool) -> None:
        self._options = options
        self._attempts = attempts
        self._is_patient = is_patient
        self.tried: set[str] = set()
        self.idle: Counter[str] = Counter()  # failures in a row
        self.spent: Counter[str] = Counter()  # those that count against the budget
        self.blamed: Counter[str] = Counter()  # those that another program may be spared
        self._instant: set[str] = set()  # sources that were known to be down at once, the last time
        self.stale: set[str] = set()
        self.stopped: Fault | None = None
        self.afresh = False
        self.waited_s = 0.0
        self.renewed = ""  # a source whose signed URL ended while all went well
        self._at_work: set[str] = set()  # what came last from these were new bytes
        self._slow: set[str] = set()
        self._no_source: set[str] = set()
        self._no_backend: set[str] = set()
        self._no_pair: set[tuple[str, str]] = set()
        self._retry_after_s: dict[str, float] = {}
        for attempt in attempts:
            self._fold(attempt)

    def _fold(self, attempt: Attempt) -> None:
        fault, source = attempt.fault, attempt.source
        self.afresh = self.afresh or attempt.afresh
        self.waited_s += attempt.waited_s
        self._retry_after_s.pop(source, None)
        self.renewed = ""
        self._at_work.discard(source)
        if attempt.gained_bytes >= MIN_GAIN_BYTES:
            self._at_work.add(source)
            self.idle.clear()
            self.spent.clear()
            self.blamed.clear()
            self.waited_s = 0.0
        match fault.remedy:
            case Remedy.STOP:
                self.stopped = fault
            case Remedy.BACKEND:
                self._no_backend.add(attempt.backend)
            case Remedy.SOURCE:
                self._no_source.add(source)
            case Remedy.PAIR:
                self._no_pair.add((source, attempt.backend))
                if sum(s == source for s, _ in self._no_pair) >= 2:
                    self._no_source.add(source)
            case Remedy.AFRESH:
                # What was tried from the first byte and still cannot go on never will.
                (self._no_source if self.afresh and source in self.stale else self.stale).add(source)
            case Remedy.RESOLVE if attempt.gained_bytes >= MIN_GAIN_BYTES:
                self.renewed = source  # no failure: on with it at once
            case Remedy.AGAIN | Remedy.RESOLVE:
                self.tried.add(source)
                self.idle[source] += 1
                self.spent[source] += not (self._is_patient and fault.is_unreachable)
                self.blamed[source] += not fault.unresolved
                (self._instant.add if fault.is_instant else self._instant.discard)(source)
                if fault.slow:
                    self._slow.add(source)
                if fault.retry_after_s is not None:
                    self._retry_after_s[source] = min(fault.retry_after_s, MAX_RETRY_AFTER_S)
        if attempt.afresh and fault.remedy is not Remedy.AFRESH:
            self.stale.clear()

    def backends(self, source: str) -> tuple[str, ...]:
        """The backends still open for a source."""
        if source in self._no_source:
            return ()
        return tuple(b for b in self._options[source] if b not in self._no_backend and (source, b) not in self._no_pair)

    def reluctance(self, source: str, jitter: float) -> tuple[float, bool]:
        """What speaks against a source; a slow one is taken only when the others fail and fail."""
        return self.wait_s(source, jitter) + SLOW_S * (source in self._slow), source in self.tried

    def wait_s(self, source: str, jitter: float) -> float:
        """Back off only before a source that brought nothing the last time; as long as the server asks."""
        asked_s = self._retry_after_s.get(source, 0.0)
        if not self.idle[source] or source in self._at_work:
            return asked_s
        if source in self._instant:
            return max(backoff_s(self.idle[source], jitter), asked_s)
        step = WAITS_S[min(self.idle[source], len(WAITS_S)) - 1] * (0.75 + 0.5 * jitter)
        return max(step, asked_s)


def final_fault(attempts: Sequence[Attempt], kept: Collection[str] = ()) -> Fault | None:
    """The fault that says most; None where nothing was tried. `kept` are sources of which bytes are kept.

    Wrong bytes come before all but a source that gave good bytes and was lost: it may give the rest the next time,
    whatever another one has. Else it is the last one.
    """
    gave = {*kept, *(attempt.source for attempt in attempts if attempt.gained_bytes >= MIN_GAIN_BYTES)}
    wrong = {attempt.source: attempt.fault for attempt in attempts if attempt.fault.kind is Kind.CORRUPT}
    last = {attempt.source: attempt.fault for attempt in attempts}
    lost = [last[source] for source in last if source in gave and source not in wrong]
    passing = next((fault for fault in reversed(lost) if fault.remedy in (Remedy.AGAIN, Remedy.RESOLVE)), None)
    return passing or next(iter(wrong.values()), None) or (attempts[-1].fault if attempts else None)
