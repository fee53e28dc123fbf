"""`orch mirrors`: probe every source of a manifest once per prefix and host, and the peers: which answer, how fast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TransferError
from orchestrator.events import Noticed
from orchestrator.model import Artifact, Role
from orchestrator.sources.probe import HOST_REQUESTS, ProbeTarget, prefix_of, probe, probe_targets
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

PATIENCE_S = 5.0  # longer than in a sync: here the answer itself is wanted
_FAULTS = {
    Rank.MISSING: "missing",
    Rank.REFUSED: "refused",
    Rank.SILENT: "stalled",
    Rank.DEAD: "network",
    Rank.LYING: "corrupt",
}


@dataclass(frozen=True, slots=True)
class Mirror:
    """The result for one prefix on one host.

    `url` is the file that was asked for, `host` the one that served it after redirects. `answers` is None where it
    was not asked, `length_right` None where the right length is not known. `tls` is "verified", "bad", "unknown", or
    "" without TLS. `seen` is what this machine remembers of the host: its last attempt and its recent rate.
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
    peers: Sequence[str] = (),
) -> Summary:
    """Probe the sources of some files.

    Args:
        context: the environment, the clocks and the request to stop.
        wanted: the files.
        tell: gets the result of every (prefix, host) pair.
        emit: gets an event for every file that no source has.
        hosts: what manifests say of hosts.
        peers: as the site file names them. Each is probed by the largest of the files that it has; what they lack is
            no failure, and what they have does not make up for other sources.

    Returns:
        The summary; `fetched` counts the files that some source has; the exit code is 0 or 5.
    """
    began = context.monotonic()
    counts, history = Counts(wanted), History(context.state, context.now)
    artifacts = [Artifact(w.sha256, w.size, w.sources, (w,)) for w in wanted]
    having: dict[str, list[ProbeTarget]] = {}  # by sha256, the peers that have the file
    asked, near = probe_targets(artifacts), _of_peers(context, peers, hosts, artifacts, emit, having) if peers else []
    routes = Routes(context.environ, hosts)
    results = probe((*near, *asked), routes.to, stop=context.stop, timeout_s=PATIENCE_S)
    for pair in (*near, *asked):
        tell(_mirror(pair, results.get(pair), history))
    by_prefix = {pair.prefix: pair for pair in asked}
    for w in wanted:
        answering = [p.prefix for p in having.get(w.sha256, ()) if (r := results.get(p)) and r.verdict is Rank.GOOD]
        error = _failure(w, by_prefix, results, answering)
        if error is None:
            counts.count("fetched")
        else:
            emit(counts.fail(w, error))
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def _of_peers(
    context: Context,
    named: Sequence[str],
    hosts: Mapping[str, Host],
    artifacts: Sequence[Artifact],
    emit: Callable[[Event], None],
    having: dict[str, list[ProbeTarget]],
) -> list[ProbeTarget]:
    """What to probe each peer by: the largest file that it has, else the largest of all; those not asked are told.

    `having` gets the peers of each sha256 that they have.
    """
    from orchestrator.sources.by_digest import url_by_digest
    from orchestrator.sources.peers import askable, located, with_peers

    found, failed = located(context, named)
    asked, refused = askable(found, context, hosts)
    for why in (*failed, *refused):
        emit(Noticed(why))
    known = [artifact for artifact in artifacts if artifact.sha256]
    targets = []
    for peer in asked if known else ():
        has = [a for a in with_peers(context, [peer], hosts, known) if a.sources[0].role is Role.PEER]
        by = max(has or known, key=lambda artifact: artifact.size or 0)
        url = url_by_digest(peer.base, by.sha256)
        target = ProbeTarget(peer.base, host_of(peer.base), Role.PEER, url, by.size)
        targets.append(target)
        for artifact in has:
            having.setdefault(artifact.sha256, []).append(target)
    return targets


def _mirror(pair: ProbeTarget, result: ProbeResult | None, history: History) -> Mirror:
    look = result.answer if result else None
    host = host_of(look.last_url) if look else pair.host
    known = look is not None and look.length is not None and pair.size is not None
    secure = (look.last_url if look else pair.url).startswith("https:")
    trusted = look is not None or (result is not None and result.verdict in (Rank.MISSING, Rank.REFUSED))
    return Mirror(
        prefix=pair.prefix,
        host=host,
        role=pair.role.value,
        url=pair.url,
        answers=None if result is None else result.verdict is Rank.GOOD,
        verdict=(result.verdict if result else Rank.UNKNOWN).value[1],
        message=result.message if result else f"a host gets at most {HOST_REQUESTS} requests, by HTTP only",
        round_trip_s=round(look.round_trip_s, 4) if look else None,
        bytes_per_s=round(result.rate) if result and result.rate is not None else None,
        ranges=look.ranges if look else None,
        length_right=look.length == pair.size if known and look else None,
        tls=_tls(result, trusted=trusted) if secure else "",
        seen=_seen(history, host, pair.host),
    )


def _tls(result: ProbeResult | None, *, trusted: bool) -> str:
    if trusted:
        return "verified"
    return "bad" if result is not None and result.message.startswith("certificate or TLS") else "unknown"


def _seen(history: History, *hosts: str) -> dict[str, Any] | None:
    for host in hosts:
        last, rate = history.last(host), history.rate(host)
        if last is not None:
            when = datetime.fromtimestamp(last.time, UTC).isoformat(timespec="seconds")
            attempt = {"time": when.replace("+00:00", "Z"), "backend": last.backend, "fault": last.fault}
            return {**attempt, "bytes_per_s": round(rate.overall) if rate else None}
    return None


def _failure(
    w: Wanted,
    by_prefix: Mapping[str, ProbeTarget],
    results: Mapping[ProbeTarget, ProbeResult],
    peers: Sequence[str] = (),
) -> TransferError | None:
    """Why no source has a file, whichever `peers` have it; None if one may have it."""
    failures: dict[str, ProbeResult] = {}
    for source in w.sources:
        pair = by_prefix[prefix_of(source, w.sources)]
        result = results.get(pair)
        if result is None or result.verdict is Rank.GOOD:
            return None
        if result.verdict in (Rank.MISSING, Rank.LYING) and pair.url != source.url:
            return None  # the pair was asked for another file, so this one may be there
        failures[source.url] = result
    name = w.model if not w.file else f"{w.model}/{w.file}"
    history = "; ".join(f"{url}: {result.message}" for url, result in failures.items())
    hint = "check the URLs in the manifest, add a mirror, or check this machine: `orch doctor`"
    worst = next(iter(failures.values()), None)
    what = "no source answers"
    if peers:
        have = "a peer has" if len(peers) == 1 else "peers have"
        what = f"only {have} it ({', '.join(peers)}), no source of the manifest answers"
    return TransferError(f"{name}: {what}: {history}", hint, _FAULTS[worst.verdict] if worst else "network")
