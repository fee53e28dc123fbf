"""What each host sent in a run, by which program, in what time, and how often it failed: summed up from events."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from orchestrator import events
from orchestrator.text import shown
from orchestrator.urls import split

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.events import Event

LOCAL = "local file"  # the host of `file:` URLs
PROBE = "probe"
_HOST_CHARACTERS = 253  # the longest name of the DNS: RFC 1035 2.3.4


class HostTraffic(msgspec.Struct, omit_defaults=True, rename={"received_bytes": "bytes"}):
    """What one program received from one host, and in how many seconds: those of several files at once count once.

    `faults` are the numbers of failed attempts by fault. A program that reads from several hosts at once counts for the
    first of them. The backend `PROBE` is orch's own question to all sources, before the first download.
    """

    host: str
    backend: str
    received_bytes: int = 0
    seconds: float = 0.0
    faults: dict[str, int] = {}  # msgspec copies it


class _Transfer:
    """The running attempt on one file, or on the small files that share a program; it was looked at `last`."""

    def __init__(self, key: tuple[str, str], have_bytes: int, last: float) -> None:
        self.key, self.have_bytes, self.last = key, have_bytes, last


class Traffic:
    """Sums up a run; events may come from any thread. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str], HostTraffic] = {}
        self._transfers: dict[tuple[str, str], _Transfer] = {}
        self._counted: dict[tuple[str, str], float] = {}  # up to when the seconds of each sum are counted

    def add(self, event: Event) -> None:
        """Take one event."""
        match event:
            case events.Started():
                with self._lock:
                    sums = self._of(event.source, event.backend)
                    key = (sums.host, sums.backend)
                    self._transfers[event.model, event.file] = _Transfer(key, event.have_bytes, self._clock())
            case events.Progressed():
                with self._lock:
                    transfer = self._transfers.get((event.model, event.file))
                    if transfer is not None:
                        self._move(transfer, event.done_bytes)
            case events.Failed():
                with self._lock:
                    faults = self._of(event.source, event.backend).faults
                    faults[event.fault] = faults.get(event.fault, 0) + 1
            case events.Unanswered():
                with self._lock:
                    self._of(event.source, PROBE).faults["network"] = 1
            case _:
                pass

    def _move(self, transfer: _Transfer, done_bytes: int) -> None:
        now, sums = self._clock(), self._sums[transfer.key]
        sums.received_bytes += max(0, done_bytes - transfer.have_bytes)
        sums.seconds += now - max(transfer.last, self._counted.get(transfer.key, transfer.last))
        self._counted[transfer.key] = now
        transfer.have_bytes, transfer.last = done_bytes, now

    @property
    def hosts(self) -> tuple[HostTraffic, ...]:
        """The sums, by host and program."""
        with self._lock:
            return tuple(msgspec.structs.replace(sums, faults=dict(sums.faults)) for sums in self._sums.values())

    def _of(self, source: str, backend: str) -> HostTraffic:
        host = host_name(source)
        return self._sums.setdefault((host, backend), HostTraffic(host, backend))


def host_name(url: str) -> str:
    """The host of a URL, with its port where one is written, and nothing else of it: no login, path or query."""
    authority = split(url).authority.rpartition("@")[2]
    return shown(authority)[:_HOST_CHARACTERS] or LOCAL
