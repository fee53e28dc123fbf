"""Beside a running program: progress for people, the last good sidecar kept, an overrun ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backends.base import Trait
from orchestrator.faults import Fault, Kind, Remedy
from orchestrator.sources.ranking import SETTLE_S, faster, must_renew
from orchestrator.sources.stats import AttemptRecord
from orchestrator.transfer.partial import total
from orchestrator.transfer.retry import MIN_GAIN_BYTES
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.backends.base import Backend, Exit, Job
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.transfer.state import Download


PROGRESS_S = 0.5
KEEP_S = 1.0
AXEL_SAVES_S = 10.0  # axel writes its state so often; it begins a cut connection anew for ever


class Monitor:
    """Called some five times a second with the bytes that the program has written."""

    def __init__(self, download: Download, backend: Backend, good_before: int) -> None:
        self._download, self._backend, self._before = download, backend, good_before
        self._told = self._kept = 0.0
        self._least: int | None = None
        self._moved = download.run.context.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        on_disk, now = self._download.on_disk, self._download.run.context.monotonic()
        length = on_disk.length()
        if on_disk.is_too_long():
            return "overrun"
        if now - self._told >= PROGRESS_S:
            self._told = now
            done = self._before + written_bytes if self._backend.SIDECAR else on_disk.partial.have
            self._download.emit_progress(min(done, length) if length is not None else done)
        if self._backend.SIDECAR and length is not None and now - self._kept >= KEEP_S:
            self._kept = now
            self._keep_sidecar(length, now)
            if self._backend.NAME == "axel" and now - self._moved > 2 * AXEL_SAVES_S:
                return "hammering"
        return None

    def _keep_sidecar(self, length: int, now: float) -> None:
        partial = self._download.on_disk.partial
        content = partial.sidecar(self._backend.SIDECAR)
        if not content:
            return
        least = total(self._backend.missing(content, length, partial.have))
        if self._least is None or least <= self._least:
            self._moved = now if self._least is None or least < self._least else self._moved
            self._least = least
            try:
                partial.keep_sidecar(content)
            except OSError:  # full: what was kept before is still there
                return


WINDOW_S = 3.0
START_S = 1.0  # connections are made: no measure yet
_PASSING = frozenset((Remedy.AGAIN, Remedy.RESOLVE))


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one program did: bytes that landed, its seconds, and over how many connections."""

    fetched_bytes: int
    seconds: float
    connections: int


class SpeedMonitor:
    """A watch around another: ends a program on a source that is too slow, or whose signature is about to end."""

    def __init__(
        self,
        download: Download,
        backend: Backend,
        job: Job,
        source: str,
        before: int,
        watch: Callable[[int], str | None],
    ) -> None:
        self._download, self._job, self._source, self._before = download, job, source, before
        self._watch, self._clock = watch, download.run.context.monotonic
        self._began = self._clock()
        self._marks: deque[tuple[float, int]] = deque()
        look = download.looks.get(source)
        # A program with one connection has made its only request already; an address of ours is not renewed.
        renewable = Trait.SEGMENTS in backend.TRAITS and look is not None and look.last_url != source
        self._life_s = look.ends_in_s if look is not None and renewable else None
        self._may_leave = len(job.wants[0].sources) == 1 and not any(
            a.source == source and a.fault.slow for a in download.attempts
        )
        self._connections = job.connections if Trait.SEGMENTS in backend.TRAITS else 1

    def __call__(self, written_bytes: int) -> str | None:
        """Do what the other watch does; "slow" or "expiring" end the program."""
        word = self._watch(written_bytes)
        if word is not None:
            return word
        now = self._clock()
        ran_s = now - self._began
        if ran_s < START_S:
            return None
        while self._marks and now - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()
        self._marks.append((now, written_bytes))
        since, mark = self._marks[0]
        rate = (written_bytes - mark) / (now - since) if now > since else float("inf")
        length = self._download.on_disk.length()
        left = None if length is None else max(0, length - self._before - written_bytes)
        if self._life_s is not None and self._life_s > 0 and must_renew(self._life_s - ran_s, self._life_s, left, rate):
            return "expiring"
        return "slow" if self._may_leave and self._is_slow(rate, ran_s, left) else None

    def _is_slow(self, rate: float, ran_s: float, left: int | None) -> bool:
        download = self._download
        if ran_s < SETTLE_S or len(download.artifact.sources) < 2:
            return False
        out = {a.source for a in download.attempts if a.fault.remedy not in _PASSING or a.fault.slow}
        out.add(self._source)
        rates = {
            source.url: download.known.rate(source.url, self._connections)
            for source in download.artifact.sources
            if source.url not in out
        }
        others = {url: other for url, other in rates.items() if other is not None and _is_served(download, url)}
        best = faster(rate, ran_s, left, others, sharing=download.known.running)
        if best is not None:
            download.faster_host = host_of(best).partition("://")[2]
        return best is not None


def _is_served(download: Download, url: str) -> bool:
    return any(not choice.obstacle for choice in download.choices(url))


def refine_fault(
    download: Download, source: str, fault: Fault | None, gained: int, look: Callable[[], SourceAnswer | Fault | None]
) -> Fault | None:
    """Say more exactly what the end of a program meant, with the clock and the looks that a backend has not."""
    if fault is None:
        return None
    if fault.slow:
        return replace(fault, message=f"slower than half of {download.faster_host}")
    seen = download.looks.get(source)
    if fault.kind is Kind.MISSING and seen is not None and source not in download.suspect:
        # Our look found it: this program was led elsewhere, by a redirect that each of them reads in its own way.
        return replace(fault, kind=Kind.REFUSED)
    if fault.status in (401, 403) and gained >= MIN_GAIN_BYTES and seen is not None and seen.ends_in_s is not None:
        return Fault(Kind.EXPIRED, f"the signed URL ended ({fault.status})", fault.status)
    if fault.kind is not Kind.BUSY or fault.retry_after_s is not None:
        return fault
    if fault.retry_at_s is not None:
        return replace(fault, retry_after_s=max(0.0, fault.retry_at_s - download.run.context.now()))
    if fault.status in (429, 503):  # the program did not say for how long: the server will
        told = look()
        return told if isinstance(told, Fault) and told.kind is Kind.BUSY else fault
    return fault


def measure(download: Download, job: Job, backend: Backend, exit_: Exit, landed: int) -> None:
    """Keep what a program did until its attempt is judged."""
    if len(job.wants[0].sources) > 1:
        return  # whose rate would it be?
    connections = job.connections if Trait.SEGMENTS in backend.TRAITS else 1
    download.measured = Throughput(landed, exit_.seconds, connections)


def book(download: Download, backend: str, source: str, fault: Fault | None) -> None:
    """Remember an attempt for the order of sources, in this run and the next ones."""
    did, download.measured = download.measured or Throughput(0, 0.0, 1), None
    look = download.looks.get(source)
    via = host_of(source)
    host = host_of(look.last_url) if look is not None else download.known.host(source)
    download.known.history.add(
        AttemptRecord(
            time=round(download.run.context.now(), 3),
            host=host,
            backend=backend,
            fetched_bytes=did.fetched_bytes,
            seconds=round(did.seconds, 3),
            connections=did.connections,
            round_trip_s=round(look.round_trip_s, 4) if look is not None else None,
            fault=fault.kind.value if fault is not None else None,
            via=via if via != host else "",
        )
    )
