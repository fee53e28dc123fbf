"""PURE: the order in which sources are tried, and when to leave a running one for a faster one or a new signed URL."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from orchestrator.model import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.model import Source

FASTER = 2.0  # a rate so many times higher counts for more than the order of roles
SETTLE_S = 3.0  # before that a rate is no measure
SWITCH_S = 1.0  # what it costs to end one program and start the next
RENEW_MARGIN_S = 5.0  # so long before its end a signed URL is renewed ...
RENEW_PART = 0.3  # ... but never more than this part of its life
_ROLES = {role: place for place, role in enumerate(Role)}


class Rank(Enum):
    """What is known of a source. The value is its place in the order, and a word for people."""

    UNKNOWN = (0, "not asked")
    GOOD = (0, "good")
    SILENT = (1, "no answer in time")
    REFUSED = (1, "refused")
    OUTVOTED = (1, "other bytes than the others")
    DEAD = (2, "dead")
    MISSING = (3, "not there")
    LYING = (3, "another file")

    @property
    def place(self) -> int:
        """0 usable, 1 doubtful, 2 and 3 only when nothing else is left."""
        return self.value[0]


@dataclass(frozen=True, slots=True)
class SourceRating:
    """What is known of one source: a verdict, and bytes a second on one connection (None: unknown)."""

    verdict: Rank = Rank.UNKNOWN
    rate: float | None = None


_NOTHING = SourceRating()


def order(sources: Iterable[Source], known: Mapping[str, SourceRating]) -> tuple[Source, ...]:
    """Sort sources into the order in which to try them; `known` is by URL.

    Doubtful ones come after all others, dead and wrong ones last; none is dropped. Among equals the order is that of
    their roles, but a source that was measured at half of another's rate or less comes after that one.
    """
    by_role = sorted(sources, key=lambda source: _ROLES[source.role])
    places: dict[int, list[Source]] = {}
    for source in by_role:
        places.setdefault(known.get(source.url, _NOTHING).verdict.place, []).append(source)
    return tuple(source for place in sorted(places) for source in _by_rate(places[place], known))


def _by_rate(sources: list[Source], known: Mapping[str, SourceRating]) -> Iterable[Source]:
    """Repeatedly take the first source that no other is twice as fast as (no order, so no sort does it)."""
    left = list(sources)
    while left:
        rates = [known.get(source.url, _NOTHING).rate for source in left]
        best = max((rate for rate in rates if rate is not None), default=0.0)
        at = next(n for n, rate in enumerate(rates) if rate is None or rate * FASTER > best or rate == best)
        yield left.pop(at)


def faster(
    rate: float, ran_s: float, left_bytes: int | None, others: Mapping[str, float], *, sharing: int = 1
) -> str | None:
    """Choose the URL of a faster source to switch to; None where the running one should go on.

    Args:
        rate: bytes a second of the running one, over the last seconds.
        ran_s: how long it has run.
        left_bytes: what is still missing; None where nobody knows.
        others: the measured rates of the others, in bytes a second, by URL.
        sharing: how many transfers of this run share the bandwidth now: each can expect no more than its share.
    """
    if ran_s < SETTLE_S or not others:
        return None
    best = max(others, key=lambda url: others[url])
    expected = others[best] / max(1, sharing)
    if rate * FASTER >= expected:
        return None
    if left_bytes is not None and left_bytes <= rate * (SWITCH_S + left_bytes / expected):
        return None  # it will end before the other one would
    return best


def must_renew(left_s: float, life_s: float, left_bytes: int | None, rate: float) -> bool:
    """Whether to replace a signed URL now, so that no request comes after it has expired.

    Args:
        left_s: seconds until it expires.
        life_s: seconds it was valid for when it was issued.
        left_bytes: what is still missing; None where nobody knows. What will be done by then may go on.
        rate: bytes a second now.
    """
    if left_s > min(RENEW_MARGIN_S, RENEW_PART * life_s):
        return False
    return left_bytes is None or left_bytes > rate * max(0.0, left_s)
