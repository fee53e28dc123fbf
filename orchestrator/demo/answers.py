"""Which answer a request gets from an origin that behaves so: a table of rules, first match wins."""

from __future__ import annotations

import gzip
import math
import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from typing import TYPE_CHECKING, Literal

from orchestrator.demo.faults import Behaviour, Content, Headers, Request, mangler

if TYPE_CHECKING:
    from collections.abc import Callable


HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n" * 8
ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b[2J\x9b5A"
_FLOOD_LINE = 60_000
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers without the framing ones, and the part of a content that is the body."""

    status: int
    content: Content
    start: int
    stop: int
    headers: Headers = ()
    mangle: Callable[[int, bytes], bytes] | None = None

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Case:
    """One request in its circumstances: are `status` and `replace_after` due by now?"""

    request: Request
    content: Content
    how: Behaviour
    failing: bool
    changed: bool

    @property
    def is_ranged(self) -> bool:
        how = self.how
        return how.ranges != "ignored" and not (how.no_length or how.chunked or how.gzip)

    @property
    def etag(self) -> str:
        if self.how.etag in ("weak", "each"):
            return 'W/"weak"' if self.how.etag == "weak" else f'"{time.monotonic_ns()}"'
        tag = f"{self.content.etag}{'-replaced' * self.changed}" if self.how.etag == "auto" else self.how.etag
        return tag and f'"{tag}"'

    @property
    def asked(self) -> tuple[int, int] | None:
        """The half-open range that was asked for, cut to the size; None without a Range that counts."""
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
    """The answer of the first rule that has one, else the file."""
    return next(filter(None, (rule(case) for rule in _RULES)), None) or _file(case)


def head(reply: Answer, how: Behaviour) -> bytes:
    """The status line and the headers, framing included."""
    flood = (("X-Flood", "x" * min(_FLOOD_LINE, how.header_flood)),) * -(-how.header_flood // _FLOOD_LINE)
    framed = {
        "length": ("Content-Length", str(reply.length)),
        "chunked": ("Transfer-Encoding", "chunked"),
        "close": ("Connection", "close"),
    }[framing(reply, how)]
    reason = ESCAPES if how.status_line_escape else responses.get(reply.status, "Unknown")
    lines = (f"{name}: {value}\r\n" for name, value in (*reply.headers, framed, *how.headers, *flood))
    return f"HTTP/1.1 {reply.status} {reason}\r\n{''.join(lines)}\r\n".encode("latin-1")


def framing(reply: Answer, how: Behaviour) -> Literal["length", "chunked", "close"]:
    """What ends the body: only the file itself goes without its length, never an error."""
    if reply.status != 200 or not (how.no_length or how.chunked):
        return "length"
    return "chunked" if how.chunked else "close"


def _page(status: int, headers: Headers = (), body: bytes = b"", kind: str = "text/plain") -> Answer:
    content = Content.of(body or f"{status} {responses.get(status, 'Unknown')}\n".encode())
    return Answer(status, content, 0, content.size, (("Content-Type", kind), *headers))


def _failed(case: Case) -> Answer | None:
    if not case.failing or case.how.status is None:
        return None
    return _page(case.how.status, (("Retry-After", case.how.retry_after),) if case.how.retry_after else ())


def _unknown(case: Case) -> Answer | None:
    token = case.how.bearer
    if token is None or case.request.headers.get("authorization") == f"Bearer {token}":
        return None
    return _page(401, (("WWW-Authenticate", "Bearer"),))


def _expired(case: Case) -> Answer | None:
    end = re.search(r"(?:^|&)Expires=(\d+)", case.request.query)
    held = end is not None and time.time() <= int(end[1])
    return None if held or not case.how.signed else _page(403)


def _twice(case: Case) -> Answer | None:
    return _page(400) if case.how.one_auth and "authorization" in case.request.headers else None


def _moved(case: Case) -> Answer | None:
    where = case.request.path if case.how.redirect_loop else case.how.redirect
    if where and case.how.redirect_holds_s is not None:
        where += f"?Expires={math.ceil(time.time() + case.how.redirect_holds_s)}"
    return _page(302, (("Location", where),)) if where else None


def _signed_out(case: Case) -> Answer | None:
    late = case.how.html_on_range and case.asked is not None and case.asked[0] > 0
    return _page(200, body=HTML, kind="text/html") if case.how.html or late else None


def _bare(case: Case) -> Answer | None:
    return _page(400) if case.how.refuse_bare_get and "range" not in case.request.headers else None


def _unsatisfied(case: Case) -> Answer | None:
    if case.asked is None or (case.how.ranges != "refused416" and case.asked[0] < case.asked[1]):
        return None
    return _page(416, () if case.how.bare_416 else (("Content-Range", f"bytes */{case.content.size}"),))


def _not_read(case: Case) -> Answer | None:
    return None if case.request.method in ("GET", "HEAD") else _page(405)


_RULES = (_not_read, _failed, _unknown, _twice, _expired, _moved, _signed_out, _bare, _unsatisfied)


def _moment(how: Behaviour) -> int:
    """Seconds that are others each time, for a file that is never still."""
    return time.monotonic_ns() // 1000 % 10**8 if how.restless else 0


def _file(case: Case) -> Answer:
    how, content, asked = case.how, case.content, case.asked
    if how.gzip:
        content = Content.of(gzip.compress(content.whole(), 1, mtime=0))
    start, stop = asked or (0, content.size)
    if how.ranges == "wrong":  # another range than the one asked for, and it says so
        start, stop = 0, stop - start
    headers: tuple[tuple[str, str, bool], ...] = (
        ("Content-Type", how.content_type, True),
        ("Last-Modified", formatdate(content.modified_s + case.changed + _moment(how), usegmt=True), True),
        ("ETag", case.etag, bool(case.etag)),
        ("Accept-Ranges", "bytes", case.is_ranged),
        ("Content-Encoding", "gzip", how.gzip),
        ("Content-Range", f"bytes {start}-{stop - 1}/{content.size}", asked is not None),
    )
    sent = tuple((name, value) for name, value, wanted in headers if wanted)
    return Answer(206 if asked else 200, content, start, stop, sent, mangler(how, case.changed))
