"""How many connections each file gets: a host never sees more than its limit, over all runs of this machine."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.transfer.machine import Common, Machine


GUESS_BYTES = 64 << 20  # of a file whose size is unknown: as none it would leave the next one no connection


POLL_S = 0.2
LOOK_S = 1.0  # so often a file that is under way looks at what other processes want
PATIENCE_S = 2.0  # so long another process waits before a program is ended for it
LONGEST_WAIT_S = 60.0  # then a file takes one connection more than there are: no run waits for another one's end


@dataclass(slots=True)
class _Use:
    """The connections of one file to one host: `number` of them, and of more than `usable` it has no use.

    `whole` is the host's limit, `part` what this process had of it when they were taken.
    """

    host: str
    common: Common | None
    number: int
    usable: int
    whole: int
    part: int
    looked_s: float
    due_since_s: float | None = None


class ConnectionLimits:
    """Shares each host's connections among the files that are under way, by their size, so that they end together.

    Processes that use the same host have equal parts of its limit: who comes later waits until another has ended a
    program, or gone on with fewer connections (`must_yield`).

    Args:
        limit: for one host (scheme, name and port).
        jobs: how many files run at once.
        sizes: all sizes that will be fetched in this run, in bytes; unknown ones as 0.
        machine: where other processes are found; None: nobody else counts.
        tell: gets one line for a host that is waited for.
    """

    def __init__(
        self,
        limit: int,
        jobs: int = 1,
        sizes: Sequence[int] = (),
        machine: Machine | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._limit, self._jobs, self._machine, self._tell = limit, jobs, machine, tell
        self._told: set[str] = set()
        self._uses: dict[int, list[_Use]] = defaultdict(list)
        self._yielded_s: dict[str, float] = {}  # when one of several with one connection each gave way last
        self._waiting = sorted((size or GUESS_BYTES for size in sizes), reverse=True)
        self._running: dict[int, int] = {}
        self._used: dict[str, int] = defaultdict(int)
        self._changed = threading.Condition()
        self._next = 0

    @contextmanager
    def file(self, size: int) -> Iterator[int]:
        """One file is under way; gives its ticket. A size of 0 is an unknown one."""
        size = size or GUESS_BYTES
        with self._changed:
            self._next += 1
            ticket = self._next
            self._running[ticket] = size
            if size in self._waiting:
                self._waiting.remove(size)
        try:
            yield ticket
        finally:
            with self._changed:
                del self._running[ticket]
                self._changed.notify_all()

    @contextmanager
    def connections(
        self,
        context: Context,
        host: str,
        ticket: int,
        limit: int | None = None,
        *,
        wait: bool = True,
        least: int = 1,
        most: int | None = None,
    ) -> Iterator[int]:
        """Take this file's share of a host's connections, at least one; wait while none is free (or take none).

        `limit` is the host's own, where a manifest names one; `least` is asked for whatever the share is, and `most` is
        all that the program can use.

        Raises:
            Stopped: a stop was asked for while waiting.
        """
        whole = min(limit or self._limit, self._limit)
        using = self._machine.using(host) if self._machine is not None else nullcontext()
        with using as common:
            began_s, is_marked = context.monotonic(), False
            with ExitStack() as waiting, self._changed:
                while True:
                    part = whole if common is None else max(1, whole // common.processes())
                    slots: tuple[int, ...] = ()
                    number = self._take(host, ticket, part, least, most or whole)
                    if common is not None and number:
                        slots = common.take(whole, number)
                        number = len(slots)
                        if not number and wait:
                            if not is_marked:
                                waiting.enter_context(common.waiting())
                                self._tell_once(host)
                            is_marked = True
                            number = int(context.monotonic() - began_s > LONGEST_WAIT_S)
                    if number or not wait:
                        break
                    self._changed.wait(POLL_S)
                    if context.stop.is_set():
                        raise Stopped("stopped while waiting for a free connection")
                self._used[host] += number
                use = _Use(host, common, number, most or whole, whole, part, context.monotonic())
                self._uses[ticket].append(use)
            try:
                yield number
            finally:
                with self._changed:
                    self._used[host] -= number
                    self._uses[ticket].remove(use)
                    if not self._uses[ticket]:
                        del self._uses[ticket]
                    if common is not None:
                        common.give(slots)
                    self._changed.notify_all()

    def must_yield(self, context: Context, ticket: int) -> bool:
        """Whether to end a file's program, because other processes wait for its connections, or need them no more.

        It goes on with its share of what is this process's part by then. All that have more than that do so together;
        where each has one, and they are too many, one after the other.
        """
        now = context.monotonic()
        with self._changed:
            for use in self._uses.get(ticket, ()):
                if use.common is None or now - use.looked_s < LOOK_S:
                    continue
                use.looked_s = now
                part = max(1, use.whole // use.common.processes())
                is_too_much = part < self._used[use.host] and use.common.is_awaited()
                may_grow = part > use.part and self._used[use.host] >= use.part and use.number < use.usable
                if not is_too_much and not may_grow:
                    use.due_since_s = None
                    continue
                use.due_since_s = now if use.due_since_s is None else use.due_since_s
                if now - use.due_since_s < (PATIENCE_S if is_too_much else 2 * PATIENCE_S):
                    continue
                if may_grow or use.number > max(1, self._share(ticket, part)):
                    return True
                if now - self._yielded_s.get(use.host, float("-inf")) > PATIENCE_S:
                    self._yielded_s[use.host] = now
                    return True
        return False

    def _take(self, host: str, ticket: int, part: int, least: int, most: int) -> int:
        free = part - self._used[host]
        return min(most, max(1, min(max(least, self._share(ticket, part)), free))) if free > 0 else 0

    def _tell_once(self, host: str) -> None:
        if self._tell is not None and host not in self._told:
            self._told.add(host)
            self._tell(f"{host}: waiting, other runs on this machine use all its connections")

    @contextmanager
    def shares(
        self, context: Context, ticket: int, limits: Mapping[str, int | None], most: int | None = None
    ) -> Iterator[dict[str, int]]:
        """Take the connections of one file to several sources at once; a source that has none free is left out.

        Args:
            context: the run's context.
            ticket: the file's, from `file`.
            limits: maps each source's URL to its host's own limit (None: it has none); the first is waited for.
            most: how many the program can use of each; None: any number.

        Raises:
            Stopped: a stop was asked for while waiting.
        """
        with ExitStack() as stack:
            taken: dict[str, int] = {}
            for url, limit in limits.items():
                part = self.connections(context, host_of(url), ticket, limit, wait=not taken, most=most)
                if number := stack.enter_context(part):
                    taken[url] = number
            yield taken

    def _share(self, ticket: int, most: int) -> int:
        """This file's part of what runs now and what runs next."""
        size = self._running.get(ticket, 0)
        others = sum(self._running.values()) - size
        coming = sum(self._waiting[: max(0, self._jobs - len(self._running))])
        whole = size + others + coming
        return round(most * size / whole) if whole else most


