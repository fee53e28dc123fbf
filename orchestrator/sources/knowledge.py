"""What a run knows of its sources: the results of its probe, and the history that this machine keeps."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.sources.probe import ProbeResult, is_worth_probing, prefix_of, probe, probe_targets
from orchestrator.sources.ranking import Rank, SourceRating, order
from orchestrator.sources.stats import History
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Artifact, Host, Source


class SourceStats:
    """What is known of the sources of one run; its transfers share it, and every attempt adds to `history`."""

    def __init__(self, context: Context) -> None:
        self.history = History(context.state, context.now)
        self.running = 0
        self._context = context
        self._urls: dict[str, ProbeResult] = {}
        self._prefixes: dict[str, ProbeResult] = {}
        self._hosts: dict[str, ProbeResult] = {}
        self._last_hosts: dict[str, str] = {}  # where the redirects of a source's host ended
        self._mutex = threading.Lock()

    def ask(self, artifacts: Sequence[Artifact], hosts: Mapping[str, Host]) -> None:
        """Probe the sources of the large artifacts that have several: 2 s at most, less than a dead source costs."""
        from orchestrator.sources.route import Routes

        large = [artifact for artifact in artifacts if is_worth_probing(artifact)]
        if not large:
            return
        found = probe(probe_targets(large), Routes(self._context.environ, hosts).to, stop=self._context.stop)
        for target, result in found.items():
            self._urls[target.url] = self._prefixes[target.prefix] = result
            self._hosts.setdefault(target.host, result)
            if result.answer is not None:
                self._last_hosts[target.host] = host_of(result.answer.last_url)

    def unanswered(self) -> list[tuple[str, str]]:
        """The URLs that did not answer the probe, one a host, and why."""
        by_host = {
            host_of(url): (url, result.message)
            for url, result in self._urls.items()
            if result.verdict in (Rank.DEAD, Rank.SILENT)
        }
        return list(by_host.values())

    def order(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """Sort sources into the order in which to try them, by what is known now."""
        if len(sources) < 2:
            return tuple(sources)
        return order(sources, {source.url: self._known(source, sources) for source in sources})

    def is_doubtful(self, source: Source, sources: Sequence[Source]) -> bool:
        """Whether a source did not answer the probe, refused it, or has another file."""
        return self._known(source, sources).verdict.place > 0

    def rate(self, url: str, connections: int) -> float | None:
        """The bytes a second to expect of so many connections to a source; None: unknown, or it does not answer."""
        found = self._urls.get(url) or self._hosts.get(host_of(url))
        if found is not None and found.verdict.place:
            return None
        past = self.history.rate(self.host(url))
        rates = (found.rate if found else None, past.over(connections) if past else None)
        return max((rate for rate in rates if rate is not None), default=None)

    def host(self, url: str) -> str:
        """The host that sends a source's bytes: the end of its redirects, where that is known."""
        host = host_of(url)
        return self._last_hosts.get(host, host)

    @contextmanager
    def transferring(self) -> Iterator[None]:
        """Count one more running transfer while the block runs; `running` transfers share the bandwidth."""
        with self._mutex:
            self.running += 1
        try:
            yield
        finally:
            with self._mutex:
                self.running -= 1

    def _known(self, source: Source, sources: Sequence[Source]) -> SourceRating:
        """Rate a source: by its URL, else by its prefix, else by its host, else by the history."""
        past = self.history.rate(self.host(source.url))
        remembered = past.per_connection if past else None
        found = self._urls.get(source.url)
        if found is not None:
            return SourceRating(found.verdict, found.rate or remembered)
        if self._prefixes and (found := self._prefixes.get(prefix_of(source, sources))) is not None:
            # A wrong file makes its neighbours doubtful; a missing one does not: a mirror may hold only some files.
            verdict = {Rank.LYING: Rank.REFUSED, Rank.MISSING: Rank.UNKNOWN}.get(found.verdict)
            return SourceRating(verdict or found.verdict, found.rate or remembered)
        found = self._hosts.get(host_of(source.url))
        if found is not None and found.verdict in (Rank.DEAD, Rank.SILENT):
            return SourceRating(found.verdict)
        failing = self.history.is_failing(self.host(source.url))
        return SourceRating(Rank.SILENT if failing else Rank.UNKNOWN, remembered)
