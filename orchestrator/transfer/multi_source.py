"""Several sources for one large file at the same time, each with its share of its host's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.backends.base import Trait
from orchestrator.faults import Fault
from orchestrator.sources.ranking import FASTER
from orchestrator.sources.stats import host_of
from orchestrator.transfer.revalidate import compare, glance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from orchestrator.backends.base import Backend
    from orchestrator.transfer.state import Effort

SHARED_BYTES = 64 << 20  # below this one source is done before a second one has been looked at
MOST_COMPANIONS = 3


def companions(effort: Effort, backend: Backend, source: str) -> tuple[str, ...]:
    """Other sources that may serve the same large file at the same time: looked at, as long, and nearly as fast.

    Only while nothing failed: a mixed file that turns out wrong condemns nobody by itself, so after any fault the
    sources go one by one.
    """
    length = effort.holding.length()
    if effort.bearer(source) is not None:
        return ()  # a token is for one host
    if effort.attempts or effort.must_go_alone or length is None or length < SHARED_BYTES:
        return ()
    if not {Trait.MIRRORS, Trait.IN_ORDER} <= backend.TRAITS or source not in effort.looks:
        return ()
    own, way, found = effort.known.rate(source, 1) or 0.0, effort.reach(source), [source]
    for other in effort.artifact.sources:
        if other.url in effort.holding.partial.info.condemned:
            continue
        rate, theirs = effort.known.rate(other.url, 1), effort.reach(other.url)
        same_way = (theirs.proxy, theirs.ca, theirs.user_agent) == (way.proxy, way.ca, way.user_agent)
        if len(found) > MOST_COMPANIONS or rate is None or rate * FASTER < own or not same_way:
            continue
        if host_of(other.url) in map(host_of, found) or not any(
            c.backend is backend and not c.obstacle for c in effort.choices(other.url)
        ):
            continue
        seen = glance(effort, other.url)
        if (
            seen is None
            or isinstance(seen, Fault)
            or not seen.ranges
            or effort.bearer(other.url) is not None
            or compare(effort, other.url, seen, resumes=False)
        ):
            continue
        found.append(other.url)
    return tuple(found[1:])


def take_connections(effort: Effort, stack: ExitStack, sources: Sequence[str]) -> dict[str, int]:
    """Take each source's connections: the first waits for some, the others join only where some are free."""
    budget, shares = effort.kit.budget, dict[str, int]()
    for place, url in enumerate(sources):
        limit = effort.reach(url).connections
        taken = budget.connections(effort.kit.world, host_of(url), effort.ticket, limit, wait=place == 0)
        if number := stack.enter_context(taken):
            shares[url] = number
    return shares
