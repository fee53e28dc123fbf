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
from orchestrator.sources.knowledge import Knowledge
from orchestrator.sources.route import Reach, reach
from orchestrator.store import quarantine
from orchestrator.transfer.context import Finding
from orchestrator.transfer.partial import Holding
from orchestrator.transfer.revalidate import is_proof
from orchestrator.transfer.shown import without_login
from orchestrator.urls import host_of
from orchestrator.verify import check
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, Verdict
from orchestrator.verify.tools import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import Artifact
    from orchestrator.sources.http import Look
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.context import Kit
    from orchestrator.transfer.monitor import Measured
    from orchestrator.transfer.repair import Given
    from orchestrator.transfer.retry import Attempt
    from orchestrator.verify.tools import Judge

_OF_RANGES = (Kind.REFUSED, Kind.UNRESUMABLE)
MENDED = ("rsync:", "file:")  # rsync reads what is here again, and mends it


class Effort:
    """The state of one transfer; `bytes_fetched` is what programs wrote for it, failed attempts included."""

    def __init__(self, kit: Kit, artifact: Artifact, partial: Partial) -> None:
        self.kit = kit
        self.artifact = artifact
        self.holding = Holding(partial, artifact.size)
        self.bytes_fetched = 0
        self.found = ""  # the sha256 of the bytes that were committed
        self.reached = self.holding.good_bytes()  # the most good bytes that were here: only more of them are progress
        self.begun: set[str] = set()  # sources for which all was thrown away once: the next time it is no new beginning
        self.ticket = 0  # of the budget of connections
        self.stream: Stream | None = None  # the judge behind the attempt that runs, or ran last
        self.looks: dict[str, Look] = {}
        self.met: dict[str, Look | Fault | None] = {}  # the first look at a source that has a token, until it is used
        self.known = kit.known or Knowledge(kit.world)
        self.attempts: list[Attempt] = []
        self.measured: Measured | None = None
        self.left_for = ""  # the host that a slow source was left for
        self.doubted: set[str] = set()  # sources that failed: looked at before they are tried again
        self.inherited = self.holding.good_bytes() > 0  # bytes of an earlier run: its sources may have changed since
        self.given: list[Given] = []  # which source brought what, since all that is here was judged the last time
        self.mends = decode(artifact.pieces, artifact.size) is not None
        self.proven = False  # what was good of a wrong file was kept
        self.odd: set[str] = set()  # sources whose answers our client cannot read: only a program can tell
        self.bare: set[str] = set()  # sources that answer ranges wrongly: asked for all of it in one answer
        self.fickle: set[str] = set()  # sources whose ETag changes and tells nothing
        self.versions_differ = False  # what is here may be of two versions of the file
        self.size_hint = ""  # where `size:` is contradicted by all sources
        self._apart = artifact.is_blind  # two sources may have two versions, and nothing would tell
        self._talk = (artifact.wanted[0].model, artifact.wanted[0].file)

    # What may be tried.

    def reach(self, url: str) -> Reach:
        """How this machine gets to a source."""
        return reach(url, self.kit.world.environ, self.kit.hosts)

    def choices(self, url: str) -> tuple[select.Choice, ...]:
        """All backends judged for a source, best first."""
        usable = [name for name, program in self.kit.programs.items() if program.usable]
        look = self.looks.get(url)
        honest = look.ranges if look is not None else None
        if any(a.source == url and a.fault.kind in _OF_RANGES for a in self.attempts):
            honest = None  # one byte came rightly, and not what a program asked for
        way = self.reach(url)
        line = way.line
        if way.bearer is not None:  # until it was looked at, it is hoped to redirect to where no token is needed
            line = replace(line, hides="token" if look is not None and self.bearer(url) else "url")
        ranked = select.rank(usable, self.holding.length(), line, honest=honest)
        if url in self.odd:  # the most lenient first
            ranked = tuple(sorted(ranked, key=lambda c: (bool(c.obstacle), c.backend.NAME != "wget")))
        return ranked

    def _untried(self, url: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Of the programs for a source whose answers are odd those that did not fail on it yet, if any is left."""
        failed = {a.backend for a in self.attempts if a.source == url} if url in self.odd else set()
        return tuple(name for name in names if name not in failed) or names

    def is_proven(self, url: str, look: Look | None) -> bool:
        """Whether a source proves that several answers are of one version: by a strong ETag that means something."""
        return look is not None and is_proof(look.etag) and url not in self.fickle

    def wants_one_answer(self, url: str) -> bool:
        """Whether a source is to be asked for all in one answer: it answers ranges wrongly, or of two versions."""
        one_version = url.startswith(MENDED) or self.is_proven(url, self.looks.get(url))
        return url in self.bare or (self.artifact.is_blind and not one_version)

    def take_length(self, length: int) -> None:
        """Take the length that all sources tell for the file's: the digest judges, and `size:` is only a help."""
        size, self.artifact = self.artifact.size, replace_struct(self.artifact, size=length)
        self.holding.size, self.mends = length, False
        said = f"`size:` in the manifest says {size}, every source says {length}"
        self.size_hint = f"{said}: is the digest that of another version?"
        self.kit.emit(Noticed(f"{self.artifact.name}: {said}; the digest decides"))

    def is_strange(self, url: str) -> bool:
        """Whether a source has a token, and nobody knows yet if its program must be given that."""
        return url not in self.met and self.reach(url).bearer is not None

    def bearer(self, url: str) -> str | None:
        """The token that a program must show to a source: none where redirects led to a signed URL on another host."""
        bearer, look = self.reach(url).bearer, self.looks.get(url)
        return bearer if look is None or host_of(look.last_url) == host_of(url) else None

    def address(self, url: str) -> str:
        """What a program is given for a source: its URL, or where our look went with the token that it must not see."""
        look = self.looks.get(url)
        return look.last_url if look is not None and self.reach(url).bearer and not self.bearer(url) else url

    def masked(self, text: str) -> str:
        """`text` without the tokens, signatures and proxy logins of this transfer."""
        for source in self.artifact.sources:
            way = self.reach(source.url)
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
                    program = self.kit.programs.get(name)
                    told[name] = program.problem or choice.obstacle if program else "not asked for"
        return ", ".join(f"{name}: {why}" for name, why in told.items() if why)

    def proxies(self) -> tuple[str, ...]:
        """The proxies that this artifact's sources go through, without their credentials."""
        found = {self.reach(source.url).proxy or "" for source in self.artifact.sources}
        return tuple(sorted(proxy.rpartition("@")[2] for proxy in found if proxy))

    # Who gave which bytes.

    @property
    def must_go_alone(self) -> bool:
        """Whether each source must show what it gives by itself."""
        return self._apart

    def must_part(self, source: str) -> bool:
        """Whether bytes of several sources may not meet in one file again: they did, and were wrong."""
        return self._apart and not self.mends and any(url != source for url in self.holding.partial.info.sources)

    def part(self) -> None:
        """Let each source show from now on what it gives by itself."""
        self._apart = True

    def banish(self) -> Fault:
        """Send wrong bytes to quarantine and say whose they were.

        Returns:
            CORRUPT where one source gave them all in this run: it is out. UNRESUMABLE where several did, an
            earlier run or nobody knows who: from now on each must show what it gives by itself.
        """
        partial = self.holding.partial
        givers = tuple(dict.fromkeys(partial.info.sources))
        found = check.digest(partial.file, self.kit.world.stop)
        what = check.look_into(partial.file, wrong_file.wish(self.artifact.wanted[0]))
        about = {"expected": self.artifact.expected, "source": " ".join(givers), "model": self._talk[0]}
        folder = quarantine.banish(self.kit.store, partial.file, found, about)
        whose = " and ".join((*givers, *(("an earlier run",) if self.inherited or not givers else ())))
        self.kit.emit(Mismatched(*self._talk, whose, self.artifact.expected, found, folder, what.words))
        mixed = self.inherited or self.proven or self.versions_differ or len(givers) != 1
        self.empty()
        if not mixed:
            hint = self.size_hint or what.hint
            return Fault(Kind.CORRUPT, self.artifact.contradicted(found, what.after), hint=hint)
        self._apart = True
        return Fault(Kind.UNRESUMABLE, "wrong bytes in a file that came from several sources or runs")

    def prove(self) -> str:
        """Judge the complete file: its sha256, or empty where it is wrong. By what the stream said, or by reading it.

        Raises:
            Stopped: a stop was asked for.
        """
        artifact, path = self.artifact, self.holding.partial.file
        stream, self.stream = self.stream, None
        good = stream is not None and stream.finish() is Verdict.GOOD
        if artifact.sha256 and not good:
            kit = self.kit
            verdict = check.check_one(kit.world, self.large_judge(), artifact.sha256, path, kit.stall_s)
            if line := check.complaint((verdict,), kit.told):
                kit.emit(Noticed(line))
            if verdict.error is not None:
                raise store_error(verdict.error, path)
            if not verdict.is_good:
                return ""
        if artifact.sha256 and not artifact.pins and self.kit.findings is None:
            return artifact.sha256
        kinds = [pin.kind for pin in artifact.pins]
        found = check.digests(path, kinds, pieces=self.kit.findings is not None, stop=self.kit.world.stop)
        if not found.fit(artifact.sha256, artifact.pins, artifact.size):
            return ""
        if artifact.is_blind and check.look_into(path, wrong_file.wish(artifact.wanted[0])):
            return ""  # a page, a pointer, a file that was cut off: nobody means to pin those
        if self.kit.findings is not None:
            info = self.holding.partial.info
            source = info.sources[-1] if info.sources else ""
            self.kit.findings[artifact.key] = Finding(found, source, info.etags.get(source, ""))
        return found.sha256

    def large_judge(self) -> Judge | None:
        """The run's judge of large files, for a file that is one."""
        return self.kit.judge if (self.holding.length() or 0) >= LARGE_BYTES else None

    def drop_stream(self) -> None:
        """End the judge behind an attempt that did not complete the file."""
        if self.stream is not None:
            self.stream.abandon()
            self.stream = None

    def empty(self) -> None:
        """Forget all bytes, those of earlier runs too."""
        self.holding.partial.empty()
        self.inherited = self.proven = self.versions_differ = False
        self.given = []

    # What is said.

    def emit_left_out(self, options: Mapping[str, tuple[str, ...]]) -> None:
        """Tell once a run and host that no program here can serve a source, and why not."""
        for source in self.artifact.sources:
            host = host_of(source.url)
            if not options[source.url] and host not in self.kit.left_out:
                self.kit.left_out.add(host)
                self.kit.emit(Noticed(f"{host} is left out: {self.obstacles(source.url)}"))

    def emit_failed(self, attempt: Attempt) -> None:
        """Tell the end of one attempt."""
        kept, fault = self.holding.good_bytes(), attempt.fault
        self.kit.emit(Failed(*self._talk, attempt.backend, attempt.source, fault.kind.value, fault.message, kept))

    def emit_progress(self, done_bytes: int) -> None:
        """Tell how much is here."""
        self.kit.emit(Progressed(*self._talk, done_bytes, self.holding.length()))

    def emit_verified(self, sha256: str) -> None:
        """Tell that the digests fit."""
        self.kit.emit(Verified(*self._talk, sha256))

    @property
    def talk(self) -> tuple[str, str]:
        """Model and file, as events name them."""
        return self._talk
