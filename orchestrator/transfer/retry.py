"""PURE: what to do next with one artifact, given what was tried so far: Try, or GiveUp."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind, Remedy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
MAX_RETRY_AFTER_S = 300.0
MAX_WAIT_IN_A_ROW_S = 120.0
MIN_GAIN_BYTES = 16 * 1024  # what counts as progress: a byte an attempt would never end
TRIES_BEFORE_NEXT_BACKEND = 2
REFUSED_CONNECTIONS = 2
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
class GiveUp:
    """Nothing is left to try; `fault` is the one that people should read."""

    fault: Fault | None


def next_step(
    options: Mapping[str, Sequence[str]],
    attempts: Sequence[Attempt],
    *,
    retries: int = 5,
    jitter: float = 0.5,
) -> Try | GiveUp:
    """Decide the next step.

    `options` maps each source, best first, to the backends that may serve it, best first. `retries` bounds the
    rounds over all sources without new good bytes; progress refills them. `jitter` in [0, 1) spreads the waits.
    Any history of faults ends: sources, backends and pairs only go out, rounds are bounded, size is finite.
    """
    past = _Attempts(options, attempts)
    if past.stopped:
        return GiveUp(past.stopped)
    alive = [s for s in options if past.backends(s) and past.idle[s] <= retries]
    fresh = [s for s in alive if s not in past.stale]
    if fresh and past.waited_s <= MAX_WAIT_IN_A_ROW_S:
        source = past.renewed if past.renewed in fresh else min(fresh, key=lambda s: past.reluctance(s, jitter))
        backends = past.backends(source)
        backend = backends[past.idle[source] // TRIES_BEFORE_NEXT_BACKEND % len(backends)]
        return Try(backend, source, past.wait_s(source, jitter))
    again = [s for s in alive if s in past.stale]
    if again and not past.afresh:
        return Try(past.backends(again[0])[0], again[0], past.wait_s(again[0], jitter), afresh=True)
    return GiveUp(past.final_fault())


class _Attempts:
    """What the attempts so far have ruled out and used up."""

    def __init__(self, options: Mapping[str, Sequence[str]], attempts: Sequence[Attempt]) -> None:
        self._options = options
        self._attempts = attempts
        self.tried: set[str] = set()
        self.idle: Counter[str] = Counter()
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
        self._unheard: Counter[str] = Counter()
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
            self._unheard.clear()
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
                if fault.slow:
                    self._slow.add(source)
                self._unheard[source] += fault.refused_connection
                if self._unheard[source] >= REFUSED_CONNECTIONS:
                    self._no_source.add(source)
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
        step = WAITS_S[min(self.idle[source], len(WAITS_S)) - 1] * (0.75 + 0.5 * jitter)
        return max(step, asked_s)

    def final_fault(self) -> Fault | None:
        """The fault that says most: wrong bytes before all, else the last one."""
        for attempt in self._attempts:
            if attempt.fault.kind is Kind.CORRUPT:
                return attempt.fault
        return self._attempts[-1].fault if self._attempts else None
