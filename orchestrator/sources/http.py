"""One look at a source: a GET of one byte, body unread, that tells what it would serve."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx2

from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind, from_status
from orchestrator.formats.wrong_file import EMPTY_HINT, HEAD_BYTES, OTHER_VERSION_HINT, ExpectedFile, WrongFile, page
from orchestrator.sources.connect import STOP_S, client
from orchestrator.sources.route import forbidden_address
from orchestrator.urls import ends_in_s, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.sources.route import Route


MAX_REDIRECTS = 10
ODD_ANSWER = "the server's answer breaks the rules of HTTP"
CLOCK_SLACK_S = 5.0
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,6})", re.ASCII)
_WORD = re.compile(r"[A-Za-z]{1,40}")
# What servers answer that cannot read a range at all; the others say the same to any request, or ask for patience.
_RANGE_REFUSED = frozenset((400, 405, 406, 412, 416, 500, 501))
_TOTAL = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)$")


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """What a source said of a file.

    `length` is None where it gave none; `ranges` is whether it honours byte ranges; `round_trip_s` the time to
    the header of the last host; `last_url` where the redirects ended; `encoding` a compression that was not asked
    for; `chunked` a body in chunks, without a length; `ends_in_s` how long the last URL holds, where it is signed;
    `modified` its Last-Modified; `bare` that it cannot answer a range rightly, so that a program should ask without
    one; `ipv4_only` that a name on the way has an IPv6 address which does not answer.
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
    ipv4_only: bool = False


def ask_source(
    url: str,
    *,
    proxy: str | None,
    ca: str,
    user_agent: str,
    at: int = 0,
    timeout_s: float = 10.0,
    bearer: str | None = None,
    may_ask: Callable[[str], bool] = lambda _: True,
    stop: threading.Event | None = None,
) -> SourceAnswer | Fault:
    """Ask for the one byte at `at` of `url` and read the header only; redirects are followed and judged here.

    `at` is where a resume would begin: some servers answer that with a page, but not the first byte.
    `timeout_s` is for all of it; `may_ask` is asked before each request to a URL. Refused are redirects to other
    schemes, from https to http, and to link-local addresses. `bearer` is the token of the host of `url`: no other
    one is shown it. Where the server has an error for the range it is asked once more without one.

    A fault is a help and no verdict unless `is_verdict` says so: a program may well fetch what this client dislikes.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    headers = {"Range": f"bytes={at}-{at}", "Accept-Encoding": "identity", "User-Agent": user_agent}
    host, end = host_of(url), time.monotonic() + timeout_s
    try:
        session, racing = client(ca=ca, proxy=proxy, timeout_s=timeout_s, stop=stop)
        with time_limit(timeout_s, stop) as trace, session:
            for _ in range(MAX_REDIRECTS + 1):
                if not may_ask(url):
                    return Fault(Kind.BUSY, "asked often enough")
                sent = [time.monotonic()]

                def note(name: str, about: Mapping[str, Any], sent: list[float] = sent) -> None:
                    trace(name, about)
                    if name.endswith("send_request_headers.complete"):
                        sent[0] = time.monotonic()  # a round trip begins here: connection and TLS are made

                shown = {"Authorization": f"Bearer {bearer}"} if bearer is not None and host_of(url) == host else {}
                with session.stream(
                    "GET", url, headers={**headers, **shown}, follow_redirects=False, extensions={"trace": note}
                ) as answer:
                    trip_s = time.monotonic() - sent[0]
                    status, reply = answer.status_code, dict(answer.headers)
                if status in (301, 302, 303, 307, 308) and "location" in reply:
                    target = _follow(url, reply["location"], end - time.monotonic(), stop)
                    if isinstance(target, Fault):
                        return target
                    url = target
                    continue
                if status in _RANGE_REFUSED and at == 0 and "Range" in headers and not _is_empty(status, reply):
                    del headers["Range"]
                    continue
                seen = _read(url, status, reply, trip_s, at)
                if isinstance(seen, Fault):
                    return seen
                bare = seen.bare or "Range" not in headers
                return replace(seen, ends_in_s=_holds_s(url, reply), ipv4_only=racing.ipv4_only, bare=bare)
    except ImportError:
        return Fault(Kind.NETWORK, f"cannot look through this proxy: {(proxy or '').partition(':')[0]}")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:  # ValueError: names and numbers
        return _explain(error)
    return Fault(Kind.REFUSED, f"more than {MAX_REDIRECTS} redirects")


def is_verdict(fault: Fault) -> bool:
    """Whether a look's fault says something of the source for every program.

    An HTTP status does, and that nobody listens, and a redirect that is refused for safety's sake. A header that our
    client cannot read, a timeout or a handshake that failed says something of our client: a program may do better.
    """
    return fault.status is not None or fault.refused_connection or fault.kind is Kind.REFUSED


@contextmanager
def time_limit(
    seconds: float, stop: threading.Event | None = None
) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Cut all connections that the given trace hears of after so many seconds, and raise a timeout then.

    The client's own timeout begins anew with each byte and each redirect. Where `stop` is set it does so at once.

    Raises:
        Stopped: `stop` was set.
    """
    sockets: list[socket.socket] = []
    over, done = threading.Event(), threading.Event()
    end = time.monotonic() + seconds

    def cut() -> None:
        while not (stop is not None and stop.is_set()) and (left_s := end - time.monotonic()) > 0:
            if done.wait(min(left_s, STOP_S) if stop is not None else left_s):
                return
        over.set()
        for sock in sockets:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would pull the rug from the reader

    def trace(name: str, about: Mapping[str, Any]) -> None:
        if over.is_set():
            raise httpx2.ReadTimeout("over")
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            sockets.append(about["return_value"].get_extra_info("socket"))

    threading.Thread(target=cut, name="orch-limit", daemon=True).start()
    try:
        yield trace
    except (httpx2.HTTPError, OSError, ValueError) as error:
        if stop is not None and stop.is_set():
            raise Stopped("stopped while a source was asked") from error
        if over.is_set():
            raise httpx2.ReadTimeout("over") from error
        raise
    finally:
        done.set()


