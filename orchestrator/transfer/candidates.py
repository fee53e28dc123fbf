"""Which sources and programs may serve one artifact, by what its sources have answered and what was tried so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backends import select
from orchestrator.backends.base import Trait
from orchestrator.errors import NoBackendError
from orchestrator.faults import Kind
from orchestrator.model import Role
from orchestrator.programs import install_hint
from orchestrator.sources.ranking import FASTER
from orchestrator.sources.route import Route, proxies_of, route_to
from orchestrator.transfer.masking import without_secrets
from orchestrator.transfer.revalidate import is_proof
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.backends.base import Backend
    from orchestrator.model import Artifact
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.transfer.answers import Answers
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.retry import Attempt
    from orchestrator.transfer.run_context import RunContext

_OF_RANGES = (Kind.REFUSED, Kind.UNRESUMABLE)
COMPARES = ("rsync:", "file:")  # rsync reads what is here again and compares: it needs no proof that nothing changed
SHARED_BYTES = 64 << 20  # below this one source is done before a second one has answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A view of one download's sources; what it shows is changed by `download.py` alone."""

    run: RunContext
    artifact: Artifact
    on_disk: PartialState
    stats: SourceStats
    attempts: Sequence[Attempt]
    answers: Answers

    # How a source is reached.

    def route(self, url: str) -> Route:
        """How this machine gets to a source."""
        return route_to(url, self.run.context.environ, self.run.hosts)

    def bearer(self, url: str) -> str | None:
        """The token that a program must show to a source: none where redirects led to another host."""
        bearer = self.route(url).bearer
        return bearer if bearer is None or host_of(self.address(url)) == host_of(url) else None

    def address(self, url: str) -> str:
        """What a program is given for a source: its URL, or where its redirects ended when we asked."""
        return self.answers.address(url)

    def masked(self, text: str) -> str:
        """`text` without the tokens, signatures and proxy logins of all sources."""
        for source in self.artifact.sources:
            address = self.address(source.url)
            signature = address.partition("?")[2] if address != source.url else ""
            text = without_secrets(text, self.route(source.url), signature)
        return text

    def proxies(self) -> tuple[str, ...]:
        """The proxies that the sources are reached through, without their credentials."""
        return proxies_of(self.route(source.url) for source in self.artifact.sources)

    # What a source may be asked.

    def is_proven(self, url: str, answer: SourceAnswer | None) -> bool:
        """Whether a source proves that several answers are of one version: by a strong ETag that means something."""
        return answer is not None and is_proof(answer.etag) and url not in self.answers.fickle

    def wants_one_answer(self, url: str) -> bool:
        """Whether a source is to be asked for all in one answer: it answers ranges wrongly, or of two versions."""
        one_version = url.startswith(COMPARES) or self.is_proven(url, self.answers.get(url))
        return url in self.answers.bare or (self.artifact.is_unpinned and not one_version)

    # Which programs may serve it.

    def choices(self, url: str) -> tuple[select.Choice, ...]:
        """All backends judged for a source, best first."""
        usable = [name for name, program in self.run.programs.items() if program.usable]
        answer = self.answers.get(url)
        honest = answer.ranges if answer is not None else None
        if any(a.source == url and a.fault.kind in _OF_RANGES for a in self.attempts):
            honest = None  # one byte came rightly, and not what a program asked for
        route = self.route(url)
        line = route.requirements
        if route.bearer is not None:  # until it answered, it is hoped to redirect to where no token is needed
            line = replace(line, hides="token" if answer is not None and self.bearer(url) else "url")
        elif self.address(url) != url and "?" in self.address(url):
            line = replace(line, hides="url")
        line = replace(line, rate=self.run.rate_limit is not None)
        is_open = self.is_open(url)
        ranked = select.rank(usable, self.on_disk.length(), line, ranges_honoured=honest, is_open=is_open)
        if url in self.answers.odd:  # the most lenient first
            ranked = tuple(sorted(ranked, key=lambda c: (bool(c.obstacle), c.backend.NAME != "wget")))
        return ranked

    def is_open(self, url: str) -> bool:
        """Whether one connection to a source is as good as many, and a program that only appends loses no byte."""
        if not self.stats.is_open(url):
            return False
        missing = self.on_disk.missing()
        return missing is not None and len(missing) == 1 and missing[0].end == self.on_disk.length()

    def is_served(self, url: str, backend: Backend | None = None) -> bool:
        """Whether a program here, or just this one, can serve a source."""
        return any(not c.obstacle and backend in (None, c.backend) for c in self.choices(url))

    def options(self, first: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """Each source and the backends that may serve it, best first; `first` are URLs to be asked before the others.

        Raises:
            NoBackendError: there is none for any of them.
        """
        ordered = [source.url for source in self.stats.order(self.artifact.sources)]
        options = {url: self._backends(url) for url in dict.fromkeys((*first, *ordered))}
        if not any(options.values()):
            why = self.obstacles(*options)
            hint = install_hint(options)
            if select.NO_LIMIT in why and self.run.options.backend:
                hint = f"leave out --limit-rate, or --backend {self.run.options.backend}"
            raise NoBackendError(f"{self.artifact.name}: no usable downloader: {why}", hint)
        return options

    def _backends(self, url: str) -> tuple[str, ...]:
        """The backends for a source; where its answers are odd those that did not fail on it yet, if any is left.

        Where it was not heard, none that follows redirects or believes any Content-Range, if there is another.
        """
        usable = [c.backend for c in self.choices(url) if not c.obstacle]
        careful = [backend for backend in usable if Trait.SEGMENTS not in backend.TRAITS]
        names = tuple(backend.NAME for backend in (careful if url in self.answers.unseen and careful else usable))
        failed = {a.backend for a in self.attempts if a.source == url} if url in self.answers.odd else set()
        return tuple(name for name in names if name not in failed) or names

    def obstacles(self, *urls: str) -> str:
        """Why no program may serve these sources, of those that speak their schemes."""
        told: dict[str, str] = {}
        for url in urls:
            for choice in self.choices(url):
                name = choice.backend.NAME
                if select.speaks(choice.backend, url.partition(":")[0]):
                    program = self.run.programs.get(name)
                    told[name] = program.problem or choice.obstacle if program else "not asked for"
        return ", ".join(f"{name}: {why}" for name, why in told.items() if why)

    def differing(self, url: str, *, of_neighbours: bool = False) -> tuple[str, ...]:
        """The sources that gave the probe other bytes of this file than this one: no file is to be of both.

        `of_neighbours`: or of the largest file beside it.
        """
        sources = self.artifact.sources
        own = next((source for source in sources if source.url == url), None)
        if own is None:
            return ()
        found = {each.url: self.stats.contradicted(own, each, sources) for each in sources}
        return tuple(other for other, key in found.items() if key and (of_neighbours or key == self.artifact.key))

    def companions(self, backend: Backend, url: str) -> Iterator[str]:
        """Other sources that a program could ask for the same large file at the same time, nearly as fast as `url`.

        Beside a peer only other peers are: peers are there so that the others are not asked. Nor is one beside another
        that gave different bytes to the probe: at least one of the two is wrong.
        """
        length = self.on_disk.length()
        if self.bearer(url) is not None:
            return  # a token is for one host
        if self.attempts or length is None or length < SHARED_BYTES or self.answers.get(url) is None:
            return  # after any fault the sources go one by one: nobody is condemned by a mixed file that is wrong
        if not {Trait.MIRRORS, Trait.IN_ORDER} <= backend.TRAITS:
            return
        peers = {source.url for source in self.artifact.sources if source.role is Role.PEER}
        own_rate, way = self.stats.rate(url, 1) or 0.0, self.route(url)
        differing = set(self.differing(url, of_neighbours=True))
        for source in self.artifact.sources:
            other, theirs, rate = source.url, self.route(source.url), self.stats.rate(source.url, 1)
            same_way = (theirs.proxy, theirs.ca, theirs.user_agent) == (way.proxy, way.ca, way.user_agent)
            if other == url or other in self.on_disk.partial.info.condemned or not same_way:
                continue
            if (other in peers) != (url in peers):
                continue
            if other in differing:
                continue
            if rate is not None and rate * FASTER >= own_rate and self.is_served(other, backend):
                differing.update(self.differing(other, of_neighbours=True))
                yield other
