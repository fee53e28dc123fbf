"""One look at a source, against origins that behave and that do not; proxies, CA bundles, forbidden addresses."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import certifi
import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind
from orchestrator.model import Host
from orchestrator.sources.connect import interleaved
from orchestrator.sources.http import (
    MAX_REDIRECTS,
    SourceAnswer,
    ask_source,
    get_text,
    is_verdict,
    retry_after,
    retry_after_s,
)
from orchestrator.sources.proxy import ca_bundle, proxy_for
from orchestrator.sources.redirects import ForbiddenError, check_program_url, follow
from orchestrator.sources.route import route_to
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 40
N = len(DATA)
CA = ca_bundle({})


def see(url: str, **how: Any) -> SourceAnswer | Fault:
    return ask_source(url, **{"proxy": None, "ca": CA, "user_agent": "orch", "timeout_s": 5.0, **how})


def fault(url: str, **how: Any) -> Fault:
    found = see(url, **how)
    assert isinstance(found, Fault), found
    return found


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as served:
        yield served


class Canned:
    """A server that says the same words to everyone, whatever they are; `asked` is what it heard."""

    def __init__(self, words: bytes, *, hasty: bool = False, pause_s: float = 0.0, stays: bool = False) -> None:
        self._words, self._hasty, self._pause_s, self._stays = words, hasty, pause_s, stays
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Canned:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, contextlib.suppress(OSError):
                    heard = b""
                    while b"\r\n\r\n" not in heard and (block := sock.recv(65536)):
                        heard += block
                        if self._hasty:
                            break
                    self.asked.append(heard)
                    step = 1 if self._pause_s else len(self._words) or 1
                    for start in range(0, len(self._words), step):
                        sock.sendall(self._words[start : start + step])
                        time.sleep(self._pause_s)
                    if self._stays:
                        sock.recv(1)


def answers(*headers: str, status: str = "206 Partial Content") -> Canned:
    head = "\r\n".join((f"HTTP/1.1 {status}", *headers, "Connection: close"))
    return Canned(f"{head}\r\n\r\nx".encode("latin-1"))


# -- what an honest source says


def test_an_honest_source(origin):
    url = origin.serve("/f.bin", DATA, etag="abc", content_type="application/zip")
    seen = see(url)
    assert isinstance(seen, SourceAnswer)
    assert (seen.last_url, seen.length, seen.etag, seen.ranges) == (url, N, '"abc"', True)
    assert (seen.content_type, seen.encoding) == ("application/zip", "")
    assert seen.round_trip_s > 0
    (asked,) = [record for record in origin.log if record.path == "/f.bin"]
    assert asked.method == "GET"
    assert asked.headers["range"] == "bytes=0-0"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["user-agent"] == "orch"
    assert not {"authorization", "cookie", "referer"} & set(asked.headers)


@pytest.mark.parametrize(
    ("how", "length", "ranges"),
    [
        ({}, N, True),
        ({"ranges": "ignored"}, N, False),
        ({"etag": ""}, N, True),
        ({"no_length": True}, None, False),
        ({"chunked": True}, None, False),
        ({"refuse_bare_get": True}, N, True),
    ],
)
def test_lengths_and_ranges(origin, how, length, ranges):
    seen = see(origin.serve("/f.bin", DATA, **how))
    assert isinstance(seen, SourceAnswer)
    assert (seen.length, seen.ranges) == (length, ranges)
    assert bool(seen.etag) == (how.get("etag") != "")


def test_an_empty_file(origin):
    seen = see(origin.serve("/empty", b""))
    assert isinstance(seen, SourceAnswer)
    assert seen.length == 0


def test_the_body_is_not_read(origin):
    """A source that ignores ranges would send all of it."""
    url = origin.serve("/large", bytes(32 << 20), ranges="ignored", rate=1 << 20)
    began = time.monotonic()
    seen = see(url)
    assert isinstance(seen, SourceAnswer)
    assert seen.length == 32 << 20
    assert time.monotonic() - began < 20


def test_the_byte_that_was_asked_for_is_waited_for():
    """A server that allows one connection would refuse the program that comes while it still sends the byte."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\n")
                time.sleep(0.05)
                sock.sendall(b"x")
                ended.set()

        thread = threading.Thread(target=serve)
        thread.start()
        seen = see(f"http://127.0.0.1:{listener.getsockname()[1]}/f")
        was_ended = ended.wait(0.01)
        thread.join()
    assert (seen.length, was_ended) == (9, True)


def test_gzip_is_noticed(origin):
    seen = see(origin.serve("/f.bin", DATA, gzip=True))
    assert isinstance(seen, SourceAnswer)
    assert (seen.encoding, seen.length, seen.ranges) == ("gzip", None, False)


