"""Which sources of a manifest answer, with what, and how fast: every (prefix, host) pair asked once, now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TransferError
from orchestrator.model import Artifact
from orchestrator.sources.probe import HOST_REQUESTS, Pair, pairs, prefix_of, probe
from orchestrator.sources.ranking import Rank
from orchestrator.sources.route import Routes
from orchestrator.sources.stats import History
from orchestrator.summary import Counts
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Wanted
    from orchestrator.sources.probe import ProbeResult

PATIENCE_S = 5.0  # who asks by hand would rather know than hurry
_FAULTS = {
    Rank.MISSING: "missing",
    Rank.REFUSED: "refused",
    Rank.SILENT: "stalled",
    Rank.DEAD: "network",
    Rank.LYING: "corrupt",
}


@dataclass(frozen=True, slots=True)
class Mirror:
    """One prefix on one host.

    `url` is the file it was asked for, `host` where that came from in the end. `answers` is None where it could
    not be asked, `length_right` where nobody knows; `tls` is "verified", "bad" or "" (plain). `seen` is what this
    machine remembers of the host: its last attempt, and its rate of late.
    """

    prefix: str
    host: str
    role: str
    url: str
    answers: bool | None
    verdict: str
    message: str
    round_trip_s: float | None
    bytes_per_s: int | None
    ranges: bool | None
    length_right: bool | None
    tls: str
    seen: dict[str, Any] | None


def survey(
    context: Context,
    wanted: Sequence[Wanted],
    tell: Callable[[Mirror], None],
    emit: Callable[[Event], None],
    *,
    hosts: Mapping[str, Host],
) -> Summary:
    """Tell of every pair, then of every file that no source answers for.

    Returns:
        The summary, as of a plan: `fetched` are the files that could be had; exit code 0, or 5.
    """
    began = context.monotonic()
    counts, history = Counts(wanted), History(context.state, context.now)
    asked = pairs(Artifact(w.sha256, w.size, w.sources, (w,)) for w in wanted)
    routes = Routes(context.environ, hosts)
    found = probe(asked, routes.to, stop=context.stop, patience_s=PATIENCE_S)
    for pair in asked:
        tell(_mirror(pair, found.get(pair), history))
    by_prefix = {pair.prefix: pair for pair in asked}
    for w in wanted:
        error = _failure(w, by_prefix, found)
        if error is None:
            counts.count("fetched")
        else:
            emit(counts.fail(w, error))
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def _mirror(pair: Pair, finding: ProbeResult | None, history: History) -> Mirror:
    look = finding.look if finding else None
    host = host_of(look.last_url) if look else pair.host
    known = look is not None and look.length is not None and pair.size is not None
    secure = (look.last_url if look else pair.url).startswith("https:")
    trusted = look is not None or (finding is not None and finding.verdict in (Rank.MISSING, Rank.REFUSED))
    return Mirror(
        prefix=pair.prefix,
        host=host,
        role=pair.role.value,
        url=pair.url,
        answers=None if finding is None else finding.verdict is Rank.GOOD,
        verdict=(finding.verdict if finding else Rank.UNKNOWN).value[1],
        message=finding.message if finding else f"a host is asked {HOST_REQUESTS} times at most, by http alone",
        round_trip_s=round(look.round_trip_s, 4) if look else None,
        bytes_per_s=round(finding.rate) if finding and finding.rate is not None else None,
        ranges=look.ranges if look else None,
        length_right=look.length == pair.size if known and look else None,
        tls=_tls(finding, trusted=trusted) if secure else "",
        seen=_seen(history, host, pair.host),
    )


def _tls(finding: ProbeResult | None, *, trusted: bool) -> str:
    if trusted:
        return "verified"
    return "bad" if finding is not None and finding.message.startswith("certificate or TLS") else "unknown"


def _seen(history: History, *hosts: str) -> dict[str, Any] | None:
    for host in hosts:
        last, rate = history.last(host), history.rate(host)
        if last is not None:
            when = datetime.fromtimestamp(last.time, UTC).isoformat(timespec="seconds")
            told = {"time": when.replace("+00:00", "Z"), "backend": last.backend, "fault": last.fault}
            return {**told, "bytes_per_s": round(rate.overall) if rate else None}
    return None


def _failure(w: Wanted, by_prefix: Mapping[str, Pair], found: Mapping[Pair, ProbeResult]) -> TransferError | None:
    """Why a file cannot be had; None where some source may have it."""
    told: dict[str, ProbeResult] = {}
    for source in w.sources:
        pair = by_prefix[prefix_of(source, w.sources)]
        finding = found.get(pair)
        if finding is None or finding.verdict is Rank.GOOD:
            return None
        if finding.verdict in (Rank.MISSING, Rank.LYING) and pair.url != source.url:
            return None  # that was another file
        told[source.url] = finding
    name = w.model if not w.file else f"{w.model}/{w.file}"
    history = "; ".join(f"{url}: {finding.message}" for url, finding in told.items())
    hint = "look at the URLs in the manifest, add a mirror, or see what this machine lacks: `orch doctor`"
    worst = next(iter(told.values()), None)
    return TransferError(f"{name}: no source answers: {history}", hint, _FAULTS[worst.verdict] if worst else "network")
