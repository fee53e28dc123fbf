"""The log of the loopback origin: every request, what was sent for it, and how often each fault was used."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.demo.faults import Request


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request and its answer so far; `status` is 0 before, or without, an answer; `sent` counts body bytes."""

    path: str
    query: str
    method: str
    range: str | None
    host: str
    headers: dict[str, str] = field(repr=False)
    connection: int
    started_s: float
    status: int = 0
    sent: int = 0


class LiveRequest:
    """A request that is being answered. Only its own connection's thread writes to it, so it needs no lock."""

    def __init__(self, request: Request, connection: int, forget: Callable[[LiveRequest], None]) -> None:
        host = request.headers.get("host", "")
        self._record = RequestRecord(
            path=request.path,
            query=request.query,
            method=request.method,
            range=request.headers.get("range"),
            host=host,
            headers=request.headers,
            connection=connection,
            started_s=time.time(),
        )
        self.status, self.sent = 0, 0
        self.names = {"", host.rpartition(":")[0]}  # all together, and this host name
        self._forget: Callable[[LiveRequest], None] | None = forget

    def record(self) -> RequestRecord:
        return replace(self._record, status=self.status, sent=self.sent)

    def finish(self) -> None:
        """Stop to count it as open; called before the last block is sent, because the client may see that one first."""
        forget, self._forget = self._forget, None
        if forget:
            forget(self)


class RequestLog:
    """All requests, the most that were open at once, and how often each fault was due."""

    def __init__(self) -> None:
        self.peaks: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._spent: Counter[tuple[str, str]] = Counter()
        self._lives: list[LiveRequest] = []
        self._mutex = threading.Lock()

    def begin(self, request: Request, connection: int) -> LiveRequest:
        """Log a request; it counts as open until its `finish`."""
        live = LiveRequest(request, connection, self._forget)
        with self._mutex:
            self._lives.append(live)
            self._open.update(live.names)
            self.peaks |= self._open
        return live

    def spend(self, path: str, fault: str, times: int | None, after: int = 0) -> bool:
        """Count one occasion of a fault on a path.

        Returns:
            Whether the fault is due: not on the first `after` occasions, then on `times` of them (None: on all).
        """
        with self._mutex:
            self._spent[path, fault] += 1
            return after < self._spent[path, fault] <= (math.inf if times is None else after + times)

    def renew(self, path: str) -> None:
        """Count the faults of a path from 0 again."""
        with self._mutex:
            for key in [key for key in self._spent if key[0] == path]:
                del self._spent[key]

    def log(self) -> tuple[RequestRecord, ...]:
        with self._mutex:
            lives = tuple(self._lives)
        return tuple(live.record() for live in lives)

    def sent(self, path: str) -> int:
        return sum(record.sent for record in self.log() if record.path == path)

    def requests(self, path: str) -> int:
        return sum(record.path == path for record in self.log())

    def _forget(self, live: LiveRequest) -> None:
        with self._mutex:
            self._open.subtract(live.names)