def test_a_page_is_told_by_its_type(origin):
    seen = see(origin.serve("/f.bin", DATA, html=True))
    assert isinstance(seen, SourceAnswer)
    assert (seen.content_type, seen.ranges) == ("text/html", False)


@pytest.mark.parametrize(
    ("headers", "length", "ranges"),
    [
        (("Content-Range: bytes 0-0/77", "Content-Length: 1"), 77, True),
        (("Content-Range: bytes 5-5/77", "Content-Length: 1"), 77, False),
        (("Content-Range: bytes 0-76/77", "Content-Length: 77"), 77, False),
        (("Content-Range: bytes 0-0/*", "Content-Length: 1"), None, False),
        (("Content-Range: bytes 0-0", "Content-Length: 1"), None, False),
        (("Content-Length: 1",), None, False),
    ],
)
def test_a_wrong_range_is_no_range(headers, length, ranges):
    with answers(*headers) as server:
        seen = see(server.url)
    assert isinstance(seen, SourceAnswer)
    assert (seen.length, seen.ranges) == (length, ranges)


# -- redirects


def test_redirects_are_followed_to_the_last_url(origin):
    last = origin.serve("/last.bin?sig=1".partition("?")[0], DATA) + "?sig=1"
    middle = origin.serve("/middle", redirect=last)
    seen = see(origin.serve("/first", redirect=middle.removeprefix(origin.url)))
    assert isinstance(seen, SourceAnswer)
    assert (seen.last_url, seen.length, seen.ranges) == (last, N, True)


def test_redirects_to_another_host():
    with Origin(also=("127.0.0.2",)) as origin:
        origin.serve("/f.bin", DATA)
        seen = see(origin.serve("/first", redirect=f"{origin.at('127.0.0.2')}/f.bin"))
        assert isinstance(seen, SourceAnswer)
        assert seen.last_url == f"{origin.at('127.0.0.2')}/f.bin"


def test_a_redirect_loop_ends(origin):
    found = fault(origin.serve("/loop", redirect_loop=True))
    assert found.kind is Kind.REFUSED
    assert "redirects" in found.message
    assert origin.requests("/loop") == MAX_REDIRECTS + 1


METADATA = [
    "169.254.169.254",
    "169.254.1.1",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.254.0251.254",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fd20:ce::254]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[::169.254.169.254]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:5ef5:79fd::5601:5601]",
    "[fe80::1%25lo]",
    "169\u3002254\u3002169\u3002254",
]


@pytest.mark.parametrize("host", METADATA)
@pytest.mark.parametrize("port", ["", ":80"])
def test_a_redirect_to_the_metadata_service_is_refused(host, port):
    with Canned(f"HTTP/1.1 302 Found\r\nLocation: http://{host}{port}/latest\r\n\r\n".encode()) as server:
        began = time.monotonic()
        found = fault(server.url)
        assert found.kind is Kind.REFUSED, found
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("host", [*METADATA, "169.254.169.254.", "\uff11\uff16\uff19.254.169.254"])
def test_every_spelling_of_a_forbidden_address(host, proxied):
    with pytest.raises(ForbiddenError, match="link-local or metadata"):
        check_program_url(f"http://{host}/x", "http://127.0.0.1/", proxied=proxied)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "[::1]", "no.such.name.invalid", "", "a" * 99])
def test_other_hosts_are_not_forbidden(host):
    check_program_url(f"http://{host}/x", "http://127.0.0.1/", proxied=False)


HERE = ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "2130706433"]


@pytest.mark.parametrize("host", HERE)
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
def test_only_this_machine_may_redirect_to_this_machine(host, proxied):
    there = f"http://{host}:8080/x"
    check_program_url(there, "http://localhost/", proxied=proxied)
    with pytest.raises(ForbiddenError, match="an address of this machine"):
        check_program_url(there, "http://10.0.0.1/", proxied=proxied)


def test_what_a_manifest_names_itself():
    check_program_url("http://169.254.7.7/f", "http://169.254.7.7/f", proxied=False)  # a machine on the same cable
    with pytest.raises(
        ForbiddenError, match=r"a metadata address \(169.254.169.254\): nothing is downloaded from there"
    ):
        check_program_url("http://2852039166/f", "http://2852039166/f", proxied=False)
    found = fault("http://169.254.169.254/latest/meta-data/")
    assert (found.kind, "nothing is downloaded from there" in found.message) == (Kind.REFUSED, True)


