"""Small HTTP requests to a source: probe it, read a text, sample its rate."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind, from_status
from orchestrator.formats.wrong_file import EMPTY_HINT, HEAD_BYTES, OTHER_VERSION_HINT, ExpectedFile, WrongFile, page
from orchestrator.sources.client import ERRORS, Client
from orchestrator.sources.redirects import (
    MAX_REDIRECTS,
    ForbiddenError,
    begins_here,
    follow,
    host_name,
    is_here,
    refuse,
    refuse_name,
)
from orchestrator.urls import ends_in_s, host_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from http.cookiejar import CookieJar

    from orchestrator.sources.client import Answer
    from orchestrator.sources.route import Route


ODD_ANSWER = "the server's answer breaks the rules of HTTP"
CLOCK_SLACK_S = 5.0
# Drafts -08 and later: `"api";r=0;t=55`, maybe several; drafts -03 to -07: `limit=9, remaining=0, reset=55`.
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,6})|remaining=0\s*,\s*reset=(\d{1,6})", re.ASCII)
_WINDOW = re.compile(r";\s*w=(\d{1,6})", re.ASCII)
_EPOCH_S = 1e9  # a reset beyond it is a date, as GitHub sends it, and no number of seconds
_WORD = re.compile(r"[A-Za-z]{1,40}")
# Statuses of servers that do not understand a Range at all; other errors would come without one too.
_RANGE_REFUSED = frozenset((400, 405, 406, 412, 416, 500, 501))
_TOTAL = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)$")
_DIGITS = 18  # of a length: more are a lie that int() would not even take


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """What a source answered for a file.

    Attributes:
        last_url: where the redirects ended.
        length: in bytes; None where the source did not say.
        etag: with its quotes; empty where there is none.
        ranges: whether it honours byte ranges.
        round_trip_s: from the request to the header, at the last host.
        content_type: as sent.
        encoding: a compression that was not asked for, else empty.
        chunked: the body comes in chunks, without a length.
        ends_in_s: for how long the last URL is valid, where it is signed.
        modified: its Last-Modified.
        bare: it answers ranges wrongly, so a program should send no Range.
        is_other_range: the length stands in the Content-Range of another range than was asked for: it is no proof.
        ipv4_only: an IPv6 address of some host in the redirects does not answer.
        cookies: the Cookie header that the last URL was sent, where a redirect had set cookies.
    """

    last_url: str
    length: int | None
    etag: str
    ranges: bool
    round_trip_s: float
    content_type: str
    encoding: str = ""
    chunked: bool = False
    ends_in_s: float | None = None
    modified: str = ""
    bare: bool = False
    is_other_range: bool = False
    ipv4_only: bool = False
    cookies: str = field(default="", repr=False)


def ask_source(
    url: str,
    *,
    proxy: str | None,
    ca: str,
    user_agent: str,
    at: int = 0,
    timeout_s: float = 10.0,
    bearer: str | None = None,
    source: str = "",
    may_ask: Callable[[str], bool] = lambda _: True,
    stop: threading.Event | None = None,
) -> SourceAnswer | Fault:
    """Ask a source what it would serve: request one byte of `url`, follow the redirects, and read only the header.

    `redirects` says which redirects are refused; hosts are judged by the addresses that are connected to. A server that
    answers the range with an error is asked once more without one.

    Args:
        url: http or https.
        proxy: its URL; None for a direct connection.
        ca: path of a PEM bundle.
        user_agent: the header to send.
        at: offset of the byte, where a resume would begin: some servers answer a page there, but not at 0.
        timeout_s: for all of it.
        bearer: the token of the host of the source; it is sent to no other host.
        source: the URL of the manifest, where that one was seen to redirect to `url`; empty where `url` is it.
        may_ask: called before each request with its URL; False ends the question (BUSY).
        stop: ends the question once it is set.

    Returns:
        The answer, or a fault. Only where `is_verdict` says so does the fault exclude the source: a program may well
        download what this client cannot.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    headers = {"Range": f"bytes={at}-{at}", "Accept-Encoding": "identity", "User-Agent": user_agent}
    host = host_of(source or url)
    try:
        judge, jar = _Judge(source or url, proxied=proxy is not None), _Cookies()
        if source or proxy is not None:
            judge.from_here = begins_here(source or url, proxied=proxy is not None, stop=stop)
        with Client(ca=ca, proxy=proxy, timeout_s=timeout_s, stop=stop) as session:
            session.racing.judge = judge.addresses
            for _ in range(MAX_REDIRECTS + 1):
                judge.url(url)
                if not may_ask(url):
                    return Fault(Kind.BUSY, "asked often enough")
                token_header = (
                    {"Authorization": f"Bearer {bearer}"} if bearer is not None and host_of(url) == host else {}
                )
                cookies = jar.header(url)
                with session.get(url, {**headers, **cookies, **token_header}) as got:
                    round_trip_s, status, reply = got.round_trip_s, got.status, got.headers
                    jar.learn(url, got)
                    got.take_short_body()
                if status in (301, 302, 303, 307, 308) and "location" in reply:
                    target = follow(url, reply["location"])
                    if isinstance(target, Fault):
                        return target
                    url = target
                    continue
                if status in _RANGE_REFUSED and at == 0 and "Range" in headers and not _is_empty(status, reply):
                    del headers["Range"]
                    continue
                answer = _read(url, status, reply, round_trip_s, at)
                if isinstance(answer, Fault):
                    return answer
                bare = answer.bare or "Range" not in headers
                return replace(
                    answer,
                    ends_in_s=_holds_s(url, reply),
                    ipv4_only=session.racing.ipv4_only,
                    bare=bare,
                    cookies=cookies.get("Cookie", ""),
                )
    except ForbiddenError as error:
        return Fault(Kind.REFUSED, str(error))
    except ImportError:
        return Fault(Kind.NETWORK, f"cannot use this proxy: {(proxy or '').partition(':')[0]}")
    except ERRORS as error:
        return _explain(error)
    return Fault(Kind.REFUSED, f"more than {MAX_REDIRECTS} redirects")