def _read(url: str, status: int, headers: Mapping[str, str], trip_s: float, at: int) -> SourceAnswer | Fault:
    total = _TOTAL.search(headers.get("content-range", ""))
    kind = headers.get("content-type", "")
    etag = headers.get("etag", "")
    packed = headers.get("content-encoding", "").replace("identity", "")
    modified = headers.get("last-modified", "")
    if status == 206 and total:
        honest = (total[1], total[2]) == (str(at), str(at))
        return SourceAnswer(
            url, int(total[3]), etag, honest, trip_s, kind, packed, modified=modified, bare=not honest and at == 0
        )
    if status == 416 and total and total[3] == "0":
        return SourceAnswer(url, 0, etag, False, trip_s, kind, modified=modified)
    if status in (200, 206):
        told = headers.get("content-length", "")
        length = int(told) if told.isdigit() and status == 200 and not packed else None
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        bare = status == 206 and at == 0
        return SourceAnswer(url, length, etag, False, trip_s, kind, packed, chunked, modified=modified, bare=bare)
    if status < 400:
        return Fault(Kind.REFUSED, f"server answered {status}", status)
    fault = from_status(status, retry_after(headers))
    why = headers.get("x-error-code", "")  # the Hugging Face hub's: GatedRepo, EntryNotFound, RevisionNotFound ...
    return replace(fault, message=f"{fault.message} ({why})") if _WORD.fullmatch(why) else fault


