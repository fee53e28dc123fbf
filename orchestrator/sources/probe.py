"""Before a run's first fetch: which of its hosts answer, with what, and how fast. A refused probe condemns nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind
from orchestrator.formats.wrong_file import POINTER, ExpectedFile, page
from orchestrator.model import Role
from orchestrator.sources.ranking import Rank
from orchestrator.urls import host_of, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.model import Artifact, Source
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.route import Route

PATIENCE_S = 2.0
HOST_REQUESTS = 4
LARGE_BYTES = 8 << 20  # below, the program is done before a probe would be
_VERDICTS = {
    Kind.MISSING: Rank.MISSING,
    Kind.TLS: Rank.DEAD,
    Kind.NETWORK: Rank.DEAD,
    Kind.STALLED: Rank.SILENT,
    Kind.BUSY: Rank.SILENT,
    Kind.REFUSED: Rank.REFUSED,
    Kind.UNRESUMABLE: Rank.REFUSED,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What is probed together: a prefix on a host, by the largest file (`url`, `size`) below it."""

    prefix: str
    host: str
    role: Role
    url: str
    size: int | None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe of a pair found; `rate` in bytes a second on one connection, `message` where it is not good."""

    verdict: Rank
    message: str = ""
    look: SourceAnswer | None = None
    rate: float | None = None


def worth(artifact: Artifact) -> bool:
    """Whether an artifact is large enough for a probe and has sources to choose from; unknown size is large."""
    return len(artifact.sources) > 1 and (artifact.size is None or artifact.size >= LARGE_BYTES)


def pairs(artifacts: Iterable[Artifact]) -> tuple[Pair, ...]:
    """All (prefix, host) pairs of the artifacts' sources, those of the largest files first."""
    found: dict[str, Pair] = {}
    for artifact in sorted(artifacts, key=lambda a: -(a.size or 0)):
        for source in artifact.sources:
            prefix = prefix_of(source, artifact.sources)
            if prefix not in found:
                found[prefix] = Pair(prefix, host_of(source.url), source.role, source.url, artifact.size)
    return tuple(found.values())


def prefix_of(source: Source, sources: Sequence[Source]) -> str:
    """What comes before the part of the path that a source shares with its origin; of an origin, its host."""
    url = source.url
    origin = next((s.url for s in reversed(sources) if s.role is Role.ORIGIN), url)
    base, mine = _split(url)
    if source.role is Role.ORIGIN:
        return f"{base}/"
    theirs = _split(origin)[1]
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    kept = mine[: len(mine) - max(1, shared)]
    return "/".join((base, *kept, ""))


def _split(url: str) -> tuple[str, list[str]]:
    """Scheme and host, and the path's parts."""
    parts = split(url)
    return f"{parts.scheme}://{parts.authority}", parts.path[1:].split("/")


def probe(
    asked: Sequence[Pair],
    route: Callable[[str], Route],
    *,
    stop: threading.Event,
    patience_s: float = PATIENCE_S,
    rates: bool = True,
) -> dict[Pair, ProbeResult]:
    """Ask all hosts at once, each at most 4 times, redirects' ends included, and wait no longer than so.

    A pair that has not answered by then is SILENT; one that could not be asked (another scheme, a SOCKS proxy,
    a host that was asked often enough) is not in the answer: nothing is known of it.
    """
    end = time.monotonic() + patience_s
    budget = _Budget()
    found: dict[Pair, ProbeResult] = {}
    mutex = threading.Lock()

    def work(mine: Sequence[Pair]) -> None:
        for pair in mine:
            try:
                finding = _examine(pair, route(pair.url), end, budget, stop, rates=rates)
            except Stopped:  # the thread's own end; who waits for it hears of the stop by itself
                return
            with mutex:
                if finding is None:
                    found.pop(pair, None)
                else:
                    found[pair] = finding

    by_host: dict[str, list[Pair]] = {}
    for pair in asked:
        if pair.url.startswith("http") and not route(pair.url).line.proxy.startswith("socks"):
            by_host.setdefault(pair.host, []).append(pair)
    for mine in by_host.values():
        found[mine[0]] = ProbeResult(Rank.SILENT, f"no answer within {patience_s:.0f} s")
    crew = [threading.Thread(target=work, args=(mine,), name="orch-probe", daemon=True) for mine in by_host.values()]
    for thread in crew:
        thread.start()
    for thread in crew:
        while thread.is_alive() and (left_s := end - time.monotonic()) > 0 and not stop.is_set():
            thread.join(min(left_s, 0.1))
    with mutex:  # who is late may still write, but into what nobody reads
        return dict(found)


class _Budget:
    """Counts the requests to each host; the end of a redirect counts as well."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def take(self, url: str) -> bool:
        """Whether one more may go there; it is counted then."""
        host = host_of(url)
        with self._mutex:
            self._asked[host] += self._asked[host] < HOST_REQUESTS + 1
            return self._asked[host] <= HOST_REQUESTS


def _examine(
    pair: Pair, way: Route, end: float, budget: _Budget, stop: threading.Event, *, rates: bool
) -> ProbeResult | None:
    """Look at a pair and taste its file; None where it could not be asked."""
    from orchestrator.sources.http import ask_source, begins_as, other_file, sample_rate

    expected = ExpectedFile(split(pair.url).path.rpartition("/")[2], pair.size)
    refused: list[str] = []

    def may_ask(url: str) -> bool:
        if budget.take(url):
            return True
        refused.append(url)
        return False

    left_s = end - time.monotonic()
    if left_s <= 0:
        return None
    seen = ask_source(
        pair.url,
        proxy=way.proxy,
        ca=way.ca,
        user_agent=way.user_agent,
        timeout_s=left_s,
        bearer=way.bearer,
        may_ask=may_ask,
        stop=stop,
    )
    if refused:
        return None
    if isinstance(seen, Fault):
        # A server's own trouble is no dead host: it may be over when the file's turn comes.
        known = Rank.SILENT if seen.status and seen.kind is Kind.NETWORK else _VERDICTS[seen.kind]
        return ProbeResult(known, seen.message)
    if seen.encoding:
        return ProbeResult(Rank.LYING, f"compresses the file on its way ({seen.encoding})", seen)
    if seen.length is not None and pair.size is not None and seen.length != pair.size:
        may = budget.take(seen.last_url)
        left_s = max(0.1, min(end - time.monotonic(), 1.0)) if may else 0.0
        what = other_file(seen, expected, begins_as(seen, expected, way, left_s, stop))
        return ProbeResult(Rank.LYING, what.words, seen)
    left_s = end - time.monotonic()
    if not rates or left_s <= 0 or not budget.take(seen.last_url):
        return ProbeResult(Rank.GOOD, "", seen)
    way_s = min(left_s, 1.0)
    bearer = way.bearer if host_of(seen.last_url) == host_of(pair.url) else None
    tasted = sample_rate(
        seen.last_url,
        proxy=way.proxy,
        ca=way.ca,
        user_agent=way.user_agent,
        timeout_s=way_s,
        bearer=bearer,
        stop=stop,
    )
    what = page(tasted.head, expected)
    if what and (seen.length is None or tasted.head.startswith(POINTER)):
        return ProbeResult(Rank.LYING, f"{what.words} instead of the file", seen)
    return ProbeResult(Rank.GOOD, "", seen, tasted.rate)
