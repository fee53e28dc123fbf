"""Connections: a host never sees more of them than it may, over all files of a run."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.context import World

GUESS_BYTES = 64 << 20  # of a file whose size is unknown: as none it would leave the next one no connection


class Budget:
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
        self, world: World, host: str, ticket: int, limit: int | None = None, *, wait: bool = True, least: int = 1
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
                if world.stop.is_set():
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

    def _share(self, ticket: int, most: int) -> int:
        """This file's part of what runs now and what runs next."""
        size = self._running.get(ticket, 0)
        others = sum(self._running.values()) - size
        coming = sum(self._waiting[: max(0, self._jobs - len(self._running))])
        whole = size + others + coming
        return round(most * size / whole) if whole else most