class _Judge:
    """Judges the hosts of one chain of redirects: by their addresses, or behind a proxy by their names."""

    def __init__(self, source: str, *, proxied: bool) -> None:
        self._source, self._proxied = source, proxied
        self._redirected = False
        self.from_here = False  # whether the source is on this machine

    def url(self, url: str) -> None:
        """Judge the URL that is asked next by what it spells.

        Raises:
            ForbiddenError: it must not be asked.
        """
        self._redirected = url != self._source
        refuse_name(host_name(url), redirected=self._redirected, from_here=self.from_here)

    def addresses(self, addresses: Sequence[str]) -> None:
        """Judge the addresses of its host before one of them is connected to; a proxy's own are nobody's matter.

        Raises:
            ForbiddenError: they must not be connected to.
        """
        if self._proxied:
            return
        if not self._redirected:
            self.from_here = is_here(addresses)
        refuse(addresses, redirected=self._redirected, from_here=self.from_here)


class _Cookies:
    """The cookies that one chain of redirects set. http.cookiejar is imported for the few that set some."""

    def __init__(self) -> None:
        self._jar: CookieJar | None = None

    def learn(self, url: str, answer: Answer) -> None:
        """Keep the cookies that an answer to `url` sets."""
        if "set-cookie" not in answer.headers:
            return
        from http.cookiejar import CookieJar
        from urllib.request import Request

        self._jar = self._jar or CookieJar()
        self._jar.extract_cookies(answer.response, Request(url))  # noqa: S310 - http or https, and nothing is opened

    def header(self, url: str) -> dict[str, str]:
        """The Cookie header for `url`, where there is one."""
        if self._jar is None:
            return {}
        from urllib.request import Request

        request = Request(url)  # noqa: S310 - likewise
        self._jar.add_cookie_header(request)
        value = request.get_header("Cookie") or ""
        return {"Cookie": value} if "=" in value else {}  # without one curl would take it for a file's name


