"""Watch a running program: tell its progress, keep its last good sidecar, end it if it is too slow or fails."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backends.base import Trait
from orchestrator.events import Progressed
from orchestrator.faults import Fault, Kind, Remedy
from orchestrator.sources.ranking import SETTLE_S, faster, must_renew
from orchestrator.transfer.partial import total
from orchestrator.transfer.retry import MIN_GAIN_BYTES
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.backends.base import Exit
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.transfer.attempt import Launch
    from orchestrator.transfer.candidates import Candidates
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.run_context import RunContext


PROGRESS_S = 0.5
KEEP_S = 1.0
AXEL_SAVES_S = 10.0  # axel writes its state so often; it begins a cut connection anew for ever
OVERRUN_BYTES = 4 << 20  # by a count of bytes, beyond all sizes together: what the program reports is written as well


class FileMonitor:
    """Watches a program that writes one file; called some five times a second with the bytes that it has written."""

    def __init__(self, run: RunContext, launch: Launch, on_disk: PartialState) -> None:
        self._run, self._launch, self._on_disk = run, launch, on_disk
        self._backend = launch.backend
        self._told = self._kept = 0.0
        self._least: int | None = None
        self._moved = run.context.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        on_disk, now = self._on_disk, self._run.context.monotonic()
        length = on_disk.length()
        if on_disk.is_too_long():
            return "overrun"
        if now - self._told >= PROGRESS_S:
            self._told = now
            done = self._launch.have_bytes + written_bytes if self._backend.SIDECAR else on_disk.partial.have
            done = min(done, length) if length is not None else done
            self._run.emit(Progressed(*self._launch.title, done, length))
        if self._backend.SIDECAR and length is not None and now - self._kept >= KEEP_S:
            self._kept = now
            self._keep_sidecar(length, now)
            if self._backend.NAME == "axel" and now - self._moved > 2 * AXEL_SAVES_S:
                return "hammering"
        return None

    def _keep_sidecar(self, length: int, now: float) -> None:
        partial = self._on_disk.partial
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


class BytesMonitor:
    """Watches a program by the bytes written alone, which costs the same for any number of files.

    For one that writes many, or `size` bytes of a file beside it.
    """

    def __init__(self, run: RunContext, launch: Launch, size: int) -> None:
        self._run, self._launch, self._size = run, launch, size
        self._told = run.context.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        if written_bytes > self._size + OVERRUN_BYTES:
            return "overrun"
        now = self._run.context.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            launch, done = self._launch, self._launch.have_bytes + min(written_bytes, self._size)
            self._run.emit(Progressed(*launch.title, done, launch.size_bytes, launch.files))
        return None


WINDOW_S = 3.0
LEAST_OPEN_RATE = 200.0 * (1 << 20)  # of one connection, in bytes a second: aria2c has brought 430 over many
START_S = 1.0  # connections are made: no measure yet
_ENDED = (401, 403, 404, 410)  # what servers say of a signed URL whose time is over: the last two only of a redirect
_PASSING = frozenset((Remedy.AGAIN, Remedy.RESOLVE))


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one program did: bytes that landed, its seconds, and over how many connections."""

    fetched_bytes: int = 0
    seconds: float = 0.0
    connections: int = 1


def throughput(launch: Launch, exit_: Exit, landed_bytes: int) -> Throughput:
    """What a program did for one source; of several, or under a limit, nobody could say whose rate it is."""
    if len(launch.sources) > 1 or launch.job.rate is not None:
        return Throughput()
    return Throughput(landed_bytes, exit_.seconds, connections_of(launch))


def connections_of(launch: Launch) -> int:
    """How many connections a program makes."""
    return launch.job.connections if Trait.SEGMENTS in launch.backend.TRAITS else 1


def also(monitor: Callable[[int], str | None], note: Callable[[int], None]) -> Callable[[int], str | None]:
    """A monitor that tells `note` the bytes written before it asks another one."""

    def watch(written_bytes: int) -> str | None:
        note(written_bytes)
        return monitor(written_bytes)

    return watch


