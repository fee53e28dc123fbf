"""The answer that the loopback origin gives to a request: a table of rules, of which the first that applies wins."""

from __future__ import annotations

import gzip
import math
import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from typing import TYPE_CHECKING, Literal

from orchestrator.demo.faults import Behaviour, Content, Headers, Request, block_transform

if TYPE_CHECKING:
    from collections.abc import Callable


HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n" * 8
ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b[2J\x9b5A"
_FLOOD_LINE = 60_000
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, its headers without the framing ones, and which bytes of a content are the body.

    `start` and `stop` bound the body (half-open, in bytes); `transform` changes each block, given its offset.
    """

    status: int
    content: Content
    start: int
    stop: int
    headers: Headers = ()
    transform: Callable[[int, bytes], bytes] | None = None

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Case:
    """One request with all that decides its answer.

    `failing`: the fault `status` is due for this request. `changed`: the file has been replaced by now. `moved`: the
    fault `redirect` is due.
    """

    request: Request
    content: Content
    behaviour: Behaviour
    failing: bool
    changed: bool
    moved: bool = True

    @property
    def is_ranged(self) -> bool:
        behaviour = self.behaviour
        return behaviour.ranges != "ignored" and not (behaviour.no_length or behaviour.chunked or behaviour.gzip)

    @property
    def etag(self) -> str:
        if self.behaviour.etag in ("weak", "each"):
            return 'W/"weak"' if self.behaviour.etag == "weak" else f'"{time.monotonic_ns()}"'
        tag = (
            f"{self.content.etag}{'-replaced' * self.changed}" if self.behaviour.etag == "auto" else self.behaviour.etag
        )
        return tag and f'"{tag}"'

    @property
    def asked(self) -> tuple[int, int] | None:
        """The requested range, half-open and cut to the size; None where no Range header applies (RFC 9110 14.2)."""
        headers, size = self.request.headers, self.content.size
        match = _RANGE.match(headers.get("range", "")) if self.request.method == "GET" else None
        stale = headers.get("if-range", self.etag) != self.etag
        if match is None or match.group() == "bytes=-" or stale or not self.is_ranged:
            return None
        first, last = match.groups()
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size


def answer(case: Case) -> Answer:
    """The answer of the first rule that applies; else the file."""
    return next(filter(None, (rule(case) for rule in _RULES)), None) or _file(case)


def head(reply: Answer, behaviour: Behaviour) -> bytes:
    """The status line and the headers, framing included."""
    flood = (("X-Flood", "x" * min(_FLOOD_LINE, behaviour.header_flood)),) * -(-behaviour.header_flood // _FLOOD_LINE)
    framed = {
        "length": ("Content-Length", str(reply.length)),
        "chunked": ("Transfer-Encoding", "chunked"),
        "close": ("Connection", "close"),
    }[framing(reply, behaviour)]
    reason = ESCAPES if behaviour.status_line_escape else responses.get(reply.status, "Unknown")
    lines = (f"{name}: {value}\r\n" for name, value in (*reply.headers, framed, *behaviour.headers, *flood))
    return f"HTTP/1.1 {reply.status} {reason}\r\n{''.join(lines)}\r\n".encode("latin-1")


def framing(reply: Answer, behaviour: Behaviour) -> Literal["length", "chunked", "close"]:
    """How the end of the body is marked (RFC 9112 6); an error is never sent without its length."""
    if reply.status != 200 or not (behaviour.no_length or behaviour.chunked):
        return "length"
    return "chunked" if behaviour.chunked else "close"


def _page(status: int, headers: Headers = (), body: bytes = b"", kind: str = "text/plain") -> Answer:
    content = Content.of(body or f"{status} {responses.get(status, 'Unknown')}\n".encode())
    return Answer(status, content, 0, content.size, (("Content-Type", kind), *headers))


def _status_fault(case: Case) -> Answer | None:
    if not case.failing or case.behaviour.status is None:
        return None
    return _page(
        case.behaviour.status, (("Retry-After", case.behaviour.retry_after),) if case.behaviour.retry_after else ()
    )


def _unauthorized(case: Case) -> Answer | None:
    token = case.behaviour.bearer
    if token is None or case.request.headers.get("authorization") == f"Bearer {token}":
        return None
    return _page(401, (("WWW-Authenticate", "Bearer"),))


def _expired(case: Case) -> Answer | None:
    end = re.search(r"(?:^|&)Expires=(\d+)", case.request.query)
    held = end is not None and time.time() <= int(end[1])
    return None if held or not case.behaviour.signed else _page(403)


def _authorized_twice(case: Case) -> Answer | None:
    return _page(400) if case.behaviour.one_auth and "authorization" in case.request.headers else None


def _redirected(case: Case) -> Answer | None:
    where = case.request.path if case.behaviour.redirect_loop else case.behaviour.redirect
    where = where if case.moved else None
    if where and case.behaviour.redirect_holds_s is not None:
        where += f"?Expires={math.ceil(time.time() + case.behaviour.redirect_holds_s)}"
    return _page(302, (("Location", where),)) if where else None


def _html_instead(case: Case) -> Answer | None:
    late = case.behaviour.html_on_range and case.asked is not None and case.asked[0] > 0
    return _page(200, body=HTML, kind="text/html") if case.behaviour.html or late else None


def _without_range(case: Case) -> Answer | None:
    return _page(400) if case.behaviour.refuse_bare_get and "range" not in case.request.headers else None


def _range_not_satisfiable(case: Case) -> Answer | None:
    if case.asked is None or (case.behaviour.ranges != "refused416" and case.asked[0] < case.asked[1]):
        return None
    return _page(416, () if case.behaviour.bare_416 else (("Content-Range", f"bytes */{case.content.size}"),))


def _method_not_allowed(case: Case) -> Answer | None:
    return None if case.request.method in ("GET", "HEAD") else _page(405)


_RULES = (
    _method_not_allowed,
    _status_fault,
    _unauthorized,
    _authorized_twice,
    _expired,
    _redirected,
    _html_instead,
    _without_range,
    _range_not_satisfiable,
)


def _jitter_s(behaviour: Behaviour) -> int:
    """Seconds to add to Last-Modified: another number each time where `restless` is set."""
    return time.monotonic_ns() // 1000 % 10**8 if behaviour.restless else 0


def _file(case: Case) -> Answer:
    behaviour, content, asked = case.behaviour, case.content, case.asked
    if behaviour.gzip:
        content = Content.of(gzip.compress(content.whole(), 1, mtime=0))
    start, stop = asked or (0, content.size)
    if behaviour.ranges == "wrong":  # another range than the one asked for, and it says so
        start, stop = 0, stop - start
    headers: tuple[tuple[str, str, bool], ...] = (
        ("Content-Type", behaviour.content_type, True),
        ("Last-Modified", formatdate(content.modified_s + case.changed + _jitter_s(behaviour), usegmt=True), True),
        ("ETag", case.etag, bool(case.etag)),
        ("Accept-Ranges", "bytes", case.is_ranged),
        ("Content-Encoding", "gzip", behaviour.gzip),
        ("Content-Range", f"bytes {start}-{stop - 1}/{content.size}", asked is not None),
    )
    sent = tuple((name, value) for name, value, wanted in headers if wanted)
    return Answer(206 if asked else 200, content, start, stop, sent, block_transform(behaviour, case.changed))