def _is_empty(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a 416 says that the file has no byte at all."""
    return status == 416 and headers.get("content-range", "").endswith("*/0")


def _holds_s(url: str, headers: Mapping[str, str]) -> float | None:
    """How long a signed URL holds, by the server's clock where ours is plainly another."""
    now = time.time()
    with suppress(ValueError, TypeError):
        theirs = parsedate_to_datetime(headers.get("date", "")).timestamp()
        now = now if abs(theirs - now) < CLOCK_SLACK_S else theirs + 1  # a Date is cut to whole seconds
    return ends_in_s(url, now)


def retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110 10.2.3); None where it says nothing useful."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server wants us to wait: by Retry-After, or by RateLimit, `"resolvers";r=0;t=55`.

    The latter: draft-ietf-httpapi-ratelimit-headers-09, as the Hugging Face hub sends it.
    """
    found = _RATE_LIMIT.search(headers.get("ratelimit") or "")
    refilled_s = float(found[1]) if found else None
    return retry_after_s(headers.get("retry-after")) or refilled_s


def _follow(origin: str, location: str, left_s: float, stop: threading.Event | None) -> str | Fault:
    """Where a redirect leads, or why it is not followed."""
    old = httpx2.URL(origin)
    try:
        new = old.join(location)
        address = forbidden_address(new.host, left_s, stop) if new.host != old.host else None
    except (httpx2.InvalidURL, ValueError):
        return Fault(Kind.REFUSED, "redirected to something that is no URL")  # to us: who knows where others go
    if new.scheme not in ("http", "https"):
        return Fault(Kind.REFUSED, f"redirected to another scheme ({new.scheme})")
    if old.scheme == "https" and new.scheme == "http":
        return Fault(Kind.REFUSED, f"redirected from https to http ({new.host})")
    if address:
        return Fault(Kind.REFUSED, f"redirected to a link-local or metadata address ({address})")
    return str(new)


def _explain(error: Exception) -> Fault:
    """Translate what the HTTP client raised; the chain of causes says more than its top."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip() or type(error).__name__
    if any(isinstance(e, ssl.SSLError) for e in chain):
        return Fault(Kind.TLS, f"certificate or TLS: {text}")
    if isinstance(error, httpx2.TimeoutException):
        return Fault(Kind.STALLED, "no answer in time")
    if isinstance(error, httpx2.RemoteProtocolError) and not text.startswith("Server disconnected"):
        return Fault(Kind.NETWORK, ODD_ANSWER)  # the client's own words show the bytes as Python writes them
    refused = any(isinstance(e, ConnectionRefusedError) or getattr(e, "errno", 0) == errno.ECONNREFUSED for e in chain)
    return Fault(Kind.NETWORK, "connection refused" if refused else text, refused_connection=refused)


LIMIT_BYTES = 4 << 20  # 40,000 lines of a SHA256SUMS
TIMEOUT_S = 30.0


def get_text(url: str, way: Route, stop: threading.Event | None = None) -> str | Fault:
    """Read the text at `url` (http or https), or say why it cannot be had. Raises Stopped where `stop` is set."""
    content = _get(url, way, LIMIT_BYTES + 1, {}, stop)
    if isinstance(content, Fault):
        return content
    if len(content) > LIMIT_BYTES:
        return Fault(Kind.CORRUPT, f"more than {LIMIT_BYTES >> 20} MiB: this is no list of digests")
    return content.decode("utf-8", "replace")


