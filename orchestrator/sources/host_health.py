"""How the hosts of a run are: down, busy, or gone for this run, and how many connections they accept.

A host that refuses connections, has no address or stays silent costs the run once and not once a file: two failures
close it, its other files wait or go to their other sources, and one small request at a time finds out whether it is
back. A host that answers 429, or 503 with a Retry-After, is closed for as long as it asks, for all files. Nothing here
reads a clock or opens a socket: the clock is handed in, and whoever asks a host tells what came of it.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

PROOFS = 2  # failures that close a host: one may be the matter of one file
FIRST_WAIT_S = 0.3  # a refused connection and an unknown name are answered at once, and cost a host nothing ...
WAIT_GROWTH = 1.6  # ... so 5 probes come within 5 s,
MAX_WAIT_S = 15.0  # and later ones no more often than a file's own retries
BUSY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # after a 429 that does not say for how long
MAX_BUSY_S = 300.0
BUSY_IN_A_ROW_S = 120.0  # so long a host may be busy again and again before it is given up
WINDOW_S = 3.0  # over which the rate of all that comes from a host is measured
COLLAPSE = 4.0  # a rate so many times lower than with fewer connections is a host that chokes on them
TAIL_PART = 0.9  # behind it some connections of a program have nothing left to do: its rate is no measure
MIN_PROBE_S, MAX_PROBE_S, PROBE_PART = 1.5, 10.0, 6.0  # 5 probes of a silent host take one --stall, or 7.5 s


class HostsUnavailableError(Exception):
    """All sources of a file that could still serve it are on hosts that are closed now: to be tried again later.

    `hosts` are those; `fallback` says whether another source is left that is asked only when they are gone.
    """

    def __init__(self, hosts: Iterable[str], *, fallback: bool = False) -> None:
        self.hosts = frozenset(hosts)
        self.fallback = fallback
        super().__init__(f"waiting for {', '.join(sorted(self.hosts))}")


@dataclass(slots=True, eq=False)
class _Flow:
    """One program that fetches from a host: its connections, and how much of its bytes is here."""

    connections: int
    size_bytes: int | None
    written_bytes: int = 0


@dataclass(slots=True)
class _Host:
    """What is known of one host. Times are those of the clock that was handed in."""

    proofs: int = 0  # failures in a row
    down: Fault | None = None
    is_half_open: bool = False  # files may try it: nobody else can ask it
    is_gone: bool = False
    since_s: float = 0.0  # of this outage
    first_s: float | None = None  # of the first failure of this kind in the run
    probes: int = 0  # in vain, in this outage
    next_probe_s: float = 0.0
    busy_until_s: float = 0.0
    busy: Fault | None = None
    strikes: int = 0  # times in a row that it said it was busy
    busy_since_s: float = 0.0  # the first of them
    is_told: bool = False
    ceiling: int | None = None  # of connections
    flows: list[_Flow] = field(default_factory=list)
    rates: dict[int, float] = field(default_factory=dict)  # the last one measured with so many connections
    mark_s: float = 0.0
    mark_bytes: int = 0


def backoff_s(failures: int, jitter: float = 0.5) -> float:
    """The wait after so many failures in a row of a host that answers at once that it is not there.

    `jitter` in [0, 1) spreads the waits by a quarter to both sides.
    """
    return min(FIRST_WAIT_S * WAIT_GROWTH ** max(0, min(failures, 64) - 1), MAX_WAIT_S) * (0.75 + 0.5 * jitter)


def probe_timeout_s(stall_s: float) -> float:
    """For how long to wait for the answer to a probe, where a program is left alone for `stall_s` in silence."""
    return min(max(stall_s / PROBE_PART, MIN_PROBE_S), MAX_PROBE_S)


def name_of(host: str) -> str:
    """A host as people write it, without its scheme."""
    return host.partition("://")[2] or host


class HostHealth:
    """The hosts of one run; its transfers share it. Hosts are named as `urls.host_of` does: scheme, name and port.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._hosts: dict[str, _Host] = {}
        self._mutex = threading.Lock()

    # What came of asking a host.

    def failed(self, host: str, fault: Fault, *, files: int = 1, gained: bool = False, connections: int = 16) -> None:
        """Take note of a failed attempt.

        Args:
            host: who was asked.
            fault: why it failed.
            files: how many files it failed for.
            gained: whether bytes came all the same.
            connections: how many the host was allowed, in all.
        """
        with self._mutex:
            about = self._hosts.setdefault(host, _Host())
            if is_busy(fault):
                self._reopen(about)
                self._hold(about, fault, connections)
            elif fault.is_unreachable and not gained:
                about.proofs += files
                about.first_s = self._now() if about.first_s is None else about.first_s
                if about.proofs >= PROOFS and (about.down is None or about.is_half_open):
                    self._close(about, fault)
            elif gained or fault.status is not None:
                self._reopen(about)

    def succeeded(self, host: str, *, connections: int = 16) -> None:
        """Take note of an attempt that went well: a host that was given fewer connections gets one more."""
        with self._mutex:
            about = self._hosts.get(host)
            if about is None:
                return
            self._reopen(about)
            about.strikes = 0
            if about.ceiling is not None:
                about.ceiling = about.ceiling + 1 if about.ceiling + 1 < connections else None

    @contextmanager
    def flowing(self, host: str, connections: int, size_bytes: int | None) -> Iterator[Callable[[int], None]]:
        """Count one program that fetches from a host; it halves the host's connections where they choke it.

        `size_bytes` is what it fetches; None or 0 where its rate tells nothing, as that of many small files. Gives a
        function to tell how many bytes it has written so far.
        """
        flow = _Flow(connections, size_bytes)
        with self._mutex:
            about = self._hosts.setdefault(host, _Host())
            about.flows.append(flow)
            self._mark(about)

        def note(written_bytes: int) -> None:
            with self._mutex:
                flow.written_bytes = written_bytes
                self._measure(about)

        try:
            yield note
        finally:
            with self._mutex:
                about.flows.remove(flow)
                self._mark(about)

    def _mark(self, about: _Host) -> None:
        about.mark_s, about.mark_bytes = self._now(), sum(flow.written_bytes for flow in about.flows)

    def _measure(self, about: _Host) -> None:
        """Once a window of time is over in which nothing began or ended, compare its rate."""
        ran_s = self._now() - about.mark_s
        if ran_s < WINDOW_S:
            return
        before = about.mark_bytes
        self._mark(about)
        if any(not flow.size_bytes or flow.written_bytes > TAIL_PART * flow.size_bytes for flow in about.flows):
            return
        number, rate = sum(flow.connections for flow in about.flows), (about.mark_bytes - before) / ran_s
        about.rates[number] = rate
        obeys = about.ceiling is None or number <= about.ceiling  # what began before goes on with more
        if obeys and is_collapsed(about.rates, number, rate):
            about.ceiling = max(1, number // 2)

    def answered(self, host: str) -> None:
        """Take note that a host answers, whatever it says."""
        with self._mutex:
            if (about := self._hosts.get(host)) is not None:
                self._reopen(about)

    def probed(self, host: str, fault: Fault | None, *, began_s: float, jitter: float = 0.5) -> None:
        """Take note of a probe that began at `began_s`; None or a fault of another kind means that the host is back."""
        if fault is None or not fault.is_unreachable:
            if fault is not None and is_busy(fault):
                self.failed(host, fault)
            self.answered(host)
            return
        with self._mutex:
            about = self._hosts[host]
            if about.down is not None:
                about.probes += 1
                # Silence that was listened to was a wait as well.
                about.next_probe_s = max(self._now(), began_s + backoff_s(about.probes + 1, jitter))

    def try_files(self, host: str, *, jitter: float = 0.5) -> None:
        """Let files be the probe of a host that no request of ours can ask; one failure closes it again."""
        with self._mutex:
            about = self._hosts[host]
            about.is_half_open, about.proofs = True, PROOFS - 1
            about.next_probe_s = self._now() + backoff_s(about.probes + 2, jitter)

    def give_up(self, host: str) -> None:
        """Count a host as gone, for the rest of the run."""
        with self._mutex:
            self._hosts[host].is_gone = True

    def _close(self, about: _Host, fault: Fault) -> None:
        now = self._now()
        if about.down is None:
            about.since_s, about.probes = now, 0
            about.next_probe_s = now + backoff_s(1)
        else:
            about.probes += 1
        about.down, about.is_half_open = fault, False

    @staticmethod
    def _reopen(about: _Host) -> None:
        if about.down is not None:
            about.is_told = False
        about.proofs, about.probes, about.down, about.is_half_open, about.is_gone = 0, 0, None, False, False

    def _hold(self, about: _Host, fault: Fault, connections: int) -> None:
        now = self._now()
        if about.busy_until_s <= now:  # the answers of one moment are one complaint
            about.busy_since_s = about.busy_since_s if about.strikes else now
            about.strikes += 1
            about.ceiling = max(1, min(about.ceiling or connections, connections) // 2)
            about.is_told = False
        asked_s = fault.retry_after_s
        if asked_s is None:
            asked_s = BUSY_WAITS_S[min(about.strikes, len(BUSY_WAITS_S)) - 1]
        about.busy_until_s = max(about.busy_until_s, now + min(asked_s, MAX_BUSY_S))
        about.busy = fault

    # What follows from it.

    def is_closed(self, host: str) -> bool:
        """Whether a host is not to be asked for a file now, and may be later."""
        with self._mutex:
            about = self._hosts.get(host)
            return about is not None and not about.is_gone and (_is_down(about) or about.busy_until_s > self._now())

    def is_gone(self, host: str) -> bool:
        """Whether a host is not to be asked for a file any more in this run."""
        with self._mutex:
            about = self._hosts.get(host)
            return about is not None and about.is_gone

    def is_down(self, host: str) -> bool:
        """Whether a host is to be probed before any file asks it."""
        with self._mutex:
            about = self._hosts.get(host)
            return about is not None and not about.is_gone and _is_down(about)

    def probe_due_s(self, host: str) -> float:
        """In how many seconds a host that is down is to be probed."""
        with self._mutex:
            return max(0.0, self._hosts[host].next_probe_s - self._now())

    def opens_in_s(self, host: str) -> float:
        """In how many seconds a host that is closed may be asked again, by a probe or by its files."""
        with self._mutex:
            about, now = self._hosts[host], self._now()
            return max(0.0, about.busy_until_s - now, about.next_probe_s - now if _is_down(about) else 0.0)

    def is_over(self, host: str, *, retries: int, wait_s: float) -> bool:
        """Whether a host that is closed was asked often enough, and for long enough, to give it up.

        One that is busy was, once it has said so more often than `retries`, or twice and for two minutes.
        """
        with self._mutex:
            about, now = self._hosts[host], self._now()
            if about.down is not None:
                return about.probes >= retries and now >= about.since_s + wait_s
            is_long = about.strikes > 1 and now > about.busy_since_s + BUSY_IN_A_ROW_S
            return (about.strikes > retries or is_long) and now >= about.busy_since_s + wait_s

    def is_waited_for(self, host: str, wait_s: float) -> bool:
        """Whether less than `wait_s` seconds have passed since a host seemed down for the first time in this run."""
        with self._mutex:
            about = self._hosts.get(host)
            first_s = about.first_s if about is not None else None
            return first_s is not None and self._now() < first_s + wait_s

    def newly_closed(self) -> list[str]:
        """The hosts that were closed since this was asked last; each once an outage."""
        with self._mutex:
            now, found = self._now(), []
            for host, about in self._hosts.items():
                if not about.is_told and not about.is_gone and (_is_down(about) or about.busy_until_s > now):
                    about.is_told = True
                    found.append(host)
            return found

    def reason(self, host: str) -> str:
        """Why a host is closed or gone, in words that name it."""
        with self._mutex:
            about, now = self._hosts[host], self._now()
            if about.down is not None:
                return reason(host, about.down)
            left_s = max(1.0, about.busy_until_s - now)
            why = about.busy.message if about.busy is not None else "busy"
            return f"{name_of(host)} asks to wait {left_s:.0f} s ({why})"

    def verdict(self, host: str) -> str:
        """Why no file comes from a host, in words that are the same for all of them."""
        with self._mutex:
            about = self._hosts[host]
            if about.down is not None:
                return reason(host, about.down)
            return (
                f"{name_of(host)} takes no more requests ({about.busy.message if about.busy is not None else 'busy'})"
            )

    def fault(self, host: str) -> Fault | None:
        """The fault that closed a host."""
        with self._mutex:
            about = self._hosts.get(host)
            return (about.down or about.busy) if about is not None else None

    def limit(self, host: str, own: int | None) -> int | None:
        """The most connections to a host: `own`, which a manifest gives it, or fewer where it complained."""
        with self._mutex:
            about = self._hosts.get(host)
            ceiling = about.ceiling if about is not None else None
            return own if ceiling is None else min(own or ceiling, ceiling)


def _is_down(about: _Host) -> bool:
    return about.down is not None and not about.is_half_open


def is_collapsed(rates: Mapping[int, float], connections: int, rate: float) -> bool:
    """Whether `rate` is a quarter at most of one of `rates`, by connections, that fewer had; in bytes a second."""
    return any(number < connections and rate * COLLAPSE <= other for number, other in rates.items())


def is_busy(fault: Fault) -> bool:
    """Whether a fault is a host's word that all its clients' requests are too many: 429, or 503 with a Retry-After."""
    return fault.kind is Kind.BUSY and (
        fault.status == 429 or (fault.status == 503 and fault.retry_after_s is not None)
    )


def reason(host: str, fault: Fault) -> str:
    """Why a host cannot be reached, in words that name it."""
    name = name_of(host)
    if "proxy" in fault.message.lower():
        return f"cannot connect to {name}: {fault.message}"
    if fault.unresolved:
        return f"cannot resolve {name}"
    if fault.refused_connection:
        return f"cannot connect to {name}: connection refused"
    return f"no answer from {name}"