def is_verdict(fault: Fault) -> bool:
    """Whether a fault of `ask_source` holds for every program, not only for our client.

    An HTTP status does, and so do a refused connection, a name without an address and a redirect that was refused for
    safety. A header that our client cannot read, a timeout or a failed handshake may not: a program may do better.
    """
    return fault.status is not None or fault.is_instant or fault.kind is Kind.REFUSED


def _read(url: str, status: int, headers: Mapping[str, str], round_trip_s: float, at: int) -> SourceAnswer | Fault:
    total = _TOTAL.search(headers.get("content-range", ""))
    kind = headers.get("content-type", "")
    etag = headers.get("etag", "")
    packed = headers.get("content-encoding", "").replace("identity", "")
    modified = headers.get("last-modified", "")
    if total and len(total[3]) > _DIGITS:
        return Fault(Kind.NETWORK, ODD_ANSWER)
    if status == 206 and total:
        honest = (total[1], total[2]) == (str(at), str(at))
        bare = not honest and at == 0
        return SourceAnswer(
            url,
            int(total[3]),
            etag,
            honest,
            round_trip_s,
            kind,
            packed,
            modified=modified,
            bare=bare,
            is_other_range=not honest,
        )
    if status == 416 and total and total[3] == "0":
        return SourceAnswer(url, 0, etag, False, round_trip_s, kind, modified=modified)
    if status in (200, 206):
        lengths = {text.strip() for text in headers.get("content-length", "").split(",")} - {""}  # RFC 9110, 8.6
        if len(lengths) > 1 or not all(text.isascii() and text.isdigit() and len(text) <= _DIGITS for text in lengths):
            return Fault(Kind.NETWORK, ODD_ANSWER)
        length = int(lengths.pop()) if lengths and status == 200 and not packed else None
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        bare = status == 206 and at == 0
        return SourceAnswer(url, length, etag, False, round_trip_s, kind, packed, chunked, modified=modified, bare=bare)
    if status < 200:
        return Fault(Kind.NETWORK, ODD_ANSWER)  # http.client takes it for the answer, a program reads on
    if status < 400:
        return Fault(Kind.REFUSED, f"server answered {status}", status)
    fault = from_status(status, retry_after(headers, is_limited=status == 429))
    why = headers.get("x-error-code", "")  # the Hugging Face hub's: GatedRepo, EntryNotFound, RevisionNotFound ...
    return replace(fault, message=f"{fault.message} ({why})") if _WORD.fullmatch(why) else fault


def _is_empty(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a 416 says that the file is empty."""
    return status == 416 and headers.get("content-range", "").endswith("*/0")


def _holds_s(url: str, headers: Mapping[str, str]) -> float | None:
    """For how many seconds a signed URL is still valid, by the server's clock where ours differs by 5 s or more."""
    now = time.time()
    with suppress(ValueError, TypeError, OverflowError):
        theirs = parsedate_to_datetime(headers.get("date", "")).timestamp()
        now = now if abs(theirs - now) < CLOCK_SLACK_S else theirs + 1  # a Date is cut to whole seconds
    return ends_in_s(url, now)


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110 10.2.3), as seconds; None where it is neither."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], *, is_limited: bool = False) -> float | None:
    """The seconds that a server which refuses a request asks us to wait, by its headers; None where none tells.

    Retry-After before all; then RateLimit (draft-ietf-httpapi-ratelimit-headers-09, `"resolvers";r=0;t=55` as the
    Hugging Face hub sends it). Where it said that the limit is what it refuses for (`is_limited`, 429), RateLimit-Reset
    of the first drafts as well, and the longest window of a RateLimit-Policy, after which any quota is full again.
    """
    if asked_s := retry_after_s(headers.get("retry-after")):
        return asked_s
    refills = [float(now or earlier) for now, earlier in _RATE_LIMIT.findall(headers.get("ratelimit") or "")]
    if refills or not is_limited:
        return max(refills, default=None)
    reset = (headers.get("ratelimit-reset") or headers.get("x-ratelimit-reset") or "").strip()
    remaining = headers.get("ratelimit-remaining") or headers.get("x-ratelimit-remaining") or "0"
    if reset.isascii() and reset.isdigit() and len(reset) <= _DIGITS and remaining.strip() == "0":
        return max(0.0, float(reset) - time.time()) if float(reset) > _EPOCH_S else float(reset)
    windows = [float(window) for window in _WINDOW.findall(headers.get("ratelimit-policy") or "")]
    return max(windows, default=None)