def test_a_name_behind_a_proxy_is_judged_by_what_it_spells():
    where = "http://metadata.google.internal/computeMetadata/v1/"
    with Canned(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\n\r\n".encode()) as proxy:
        found = fault("http://hub.example/f", proxy=proxy.url)
    assert found == Fault(Kind.REFUSED, "redirected to a cloud's metadata service (metadata.google.internal)")


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://127.0.0.1/f",
        "gopher://127.0.0.1/",
        "data:text/plain,x",
        "javascript:x",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://" + "a" * 70 + ".invalid/",
        "http://.invalid/",
        "http://xn--/",
        "http://\u00ff\u00fe/",
        "//" + "b" * 3000,
        "http://h\x01st/",
    ],
)
def test_a_redirect_to_nowhere_good_is_refused(location):
    with Canned(b"HTTP/1.1 302 Found\r\nLocation: " + location.encode("latin-1") + b"\r\n\r\n") as server:
        assert fault(server.url).kind in (Kind.REFUSED, Kind.NETWORK)
        if not location.startswith("http"):
            assert fault(server.url).kind is Kind.REFUSED or location.startswith("//")


@pytest.mark.parametrize(
    "location",
    ["https:/169.254.169.254/f", "https:127.0.0.1://files.example/f", "https:\t//metadata.goog/f", "HTTPS:f"],
)
def test_a_redirect_without_two_slashes_before_its_host_is_refused(location):
    """What programs take for its host is not what would be judged."""
    with Canned(b"HTTP/1.1 302 Found\r\nLocation: " + location.encode() + b"\r\n\r\n") as server:
        assert fault(server.url) == Fault(Kind.REFUSED, "redirected to something that is not a URL")


def test_where_a_redirect_leads(origin):
    """Letters that are not ASCII are percent-encoded, a fragment is dropped, and a login is sent."""
    url = origin.serve("/d/café x.bin", DATA).replace("café x", "caf%C3%A9%20x")
    seen = see(origin.serve("/d/first", redirect="../d/./caf\u00c3\u00a9 x.bin?a=%2f#part"))
    assert (seen.last_url, seen.length) == (f"{url}?a=%2f", N)
    login = url.replace("://", "://user:p%40ss@")
    assert see(origin.serve("/login", redirect=login)).last_url == login
    assert origin.log[-1].headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert follow(url, "http://files.example:/x") == "http://files.example/x"


def test_the_cookies_of_a_redirect_are_sent_on():
    first = b"HTTP/1.1 302 Found\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nLocation: /next\r\n\r\n"
    with Canned(first) as server:
        assert fault(server.url + "/f").kind is Kind.REFUSED  # it redirects for ever
        assert b"\r\nCookie: " not in server.asked[0]
        assert b"\r\nCookie: a=1; b=2\r\n" in server.asked[1]


def test_a_redirect_without_location(origin):
    assert fault(origin.serve("/304", DATA, status=304)).kind is Kind.REFUSED
    with answers(status="302 Found") as server:
        assert fault(server.url) == Fault(Kind.REFUSED, "server answered 302", 302)


# -- what a source may answer instead


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "missing"), (410, "missing"), (403, "refused"), (401, "refused"), (400, "refused")]
)
def test_a_status_is_a_fault(origin, status, kind):
    assert fault(origin.serve("/f.bin", DATA, status=status)) == Fault(Kind(kind), f"server answered {status}", status)


def test_a_status_line_with_escapes_is_not_repeated(origin):
    found = fault(origin.serve("/f.bin", DATA, status=404, status_line_escape=True))
    assert (found.kind, found.message) == (Kind.MISSING, "server answered 404")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_and_as_a_date(origin, status):
    found = fault(origin.serve("/f.bin", DATA, status=status, retry_after="7"))
    assert (found.kind, found.status, found.retry_after_s) == (Kind.BUSY, status, 7.0)
    found = fault(origin.serve("/f.bin", DATA, status=status, retry_after=formatdate(time.time() + 60, usegmt=True)))
    assert 55 < (found.retry_after_s or 0) <= 60
    assert fault(origin.serve("/f.bin", DATA, status=status)).retry_after_s is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 5 ", 5.0),
        ("-1", None),
        ("5.5", None),
        ("1e3", None),
        ("soon", None),
        ("\u00b2", None),
        ("9" * 400, float("inf")),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0.0),
        ("Mon, 99 Foo 2015", None),
        (f"Fri, 31 Dec 2027 23:{'5' * 60}:59 GMT", None),
    ],
)
def test_retry_after_values(value, seconds):
    assert retry_after_s(value) == seconds


