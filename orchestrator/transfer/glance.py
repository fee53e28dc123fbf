"""A look at a source in the middle of an effort: what it would serve, against what is wanted and what is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind
from orchestrator.nature import wish

if TYPE_CHECKING:
    from orchestrator.sources.look import Look
    from orchestrator.transfer.effort import Effort


def glance(effort: Effort, source: str) -> Look | Fault | None:
    """Ask the source what it would serve; None where it cannot be asked."""
    if not source.startswith("http"):
        return None
    from orchestrator.sources.look import look

    way = effort.reach(source)
    if way.line.proxy.startswith("socks"):
        return None  # the HTTP client speaks none without an extra; curl does
    missing = effort.holding.missing()
    at = missing[0].start if missing else 0
    seen = look(source, proxy=way.proxy, ca=way.ca, user_agent=way.user_agent, bearer=way.bearer, at=at)
    if isinstance(seen, Fault):
        # A refused look condemns nothing: hubs refuse by program. The backend will hear it again. Where a token was
        # shown it is the token that is refused, and a program that has none would hear nothing better.
        refused = seen.kind is Kind.REFUSED and seen.status is not None and way.bearer is None
        return None if refused else seen
    effort.looks[source] = seen
    return seen


def compare(effort: Effort, source: str, seen: Look, *, resumes: bool) -> Fault | None:
    """Hold what the source would serve against what is wanted and what is here; then remember it."""
    info, expected = effort.holding.partial.info, effort.artifact.size
    if seen.encoding:
        return Fault(Kind.CORRUPT, f"the server compresses the file on its way ({seen.encoding})")
    if seen.length is not None and expected is not None and seen.length != expected:
        from orchestrator.sources.taste import other_file

        what = other_file(seen, wish(effort.artifact.wanted[0]), effort.reach(source))
        return Fault(Kind.CORRUPT, what.words, hint=what.hint)
    if resumes:
        if source in info.etags and seen.etag and info.etags[source] != seen.etag:
            return Fault(Kind.UNRESUMABLE, "the file changed at the source since the partial was begun")
        if info.length is not None and seen.length is not None and info.length != seen.length:
            return Fault(Kind.UNRESUMABLE, f"the file's length changed at the source: {seen.length} bytes")
        if not seen.ranges:
            return Fault(Kind.UNRESUMABLE, "the source does not honour ranges")
    if seen.etag:
        info.etags[source] = seen.etag
    info.length = seen.length if seen.length is not None else info.length
    return None
