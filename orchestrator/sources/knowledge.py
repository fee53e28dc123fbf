"""What a run knows of its sources: the probe's findings, and what this host remembers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.sources.probe import ProbeResult, pairs, prefix_of, probe, worth
from orchestrator.sources.ranking import Rank, SourceRating, order
from orchestrator.sources.stats import History
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Artifact, Host, Source


class SourceStats:
    """Shared by the transfers of one run; every attempt adds to it."""

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
        """Probe the sources of what is large and has several: a moment, where a dead one first would cost more."""
        from orchestrator.sources.route import Routes

        large = [artifact for artifact in artifacts if worth(artifact)]
        if not large:
            return
        found = probe(pairs(large), Routes(self._context.environ, hosts).to, stop=self._context.stop)
        for pair, finding in found.items():
            self._urls[pair.url] = self._prefixes[pair.prefix] = finding
            self._hosts.setdefault(pair.host, finding)
            if finding.look is not None:
                self._last_hosts[pair.host] = host_of(finding.look.last_url)

    def order(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """The sources in the order of trying, by all that is known now."""
        if len(sources) < 2:
            return tuple(sources)
        return order(sources, {source.url: self._known(source, sources) for source in sources})

    def is_doubtful(self, source: Source, sources: Sequence[Source]) -> bool:
        """Whether a source did not answer, refused, or has another file."""
        return self._known(source, sources).verdict.place > 0

    def rate(self, url: str, connections: int) -> float | None:
        """Bytes a second that so many connections to a source may hope for; None: unknown, or it does not answer."""
        found = self._urls.get(url) or self._hosts.get(host_of(url))
        if found is not None and found.verdict.place:
            return None
        told = self.history.rate(self.host(url))
        rates = (found.rate if found else None, told.over(connections) if told else None)
        return max((rate for rate in rates if rate is not None), default=None)

    def host(self, url: str) -> str:
        """The host that a source's bytes come from, as far as known."""
        host = host_of(url)
        return self._last_hosts.get(host, host)

    @contextmanager
    def transferring(self) -> Iterator[None]:
        """One transfer more that shares the line."""
        with self._mutex:
            self.running += 1
        try:
            yield
        finally:
            with self._mutex:
                self.running -= 1

    def _known(self, source: Source, sources: Sequence[Source]) -> SourceRating:
        """What is known of a source: by its URL, else by its prefix, else by its host, else by what is remembered."""
        told = self.history.rate(self.host(source.url))
        remembered = told.per_connection if told else None
        found = self._urls.get(source.url)
        if found is not None:
            return SourceRating(found.verdict, found.rate or remembered)
        if self._prefixes and (found := self._prefixes.get(prefix_of(source, sources))) is not None:
            # Of its neighbours a lie says little good, an absent file nothing: a mirror may hold some of them.
            verdict = {Rank.LYING: Rank.REFUSED, Rank.MISSING: Rank.UNKNOWN}.get(found.verdict)
            return SourceRating(verdict or found.verdict, found.rate or remembered)
        found = self._hosts.get(host_of(source.url))
        if found is not None and found.verdict in (Rank.DEAD, Rank.SILENT):
            return SourceRating(found.verdict)
        failing = self.history.is_failing(self.host(source.url))
        return SourceRating(Rank.SILENT if failing else Rank.UNKNOWN, remembered)
