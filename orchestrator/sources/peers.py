"""Ask the peers, hosts that run `orch serve`, which of a run's files they have, before the first download.

A peer is one more source of a file whose sha256 is known, tried before all others and judged as they are: by the
digest. None is ever sent a token. A peer that is down costs the time that it is asked for, and nothing later.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from orchestrator.errors import Stopped
from orchestrator.model import Role, Source
from orchestrator.sources.auth import named_token, token_for
from orchestrator.sources.by_digest import url_by_digest
from orchestrator.sources.proxy import proxy_for
from orchestrator.sources.route import plain_connection
from orchestrator.sources.srv import PREFIX, LookupFailedError, lookup
from orchestrator.urls import UrlError, host_of, prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Artifact, Host
    from orchestrator.sources.route import Route

CONNECT_S = 1.0  # peers are near: one that is slower than that is no faster than the origin
TIMEOUT_S = 2.0  # for all questions to all peers, which are asked side by side, and for finding them by DNS before
LOOKUP_S = 1.0  # for DNS, of that
LARGE_BYTES = 8 << 20  # a larger file is asked for by itself, a smaller one may be known by its model's largest
MOST_QUESTIONS = 256  # to one peer
MOST_MISSES = 16  # at the beginning: then it has none of ours
MOST_PEERS = 4  # of one file: aria2c takes a large file from as many at once


class Peer(NamedTuple):
    """A URL below which a peer serves `sha256/<hex>`, with the priority and the weight of its SRV record (RFC 2782).

    One that is named by its URL has the first priority, and the weight of each other such one.
    """

    base: str
    priority: int = 0
    weight: int = 1


def located(context: Context, named: Sequence[str], limit_s: float = LOOKUP_S) -> tuple[list[Peer], list[str]]:
    """Give the peers that the site file names, by URLs or by SRV records, which are looked up one after the other.

    Args:
        context: reads the resolver's settings.
        named: URLs that end with `/`, and names such as `srv:_orch._tcp.example.org`.
        limit_s: for all lookups.

    Returns:
        The peers, each once, and messages about names that led to none: the other sources serve the files.
    """
    found: dict[str, Peer] = {}
    failed = []
    end = time.monotonic() + limit_s
    for name in named:
        if not name.startswith(PREFIX):
            found.setdefault(name, Peer(name))
            continue
        left_s = end - time.monotonic()
        if left_s <= 0:
            failed.append(f"peers {name}: not looked up: the names before it took {limit_s:.3g} s")
            continue
        try:
            records = lookup(context, name.removeprefix(PREFIX), left_s)
        except LookupFailedError as failure:
            failed.append(f"peers {name}: {failure}")
            continue
        for record in records:
            try:
                base = prefix(f"http://{record.host}:{record.port}/")
            except UrlError as why:
                failed.append(f"peers {name}: a record that cannot be used: {why}")
                continue
            found.setdefault(base, Peer(base, record.priority, record.weight))
    return list(found.values()), failed


def askable(peers: Sequence[Peer], context: Context, hosts: Mapping[str, Host]) -> tuple[list[Peer], list[str]]:
    """Tell apart the peers that may be asked, and messages about those that may not."""
    asked, refused = [], []
    for peer in peers:
        base = peer.base
        why = ""
        if named_token(base, hosts) is not None or token_for(base, context.environ, hosts) is not None:
            why = "`hosts` names a token for it, and no token is sent to peers"
        elif proxy := proxy_for(base, context.environ):
            why = f"a proxy ({proxy.rpartition('@')[2]}) is in between: name the peers in no_proxy"
        if why:
            refused.append(f"peer {host_of(base)} is not asked: {why}")
        else:
            asked.append(peer)
    return asked, refused


def with_peers(
    context: Context,
    peers: Sequence[Peer],
    hosts: Mapping[str, Host],
    artifacts: Sequence[Artifact],
    limit_s: float = TIMEOUT_S,
) -> list[Artifact]:
    """Ask all peers side by side, and return the artifacts, in their order, with those who have them as sources.

    Args:
        context: environment, stop and host name; each host has an order of peers of its own, which spreads the load.
        peers: only such as `askable` lets pass.
        hosts: the `hosts:` of manifests and site file.
        artifacts: what is to be fetched; files without a sha256 stay as they are.
        limit_s: for all questions.

    Raises:
        Stopped: a stop was asked for.
    """
    from orchestrator.sources.route import route_to

    questions = _questions(artifacts)
    if not questions:
        return list(artifacts)
    found: dict[str, frozenset[str]] = {}
    end = time.monotonic() + limit_s

    def work(base: str) -> None:
        found[base] = _ask(base, questions, route_to(base, context.environ, hosts), end, context.stop)

    threads = [threading.Thread(target=work, args=(peer.base,), name="orch-peer", daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and time.monotonic() < end:
            if context.stop.is_set():
                raise Stopped("stopped while peers were asked")
            thread.join(0.1)
    has = dict(found)  # a thread that is late writes into a dict that nobody reads
    ordered = [
        peer.base for peer in sorted(peers, key=lambda peer: _place(context.hostname, peer)) if has.get(peer.base)
    ]
    asked, largest = {artifact.sha256 for artifact in questions}, _largest(artifacts)
    return [_with_sources(artifact, ordered, has, asked, largest) for artifact in artifacts]


def _with_sources(
    artifact: Artifact,
    ordered: Sequence[str],
    has: Mapping[str, frozenset[str]],
    asked: set[str],
    largest: Mapping[tuple[str, str], Artifact],
) -> Artifact:
    """The artifact with the peers that have it; a small file is where the largest one of its model is."""
    if not artifact.sha256:
        return artifact
    telling = artifact.sha256 if artifact.sha256 in asked else largest[_model(artifact)].sha256
    urls = [url_by_digest(base, artifact.sha256) for base in ordered if telling in has[base]][:MOST_PEERS]
    known = {source.url for source in artifact.sources}
    sources = tuple(Source(url, Role.PEER) for url in urls if url not in known)
    return replace(artifact, sources=(*sources, *artifact.sources)) if sources else artifact


def _place(hostname: str, peer: Peer) -> tuple[int, float]:
    """A peer's place in the order of this host: by priority, then at random by weight, the same each time.

    Over many hosts a peer is first as often as its weight says: the one with the smallest -ln(u)/weight comes first
    (weighted rendezvous hashing). A weight of 0 comes last, and rarely before that (RFC 2782).
    """
    digest = hashlib.sha256(f"{hostname}\0{peer.base}".encode()).digest()
    u = (int.from_bytes(digest[:6]) + 1) / (2**48 + 1)
    return peer.priority, -math.log(u) / (peer.weight or 0.001)


def _model(artifact: Artifact) -> tuple[str, str]:
    return artifact.wanted[0].manifest, artifact.wanted[0].model


def _largest(artifacts: Sequence[Artifact]) -> dict[tuple[str, str], Artifact]:
    """The largest file of each model among those whose sha256 is known."""
    found: dict[tuple[str, str], Artifact] = {}
    for artifact in artifacts:
        if artifact.sha256:
            other = found.setdefault(_model(artifact), artifact)
            if (artifact.size or 0) > (other.size or 0):
                found[_model(artifact)] = artifact
    return found


def _questions(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """What to ask each peer for: of each model the largest file, and all large files; the largest first."""
    chosen = {artifact.sha256: artifact for artifact in _largest(artifacts).values()}
    chosen |= {a.sha256: a for a in artifacts if a.sha256 and (a.size is None or a.size >= LARGE_BYTES)}
    return sorted(chosen.values(), key=lambda artifact: -(artifact.size or 0))[:MOST_QUESTIONS]


def _ask(base: str, questions: Sequence[Artifact], route: Route, end: float, stop: threading.Event) -> frozenset[str]:
    """The digests of the files that a peer has, by HEAD requests on one connection; what it does not answer is not."""
    from http.client import HTTPException

    has: set[str] = set()
    connection = plain_connection(base, route.ca, CONNECT_S)
    try:
        for number, artifact in enumerate(questions):
            if stop.is_set() or time.monotonic() > end or (number == MOST_MISSES and not has):
                break
            path = url_by_digest(base, artifact.sha256).removeprefix(base[: base.index("/", 8)])
            connection.request("HEAD", path, headers={"User-Agent": route.user_agent})
            answer = connection.getresponse()
            answer.read()
            if answer.status in (200, 204):  # 204: not there yet, and the cache behind it would fetch it
                has.add(artifact.sha256)
    except (HTTPException, OSError, ValueError):
        pass  # it is down, or no web server: the other sources serve the rest
    finally:
        connection.close()
    return frozenset(has)
