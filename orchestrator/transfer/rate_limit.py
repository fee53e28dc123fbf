"""The limit of bandwidth: how many bytes a second each program of a run may take, so that all together keep it."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.bandwidth import rate_in_force
from orchestrator.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.bandwidth import RateRule
    from orchestrator.context import Context
    from orchestrator.transfer.machine import Common, Machine

LEAST_RATE = 16 << 10  # a program is given no less: more of them than that allows wait for each other
LOOK_S = 1.0  # so often the clock is asked which rule applies, and how many other processes there are
JOIN_S = 2.5  # a process that finds others waits so long, until they have seen it and made room
NAME = "rate limit"
SETTLE_S = 3.0  # so long what a program left is kept for the next one, before the others take it
GROWS = 1.25  # a program that must be ended for it gets a new share where that is so many times larger
COST_S = 5.0  # what an end costs: its program takes a second, and what waited in the kernel comes once more
SLACK = 1.05


@dataclass(eq=False)
class Share:
    """What one running program may take: `rate` in bytes a second, None without a limit.

    `change` sets another rate while it runs; None: the program cannot be told. `resumes`: it may be ended and go on
    with another rate, and loses no byte by that. `must_yield` is asked while it runs, and says when to do so.
    """

    rate: int | None = None
    resumes: bool = False
    change: Callable[[int | None], None] | None = None
    limit: RateLimit | None = None
    is_waiting: bool = False
    larger_since_s: float | None = None

    def look(self) -> int | None:
        """Bring the rate up to date for a program that is about to be started once more."""
        if self.limit is not None:
            self.limit.review(self)
        return self.rate

    def must_yield(self, left_bytes: int | None = None) -> bool:
        """Whether to end the program, which then goes on with another share; one that can be told is told instead.

        `left_bytes` are still missing: where a larger share would not make up for the end it is not worth one.
        """
        return self.limit is not None and self.limit.review(self, left_bytes)


class RateLimit:
    """Shares the limit among the processes that run programs, and each one's part among its programs, equally.

    The shares of those that run never exceed the limit: who comes last gets what is free, and waits for it where the
    others must give something up first. What a program leaves is kept for SETTLE_S, because another one mostly follows.

    Args:
        context: the run's context; its `now` says which rule applies.
        rules: lists of rules; the lowest rate of theirs is the limit.
        programs: how many programs will run at once, as far as that is known.
        machine: where other processes are found; None: nobody else counts.
    """

    def __init__(
        self, context: Context, rules: Sequence[Sequence[RateRule]], programs: int, machine: Machine | None = None
    ) -> None:
        self._context, self._rules, self._expected, self._machine = context, rules, programs, machine
        self._common: Common | None = None
        self._shares: list[Share] = []
        self._changed = threading.Condition()
        self._moved_s = self._looked_s = float("-inf")  # when programs came or went last; when the clock was asked
        self._left_s = self._begins_s = float("-inf")  # when one went last; when a new process may begin
        self._limit: int | None = None

    @contextmanager
    def using(self) -> Iterator[None]:
        """Count this process among those that share the limit, also while it ends one program and starts the next."""
        with nullcontext() if self._machine is None else self._machine.using(NAME) as self._common:
            yield

    @contextmanager
    def program(self, *, resumes: bool, change: Callable[[int | None], None] | None = None) -> Iterator[Share]:
        """Give a share to a program that is about to start, and take it back at its end.

        Raises:
            Stopped: a stop was asked for while waiting for one.
        """
        share = Share(None, resumes, change, self)
        with self.using():
            with self._changed:
                if not self._shares and self._moved_s < 0:
                    self._moved_s = self._context.monotonic()
                self._enter(share)
            try:
                yield share
            finally:
                with self._changed:
                    self._leave(share)

    def review(self, share: Share, left_bytes: int | None = None) -> bool:
        """Compare a share with what it should be by now: change it, or say that its program must be ended for that."""
        with self._changed:
            limit = self._look()
            wanted = self._wanted(share, limit)
            if share.change is not None:
                if wanted != share.rate:
                    share.rate = wanted
                    share.change(wanted)
                    self._changed.notify_all()
                return False
            return share.resumes and self._is_worth_it(share, wanted, left_bytes)

    def _enter(self, share: Share) -> None:
        self._shares.append(share)
        self._expected = max(self._expected, len(self._shares))
        share.is_waiting = True
        now = self._context.monotonic()
        if len(self._shares) == 1 and now - self._left_s > SETTLE_S and self._others():
            self._begins_s = now + JOIN_S
        try:
            while self._look() is not None and self._context.monotonic() < self._begins_s:
                self._pause()
            while (limit := self._look()) is not None:
                fair, free = self._fair(limit), limit - self._taken(share)
                if free * GROWS >= fair and free >= min(fair, LEAST_RATE):
                    share.rate = min(fair, free)
                    break
                self._pause()
        except BaseException:
            self._leave(share)
            raise
        finally:
            share.is_waiting = False

    def _leave(self, share: Share) -> None:
        if share in self._shares:
            now = self._context.monotonic()
            self._expected = self._expected if now - self._moved_s < SETTLE_S else len(self._shares)
            self._moved_s = self._left_s = now
            self._shares.remove(share)
            self._changed.notify_all()

    def _look(self) -> int | None:
        """The limit now; asks the clock once a LOOK_S."""
        now = self._context.monotonic()
        if now - self._looked_s >= LOOK_S:
            self._looked_s = now
            clock = time.localtime(self._context.now())
            limit = rate_in_force(self._rules, clock.tm_wday, clock.tm_hour * 60 + clock.tm_min)
            self._limit = limit if limit is None else max(1, limit // (1 + self._others()))
        return self._limit

    def _others(self) -> int:
        """How many other processes run programs under a limit now."""
        return self._common.processes() - 1 if self._common is not None else 0

    def _pause(self) -> None:
        self._changed.wait(0.1)
        if self._context.stop.is_set():
            raise Stopped("stopped while waiting for a share of the rate limit")

    def _taken(self, share: Share | None = None) -> int:
        return sum(each.rate or 0 for each in self._shares if each is not share)

    def _fair(self, limit: int) -> int:
        """An equal part for each program that runs or is about to, of what those leave that keep what they have."""
        now = self._context.monotonic()
        count = len(self._shares)
        if now - self._moved_s < SETTLE_S:
            count = max(count, self._expected)
        fixed = [s.rate or 0 for s in self._shares if not (s.resumes or s.change or s.is_waiting)]
        return max(min(limit, LEAST_RATE), (limit - sum(fixed)) // max(1, count - len(fixed)))

    def _wanted(self, share: Share, limit: int | None) -> int | None:
        """What a running program should have: less where all are too much or another waits, more where it is free."""
        if limit is None or share.rate is None:
            return limit if limit is None else self._fair(limit)
        fair, taken = self._fair(limit), self._taken()
        if share.rate > fair and (taken > limit or any(each.is_waiting for each in self._shares)):
            return fair
        return max(share.rate, min(fair, share.rate + limit - taken))

    def _is_worth_it(self, share: Share, wanted: int | None, left_bytes: int | None) -> bool:
        """Whether to end a program for another share: at once where the limit demands it, else where it gains much."""
        if wanted is None or share.rate is None:
            return wanted is not share.rate
        if wanted * SLACK < share.rate:
            return True
        gain_s = math.inf if left_bytes is None else left_bytes / share.rate - left_bytes / wanted
        if wanted <= share.rate * GROWS or gain_s < COST_S:
            share.larger_since_s = None
            return False
        now = self._context.monotonic()
        share.larger_since_s = now if share.larger_since_s is None else share.larger_since_s
        return now - share.larger_since_s >= SETTLE_S
