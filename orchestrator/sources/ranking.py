"""PURE: the order of an artifact's sources, and when a running one is left for a better one or a new signature."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from orchestrator.model import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.model import Source

FASTER = 2.0  # a difference that is worth more than the order of trust
SETTLE_S = 3.0  # a transfer that runs for less has shown nothing yet
SWITCH_S = 1.0  # what it costs to end one program and start the next
RENEW_MARGIN_S = 5.0  # so long before its end a signed URL is renewed ...
RENEW_PART = 0.3  # ... but never more than this part of its life
_ROLES = {role: place for place, role in enumerate(Role)}


class Rank(Enum):
    """What is known of a source; the value is its place: all of one place come before the next."""

    UNKNOWN = (0, "not asked")
    GOOD = (0, "good")
    SILENT = (1, "no answer in time")
    REFUSED = (1, "refused")
    DEAD = (2, "dead")
    MISSING = (3, "not there")
    LYING = (3, "another file")

    @property
    def place(self) -> int:
        """0 usable, 1 doubtful, 2 and 3 only when nothing else is left."""
        return self.value[0]


@dataclass(frozen=True, slots=True)
class SourceRating:
    """What is known of one source: a verdict and bytes a second on one connection."""

    verdict: Rank = Rank.UNKNOWN
    rate: float | None = None


_NOTHING = SourceRating()


def order(sources: Iterable[Source], known: Mapping[str, SourceRating]) -> tuple[Source, ...]:
    """Put sources in the order of trying; `known` is by URL.

    Doubtful ones come after all others, dead and lying ones last, none is dropped. Among equals the order is
    that of their roles, but one that was measured at half of another's rate or less comes after that one.
    """
    by_role = sorted(sources, key=lambda source: _ROLES[source.role])
    places: dict[int, list[Source]] = {}
    for source in by_role:
        places.setdefault(known.get(source.url, _NOTHING).verdict.place, []).append(source)
    return tuple(source for place in sorted(places) for source in _by_rate(places[place], known))


def _by_rate(sources: list[Source], known: Mapping[str, SourceRating]) -> Iterable[Source]:
    """Take the first again and again that no one left is twice as fast as. A sort cannot: it is no order."""
    left = list(sources)
    while left:
        rates = [known.get(source.url, _NOTHING).rate for source in left]
        best = max((rate for rate in rates if rate is not None), default=0.0)
        at = next(n for n, rate in enumerate(rates) if rate is None or rate * FASTER > best or rate == best)
        yield left.pop(at)


def faster(
    rate: float, ran_s: float, left_bytes: int | None, others: Mapping[str, float], *, sharing: int = 1
) -> str | None:
    """The source for which a running one is left, or None: it stays.

    Args:
        rate: bytes a second of the running one, over the last seconds.
        ran_s: how long it has run.
        left_bytes: what is still missing; None where nobody knows.
        others: what the others were measured at, in bytes a second.
        sharing: how many transfers of this run share the line now: none can hope for more than its share.
    """
    if ran_s < SETTLE_S or not others:
        return None
    best = max(others, key=lambda url: others[url])
    hope = others[best] / max(1, sharing)
    if rate * FASTER >= hope:
        return None
    if left_bytes is not None and left_bytes <= rate * (SWITCH_S + left_bytes / hope):
        return None  # it will be done before the other one would be
    return best


def must_renew(left_s: float, life_s: float, left_bytes: int | None, rate: float) -> bool:
    """Whether a signed URL that ends in `left_s` is to be left now, so that no request comes after its end.

    `life_s` is what it had left when it was handed out. What will be done by then may end by itself.
    """
    if left_s > min(RENEW_MARGIN_S, RENEW_PART * life_s):
        return False
    return left_bytes is None or left_bytes > rate * max(0.0, left_s)
