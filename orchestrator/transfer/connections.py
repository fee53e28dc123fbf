"""How many connections each file gets: a host never sees more than its limit, over all files of a run."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.context import Context


GUESS_BYTES = 64 << 20  # of a file whose size is unknown: as none it would leave the next one no connection


class ConnectionLimits:
    """Shares each host's connections among the files that are under way, by their size, so that they end together.

    `limit` is for one host (scheme, name and port), `jobs` how many files run at once, `sizes` all sizes that will
    be fetched in this run (bytes; unknown ones as 0).
    """

    def __init__(self, limit: int, jobs: int = 1, sizes: Sequence[int] = ()) -> None:
        self._limit, self._jobs = limit, jobs
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
        self, context: Context, host: str, ticket: int, limit: int | None = None, *, wait: bool = True, least: int = 1
    ) -> Iterator[int]:
        """Take this file's share of a host's connections, at least one; wait while none is free (or take none).

        `limit` is the host's own, where a manifest names one; `least` is asked for whatever the share is.

        Raises:
            Stopped: a stop was asked for while waiting.
        """
        most = min(limit or self._limit, self._limit)
        with self._changed:
            while wait and self._used[host] >= most:
                self._changed.wait(0.2)
                if context.stop.is_set():
                    raise Stopped("stopped while waiting for a free connection")
            free = most - self._used[host]
            taken = max(1, min(max(least, self._share(ticket, most)), free)) if free > 0 else 0
            self._used[host] += taken
        try:
            yield taken
        finally:
            with self._changed:
                self._used[host] -= taken
                self._changed.notify_all()

    @contextmanager
    def shares(self, context: Context, ticket: int, limits: Mapping[str, int | None]) -> Iterator[dict[str, int]]:
        """Take the connections of one file to several sources at once; a source that has none free is left out.

        Args:
            context: the run's context.
            ticket: the file's, from `file`.
            limits: maps each source's URL to its host's own limit (None: it has none); the first is waited for.

        Raises:
            Stopped: a stop was asked for while waiting.
        """
        with ExitStack() as stack:
            taken: dict[str, int] = {}
            for url, limit in limits.items():
                part = self.connections(context, host_of(url), ticket, limit, wait=not taken)
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
MOST_RATE = 64 * MIB  # faster, and the round trip of a busy machine is noise that would make pieces of it


def piece_bytes(size: int | None, connections: int, round_trip_s: float, rate: float = USUAL_RATE) -> tuple[int, bool]:
    """Choose the piece length for one file, and whether pieces can go in order (only then a hash can follow).

    A piece costs a request: efficiency = 1 / (1 + rate x round trip / piece), measured within 20 %. So a piece is
    rate x round trip x 8, rounded up to a power of two, at least 1 MiB; and at most the largest power of two that is
    <= size / (4 x connections), since a piece caps a connection and all last ones end together. Where that cap is
    below 1 MiB, pieces of 1 MiB go in any order.
    """
    wanted = max(MIB, 1 << max(0, int(min(rate, MOST_RATE) * round_trip_s * 8) - 1).bit_length())
    if size is None:
        return wanted, True
    share = size // (4 * max(1, connections))
    cap = 1 << (share.bit_length() - 1) if share else 0
    if cap < MIB:
        return MIB, False
    return min(wanted, cap), True


def repair_piece_bytes(missing: int, connections: int, length: int) -> int:
    """Choose the piece length for the bad pieces of `length` bytes each, `missing` bytes in all, of a file.

    It divides theirs where both are powers of two, so that no good byte is asked for. Pieces are 2 MiB at least: from
    there on aria2c asks for exact ranges (`--enable-http-pipelining`); else it asks for all that follows and hangs up.
    """
    share = max(1, missing // max(1, connections))
    return min(length, max(2 * MIB, 1 << (share.bit_length() - 1)))