def _explain(error: Exception) -> Fault:
    """Translate an exception of the HTTP client, and those that caused it, into a fault."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip() or type(error).__name__
    if any(isinstance(e, ssl.SSLError) for e in chain):
        return Fault(Kind.TLS, f"certificate or TLS: {text}")
    if isinstance(error, TimeoutError):
        return Fault(Kind.STALLED, "no answer in time")
    if isinstance(error, RemoteDisconnected):
        return Fault(Kind.NETWORK, text)
    if isinstance(error, IncompleteRead):
        return Fault(Kind.NETWORK, "the connection ended before the answer did")
    if isinstance(error, HTTPException):
        return Fault(Kind.NETWORK, ODD_ANSWER)  # the client's own words show the bytes as Python writes them
    refused = any(isinstance(e, ConnectionRefusedError) or getattr(e, "errno", 0) == errno.ECONNREFUSED for e in chain)
    if any(isinstance(e, socket.gaierror) for e in chain):
        return Fault(Kind.NETWORK, "cannot resolve its name", unresolved=True)
    return Fault(Kind.NETWORK, "connection refused" if refused else text, refused_connection=refused)


LIMIT_BYTES = 4 << 20  # 40,000 lines of a SHA256SUMS
TIMEOUT_S = 30.0


def get_text(url: str, route: Route, stop: threading.Event | None = None) -> str | Fault:
    """Read the text at `url` (http or https, at most 4 MiB); a fault where that fails.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    content = _get(url, route, LIMIT_BYTES + 1, {}, stop)
    if isinstance(content, Fault):
        return content
    if len(content) > LIMIT_BYTES:
        return Fault(Kind.CORRUPT, f"more than {LIMIT_BYTES >> 20} MiB: this is not a list of checksums")
    return content.decode("utf-8", "replace")


