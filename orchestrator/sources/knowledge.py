"""What a run knows of its sources: the results of its probe, and the history that this machine keeps."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.sources.host_health import HostHealth
from orchestrator.sources.probe import (
    ProbeResult,
    differ,
    is_worth_asking,
    is_worth_probing,
    outvoted,
    prefix_of,
    probe,
    probe_targets,
)
from orchestrator.sources.ranking import Rank, SourceRating, must_renew, order
from orchestrator.sources.stats import History
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Artifact, Host, Source
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.probe import ProbeTarget
    from orchestrator.sources.route import Route

EARLY_S = 10.0  # so long the only source of an artifact may take to answer
MOST_EARLY = 8  # sources that are asked before their downloads
FRESH_S = 60.0  # so long an answer to the probe stands for a request before a download


class SourceStats:
    """What is known of the sources of one run; its transfers share it, and every attempt adds to `history`.

    `health` tells which hosts are not to be asked now.
    """

    def __init__(self, context: Context) -> None:
        self.history = History(context.state, context.now)
        self.health = HostHealth(context.monotonic)
        self.running = 0
        self._context = context
        self._urls: dict[str, ProbeResult] = {}
        self._prefixes: dict[str, ProbeResult] = {}
        self._hosts: dict[str, ProbeResult] = {}
        self._samples: dict[str, tuple[str, bytes]] = {}  # by prefix: the key of the file that it is of, and the bytes
        self._outvoted: set[str] = set()  # prefixes whose sample differs from that of most other hosts
        self._asked_s = 0.0  # when, by the context's monotonic clock
        self._last_hosts: dict[str, str] = {}  # where the redirects of a source's host ended
        self._early: dict[str, threading.Event] = {}  # by the URL of a source that is asked: it was, or failed
        self._narrow: set[str] = set()  # hosts whose line is not open after all
        self._mutex = threading.Lock()

    def ask(
        self,
        artifacts: Sequence[Artifact],
        hosts: Mapping[str, Host],
        *,
        here: Collection[str] = (),
        is_limited: bool = False,
    ) -> None:
        """Probe the sources of the large artifacts that have several: 2 s at most, less than a dead source costs.

        Who is the only source of one is asked too, so that its download need not; only that download waits for it.
        What may be `here` already, by its key, whole or nearly, is not asked for so early. Under a limit of bandwidth
        (`is_limited`) no line is open.
        """
        from orchestrator.sources.route import Routes

        targets = probe_targets(
            [artifact for artifact in artifacts if is_worth_probing(artifact)],
            [artifact for artifact in artifacts if is_worth_asking(artifact) and artifact.key not in here],
        )
        if not targets:
            return
        self._asked_s = self._context.monotonic()
        to = Routes(self._context.environ, hosts).to
        for target in [target for target in targets if target.is_alone][:MOST_EARLY]:
            done = threading.Event()
            thread = threading.Thread(
                target=self._ask_early, args=(target, to, not is_limited, done), name="orch-early", daemon=True
            )
            with suppress(RuntimeError):  # no thread to spare: its download asks
                thread.start()
                self._early[target.url] = done
        several = [target for target in targets if not target.is_alone]
        if several:
            self._learn(probe(several, to, stop=self._context.stop, open_lines=not is_limited))

    def _ask_early(
        self, target: ProbeTarget, to: Callable[[str], Route], open_lines: bool, done: threading.Event
    ) -> None:
        """Ask the only source of an artifact; where it does not answer, its download asks again and says why."""
        try:
            found = probe([target], to, stop=self._context.stop, timeout_s=EARLY_S, open_lines=open_lines)
            self._learn({target: result for target, result in found.items() if result.answer is not None})
        finally:
            done.set()

    def _learn(self, found: Mapping[ProbeTarget, ProbeResult]) -> None:
        for target, result in found.items():
            self._urls[target.url] = self._prefixes[target.prefix] = result
            self._hosts.setdefault(target.host, result)
            self._samples[target.prefix] = (target.key, result.sample)
            if result.answer is not None:
                self._last_hosts[target.host] = host_of(result.answer.last_url)
        self._outvoted.update(target.prefix for target in outvoted(found))

    def fresh_answer(self, url: str) -> SourceAnswer | None:
        """What a source answered to the probe, while that may still be so; None: ask it.

        Waits for the answer where the source is being asked.
        """
        if early := self._early.get(url):
            while not early.wait(0.1) and not self._context.stop.is_set():
                pass
        found = self._urls.get(url)
        age_s = self._context.monotonic() - self._asked_s
        if found is None or found.answer is None or age_s > FRESH_S:
            return None
        life_s = found.answer.ends_in_s
        if life_s is None:
            return found.answer
        left_s = life_s - age_s
        return None if must_renew(left_s, life_s, None, 0.0) else replace(found.answer, ends_in_s=left_s)

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

    def contradicted(self, source: Source, other: Source, sources: Sequence[Source]) -> str:
        """The key of the file of which the probe saw two of these sources give different bytes; empty: of none.

        It is this file, or the largest one below the same prefixes.
        """
        one, another = (self._samples.get(prefix_of(each, sources), ("", b"")) for each in (source, other))
        return one[0] if one[0] == another[0] and differ(one[1], another[1]) else ""

    def is_outvoted(self, source: Source, sources: Sequence[Source]) -> bool:
        """Whether the probe saw a source give other bytes than most of the others, which agree."""
        return bool(self._outvoted) and prefix_of(source, sources) in self._outvoted

    def rate(self, url: str, connections: int) -> float | None:
        """The bytes a second to expect of so many connections to a source; None: unknown, or it does not answer."""
        found = self._urls.get(url) or self._hosts.get(host_of(url))
        if found is not None and found.verdict.place:
            return None
        past = self.history.rate(self.host(url))
        rates = (found.rate if found else None, past.over(connections) if past else None)
        return max((rate for rate in rates if rate is not None), default=None)

    def is_open(self, url: str) -> bool:
        """Whether one connection to a source brings so much that the program is the limit, not the line."""
        found = self._urls.get(url) or self._hosts.get(host_of(url))
        return found is not None and found.is_open and host_of(url) not in self._narrow

    def found_narrow(self, url: str) -> None:
        """Note that one connection to a source's host brings less than the probe promised."""
        self._narrow.add(host_of(url))

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
        if self.is_outvoted(source, sources):
            return SourceRating(Rank.OUTVOTED, (found.rate if found is not None else None) or remembered)
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