class SpeedMonitor:
    """Ends a program on a source that is too slow, or whose signature is about to end, or for another share.

    Calls another monitor first. `must_yield` gets the bytes that are missing, and says when to take another share.
    """

    def __init__(
        self,
        launch: Launch,
        candidates: Candidates,
        monitor: Callable[[int], str | None],
        must_yield: Callable[[int | None], bool],
    ) -> None:
        self.faster_host = ""  # the host that a slow source was left for
        self._launch, self._candidates, self._monitor, self._must_yield = launch, candidates, monitor, must_yield
        self._source = source = launch.sources[0]
        self._clock = candidates.run.context.monotonic
        self._began = self._clock()
        self._marks: deque[tuple[float, int]] = deque()
        answer = candidates.answers.get(source)
        # A program with one connection has made its only request already; an address of ours is not renewed.
        renewable = Trait.SEGMENTS in launch.backend.TRAITS and answer is not None and answer.last_url != source
        self._life_s = answer.ends_in_s if answer is not None and renewable else None
        # One connection was promised to be enough: less, and many may bring more.
        is_one = Trait.SEGMENTS not in launch.backend.TRAITS and launch.job.rate is None
        self._least_rate = LEAST_OPEN_RATE if is_one and candidates.is_open(source) else 0.0
        self._may_leave = len(launch.sources) == 1 and not any(
            a.source == source and a.fault.slow for a in candidates.attempts
        )

    def __call__(self, written_bytes: int) -> str | None:
        """Do what the other monitor does; "yielded", "slow" or "expiring" end the program."""
        word = self._monitor(written_bytes)
        if word is not None:
            return word
        length = self._candidates.on_disk.length()
        left = None if length is None else max(0, length - self._launch.have_bytes - written_bytes)
        if self._must_yield(left):
            return "yielded"
        now = self._clock()
        ran_s = now - self._began
        if ran_s < START_S:
            return None
        least = self._least_rate / max(1, self._candidates.stats.running)  # those that run share the line
        if written_bytes < least * ran_s < (left or 0):
            self._candidates.stats.found_narrow(self._source)
            return "yielded"
        while self._marks and now - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()
        self._marks.append((now, written_bytes))
        since, mark = self._marks[0]
        rate = (written_bytes - mark) / (now - since) if now > since else float("inf")
        if self._life_s is not None and self._life_s > 0 and must_renew(self._life_s - ran_s, self._life_s, left, rate):
            return "expiring"
        return "slow" if self._may_leave and self._is_slow(rate, ran_s, left) else None

    def _is_slow(self, rate: float, ran_s: float, left: int | None) -> bool:
        candidates = self._candidates
        sources = candidates.artifact.sources
        if ran_s < SETTLE_S or len(sources) < 2:
            return False
        out = {a.source for a in candidates.attempts if a.fault.remedy not in _PASSING or a.fault.slow}
        out.add(self._source)
        connections = connections_of(self._launch)
        out.update(candidates.differing(self._source))
        rates = {s.url: candidates.stats.rate(s.url, connections) for s in sources if s.url not in out}
        most = self._launch.job.rate or float("inf")  # no source gives more than the limit lets it
        others = {url: min(other, most) for url, other in rates.items() if other and candidates.is_served(url)}
        best = faster(rate, ran_s, left, others, sharing=candidates.stats.running)
        if best is not None:
            self.faster_host = host_of(best).partition("://")[2]
        return best is not None


def refine_fault(
    fault: Fault,
    answer: SourceAnswer | None,
    gained_bytes: int,
    now: float,
    *,
    is_suspect: bool,
    is_redirected: bool = False,
) -> Fault | None:
    """Say more exactly what the end of a program meant, with the clock and the answers that a backend has not.

    Args:
        fault: what its backend made of it.
        answer: what the source answered to a request of our own.
        gained_bytes: how many bytes the program brought.
        now: seconds since the epoch.
        is_suspect: whether the source has failed before.
        is_redirected: whether the program was given the URL that the source redirected us to.

    Returns:
        The fault; None where only the server can tell for how long it is busy.
    """
    is_signed = is_redirected or (answer is not None and answer.ends_in_s is not None)
    ended = _ENDED if is_redirected else _ENDED[:2]
    if fault.status in ended and gained_bytes >= MIN_GAIN_BYTES and is_signed:
        return Fault(Kind.EXPIRED, f"the signed URL ended ({fault.status})", fault.status)
    if fault.kind is Kind.MISSING and answer is not None and not is_suspect:
        # Our request found it: this program was led elsewhere, by a redirect that each of them reads in its own way.
        return replace(fault, kind=Kind.REFUSED)
    if fault.kind is not Kind.BUSY or fault.retry_after_s is not None:
        return fault
    if fault.retry_at_s is not None:
        return replace(fault, retry_after_s=max(0.0, fault.retry_at_s - now))
    return None if fault.status in (429, 503) else fault
