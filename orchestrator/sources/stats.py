"""This host's memory of hosts: one line an attempt in the local state. Losing it costs only speed."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orchestrator.faults import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READ_LINES = 1000
TRIM_BYTES = 1 << 20  # some 5,000 lines
RATE_BYTES = 1 << 20  # less tells of round trips, not of rates
RATE_ATTEMPTS = 20
KEPT_ATTEMPTS = 50
HALF_LIFE_ATTEMPTS = 5
OLD_S = 30 * 86400.0
FAILING_S = 120.0
FAILING_TIMES = 3
_OF_A_HOST = frozenset(kind.value for kind in (Kind.NETWORK, Kind.STALLED, Kind.BUSY, Kind.TLS))


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True, rename={"fetched_bytes": "bytes"}):
    """One attempt: `host` is where the bytes came from, `via` where the redirects to it began.

    Never a path, a query or a name of a user: this file is read by whoever looks for a slow mirror.
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
    """Bytes a second that a host gave: in all, and on each connection."""

    overall: float
    per_connection: float

    def over(self, connections: int) -> float:
        """What so many connections may hope for: never more than was seen in all."""
        return min(self.overall, self.per_connection * connections)


class History:
    """`runs.jsonl` in a folder: read once, when first asked; every attempt is appended at once.

    `now` gives the time as seconds since the epoch.
    """

    def __init__(self, folder: str, now: Callable[[], float]) -> None:
        self._path, self._now = f"{folder}/runs.jsonl", now
        self._hosts: dict[str, _HostPast] | None = None
        self._mutex = threading.Lock()

    def add(self, record: AttemptRecord) -> None:
        """Remember an attempt; a disk that says no hurts nobody."""
        line = msgspec.json.encode(record) + b"\n"
        with self._mutex:
            _file(self._known(), record)
            with suppress(OSError):
                _append(self._path, line)

    def rate(self, host: str) -> Rate | None:
        """How fast a host was of late, the last attempts counting most; None where nobody knows."""
        told = self._of(host).telling
        if not told:
            return None
        weights = [0.5 ** (age / HALF_LIFE_ATTEMPTS) for age in range(len(told))]
        size = sum(w * r.fetched_bytes for w, r in zip(weights, told, strict=True))
        seconds = sum(w * r.seconds for w, r in zip(weights, told, strict=True))
        shared = sum(w * r.seconds * max(1, r.connections) for w, r in zip(weights, told, strict=True))
        return Rate(size / seconds, size / shared)

    def round_trip_s(self, host: str) -> float | None:
        """The median of its last round trips; None where nobody knows."""
        trips = [r.round_trip_s for r in self._of(host).all if r.round_trip_s is not None][:5]
        return sorted(trips)[len(trips) // 2] if trips else None

    def faults(self, host: str) -> tuple[AttemptRecord, ...]:
        """Its recent failed attempts, newest first."""
        return tuple(r for r in self._of(host).all if r.fault is not None)

    def last(self, host: str) -> AttemptRecord | None:
        """Its last attempt."""
        return next(iter(self._of(host).all), None)

    def is_failing(self, host: str) -> bool:
        """Whether a host gave nothing but the faults of a host, not of a file, a short while ago."""
        recent = [r for r in list(self._of(host).all)[:FAILING_TIMES] if self._now() - r.time <= FAILING_S]
        return len(recent) == FAILING_TIMES and all(r.fault in _OF_A_HOST and not r.fetched_bytes for r in recent)

    def _of(self, host: str) -> _HostPast:
        with self._mutex:
            past = self._known().get(host)
            return _HostPast(list(past.all), list(past.telling)) if past else _HostPast([], [])

    def _known(self) -> dict[str, _HostPast]:
        if self._hosts is None:
            self._hosts = {}
            now = self._now()
            for record in _read(self._path):
                if now - OLD_S <= record.time <= now + 86400:  # what is very old tells nothing, nor what is to come
                    _file(self._hosts, record)
        return self._hosts


@dataclass(frozen=True, slots=True)
class _HostPast:
    """The last attempts on one host, newest first: all, and those that tell of its rate."""

    all: list[AttemptRecord]
    telling: list[AttemptRecord]


def _file(hosts: dict[str, _HostPast], record: AttemptRecord) -> None:
    """Put a record under both hosts that it is about; a run of many files forgets its first ones."""
    for host in dict.fromkeys((record.host, record.via)):
        past = hosts.setdefault(host, _HostPast([], []))
        past.all.insert(0, record)
        del past.all[KEPT_ATTEMPTS:]
        if record.fetched_bytes >= RATE_BYTES and record.seconds > 0:
            past.telling.insert(0, record)
            del past.telling[RATE_ATTEMPTS:]


def _read(path: str) -> list[AttemptRecord]:
    """The last lines, oldest first; damaged ones are skipped."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return list(_records(lines[-READ_LINES:]))


def _records(lines: Iterable[bytes]) -> Iterable[AttemptRecord]:
    for line in lines:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield msgspec.json.decode(line, type=AttemptRecord)


def _append(path: str, line: bytes) -> None:
    """Append by one write: other processes do so at the same time."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    if size > TRIM_BYTES:
        _trim(path)


def _trim(path: str) -> None:
    """Keep the last lines only; what another process appends in this moment may go with the rest."""
    with open(path, "rb") as file:
        kept = file.read().splitlines(keepends=True)[-READ_LINES:]
    from orchestrator.files import write_atomic

    write_atomic(path, b"".join(kept), mode=0o600)