def get_head(url: str, route: Route, count: int, stop: threading.Event | None = None) -> bytes | Fault:
    """Read the first `count` bytes at `url` (http or https), fewer where it is shorter; a fault where that fails.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    content = _get(url, route, count, {"Range": f"bytes=0-{count - 1}"}, stop)
    return content if isinstance(content, Fault) else content[:count]


def _get(
    url: str, route: Route, most_bytes: int, headers: dict[str, str], stop: threading.Event | None
) -> bytes | Fault:
    """Read a body until it ends or `most_bytes` are here; the token is sent to the host of `url` only."""
    answer = ask_source(
        url,
        proxy=route.proxy,
        ca=route.ca,
        user_agent=route.user_agent,
        timeout_s=TIMEOUT_S,
        bearer=route.bearer,
        stop=stop,
    )
    if isinstance(answer, Fault):
        return answer
    headers = {"Accept-Encoding": "identity", "User-Agent": route.user_agent, **headers}
    if route.bearer is not None and host_of(answer.last_url) == host_of(url):
        headers["Authorization"] = f"Bearer {route.bearer}"
    content = b""
    try:
        with (
            Client(ca=route.ca, proxy=route.proxy, timeout_s=TIMEOUT_S, stop=stop) as session,
            session.get(answer.last_url, headers) as got,
        ):
            if got.status not in (200, 206):
                return Fault(Kind.REFUSED, f"server answered {got.status}", got.status)
            for block in got.blocks():
                content += block
                if len(content) >= most_bytes:
                    break
    except ERRORS as error:
        return _explain(error)
    return content


SAMPLE_BYTES = 1 << 20
SAMPLE_S = 0.3
MEASURED_BYTES, MEASURED_S = 256 << 10, 0.2  # less is no measure of a rate
FASTEST = 32.0 * (1 << 20)  # bytes a second; above that, so short a sample measures this machine more than the source
PAGE_BYTES = 1 << 20  # a larger file is no page, and its beginning is not read


@dataclass(frozen=True, slots=True)
class RateSample:
    """Bytes a second on one connection (None: too few came to measure it), and the first bytes that were asked for."""

    rate: float | None
    head: bytes


def sample_rate(
    url: str,
    *,
    proxy: str | None,
    ca: str,
    user_agent: str,
    timeout_s: float,
    bearer: str | None = None,
    stop: threading.Event | None = None,
    most_bytes: int = SAMPLE_BYTES,
    most_s: float = SAMPLE_S,
    fastest: float = FASTEST,
    least: Callable[[], float] = lambda: 0.0,
    at: int = 0,
) -> RateSample:
    """Measure the rate of a source: read a part of `url` (no redirects), for 0.3 s or 1 MiB.

    A failure is no fault of the source: what came before it counts.

    Args:
        url, proxy, ca, user_agent, timeout_s, bearer, stop: as of `ask_source`.
        most_bytes, most_s: what ends the sample.
        fastest: the most that is believed, in bytes a second.
        least: a rate that is lower than this after a quarter of the time, and two round trips, ends the sample.
        at: where in the file to begin, in bytes.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    headers = {"Range": f"bytes={at}-{at + most_bytes - 1}", "Accept-Encoding": "identity", "User-Agent": user_agent}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    size, began, head, is_slow = 0, None, b"", False
    try:
        with (
            Client(ca=ca, proxy=proxy, timeout_s=timeout_s, stop=stop) as session,
            session.get(url, headers) as got,
        ):
            if got.status not in (200, 206):
                return RateSample(None, b"")
            is_asked_part = not at or got.headers.get("content-range", "").startswith(f"bytes {at}-")
            began = time.monotonic()
            for block in got.blocks():
                size += len(block)
                if is_asked_part and len(head) < HEAD_BYTES:
                    head = (head + block)[:HEAD_BYTES]
                took_s = time.monotonic() - began
                is_slow = took_s >= most_s / 4 + 2 * got.round_trip_s and size < least() * took_s
                if size >= most_bytes or took_s >= most_s or is_slow:
                    break
    except (ImportError, *ERRORS):
        pass  # what came before the failure counts
    took_s = time.monotonic() - began if began is not None else 0.0
    is_measured = size >= MEASURED_BYTES or (size and (is_slow or took_s >= MEASURED_S))
    return RateSample(min(fastest, size / max(took_s, 1e-6)) if is_measured else None, head)


def identify_by_head(
    answer: SourceAnswer,
    expected: ExpectedFile,
    route: Route,
    timeout_s: float = 2.0,
    stop: threading.Event | None = None,
) -> WrongFile:
    """Say what a source serves in the place of the expected file: an HTML page, a Git LFS pointer, an empty file.

    Its first bytes are read where it is small enough to be one of these. The result is empty where they do not tell.
    """
    what = WrongFile("an empty file", EMPTY_HINT) if answer.length == 0 else WrongFile()
    if answer.length and answer.length <= PAGE_BYTES and timeout_s > 0:
        proxy, ca, agent = route.proxy, route.ca, route.user_agent
        sample = sample_rate(answer.last_url, proxy=proxy, ca=ca, user_agent=agent, timeout_s=timeout_s, stop=stop)
        what = page(sample.head, expected)
    if not what and "text/html" in answer.content_type:
        what = WrongFile("an HTML page")
    return what


def wrong_length(answer: SourceAnswer, expected: ExpectedFile, what: WrongFile) -> WrongFile:
    """The message for a source that serves a file of another length; `what` it is comes from `identify_by_head`."""
    words = f"wrong length: {answer.length} bytes{f' of {what.words}' if what else ''}, instead of {expected.size}"
    return WrongFile(words, what.hint or OTHER_VERSION_HINT)