def get_head(url: str, way: Route, count: int, stop: threading.Event | None = None) -> bytes | Fault:
    """Read the first `count` bytes of the file at `url` (http or https), fewer where it is shorter.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    content = _get(url, way, count, {"Range": f"bytes=0-{count - 1}"}, stop)
    return content if isinstance(content, Fault) else content[:count]


def _get(url: str, way: Route, most_bytes: int, headers: dict[str, str], stop: threading.Event | None) -> bytes | Fault:
    """Read a body until it ends or `most_bytes` are here; a token is shown to the host of `url` only."""
    seen = ask_source(
        url,
        proxy=way.proxy,
        ca=way.ca,
        user_agent=way.user_agent,
        timeout_s=TIMEOUT_S,
        bearer=way.bearer,
        stop=stop,
    )
    if isinstance(seen, Fault):
        return seen
    headers = {"Accept-Encoding": "identity", "User-Agent": way.user_agent, **headers}
    if way.bearer is not None and host_of(seen.last_url) == host_of(url):
        headers["Authorization"] = f"Bearer {way.bearer}"
    content = b""
    try:
        session, _ = client(ca=way.ca, proxy=way.proxy, timeout_s=TIMEOUT_S, stop=stop)
        with (
            time_limit(TIMEOUT_S, stop) as trace,
            session,
            session.stream("GET", seen.last_url, headers=headers, extensions={"trace": trace}) as answer,
        ):
            if answer.status_code not in (200, 206):
                return Fault(Kind.REFUSED, f"server answered {answer.status_code}", answer.status_code)
            for block in answer.iter_raw():
                content += block
                if len(content) >= most_bytes:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Fault(Kind.NETWORK, str(error).strip() or type(error).__name__)
    return content


SAMPLE_BYTES = 1 << 20
SAMPLE_S = 0.3
TELLING_BYTES, TELLING_S = 256 << 10, 0.2  # less says nothing of a rate
FASTEST = 32.0 * (1 << 20)  # bytes a second; above, so short a look measures this machine's mood
PAGE_BYTES = 1 << 20  # more than this is no page: its beginning is not asked for


@dataclass(frozen=True, slots=True)
class RateSample:
    """Bytes a second on one connection (None: too little came to tell), and the file's first bytes."""

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
) -> RateSample:
    """Read the beginning of `url`, where a look's redirects ended, for a moment; whatever fails is no measure."""
    headers = {"Range": f"bytes=0-{SAMPLE_BYTES - 1}", "Accept-Encoding": "identity", "User-Agent": user_agent}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    size, began, head = 0, None, b""
    try:
        session, _ = client(ca=ca, proxy=proxy, timeout_s=timeout_s, stop=stop)
        with (
            time_limit(timeout_s, stop) as trace,
            session,
            session.stream("GET", url, headers=headers, extensions={"trace": trace}) as answer,
        ):
            if answer.status_code not in (200, 206):
                return RateSample(None, b"")
            began = time.monotonic()
            for block in answer.iter_raw():
                size += len(block)
                head = (head + block)[:HEAD_BYTES] if len(head) < HEAD_BYTES else head
                if size >= SAMPLE_BYTES or time.monotonic() - began >= SAMPLE_S:
                    break
    except (ImportError, httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError):
        pass  # what came before it broke counts
    took_s = time.monotonic() - began if began is not None else 0.0
    telling = size >= TELLING_BYTES or (size and took_s >= TELLING_S)
    return RateSample(min(FASTEST, size / max(took_s, 1e-6)) if telling else None, head)


def begins_as(
    seen: SourceAnswer, expected: ExpectedFile, way: Route, timeout_s: float = 2.0, stop: threading.Event | None = None
) -> WrongFile:
    """What a file of another length is, where its beginning tells: a page, a pointer, nothing at all."""
    what = WrongFile("an empty file", EMPTY_HINT) if seen.length == 0 else WrongFile()
    if seen.length and seen.length <= PAGE_BYTES and timeout_s > 0:
        proxy, ca, agent = way.proxy, way.ca, way.user_agent
        begun = sample_rate(seen.last_url, proxy=proxy, ca=ca, user_agent=agent, timeout_s=timeout_s, stop=stop)
        what = page(begun.head, expected)
    if not what and "text/html" in seen.content_type:
        what = WrongFile("an HTML page")
    return what


def other_file(seen: SourceAnswer, expected: ExpectedFile, what: WrongFile) -> WrongFile:
    """Say that a source serves a file of another length, and what it is."""
    words = f"wrong length: {seen.length} bytes{f' of {what.words}' if what else ''}, instead of {expected.size}"
    return WrongFile(words, what.hint or OTHER_VERSION_HINT)
