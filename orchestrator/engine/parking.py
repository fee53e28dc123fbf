"""Work whose hosts are closed: it waits while other work continues, until one of these hosts may be asked again.

A host that is down is probed from a thread of its own, with backoff, by one small request at a time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator.faults import Fault
from orchestrator.sources.host_health import probe_timeout_s
from orchestrator.sources.route import Routes
from orchestrator.transfer.answers import can_ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.transfer.run_context import RunContext

POLL_S = 0.2

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class Parked(Generic[Work]):
    """A piece of work, and the hosts that it waits for.

    `since_s` is a time of the context's monotonic clock. `is_for_busy`: one of the hosts asked to wait, so the wait
    counts as a file's own. `fallback`: it has a source beside those hosts. `is_all`: it is known to have none.
    """

    work: Work
    hosts: frozenset[str]
    since_s: float
    is_for_busy: bool = False
    fallback: bool = False
    is_all: bool = False


class Parking(Generic[Work]):
    """What is kept aside in one run. Its caller holds a lock around all calls but `close`."""

    def __init__(self, run: RunContext) -> None:
        assert run.known is not None, "a run that fetches is prepared first"
        self._run, self.health = run, run.known.health
        self._routes = Routes(run.context.environ, run.hosts)
        self._parked: list[Parked[Work]] = []
        self._probing: set[str] = set()  # by the threads too: a set's own operations are atomic
        self._over = threading.Event()

    def __bool__(self) -> bool:
        return bool(self._parked)

    def all(self, host: str = "") -> list[Work]:
        """All that is kept aside, or what waits for `host`."""
        return [each.work for each in self._parked if not host or host in each.hosts]

    def close(self) -> None:
        """End the probes: nothing waits any more."""
        self._over.set()

    def park(
        self, work: Work, hosts: Iterable[str], urls: Iterable[str], *, fallback: bool = False, is_all: bool = False
    ) -> None:
        """Keep `work` aside until one of `hosts` may be asked; `urls` are its sources, by which they can be probed."""
        hosts = frozenset(hosts)
        is_for_busy = not all(self.health.is_down(host) for host in hosts)
        parked = Parked(work, hosts, self._run.context.monotonic(), is_for_busy, fallback, is_all)
        self._parked.append(parked)
        urls = tuple(urls)
        for host in hosts:
            if host not in self._probing and self.health.is_down(host):
                # Its own URL where there is one; else that of a source which has redirected there.
                url = next((url for url in urls if url.startswith(f"{host}/")), urls[0])
                self._probing.add(host)
                thread = threading.Thread(target=self._probe, args=(host, url), name="orch-host", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread to spare: the files themselves find out
                    self._probing.discard(host)
                    self.health.try_files(host)

    def revive(self) -> list[Parked[Work]]:
        """Take out what may go on: one of its hosts is not closed any more."""
        if not self._parked:
            return []
        hosts = {host for each in self._parked for host in each.hosts}
        open_ = {host for host in hosts if not self.health.is_closed(host)}
        found = [each for each in self._parked if not each.hosts.isdisjoint(open_)]
        if found:
            self._parked = [each for each in self._parked if each.hosts.isdisjoint(open_)]
        return found

    def give_up(self) -> list[Parked[Work]]:
        """Take out everything, and count its hosts as gone, where all of them were waited for long enough."""
        run, hosts = self._run, {host for each in self._parked for host in each.hosts}
        wait_s = run.options.wait_for_sources_s
        if not hosts or not all(self.health.is_over(host, retries=run.retries, wait_s=wait_s) for host in hosts):
            return []
        for host in hosts:
            self.health.give_up(host)
        found, self._parked = self._parked, []
        return found

    def _probe(self, host: str, url: str) -> None:
        """Ask a host again and again, until it answers, is given up, or a stop is asked for."""
        from orchestrator.errors import Stopped
        from orchestrator.sources.http import ask_source

        context, health, route = self._run.context, self.health, self._routes.to(url)
        try:
            while health.is_down(host) and not self._over.is_set():
                if (due_s := health.probe_due_s(host)) > 0:
                    if context.sleep(min(due_s, POLL_S)):
                        return
                    continue
                if not can_ask(url, route):
                    health.try_files(host, jitter=context.jitter())
                    return
                began_s = context.monotonic()
                answer = ask_source(
                    url,
                    proxy=route.proxy,
                    ca=route.ca,
                    user_agent=route.user_agent,
                    bearer=route.bearer,
                    timeout_s=probe_timeout_s(self._run.stall_s),
                    stop=context.stop,
                )
                fault = answer if isinstance(answer, Fault) else None
                health.probed(host, fault, began_s=began_s, jitter=context.jitter())
        except Stopped:
            return
        except Exception:  # whatever it is, the files themselves find out
            health.try_files(host)
            raise
        finally:
            self._probing.discard(host)
