"""The history of attempts on this machine, `runs.jsonl` in the local state: how fast each host was, and its faults.

Losing it costs only speed.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orchestrator import local_state
from orchestrator.faults import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READ_LINES = 1000
TRIM_BYTES = 1 << 20  # some 5,000 lines
RATE_BYTES = 1 << 20  # a smaller transfer measures round round_trips, not the rate
RATE_ATTEMPTS = 20
KEPT_ATTEMPTS = 50
HALF_LIFE_ATTEMPTS = 5
OLD_S = 30 * 86400.0
FAILING_S = 120.0
FAILING_TIMES = 3
_MOST = 1 << 63  # of a number in a line: a larger one is damage
_OF_A_HOST = frozenset(kind.value for kind in (Kind.NETWORK, Kind.STALLED, Kind.BUSY, Kind.TLS))


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True, rename={"fetched_bytes": "bytes"}):
    """One attempt: `host` sent the bytes, `via` is the host where the redirects to it began; `time` is epoch seconds.

    It holds no path, query or user name: whoever looks for a slow mirror reads this file.
    """

    time: float
    host: str
    backend: str
    fetched_bytes: int
    seconds: float
    connections: int = 1
    round_trip_s: float | None = None
    fault: str | None = None
    via: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """The bytes a second of a host: in all, and on each connection."""

    overall: float
    per_connection: float

    def over(self, connections: int) -> float:
        """The bytes a second to expect of so many connections: never more than was measured in all."""
        return min(self.overall, self.per_connection * connections)


class History:
    """The history in a folder: read when first needed; every attempt is appended at once.

    `now` gives the time in seconds since the epoch.
    """

    def __init__(self, folder: str, now: Callable[[], float]) -> None:
        self._path, self._now = f"{folder}/runs.jsonl", now
        self._hosts: dict[str, _HostPast] | None = None
        self._mutex = threading.Lock()

    def add(self, record: AttemptRecord) -> None:
        """Add an attempt; a disk that cannot be written is ignored."""
        line = msgspec.json.encode(record) + b"\n"
        with self._mutex:
            _file(self._known(), record)
            with suppress(OSError):
                if local_state.append(self._path, line) > TRIM_BYTES:
                    _trim(self._path)

    def rate(self, host: str) -> Rate | None:
        """The recent rate of a host: a mean whose weights halve every 5 attempts; None where it is unknown."""
        measured = self._of(host).measuring
        if not measured:
            return None
        weights = [0.5 ** (age / HALF_LIFE_ATTEMPTS) for age in range(len(measured))]
        size = sum(w * r.fetched_bytes for w, r in zip(weights, measured, strict=True))
        seconds = sum(w * r.seconds for w, r in zip(weights, measured, strict=True))
        shared = sum(w * r.seconds * max(1, r.connections) for w, r in zip(weights, measured, strict=True))
        return Rate(size / seconds, size / shared)

    def round_trip_s(self, host: str) -> float | None:
        """The median of a host's last 5 round round_trips; None where there are none."""
        round_trips = [r.round_trip_s for r in self._of(host).all if r.round_trip_s is not None][:5]
        return sorted(round_trips)[len(round_trips) // 2] if round_trips else None

    def faults(self, host: str) -> tuple[AttemptRecord, ...]:
        """The recent failed attempts on a host, newest first."""
        return tuple(r for r in self._of(host).all if r.fault is not None)

    def last(self, host: str) -> AttemptRecord | None:
        """The last attempt on a host; None where there is none."""
        return next(iter(self._of(host).all), None)

    def is_failing(self, host: str) -> bool:
        """Whether the last 3 attempts on a host, within 2 minutes, brought no byte and failed by the host's fault."""
        recent = [r for r in list(self._of(host).all)[:FAILING_TIMES] if self._now() - r.time <= FAILING_S]
        return len(recent) == FAILING_TIMES and all(r.fault in _OF_A_HOST and not r.fetched_bytes for r in recent)

    def _of(self, host: str) -> _HostPast:
        with self._mutex:
            past = self._known().get(host)
            return _HostPast(list(past.all), list(past.measuring)) if past else _HostPast([], [])

    def _known(self) -> dict[str, _HostPast]:
        if self._hosts is None:
            self._hosts = {}
            now = self._now()
            for record in _read(self._path):
                if (
                    now - OLD_S <= record.time <= now + 86400
                ):  # a record that is too old, or of a wrong clock, is ignored
                    _file(self._hosts, record)
        return self._hosts


@dataclass(frozen=True, slots=True)
class _HostPast:
    """The last attempts on one host, newest first: all, and those that measure its rate."""

    all: list[AttemptRecord]
    measuring: list[AttemptRecord]


def _file(hosts: dict[str, _HostPast], record: AttemptRecord) -> None:
    """Add a record to both its hosts, and drop their oldest beyond the limits."""
    for host in dict.fromkeys((record.host, record.via)):
        past = hosts.setdefault(host, _HostPast([], []))
        past.all.insert(0, record)
        del past.all[KEPT_ATTEMPTS:]
        if record.fetched_bytes >= RATE_BYTES and record.seconds > 0:
            past.measuring.insert(0, record)
            del past.measuring[RATE_ATTEMPTS:]


def _read(path: str) -> list[AttemptRecord]:
    """Read the last lines, oldest first; damaged ones are skipped."""
    try:
        with local_state.open_to_read(path) as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return list(_records(lines[-READ_LINES:]))


def _records(lines: Iterable[bytes]) -> Iterable[AttemptRecord]:
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = msgspec.json.decode(line, type=AttemptRecord)
            if 0 <= record.fetched_bytes < _MOST and 0 <= record.connections < _MOST and 0 <= record.seconds < _MOST:
                yield record


def _trim(path: str) -> None:
    """Keep the last lines only; a line that another process appends at this moment may be lost."""
    with local_state.open_to_read(path) as file:
        kept = file.read().splitlines(keepends=True)[-READ_LINES:]
    from orchestrator.files import write_atomic

    write_atomic(path, b"".join(kept), mode=0o600)
