"""Ask the sources of a download what they would serve, and remember what each has answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind
from orchestrator.sources.knowledge import FRESH_S
from orchestrator.sources.ranking import must_renew
from orchestrator.sources.route import route_to
from orchestrator.transfer.retry import MIN_GAIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.route import Route
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.retry import Attempt
    from orchestrator.transfer.run_context import RunContext

ASK_S, LEAST_ASK_S = 10.0, 2.0  # an answer is waited for no longer than a program in silence


class Reply(NamedTuple):
    """What came of asking a source.

    `fault` is why it has no answer, where that says something of the source; where both are None a program decides.
    `is_odd`: our client cannot read its answers, and need not ask again. `end` is the URL that redirects led to so far;
    `is_seen`: that one was heard to answer, and not with another redirect. `unheard` is what our client met instead.
    """

    answer: SourceAnswer | None = None
    fault: Fault | None = None
    is_odd: bool = False
    end: str = ""
    is_seen: bool = False
    unheard: Fault | None = None


def ask(
    run: RunContext,
    url: str,
    route: Route,
    at: int,
    *,
    begin: str = "",
    strict: bool = False,
    was_tried: bool = False,
) -> Reply:
    """Ask a source what it would serve, and where its redirects end.

    Args:
        run: the run; a stop ends the request.
        url: the source.
        route: how this machine gets to it.
        at: the first byte that is missing.
        begin: where to begin, if a program was redirected there; empty: at the source itself.
        strict: whether a failure for reasons of our client is a fault too; else a program decides.
        was_tried: whether a program has failed there: then a silence is believed.

    Raises:
        Stopped: a stop was asked for.
    """
    if not can_ask(url, route):
        return Reply(end=begin or url)
    from orchestrator.sources.http import ODD_ANSWER, ask_source, is_verdict

    reached = [begin or url]

    def note(hop: str) -> bool:
        reached.append(hop)
        return True

    answer = ask_source(
        begin or url,
        source=url if begin else "",
        may_ask=note,
        proxy=route.proxy,
        ca=route.ca,
        user_agent=route.user_agent,
        bearer=route.bearer,
        at=at,
        timeout_s=min(ASK_S, max(run.stall_s, LEAST_ASK_S)),
        stop=run.context.stop,
    )
    if not isinstance(answer, Fault):
        return Reply(answer, None, False, answer.last_url, True)
    is_odd, end, is_seen = answer.message == ODD_ANSWER, reached[-1], answer.status is not None
    if not is_verdict(answer):
        counts = strict or (answer.kind is Kind.STALLED and was_tried)
        return Reply(None, answer if counts else None, is_odd, end, is_seen, answer)
    # A refusal of our own request condemns nothing: hubs refuse by program. The backend will hear it again. Where a
    # token was sent it is the token that is refused, and a program that has none would hear nothing better.
    is_refused = answer.kind is Kind.REFUSED and answer.status is not None and route.bearer is None
    return Reply(None, None if is_refused else answer, is_odd, end, is_seen)


def can_ask(url: str, route: Route) -> bool:
    """Whether our client can ask a source: it speaks HTTP, and no SOCKS without an extra (curl does)."""
    return url.startswith("http") and not route.requirements.proxy.startswith("socks")


class Answers:
    """What the sources of one download have answered to requests of our own, by URL.

    Attributes:
        unseen: sources that were asked and not heard, so that nobody knows whether they redirect.
        odd: those whose answers our client cannot read, so that only a program can tell.
        bare: those that answer ranges wrongly, and are asked for the whole file in one answer.
        fickle: those whose ETag changes and tells nothing.
    """

    def __init__(self, run: RunContext, on_disk: PartialState, attempts: Sequence[Attempt]) -> None:
        """Begin with no answer; `attempts` are all that were made so far, and grow while the download lasts."""
        self._run, self._on_disk, self._attempts = run, on_disk, attempts
        self._last: dict[str, SourceAnswer] = {}
        self._asked_s: dict[str, float] = {}  # when
        self._ends: dict[str, str] = {}  # the URLs that redirects led to
        self._ready: dict[str, Reply] = {}  # the last reply of a source, until an attempt has used it
        self._asked_first: set[str] = set()  # sources that were asked before their first attempt
        self.unseen: set[str] = set()
        self.odd: set[str] = set()
        self.bare: set[str] = set()
        self.fickle: set[str] = set()

    def get(self, url: str) -> SourceAnswer | None:
        """The last answer of a source; None where it has given none."""
        return self._last.get(url)

    def address(self, url: str) -> str:
        """What a program is given for a source: its URL, or where its redirects ended when we asked."""
        return self._ends.get(url, url)

    def was_asked_first(self, url: str) -> bool:
        """Whether a source was asked before its first attempt."""
        return url in self._asked_first

    # Asking.

    def ask(self, url: str, *, begin: str = "", strict: bool = False) -> Reply:
        """Ask a source what it would serve, and remember its answer; an empty reply where it cannot be asked.

        `begin` is where a redirect led that a program met; empty: ask the source itself.

        Raises:
            Stopped: a stop was asked for.
        """
        run = self._run
        if run.context.stop.is_set():
            raise Stopped("stopped while downloading")
        if url in self.odd:
            return self._remember(url, Reply(end=begin or url))
        missing = self._on_disk.missing()
        at = missing[0].start if missing else 0
        tried = any(each.source == url for each in self._attempts)
        route = route_to(url, run.context.environ, run.hosts)
        return self._remember(url, ask(run, url, route, at, begin=begin, strict=strict, was_tried=tried))

    def ask_first(self, url: str) -> Reply:
        """Ask a source before its first attempt, which need not ask again."""
        return self.take(url, self.ask(url))

    def ask_for_attempt(self, url: str) -> Reply:
        """Ask a source whose program is about to start; what it said when that was chosen counts once."""
        ready, asked_s = self._ready.pop(url, None), self._asked_s.get(url, 0.0)
        is_old = ready is not None and ready.answer is not None and self._run.context.monotonic() - asked_s > FRESH_S
        if ready is not None and not is_old:
            return ready
        last = next((each for each in reversed(self._attempts) if each.source == url), None)
        if last is not None and last.gained_bytes >= MIN_GAIN_BYTES and last.fault.kind is not Kind.EXPIRED:
            return self.ask_end(url)
        return self.ask(url)

    def ask_end(self, url: str, *, strict: bool = False) -> Reply:
        """Ask where the redirects of a source ended last time, and the source itself only if that one has nothing."""
        address = self.address(url)
        if address != url:
            reply = self.ask(url, begin=address)
            if reply.answer is not None or reply.fault is not None:
                return reply
        return self.ask(url, strict=strict)

    def ask_afterwards(self, url: str) -> Reply:
        """Ask a source once its program has ended; an answer stands for the question before its next attempt."""
        reply = self.ask_end(url)
        if reply.answer is not None:
            self._ready[url] = reply
        return reply

    def last_or_ask(self, url: str) -> Reply:
        """The last answer of a source, which is asked where it has given none."""
        answer = self.get(url)
        return Reply(answer) if answer is not None else self.ask(url)

    def renew(self, url: str) -> Fault | None:
        """Ask for a new signed URL where most of the time of the one that we have is over.

        Returns:
            Why there is none.
        """
        answer, now = self.get(url), self._run.context.monotonic()
        if answer is None or answer.ends_in_s is None or self.address(url) == url:
            return None
        left_s = answer.ends_in_s - (now - self._asked_s[url])
        if must_renew(left_s, answer.ends_in_s, None, 0.0):
            return self.ask(url).fault
        self._last[url], self._asked_s[url] = replace(answer, ends_in_s=left_s), now
        return None

    # What was learned elsewhere.

    def take(self, url: str, reply: Reply) -> Reply:
        """Let a reply that is remembered stand for the question before a source's next attempt."""
        self._asked_first.add(url)
        self._ready[url] = reply
        return reply

    def take_probed(self, url: str, answer: SourceAnswer) -> None:
        """Take what a source said to the run's probe, as if it had been asked before its first attempt."""
        self.take(url, self._remember(url, Reply(answer, end=answer.last_url, is_seen=True)))

    def forget_ready(self, url: str) -> None:
        """Have a source asked again before its next attempt: it was asked at another byte."""
        self._ready.pop(url, None)

    def _remember(self, url: str, reply: Reply) -> Reply:
        if reply.answer is not None:
            self._last[url] = reply.answer
            self._asked_s[url] = self._run.context.monotonic()
        self._ends[url] = reply.end or url
        if url.startswith("http"):
            (self.unseen.discard if reply.is_seen else self.unseen.add)(url)
        if reply.is_odd:
            self.odd.add(url)
        return reply
