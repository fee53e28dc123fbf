"""One artifact being transferred: its partial, its sources, who gave which bytes, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as replace_struct

from orchestrator.backends import select
from orchestrator.events import Failed, Mismatched, Noticed, Progressed, Verified
from orchestrator.faults import Fault, Kind
from orchestrator.files import store_error
from orchestrator.formats import wrong_file
from orchestrator.sources.knowledge import SourceStats
from orchestrator.sources.route import Route, route_to
from orchestrator.store import quarantine
from orchestrator.transfer.context import FirstSeen
from orchestrator.transfer.partial import PartialState
from orchestrator.transfer.revalidate import is_proof
from orchestrator.transfer.shown import without_login
from orchestrator.urls import host_of
from orchestrator.verify import check
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, StreamVerdict
from orchestrator.verify.tools import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import Artifact
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.context import RunContext
    from orchestrator.transfer.monitor import Throughput
    from orchestrator.transfer.repair import Given
    from orchestrator.transfer.retry import Attempt
    from orchestrator.verify.tools import ChecksumTool

_OF_RANGES = (Kind.REFUSED, Kind.UNRESUMABLE)
MENDED = ("rsync:", "file:")  # rsync reads what is here again, and mends it


class Download:
    """The state of one transfer; `bytes_fetched` is what programs wrote for it, failed attempts included."""

    def __init__(self, run: RunContext, artifact: Artifact, partial: Partial) -> None:
        self.run = run
        self.artifact = artifact
        self.on_disk = PartialState(partial, artifact.size)
        self.bytes_fetched = 0
        self.found = ""  # the sha256 of the bytes that were committed
        self.reached = self.on_disk.good_bytes()  # the most good bytes that were here: only more of them are progress
        self.begun: set[str] = set()  # sources for which all was thrown away once: the next time it is no new beginning
        self.ticket = 0  # of the budget of connections
        self.stream: Stream | None = None  # the judge behind the attempt that runs, or ran last
        self.looks: dict[str, SourceAnswer] = {}
        self.first_probe: dict[
            str, SourceAnswer | Fault | None
        ] = {}  # the first look at a source that has a token, until it is used
        self.known = run.known or SourceStats(run.context)
        self.attempts: list[Attempt] = []
        self.measured: Throughput | None = None
        self.faster_host = ""  # the host that a slow source was left for
        self.suspect: set[str] = set()  # sources that failed: looked at before they are tried again
        self.inherited = self.on_disk.good_bytes() > 0  # bytes of an earlier run: its sources may have changed since
        self.given: list[Given] = []  # which source brought what, since all that is here was judged the last time
        self.has_pieces = decode(artifact.pieces, artifact.size) is not None
        self.repaired = False  # what was good of a wrong file was kept
        self.odd: set[str] = set()  # sources whose answers our client cannot read: only a program can tell
        self.bare: set[str] = set()  # sources that answer ranges wrongly: asked for all of it in one answer
        self.fickle: set[str] = set()  # sources whose ETag changes and tells nothing
        self.versions_differ = False  # what is here may be of two versions of the file
        self.size_hint = ""  # where `size:` is contradicted by all sources
        self._isolated = artifact.is_unpinned  # two sources may have two versions, and nothing would tell
        self._talk = (artifact.wanted[0].model, artifact.wanted[0].file)

    # What may be tried.

    def route(self, url: str) -> Route:
        """How this machine gets to a source."""
        return route_to(url, self.run.context.environ, self.run.hosts)

    def choices(self, url: str) -> tuple[select.Choice, ...]:
        """All backends judged for a source, best first."""
        usable = [name for name, program in self.run.programs.items() if program.usable]
        look = self.looks.get(url)
        honest = look.ranges if look is not None else None
        if any(a.source == url and a.fault.kind in _OF_RANGES for a in self.attempts):
            honest = None  # one byte came rightly, and not what a program asked for
        way = self.route(url)
        line = way.requirements
        if way.bearer is not None:  # until it was looked at, it is hoped to redirect to where no token is needed
            line = replace(line, hides="token" if look is not None and self.bearer(url) else "url")
        ranked = select.rank(usable, self.on_disk.length(), line, ranges_honoured=honest)
        if url in self.odd:  # the most lenient first
            ranked = tuple(sorted(ranked, key=lambda c: (bool(c.obstacle), c.backend.NAME != "wget")))
        return ranked

    def _untried(self, url: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Of the programs for a source whose answers are odd those that did not fail on it yet, if any is left."""
        failed = {a.backend for a in self.attempts if a.source == url} if url in self.odd else set()
        return tuple(name for name in names if name not in failed) or names

    def is_proven(self, url: str, look: SourceAnswer | None) -> bool:
        """Whether a source proves that several answers are of one version: by a strong ETag that means something."""
        return look is not None and is_proof(look.etag) and url not in self.fickle

    def wants_one_answer(self, url: str) -> bool:
        """Whether a source is to be asked for all in one answer: it answers ranges wrongly, or of two versions."""
        one_version = url.startswith(MENDED) or self.is_proven(url, self.looks.get(url))
        return url in self.bare or (self.artifact.is_unpinned and not one_version)

    def take_length(self, length: int) -> None:
        """Take the length that all sources tell for the file's: the digest judges, and `size:` is only a help."""
        size, self.artifact = self.artifact.size, replace_struct(self.artifact, size=length)
        self.on_disk.size, self.has_pieces = length, False
        said = f"`size:` in the manifest says {size}, every source says {length}"
        self.size_hint = f"{said}: is the digest that of another version?"
        self.run.emit(Noticed(f"{self.artifact.name}: {said}; the digest decides"))

    def needs_token_probe(self, url: str) -> bool:
        """Whether a source has a token, and nobody knows yet if its program must be given that."""
        return url not in self.first_probe and self.route(url).bearer is not None

    def bearer(self, url: str) -> str | None:
        """The token that a program must show to a source: none where redirects led to a signed URL on another host."""
        bearer, look = self.route(url).bearer, self.looks.get(url)
        return bearer if look is None or host_of(look.last_url) == host_of(url) else None

    def address(self, url: str) -> str:
        """What a program is given for a source: its URL, or where our look went with the token that it must not see."""
        look = self.looks.get(url)
        return look.last_url if look is not None and self.route(url).bearer and not self.bearer(url) else url

    def masked(self, text: str) -> str:
        """`text` without the tokens, signatures and proxy logins of this transfer."""
        for source in self.artifact.sources:
            way = self.route(source.url)
            bearer, text = way.bearer, without_login(text, way.proxy)
            if bearer is not None:
                address = self.address(source.url)
                signature = address.partition("?")[2] if address != source.url else ""
                for secret in filter(None, (bearer, signature, signature.replace("&", "&amp;"))):
                    text = text.replace(secret, "***")
        return text

    def options(self) -> dict[str, tuple[str, ...]]:
        """Each source and the backends that may serve it, best first."""
        return {
            source.url: self._untried(
                source.url, tuple(c.backend.NAME for c in self.choices(source.url) if not c.obstacle)
            )
            for source in self.known.order(self.artifact.sources)
        }

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

    def proxies(self) -> tuple[str, ...]:
        """The proxies that this artifact's sources go through, without their credentials."""
        found = {self.route(source.url).proxy or "" for source in self.artifact.sources}
        return tuple(sorted(proxy.rpartition("@")[2] for proxy in found if proxy))

    # Who gave which bytes.

    @property
    def needs_single_source(self) -> bool:
        """Whether each source must show what it gives by itself."""
        return self._isolated

    def must_restart(self, source: str) -> bool:
        """Whether bytes of several sources may not meet in one file again: they did, and were wrong."""
        return (
            self._isolated and not self.has_pieces and any(url != source for url in self.on_disk.partial.info.sources)
        )

    def part(self) -> None:
        """Let each source show from now on what it gives by itself."""
        self._isolated = True

    def quarantine(self) -> Fault:
        """Send wrong bytes to quarantine and say whose they were.

        Returns:
            CORRUPT where one source gave them all in this run: it is out. UNRESUMABLE where several did, an
            earlier run or nobody knows who: from now on each must show what it gives by itself.
        """
        partial = self.on_disk.partial
        givers = tuple(dict.fromkeys(partial.info.sources))
        found = check.digest(partial.file, self.run.context.stop)
        what = check.diagnose_file(partial.file, wrong_file.expected_file(self.artifact.wanted[0]))
        about = {"expected": self.artifact.expected, "source": " ".join(givers), "model": self._talk[0]}
        folder = quarantine.move_in(self.run.store, partial.file, found, about)
        whose = " and ".join((*givers, *(("an earlier run",) if self.inherited or not givers else ())))
        self.run.emit(Mismatched(*self._talk, whose, self.artifact.expected, found, folder, what.words))
        mixed = self.inherited or self.repaired or self.versions_differ or len(givers) != 1
        self.empty()
        if not mixed:
            hint = self.size_hint or what.hint
            return Fault(Kind.CORRUPT, self.artifact.contradicted(found, what.after), hint=hint)
        self._isolated = True
        return Fault(Kind.UNRESUMABLE, "wrong bytes in a file that came from several sources or runs")

    def prove(self) -> str:
        """Judge the complete file: its sha256, or empty where it is wrong. By what the stream said, or by reading it.

        Raises:
            Stopped: a stop was asked for.
        """
        artifact, path = self.artifact, self.on_disk.partial.file
        stream, self.stream = self.stream, None
        good = stream is not None and stream.finish() is StreamVerdict.GOOD
        if artifact.sha256 and not good:
            run = self.run
            verdict = check.check_one(run.context, self.large_judge(), artifact.sha256, path, run.stall_s)
            if line := check.complaint((verdict,), run.told):
                run.emit(Noticed(line))
            if verdict.error is not None:
                raise store_error(verdict.error, path)
            if not verdict.is_good:
                return ""
        if artifact.sha256 and not artifact.pins and self.run.findings is None:
            return artifact.sha256
        kinds = [pin.kind for pin in artifact.pins]
        found = check.digests(path, kinds, pieces=self.run.findings is not None, stop=self.run.context.stop)
        if not found.fit(artifact.sha256, artifact.pins, artifact.size):
            return ""
        if artifact.is_unpinned and check.diagnose_file(path, wrong_file.expected_file(artifact.wanted[0])):
            return ""  # a page, a pointer, a file that was cut off: nobody means to pin those
        if self.run.findings is not None:
            info = self.on_disk.partial.info
            source = info.sources[-1] if info.sources else ""
            self.run.findings[artifact.key] = FirstSeen(found, source, info.etags.get(source, ""))
        return found.sha256

    def large_judge(self) -> ChecksumTool | None:
        """The run's judge of large files, for a file that is one."""
        return self.run.judge if (self.on_disk.length() or 0) >= LARGE_BYTES else None

    def drop_stream(self) -> None:
        """End the judge behind an attempt that did not complete the file."""
        if self.stream is not None:
            self.stream.abandon()
            self.stream = None

    def empty(self) -> None:
        """Forget all bytes, those of earlier runs too."""
        self.on_disk.partial.empty()
        self.inherited = self.repaired = self.versions_differ = False
        self.given = []

    # What is said.

    def emit_left_out(self, options: Mapping[str, tuple[str, ...]]) -> None:
        """Tell once a run and host that no program here can serve a source, and why not."""
        for source in self.artifact.sources:
            host = host_of(source.url)
            if not options[source.url] and host not in self.run.left_out:
                self.run.left_out.add(host)
                self.run.emit(Noticed(f"{host} is left out: {self.obstacles(source.url)}"))

    def emit_failed(self, attempt: Attempt) -> None:
        """Tell the end of one attempt."""
        kept, fault = self.on_disk.good_bytes(), attempt.fault
        self.run.emit(Failed(*self._talk, attempt.backend, attempt.source, fault.kind.value, fault.message, kept))

    def emit_progress(self, done_bytes: int) -> None:
        """Tell how much is here."""
        self.run.emit(Progressed(*self._talk, done_bytes, self.on_disk.length()))

    def emit_verified(self, sha256: str) -> None:
        """Tell that the digests fit."""
        self.run.emit(Verified(*self._talk, sha256))

    @property
    def talk(self) -> tuple[str, str]:
        """Model and file, as events name them."""
        return self._talk