@pytest.mark.parametrize(
    ("headers", "of_any", "of_429"),
    [
        ({"retry-after": "7", "ratelimit": '"api";r=0;t=55'}, 7.0, 7.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0, 55.0),
        ({"ratelimit": '"api";r=9;t=12, "resolvers";r=0;t=55'}, 55.0, 55.0),
        ({"ratelimit": '"api";r=9;t=12'}, None, None),
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, 50.0, 50.0),
        ({"ratelimit-limit": "9", "ratelimit-remaining": "0", "ratelimit-reset": "31"}, None, 31.0),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "31"}, None, None),
        ({"ratelimit-policy": '"burst";q=100;w=60, "daily";q=1000;w=300'}, None, 300.0),
        ({"ratelimit-reset": "soon"}, None, None),
        ({}, None, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], of_any: float | None, of_429: float | None) -> None:
    assert (retry_after(headers), retry_after(headers, is_limited=True)) == (of_any, of_429)


def test_a_reset_may_be_a_date() -> None:
    found = retry_after({"x-ratelimit-reset": str(int(time.time()) + 40)}, is_limited=True)
    assert 35 < (found or 0) <= 40


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 503 Busy\r\nRetry-After: \xb2\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/" + b"9" * 5000 + b"\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 50_000,
        b"",
    ],
)
def test_nonsense_is_a_fault_not_a_crash(words):
    with Canned(words) as server:
        assert fault(server.url, timeout_s=2.0).kind in (Kind.NETWORK, Kind.BUSY, Kind.STALLED)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/12",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/12345\r\n",
    ],
)
def test_a_header_that_is_cut_says_nothing(words):
    with Canned(words) as server:
        found = fault(server.url)
    assert (found.kind, is_verdict(found)) == (Kind.NETWORK, False)


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (("Content-Length: 7", "Content-Length: 7"), 7),
        (("Content-Length: 7, 7",), 7),
        (("Content-Length: 7", "Content-Length: 8"), None),
        (("Content-Length: 1" + "0" * 400,), None),
        (("Content-Length: 7", 'ETag: "a\x0bb"'), None),
        (("Content-Length: 7", 'ETag: "a\r\n b"'), 7),
    ],
)
def test_a_header_that_is_odd_or_stands_twice_or_on_two_lines(lines, length):
    with answers(*lines, status="200 OK") as server:
        seen = see(server.url)
    assert (seen.length if isinstance(seen, SourceAnswer) else None) == length
    if length is None:
        assert (seen.kind, is_verdict(seen)) == (Kind.NETWORK, False)
    elif "ETag" in lines[-1]:
        assert seen.etag == '"a b"'


def test_hints_before_the_answer_say_nothing_of_the_source():
    with answers(status="103 Early Hints") as server:
        assert not is_verdict(fault(server.url))


