"""Probe the sources of a run before its first download: which hosts answer, with what file, and how fast.

Where a large file has one source there is nothing to compare; it is asked here because that takes a round trip, which
passes while programs are looked for. A source whose probe was refused is only tried later than others: a program may
still be served.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind
from orchestrator.formats.wrong_file import POINTER, ExpectedFile, page
from orchestrator.model import Role
from orchestrator.sources.ranking import Rank
from orchestrator.urls import host_of, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orchestrator.model import Artifact, Source
    from orchestrator.sources.http import RateSample, SourceAnswer
    from orchestrator.sources.route import Route

TIMEOUT_S = 2.0
HOST_REQUESTS = 4
LARGE_BYTES = 8 << 20  # a smaller file is downloaded before a probe ends
# A line is open where one connection brings more than a line of 1 Gb/s does. A longer sample than that of a rate, but
# only of a near host, whose first bytes are not slow for the window of TCP; and of a file that is worth it.
OPEN_RATE = 128.0 * (1 << 20)
OPEN_BYTES = 256 << 20
_NEAR_S = 0.01
_OPEN_SAMPLE_BYTES, _OPEN_SAMPLE_S = 8 << 20, 0.04
_SAMPLE_LEAST_BYTES = 256
_MUCH_FASTER = 8.0  # a source whose rate is so many times lower than another's need not be measured to the end
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
class ProbeTarget:
    """A prefix on a host, which is probed by the largest file (`url`, `size` in bytes) below it.

    `is_alone`: there is no other source to compare its rate with. `key` is the artifact's.
    """

    prefix: str
    host: str
    role: Role
    url: str
    size: int | None
    is_alone: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one probe; `rate` in bytes a second on one connection, `message` where the verdict is not GOOD.

    `is_open`: one connection alone brings so much that the program is the limit, not the line. `sample` are bytes from
    the middle of the file, where all its sources are sampled; empty where they could not be had.
    """

    verdict: Rank
    message: str = ""
    answer: SourceAnswer | None = None
    rate: float | None = None
    is_open: bool = False
    sample: bytes = field(default=b"", repr=False)


def is_worth_probing(artifact: Artifact) -> bool:
    """Whether an artifact is large enough for a probe and has sources to choose from; unknown size is large.

    What a peer has is not asked for elsewhere.
    """
    if any(source.role is Role.PEER for source in artifact.sources):
        return False
    return len(artifact.sources) > 1 and (artifact.size is None or artifact.size >= LARGE_BYTES)


def is_worth_asking(artifact: Artifact) -> bool:
    """Whether the only source of an artifact is asked with the probe; where no digest judges, it is asked later."""
    source, *others = artifact.sources
    is_large = artifact.size is not None and artifact.size >= LARGE_BYTES
    return is_large and not others and source.role is not Role.PEER and not artifact.is_unpinned


def probe_targets(artifacts: Iterable[Artifact], alone: Iterable[Artifact] = ()) -> tuple[ProbeTarget, ...]:
    """What to probe: each prefix of the artifacts' sources once, those of the largest files first.

    `alone` are artifacts with one source: of each of their hosts the largest is asked.
    """
    found: dict[str, ProbeTarget] = {}
    for some, is_alone in ((artifacts, False), (alone, True)):
        for artifact in sorted(some, key=lambda a: -(a.size or 0)):
            for source in artifact.sources:
                prefix, host = prefix_of(source, artifact.sources), host_of(source.url)
                if prefix not in found:
                    role, url, size = source.role, source.url, artifact.size
                    found[prefix] = ProbeTarget(prefix, host, role, url, size, is_alone, artifact.key)
    return tuple(found.values())


def prefix_of(source: Source, sources: Sequence[Source]) -> str:
    """The part of a source's URL before the path that it shares with its origin; of an origin, its host.

    Example: `https://mirror.example/weights/` for `https://mirror.example/weights/a/b.bin`, a mirror of
    `https://origin.example/a/b.bin`.
    """
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
    """Split a URL into scheme and host, and the parts of its path."""
    parts = split(url)
    return f"{parts.scheme}://{parts.authority}", parts.path[1:].split("/")


