"""PURE: limits of bandwidth: rates, hours and weekdays as people write them, and which rule is in force when."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
LEAST_RATE = 64 << 10  # below it programs take the pauses that they make themselves for a dead line
RATE = r"[0-9]+(\.[0-9]+)?[KMGTkmgt]?(i?B)?"
HOUR = r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00"


class RateRule(msgspec.Struct, frozen=True, gc=False):
    """One rule: `rate` in bytes a second (0: no limit), on `days` (0 Monday; if empty, each) from `start` to `end`.

    Both are minutes since midnight, `end` excluded. Where `end` is not after `start` the span ends on the next day, and
    belongs to the day on which it began.
    """

    rate: int
    start: int = 0
    end: int = DAY_MINUTES
    days: tuple[int, ...] = ()

    def applies(self, weekday: int, minute: int) -> bool:
        """Whether the rule applies at a minute of a weekday, as the clock on the wall shows them."""
        if self.start < self.end:
            return self.start <= minute < self.end and self._is_day(weekday)
        return (minute >= self.start and self._is_day(weekday)) or (minute < self.end and self._is_day(weekday - 1))

    def _is_day(self, weekday: int) -> bool:
        return not self.days or weekday % 7 in self.days


def rate_in_force(rule_lists: Sequence[Sequence[RateRule]], weekday: int, minute: int) -> int | None:
    """The limit in bytes a second: of each list the first rule that applies, of these the lowest; None: no limit."""
    rates = (next((r.rate for r in rules if r.applies(weekday, minute)), 0) for rules in rule_lists)
    return min((rate for rate in rates if rate), default=None)


def parse_rate(text: str) -> int:
    """Read a rate such as `50M`: bytes a second, in powers of 1024; `0` is no limit.

    Raises:
        ValueError: it is none, or so low that no program keeps it; the message goes on after the option's name.
    """
    text = text.strip()
    if re.fullmatch(RATE, text) is None:
        raise ValueError("expected a rate in bytes a second, such as 50M or 1.5G, or 0 for no limit")
    number, unit = re.fullmatch(r"([0-9.]+)([KMGT]?).*", text.upper()).groups()  # type: ignore[union-attr]
    rate = int(float(number) * 1024 ** " KMGT".index(unit or " "))
    if 0 < rate < LEAST_RATE:
        raise ValueError(f"expected {LEAST_RATE >> 10}K or more, or 0 for no limit")
    return rate


def parse_hour(text: str) -> int:
    """Read an hour such as `08:00`, up to `24:00`, as minutes since midnight.

    Raises:
        ValueError: it is none.
    """
    if re.fullmatch(HOUR, text) is None:
        raise ValueError("expected an hour from 00:00 to 24:00, such as 08:00")
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def parse_days(text: str) -> tuple[int, ...]:
    """Read weekdays such as `mon-fri`, `sat,sun` or `fri-mon`.

    Raises:
        ValueError: it is none.
    """
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (last if dash else first) not in DAYS:
            raise ValueError("expected weekdays such as mon-fri or sat,sun")
        start = DAYS.index(first)
        count = (DAYS.index(last) - start) % 7 if dash else 0
        days.update((start + number) % 7 for number in range(count + 1))
    return tuple(sorted(days))