def test_a_text_that_is_cut_is_a_fault():
    route = route_to("http://127.0.0.1/", {}, {})
    with Canned(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf") as server:
        assert get_text(server.url, route) == Fault(Kind.NETWORK, "the connection ended before the answer did")
    with Canned(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf") as server:
        assert get_text(server.url, route) == Fault(Kind.NETWORK, "the connection ended before the answer did")
    with Canned(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n") as server:
        assert get_text(server.url, route) == "half"
    with Canned(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n") as server:
        assert get_text(server.url, route) == Fault(Kind.NETWORK, "the server's answer breaks the rules of HTTP")


def test_a_text_that_the_time_limit_cuts_is_a_fault(monkeypatch):
    """A body without a length ends with its connection, also where we end that."""
    monkeypatch.setattr("orchestrator.sources.http.TIMEOUT_S", 0.5)
    route = route_to("http://127.0.0.1/", {}, {})
    with Canned(b"HTTP/1.1 200 OK\r\n\r\n" + b"text" * 9, stays=True) as server:
        assert get_text(server.url, route) == Fault(Kind.STALLED, "no answer in time")


def test_a_text_that_a_stop_cuts_is_none():
    stop = threading.Event()
    route = route_to("http://127.0.0.1/", {}, {})
    with Canned(b"HTTP/1.1 200 OK\r\n\r\ntext", stays=True) as server:
        timer = threading.Timer(0.5, stop.set)
        timer.start()
        with pytest.raises(Stopped):
            get_text(server.url, route, stop)
        timer.join()


def test_a_body_ends_with_its_length_though_the_connection_stays():
    route = route_to("http://127.0.0.1/", {}, {})
    with Canned(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntext", stays=True) as server:
        began = time.monotonic()
        assert get_text(server.url, route) == "text"
        assert time.monotonic() - began < 20


def test_silence_is_a_stall(origin):
    began = time.monotonic()
    found = fault(origin.serve("/silent", silent=True), timeout_s=0.3)
    assert found == Fault(Kind.STALLED, "no answer in time")
    assert time.monotonic() - began < 20


def test_a_header_byte_by_byte_is_a_stall():
    """The client's own timeout begins anew with each byte: this one would take a day."""
    with Canned(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50, pause_s=0.1) as server:
        began = time.monotonic()
        assert fault(server.url, timeout_s=0.4) == Fault(Kind.STALLED, "no answer in time")
        assert time.monotonic() - began < 10


def test_the_same_behind_tls(tmp_path):
    with https(tmp_path, "IP:127.0.0.1", pause_s=0.1) as server:
        began = time.monotonic()
        assert fault(server.url, ca=server.ca, timeout_s=0.4) == Fault(Kind.STALLED, "no answer in time")
        assert time.monotonic() - began < 10


def test_slow_redirects_are_a_stall(origin):
    url = origin.serve("/slow-loop", redirect_loop=True, delay_s=0.2)
    began = time.monotonic()
    assert fault(url, timeout_s=0.5) == Fault(Kind.STALLED, "no answer in time")
    assert time.monotonic() - began < 10


def test_a_reset_is_the_network(origin):
    found = fault(origin.serve("/reset", silent=True, rst=True))
    assert (found.kind, found.refused_connection) == (Kind.NETWORK, False)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = fault(f"http://127.0.0.1:{port}/f")
    assert found == Fault(Kind.NETWORK, "connection refused", refused_connection=True)


@pytest.mark.parametrize("host", ["no.such.name.invalid", "a" * 70 + ".invalid"])
def test_a_name_that_is_none(host):
    found = fault(f"http://{host}/f", timeout_s=2.0)
    assert (found.kind, found.refused_connection) in ((Kind.NETWORK, False), (Kind.STALLED, False))


# -- TLS


@dataclass(frozen=True)
class Secure:
    """An https origin: its URL and the CA that vouches for it."""

    url: str
    ca: str


@contextlib.contextmanager
def https(folder: Path, names: str, location: str = "", pause_s: float = 0.0) -> Iterator[Secure]:
    """A stdlib server behind a certificate of its own for these names."""
    key, ca = folder / "key.pem", folder / "ca.pem"
    argv = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(ca), "-days", "2", "-subj", "/CN=orch test"]
    argv += ["-addext", f"subjectAltName={names}", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(argv, check=True, capture_output=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            for letter in "HTTP/1.1 200 OK and so on and on" if pause_s else "":
                self.wfile.write(letter.encode())
                time.sleep(pause_s)
            self.send_response(302 if location else 206)
            if location:
                self.send_header("Location", location)
            else:
                self.send_header("Content-Range", f"bytes 0-0/{N}")
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Secure(f"https://127.0.0.1:{server.server_port}/f", str(ca))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_private_ca_is_needed_and_is_enough(tmp_path):
    with https(tmp_path, "IP:127.0.0.1") as server:
        found = fault(server.url)
        assert (found.kind, "certificate" in found.message.lower()) == (Kind.TLS, True)
        seen = see(server.url, ca=server.ca)
        assert isinstance(seen, SourceAnswer)
        assert (seen.length, seen.ranges) == (N, True)


def test_a_certificate_for_another_name(tmp_path):
    with https(tmp_path, "DNS:elsewhere.example") as server:
        assert fault(server.url, ca=server.ca).kind is Kind.TLS


def test_a_ca_file_that_is_none(tmp_path, origin):
    (tmp_path / "ca.pem").write_text("no certificate")
    assert fault("https://127.0.0.1:1/f", ca=str(tmp_path / "ca.pem")).kind is Kind.TLS


def test_plain_words_on_a_tls_line():
    with Canned(b"HTTP/1.1 400 Bad Request\r\n\r\n", hasty=True) as server:
        assert fault(server.url.replace("http:", "https:")).kind is Kind.TLS


def test_from_https_to_http_is_refused(tmp_path, origin):
    url = origin.serve("/plain", DATA)
    with https(tmp_path, "IP:127.0.0.1", location=url) as server:
        found = fault(server.url, ca=server.ca)
    assert found == Fault(Kind.REFUSED, "redirected from https to http (127.0.0.1)")
    assert origin.requests("/plain") == 0


def test_from_http_to_https_uses_the_named_ca(tmp_path, origin):
    with https(tmp_path, "IP:127.0.0.1") as server:
        url = origin.serve("/first", redirect=server.url)
        assert fault(url).kind is Kind.TLS
        seen = see(url, ca=server.ca)
        assert isinstance(seen, SourceAnswer)
        assert (seen.last_url, seen.length) == (server.url, N)


# -- proxies


def test_the_environments_proxies_are_not_read(origin, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert isinstance(see(origin.serve("/f.bin", DATA)), SourceAnswer)


def test_a_proxy_is_asked_for_the_whole_url():
    with answers("Content-Range: bytes 0-0/77", "Content-Length: 1") as server:
        proxy = server.url.replace("://", "://user:p%40ss@")
        seen = see("http://files.example/f?x=1", proxy=proxy)
        assert isinstance(seen, SourceAnswer)
        assert seen.length == 77
        (asked,) = server.asked
        assert asked.startswith(b"GET http://files.example/f?x=1 HTTP/1.1\r\n")
        assert b"proxy-authorization: basic dxnlcjpwqhnz" in asked.lower()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1", "socks4://127.0.0.1:1", "odd://x"])
def test_a_proxy_that_looks_cannot_use_is_a_fault(origin, proxy):
    found = fault(origin.serve("/f.bin", DATA), proxy=proxy)
    assert found.kind in (Kind.REFUSED, Kind.NETWORK)


class Tunnel:
    """A proxy that tunnels one connection to wherever it is asked to; `asked` is the header that it heard."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.url = f"http://user:p%40ss@127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = b""

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._listener.accept()[0] as client:
            while b"\r\n\r\n" not in self.asked and (block := client.recv(65536)):
                self.asked += block
            host, port = self.asked.split()[1].decode().split(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                there = threading.Thread(target=self._pass_on, args=(client, server))
                there.start()
                self._pass_on(server, client)
                there.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)


def test_a_proxy_tunnels_to_https(tmp_path):
    with https(tmp_path, "IP:127.0.0.1") as server, Tunnel() as proxy:
        seen = see(server.url, ca=server.ca, proxy=proxy.url)
        assert isinstance(seen, SourceAnswer), seen
        assert (seen.length, seen.last_url) == (N, server.url)
    where = server.url.split("/")[2].encode()
    assert proxy.asked.startswith(b"CONNECT " + where + b" HTTP/1.")
    assert b"host: " + where in proxy.asked.lower()
    assert b"proxy-authorization: basic dxnlcjpwqhnz" in proxy.asked.lower()


def test_a_proxy_is_reached_by_tls(tmp_path):
    with https(tmp_path, "IP:127.0.0.1") as proxy:
        seen = see("http://files.example/f", ca=proxy.ca, proxy=proxy.url.removesuffix("/f"))
        assert isinstance(seen, SourceAnswer), seen
        assert seen.length == N
        assert fault("https://files.example/f", ca=proxy.ca, proxy=proxy.url).kind is Kind.NETWORK


def test_a_dead_proxy():
    assert fault("http://files.example/f", proxy="http://127.0.0.1:1").kind is Kind.NETWORK


P, Q = "http://proxy:3128", "http://other:3128"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://h/f", {}, None),
        ("http://h/f", {"http_proxy": P}, P),
        ("http://h/f", {"HTTP_PROXY": P}, P),
        ("http://h/f", {"http_proxy": P, "HTTP_PROXY": Q}, P),
        ("http://h/f", {"http_proxy": "", "HTTP_PROXY": Q}, Q),
        ("http://h/f", {"https_proxy": P}, None),
        ("https://h/f", {"https_proxy": P, "http_proxy": Q}, P),
        ("https://h/f", {"HTTPS_PROXY": P}, P),
        ("https://h/f", {"http_proxy": Q}, None),
        ("ftp://h/f", {"ftp_proxy": P}, P),
        ("http://h/f", {"all_proxy": P}, P),
        ("https://h/f", {"ALL_PROXY": P, "https_proxy": Q}, Q),
        ("https://h/f", {"all_proxy": "socks5h://s:1080"}, "socks5h://s:1080"),
        ("http://h/f", {"http_proxy": "proxy:3128"}, P),
        ("http://h/f", {"http_proxy": "http://u:p@proxy:1"}, "http://u:p@proxy:1"),
        ("http://h/f", {"http_proxy": P, "no_proxy": "h"}, None),
        ("http://h/f", {"http_proxy": P, "NO_PROXY": "h"}, None),
        ("http://h/f", {"http_proxy": P, "no_proxy": "x, h ,y"}, None),
        ("http://h/f", {"http_proxy": P, "no_proxy": "*"}, None),
        ("http://a.corp.example/f", {"http_proxy": P, "no_proxy": ".corp.example"}, None),
        ("http://a.corp.example/f", {"http_proxy": P, "no_proxy": "corp.example"}, None),
        ("http://corp.example/f", {"http_proxy": P, "no_proxy": "corp.example"}, None),
        ("http://notcorp.example/f", {"http_proxy": P, "no_proxy": "corp.example"}, P),
        ("http://A.CORP.example/f", {"http_proxy": P, "no_proxy": "corp.EXAMPLE"}, None),
        ("http://h:8080/f", {"http_proxy": P, "no_proxy": "h"}, None),
        ("http://h:8080/f", {"http_proxy": P, "no_proxy": "h:8080"}, None),
        ("http://h:8080/f", {"http_proxy": P, "no_proxy": "h:80"}, P),
        ("http://127.0.0.1:9/f", {"http_proxy": P, "no_proxy": "localhost,127.0.0.1"}, None),
        ("http://h/f", {"http_proxy": P, "no_proxy": ""}, P),
        # networks with a mask, for hosts that are addresses
        ("http://10.1.2.3/f", {"http_proxy": P, "no_proxy": "localhost,10.0.0.0/8"}, None),
        ("http://10.1.2.3:8080/f", {"http_proxy": P, "NO_PROXY": "10.1.2.77/24"}, None),
        ("http://11.1.2.3/f", {"http_proxy": P, "no_proxy": "10.0.0.0/8"}, P),
        ("http://10.1.2.3.corp/f", {"http_proxy": P, "no_proxy": "10.0.0.0/8"}, P),
        ("http://[fd00::7]:8080/f", {"http_proxy": P, "no_proxy": "fd00::/8"}, None),
        ("http://[fd00::7]/f", {"http_proxy": P, "no_proxy": "[fd00::]/8"}, None),
        ("http://[fe80::7]/f", {"http_proxy": P, "no_proxy": "fd00::/8"}, P),
        ("http://10.1.2.3/f", {"http_proxy": P, "no_proxy": "10.0.0.0/99,nonsense/8,/8"}, P),
        # addresses, with brackets and ports, in any spelling
        ("http://[::1]:9/f", {"http_proxy": P, "no_proxy": "::1"}, None),
        ("http://[::1]:9/f", {"http_proxy": P, "no_proxy": "[::1]"}, None),
        ("http://[::1]:9/f", {"http_proxy": P, "no_proxy": "[::1]:9"}, None),
        ("http://[::1]:9/f", {"http_proxy": P, "no_proxy": "[::1]:8"}, P),
        ("http://[0:0::1]/f", {"http_proxy": P, "no_proxy": "::1"}, None),
        ("http://[::2]/f", {"http_proxy": P, "no_proxy": "::1"}, P),
        ("http://127.0.0.1:9/f", {"http_proxy": P, "no_proxy": "127.0.0.1:9"}, None),
        # lists as curl reads them, dots and stars before a domain, the usual port, a final dot
        ("http://h/f", {"http_proxy": P, "no_proxy": "x h y"}, None),
        ("http://10.1.2.3/f", {"http_proxy": P, "NO_PROXY": "x\t10.0.0.0/8 ,y"}, None),
        ("http://a.corp.example/f", {"http_proxy": P, "no_proxy": "*.corp.example"}, None),
        ("http://corp.example/f", {"http_proxy": P, "no_proxy": ".corp.example"}, None),
        ("http://a.corp.example./f", {"http_proxy": P, "no_proxy": "corp.example"}, None),
        ("http://a.corp.example:8080/f", {"http_proxy": P, "no_proxy": ".corp.example:8080"}, None),
        ("http://h/f", {"http_proxy": P, "no_proxy": "h:80"}, None),
        ("https://h/f", {"https_proxy": P, "no_proxy": "h:443"}, None),
        ("https://h/f", {"https_proxy": P, "no_proxy": "h:80"}, P),
        ("http://h/f", {"http_proxy": P, "no_proxy": "x,*"}, None),
        ("http://h/f", {"http_proxy": P, "no_proxy": "h:nonsense,:,.,[,]"}, P),
        ("http://user@h/f", {"http_proxy": P, "no_proxy": "h"}, None),
    ],
)
def test_the_proxy_for_a_url(url, environ, proxy):
    assert proxy_for(url, environ) == proxy


def test_the_order_of_ca_bundles(tmp_path):
    named, first, second = (str(tmp_path / name) for name in ("named", "first", "second"))
    environ = {"SSL_CERT_FILE": first, "REQUESTS_CA_BUNDLE": second}
    system = ca_bundle({})
    assert system in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", certifi.where()) or (
        system.startswith("/etc/ssl/")
    )
    assert ca_bundle(environ, named) == system  # none of them is there
    for path in (second, first, named):
        with open(path, "w"):
            pass
        assert ca_bundle(environ, named) == path
    assert ca_bundle({"SSL_CERT_FILE": str(tmp_path)}) == system  # a folder is no bundle


def test_the_route_to_a_source(tmp_path):
    ca = str(tmp_path / "ca.pem")
    with open(ca, "w"):
        pass
    hosts = {"files.corp:8443": Host(ca=ca, connections=4), "files.corp": Host(user_agent="team")}
    way = route_to("https://files.corp:8443/f", {"https_proxy": "http://p:1"}, hosts)
    assert (way.requirements.scheme, way.requirements.proxy, way.requirements.private_ca) == ("https", "http", True)
    assert (way.proxy, way.ca, way.connections, way.user_agent) == ("http://p:1", ca, 4, "team")
    way = route_to("http://files.corp:8080/f", {}, hosts)
    assert (way.requirements.proxy, way.requirements.private_ca, way.connections, way.user_agent) == (
        "",
        False,
        None,
        "team",
    )
    assert not route_to("http://files.corp:8443/f", {}, hosts).requirements.private_ca  # no TLS, no CA
    assert route_to("https://elsewhere/f", {}, hosts).ca == ca_bundle({})
    assert os.path.isfile(route_to("https://elsewhere/f", {}, {}).ca)


# -- addresses, and a request to stop


class Hole:
    """An address that takes no connection and refuses none: its queue is full."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sockets = [socket.socket(family)]
        self.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.sockets[0].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sockets[0].bind((host, port))
        self.sockets[0].listen(0)
        self.port = self.sockets[0].getsockname()[1]
        for _ in range(4):
            sock = socket.socket(family)
            sock.setblocking(False)
            sock.connect_ex((host, self.port))
            self.sockets.append(sock)

    def __enter__(self) -> Hole:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()


def named(monkeypatch, name, *addresses):
    """Let a name have these addresses, in this order."""
    real = socket.getaddrinfo

    def find(host, port, *args, **kwargs):
        if host != name:
            return real(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return [info for address in addresses for info in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", find)


@pytest.mark.parametrize("first", ["::1", "127.0.0.2"])
def test_a_first_address_that_drops_all_packets_costs_a_moment(monkeypatch, origin, first):
    origin.serve("/f.bin", DATA)
    named(monkeypatch, "both.test", first, "127.0.0.1")
    with Hole(first, origin.port):  # one after the other they would take all of the time
        seen = see(f"http://both.test:{origin.port}/f.bin", timeout_s=5.0)
    assert (seen.length, seen.ipv4_only) == (len(DATA), first == "::1")


def test_a_name_whose_addresses_all_drop_packets_is_a_stall(monkeypatch):
    with Hole("::1", 0) as six, Hole("127.0.0.1", six.port):
        named(monkeypatch, "both.test", "::1", "127.0.0.1")
        assert fault(f"http://both.test:{six.port}/f", timeout_s=0.6).kind is Kind.STALLED


def test_addresses_of_both_families_take_turns():
    six, four = socket.AF_INET6, socket.AF_INET
    found = interleaved([(six, ("a",)), (six, ("b",)), (six, ("c",)), (four, ("d",))])
    assert [address for _, (address,) in found] == ["a", "d", "b", "c"]
    assert interleaved([]) == []


@pytest.mark.parametrize("how", ["a silent host", "a silent resolver", "an address that drops packets"])
def test_a_look_hears_a_request_to_stop(monkeypatch, origin, how):
    stop, url = threading.Event(), origin.serve("/silent", silent=True)
    with contextlib.ExitStack() as stack:
        if how == "a silent resolver":
            over = threading.Event()
            stack.callback(over.set)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **about: numeric(about, over))
            url = "http://silent.test/f"
        if how == "an address that drops packets":
            url = f"http://127.0.0.1:{stack.enter_context(Hole('127.0.0.1', 0)).port}/f"
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Stopped):  # and no stall, which is what 60 s would end with
            see(url, timeout_s=60.0, stop=stop)


def numeric(about, over):
    """A resolver that knows no name, and says nothing."""
    if about.get("flags"):
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    over.wait(60)
    raise socket.gaierror(socket.EAI_AGAIN, "too late")


# -- what a look cannot see


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        (("Content-Type: multipart/byteranges; boundary=x", "Content-Length: 100"), None),
        (("Content-Range: bytes 0--1/77", "Content-Length: 0"), None),
        (("Content-Range: bytes 0-0/*", "Content-Length: 1"), None),
        (("Content-Range: bytes 5-5/77", "Content-Length: 1"), 77),
        (("Content-Length: 1",), None),
    ],
)
def test_a_range_that_is_answered_wrongly_is_not_asked_for(lines, length):
    with answers(*lines) as server:
        seen = see(server.url)
    assert (seen.bare, seen.ranges, seen.length) == (True, False, length)


def test_who_refuses_ranges_is_asked_without():
    refusal = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with Canned(refusal) as server:
        assert fault(server.url).status == 500
        assert [b"range:" in asked.lower() for asked in server.asked] == [True, False]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Fault(Kind.MISSING, "", 404), True),
        (Fault(Kind.NETWORK, "", 500), True),
        (Fault(Kind.NETWORK, "", refused_connection=True), True),
        (Fault(Kind.REFUSED, "redirected to another scheme (gopher)"), True),
        (Fault(Kind.NETWORK, "illegal header line"), False),
        (Fault(Kind.STALLED, "no answer in time"), False),
        (Fault(Kind.TLS, "handshake failed"), False),
    ],
)
def test_what_says_something_of_the_source(found, verdict):
    assert is_verdict(found) is verdict