def probe(
    asked: Sequence[ProbeTarget],
    route: Callable[[str], Route],
    *,
    stop: threading.Event,
    timeout_s: float = TIMEOUT_S,
    rates: bool = True,
    open_lines: bool = False,
) -> dict[ProbeTarget, ProbeResult]:
    """Ask all hosts side by side, each at most 4 times (a host where redirects end included).

    Args:
        asked: what to probe.
        route: gives the proxy, CA bundle and token for a URL.
        stop: ends the probe once it is set.
        timeout_s: for all of it.
        rates: whether to measure rates too.
        open_lines: whether to find out which lines are open, which takes up to 8 MiB of each.

    Returns:
        A target that did not answer in time is SILENT. One that could not be asked (another scheme, a SOCKS proxy, a
        host that was asked 4 times) is missing: nothing is known of it.
    """
    end = time.monotonic() + timeout_s
    limit = _RequestLimit()
    found: dict[ProbeTarget, ProbeResult] = {}
    mutex = threading.Lock()

    def slow() -> float:
        """The rate of a source that cannot be the best: that of another one is many times higher."""
        with mutex:
            return max((result.rate or 0.0 for result in found.values()), default=0.0) / _MUCH_FASTER

    def work(mine: Sequence[ProbeTarget]) -> None:
        for target in mine:
            try:
                result = _examine(
                    target, route(target.url), end, limit, stop, slow=slow, rates=rates, open_lines=open_lines
                )
            except Stopped:  # only this thread ends; the one that waits for it checks the stop itself
                return
            with mutex:
                if result is None:
                    found.pop(target, None)
                else:
                    found[target] = result

    by_host: dict[str, list[ProbeTarget]] = {}
    for target in asked:
        if target.url.startswith("http") and not route(target.url).requirements.proxy.startswith("socks"):
            by_host.setdefault(target.host, []).append(target)
    for mine in by_host.values():
        found[mine[0]] = ProbeResult(Rank.SILENT, f"no answer within {timeout_s:.0f} s")
    threads = [threading.Thread(target=work, args=(mine,), name="orch-probe", daemon=True) for mine in by_host.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and (left_s := end - time.monotonic()) > 0 and not stop.is_set():
            thread.join(min(left_s, 0.1))
    with mutex:  # a thread that is late may still write, but into a dict that nobody reads
        return dict(found)


class _RequestLimit:
    """Limits the requests to each host; the host at the end of a redirect counts as well."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def take(self, url: str) -> bool:
        """Count one more request to the host of `url`; whether it is allowed."""
        host = host_of(url)
        with self._mutex:
            self._asked[host] += self._asked[host] < HOST_REQUESTS + 1
            return self._asked[host] <= HOST_REQUESTS


def _examine(
    target: ProbeTarget,
    route: Route,
    end: float,
    limit: _RequestLimit,
    stop: threading.Event,
    *,
    slow: Callable[[], float],
    rates: bool,
    open_lines: bool,
) -> ProbeResult | None:
    """Probe one target and measure its rate, exactly where it is not `slow`; None where it could not be asked."""
    from orchestrator.sources.http import ask_source, identify_by_head, sample_rate, wrong_length

    expected = ExpectedFile(split(target.url).path.rpartition("/")[2], target.size)
    refused: list[str] = []

    def may_ask(url: str) -> bool:
        if limit.take(url):
            return True
        refused.append(url)
        return False

    left_s = end - time.monotonic()
    if left_s <= 0:
        return None
    answer = ask_source(
        target.url,
        proxy=route.proxy,
        ca=route.ca,
        user_agent=route.user_agent,
        timeout_s=left_s,
        bearer=route.bearer,
        may_ask=may_ask,
        stop=stop,
    )
    if refused:
        return None
    if isinstance(answer, Fault):
        # An error of the server (5xx) is no dead host: it may be over when this file is downloaded.
        verdict = Rank.SILENT if answer.status and answer.kind is Kind.NETWORK else _VERDICTS[answer.kind]
        return ProbeResult(verdict, answer.message)
    if answer.encoding:
        return ProbeResult(Rank.LYING, f"compresses the file on its way ({answer.encoding})", answer)
    if answer.length is not None and target.size is not None and answer.length != target.size:
        may = limit.take(answer.last_url)
        left_s = max(0.1, min(end - time.monotonic(), 1.0)) if may else 0.0
        what = wrong_length(answer, expected, identify_by_head(answer, expected, route, left_s, stop))
        return ProbeResult(Rank.LYING, what.words, answer)
    good = ProbeResult(Rank.GOOD, "", answer)

    def sampled(**how: Any) -> RateSample | None:
        left_s = min(end - time.monotonic(), 1.0)
        if left_s <= 0 or not limit.take(answer.last_url):
            return None
        bearer = route.bearer if host_of(answer.last_url) == host_of(target.url) else None
        proxy, ca, agent = route.proxy, route.ca, route.user_agent
        return sample_rate(
            answer.last_url, proxy=proxy, ca=ca, user_agent=agent, timeout_s=left_s, bearer=bearer, stop=stop, **how
        )

    if rates and not target.is_alone:
        # The middle tells two versions of one model apart, whose headers are equal; a page would have another length.
        size = target.size if answer.ranges and answer.length == target.size else None
        middle = size // 2 if size is not None and size >= LARGE_BYTES else 0
        if (sample := sampled(at=middle, least=slow)) is None:
            return good
        what = page(sample.head, expected)
        if not middle and what and (answer.length is None or sample.head.startswith(POINTER)):
            return ProbeResult(Rank.LYING, f"{what.words} instead of the file", answer)
        good = replace(good, rate=sample.rate, sample=sample.head if middle else b"")
    if not open_lines or not _may_be_open(target, answer, good.rate):
        return good
    sample = sampled(
        most_bytes=_OPEN_SAMPLE_BYTES, most_s=_OPEN_SAMPLE_S, fastest=math.inf, least=lambda: OPEN_RATE / 4
    )
    return replace(good, is_open=sample is not None and (sample.rate or 0.0) >= OPEN_RATE)


def differ(one: bytes, other: bytes) -> bool:
    """Whether two samples of one file show that its sources give different bytes; short ones prove nothing."""
    common = min(len(one), len(other))
    return common >= _SAMPLE_LEAST_BYTES and one[:common] != other[:common]


def outvoted(found: Mapping[ProbeTarget, ProbeResult]) -> tuple[ProbeTarget, ...]:
    """The sources of each file whose sample differs from that of most hosts: at least two that agree, and no fewer."""
    by_file: dict[str, list[ProbeTarget]] = {}
    for target, result in found.items():
        if target.key and result.verdict is Rank.GOOD and len(result.sample) >= _SAMPLE_LEAST_BYTES:
            by_file.setdefault(target.key, []).append(target)
    out: list[ProbeTarget] = []
    for targets in by_file.values():
        common = min(len(found[target].sample) for target in targets)
        hosts: dict[bytes, set[str]] = {}
        for target in targets:
            hosts.setdefault(found[target].sample[:common], set()).add(target.host)
        most, *others = sorted(hosts, key=lambda sample: -len(hosts[sample]))
        if others and len(hosts[most]) > max(1, len(hosts[others[0]])):
            out += (target for target in targets if found[target].sample[:common] != most)
    return tuple(out)


def _may_be_open(target: ProbeTarget, answer: SourceAnswer, rate: float | None) -> bool:
    """Whether it is worth finding out if the line is open: a near host, a large file, and no slow first sample."""
    if not answer.ranges or answer.round_trip_s > _NEAR_S or (target.size or 0) < OPEN_BYTES:
        return False
    return rate is None or rate >= OPEN_RATE / 4  # a short sample tells less