MIB = 1 << 20
USUAL_RATE = 16 * MIB  # bytes per second and connection, where nothing was measured
USUAL_PIECE_BYTES = 4 * MIB  # 1 GiB nearby in 4.15 s, with 1 MiB in 4.4; longer ones leave the judge more at the end
SHORT_PIECE_BYTES = 2 * MIB
MOST_RATE = 64 * MIB  # faster, and the round trip of a busy machine is noise that would make pieces of it


def piece_bytes(size: int | None, connections: int, round_trip_s: float, rate: float = USUAL_RATE) -> tuple[int, bool]:
    """Choose the piece length for one file, and whether pieces can go in order (only then a hash can follow).

    A piece costs a request: aria2c pipelines it, but a server that needs the round trip for each answer, as a front of
    another one does, sends nothing meanwhile. So a piece is rate x round trip x 8, rounded up to a power of two, at
    least 4 MiB; and at most the largest power of two that is <= size / (4 x connections), since a piece caps a
    connection and the judge, which follows in order, has nearly all of the last ones left to read. With x 3, 1 GiB at
    150 ms took 4.81 instead of 4.92 s from our origin, and 5.79 instead of 5.36 s from behind a front. Where the cap is
    below 1 MiB, pieces of 1 MiB go in any order.
    """
    wanted = max(USUAL_PIECE_BYTES, 1 << max(0, int(min(rate, MOST_RATE) * round_trip_s * 8) - 1).bit_length())
    if size is None:
        return wanted, True
    share = size // (4 * max(1, connections))
    cap = 1 << (share.bit_length() - 1) if share else 0
    if cap < MIB:
        return MIB, False
    return min(wanted, cap), True


def repair_piece_bytes(missing: int, connections: int, length: int) -> int:
    """Choose the piece length for the bad pieces of `length` bytes each, `missing` bytes in all, of a file.

    It divides theirs where both are powers of two, so that no good byte is asked for.
    """
    share = max(1, missing // max(1, connections))
    return min(length, max(SHORT_PIECE_BYTES, 1 << (share.bit_length() - 1)))
