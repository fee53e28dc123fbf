"""What clients asked of the loopback origin and what they got: counted while it happens."""

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
    """One request and what came of it; `status` is 0 while, or because, nothing was answered."""

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


class Live:
    """A request being answered. Only its own connection's thread writes, so it needs no lock."""

    def __init__(self, request: Request, connection: int, forget: Callable[[Live], None]) -> None:
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
        self._forget: Callable[[Live], None] | None = forget

    def record(self) -> RequestRecord:
        return replace(self._record, status=self.status, sent=self.sent)

    def finish(self) -> None:
        """No longer under way; called before the last block, for the client may be faster than we are."""
        forget, self._forget = self._forget, None
        if forget:
            forget(self)


class Ledger:
    """All requests, the answers under way, and the occasions that faults have had."""

    def __init__(self) -> None:
        self.peaks: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._spent: Counter[tuple[str, str]] = Counter()
        self._lives: list[Live] = []
        self._mutex = threading.Lock()

    def begin(self, request: Request, connection: int) -> Live:
        """Enter a request; its answer is under way until `finish`."""
        live = Live(request, connection, self._forget)
        with self._mutex:
            self._lives.append(live)
            self._open.update(live.names)
            self.peaks |= self._open
        return live

    def spend(self, path: str, fault: str, times: int | None, after: int = 0) -> bool:
        """Count one occasion for a fault; whether it is due: not the first `after` ones, then `times`."""
        with self._mutex:
            self._spent[path, fault] += 1
            return after < self._spent[path, fault] <= (math.inf if times is None else after + times)

    def renew(self, path: str) -> None:
        """Give the faults of a path all their occasions again."""
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

    def _forget(self, live: Live) -> None:
        with self._mutex:
            self._open.subtract(live.names)
