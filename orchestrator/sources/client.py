"""The HTTP client of orch's own small requests: one GET on a connection of its own, and a limit on the time of several.

It is Python's http.client, because the first program of a run waits for it: httpx2, which the hubs' clients use, takes
0.1 s to import and as long again for its first connection.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from base64 import b64encode
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.errors import MissingHeaderBodySeparatorDefect
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from io import BufferedReader
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from orchestrator.errors import Stopped
from orchestrator.sources.connect import STOP_S, Racing, trust

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from urllib.parse import SplitResult

BLOCK_BYTES = 64 << 10
ERRORS = (HTTPException, OSError, ValueError)  # what a request may raise; ValueError: of names, numbers and URLs
_FOLD = re.compile(r"\r?\n[ \t]+")  # RFC 9112, 5.2: a header may go on in the next line, which counts as a space
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SHORT_BYTES, _SHORT_S = 1024, 0.25
_PORTS = {"http": 80, "https": 443}


class TimeLimit:
    """A limit on the time of all requests in a `with` block: after it their connections are cut.

    The timeout of a socket begins again with each byte, this one does not. A body without a length looks whole where
    its connection was cut: so leaving the block raises also where nothing failed in it.

    Args:
        seconds: for the block.
        stop: cuts the connections too, once it is set.

    Raises:
        TimeoutError: on leaving the block, whatever else failed in it: the time was over, and the connections cut.
        Stopped: likewise: `stop` was set.
    """

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._stop = stop
        self._sockets: list[socket.socket] = []
        self._over, self._done = threading.Event(), threading.Event()

    def watch(self, sock: socket.socket) -> None:
        """Cut this connection too when the time is over.

        Raises:
            TimeoutError: it is over.
        """
        self._sockets.append(sock)  # before the check: whoever sets `over` then finds it
        if self._over.is_set():
            raise TimeoutError("over")

    def __enter__(self) -> TimeLimit:
        threading.Thread(target=self._cut, name="orch-limit", daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._done.set()
        if error is not None and not isinstance(error, Exception):
            return
        if (error is not None or self._over.is_set()) and self._stop is not None and self._stop.is_set():
            raise Stopped("stopped while a source was asked") from error
        if self._over.is_set():
            raise TimeoutError("over") from error

    def _cut(self) -> None:
        stop = self._stop
        while not (stop is not None and stop.is_set()) and (left_s := self._end - time.monotonic()) > 0:
            if self._done.wait(min(left_s, STOP_S) if stop is not None else left_s):
                return
        self._over.set()
        for sock in self._sockets:
            with suppress(OSError):  # SSLSocket.shutdown would take the TLS state from the thread that reads
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, its body not read yet.

    Attributes:
        status: of HTTP.
        headers: by name in lower case; several of one name are joined by commas.
        round_trip_s: from the request to the header.
        response: the answer as http.client has it.
        sock: its connection.
    """

    status: int
    headers: Mapping[str, str]
    round_trip_s: float
    response: HTTPResponse
    sock: socket.socket

    def blocks(self) -> Iterator[bytes]:
        """The body, as it comes.

        Raises:
            IncompleteRead: the connection ended before the body did; http.client tells that of chunked ones only.
            OSError: of the connection; TimeoutError: no byte came in time.
        """
        left = self.response.length  # None: it is chunked, or lasts as long as the connection
        while left != 0 and (block := self.response.read1(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))):
            left = None if left is None else left - len(block)
            yield block
        if left:
            raise IncompleteRead(b"", left)

    def take_short_body(self) -> None:
        """Read a body of a few bytes, if it comes soon.

        Who hangs up before it leaves the server with an open request for a moment: one that allows a single connection
        then refuses the program that is started next.
        """
        if 0 < (self.response.length or 0) <= _SHORT_BYTES:
            with suppress(*ERRORS):
                self.sock.settimeout(_SHORT_S)
                for _ in self.blocks():
                    pass


class Client:
    """Makes requests to http and https, each on a connection of its own; all of them within one time limit.

    Args:
        ca: path of a PEM bundle.
        proxy: URL of a proxy; None for a direct connection.
        timeout_s: for all of the `with` block, as of `TimeLimit`.
        stop: ends a connection attempt too, once it is set.

    `racing` makes its connections.

    Raises:
        ImportError: no connection is made through a proxy of this scheme.
        ValueError: the proxy is no URL.
        TimeoutError, Stopped: on leaving the block, as of `TimeLimit`.
    """

    def __init__(self, *, ca: str, proxy: str | None, timeout_s: float, stop: threading.Event | None = None) -> None:
        self.racing = Racing(stop)
        self._ca, self._timeout_s, self._limit = ca, timeout_s, TimeLimit(timeout_s, stop)
        self._proxy = urlsplit(proxy) if proxy is not None else None
        if self._proxy is not None and self._proxy.scheme not in _PORTS:
            raise ImportError(f"no connection is made through a proxy of the scheme {self._proxy.scheme}")

    def __enter__(self) -> Client:
        self._limit.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._limit.__exit__(kind, error, trace)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Send a GET request; redirects are not followed.

        Args:
            url: http or https.
            headers: all headers but Host and Connection.

        Raises:
            HTTPException: the answer breaks the rules of HTTP.
            OSError: of the connection, TLS, or the lookup of the name; TimeoutError: no byte came in time.
            ImportError: this would be TLS inside the TLS of a proxy.
            ValueError: the URL cannot be asked for.
            Stopped: a stop was asked for while connecting.
        """
        to, proxy = urlsplit(url), self._proxy
        path = (to.path or "/") + ("?" + to.query if to.query else "")
        host = to.netloc.rpartition("@")[2]
        sent = {"Host": host, "Connection": "close", **_login(to, "Authorization"), **headers}
        connection = _Connection(proxy or to, self.racing, self._timeout_s, self._limit)
        if proxy is not None and proxy.scheme == "https":
            if to.scheme == "https":
                raise ImportError("no connection is made by TLS inside the TLS of a proxy")
            connection.tls, connection.tls_name = trust(self._ca), _host(proxy)
        if to.scheme == "https":
            connection.tls, connection.tls_name = trust(self._ca), _host(to)
            if proxy is not None:
                tunnel = {"Host": host, **_login(proxy, "Proxy-Authorization")}
                connection.set_tunnel(_host(to), _port(to), tunnel)
        elif proxy is not None:
            path = f"{to.scheme}://{host}{path}"
            sent |= _login(proxy, "Proxy-Authorization")
        with closing(connection):
            connection.connect()
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            began = time.monotonic()  # a round trip begins here: the connection and TLS are up
            connection.endheaders()
            sock = connection.sock  # the response's from now on
            with closing(connection.getresponse()) as response:
                if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in response.headers.defects):
                    raise HTTPException("a line of the header is no header")
                found = _headers(response)
                if found.get("transfer-encoding", "chunked").lower() != "chunked":  # http.client reads it as it comes
                    raise HTTPException("a transfer encoding that was not asked for")
                yield Answer(response.status, found, time.monotonic() - began, response, sock)


class _Reader(BufferedReader):
    """Reads an answer by lines that are whole: http.client takes the end of a cut connection for that of the header."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise RemoteDisconnected("the server disconnected before its answer ended")
        return line


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = _Reader(sock.makefile("rb", buffering=0))


class _Connection(HTTPConnection):
    """A connection that `Racing` makes and a time limit may cut; by TLS, with a certificate of `tls_name`, if `tls`."""

    response_class = _Response

    def __init__(self, to: SplitResult, racing: Racing, timeout_s: float, limit: TimeLimit) -> None:
        super().__init__(_host(to), _port(to), timeout=timeout_s)
        self._racing, self._limit = racing, limit
        self.tls: ssl.SSLContext | None = None
        self.tls_name = ""

    def connect(self) -> None:
        """Connect, through the proxy's tunnel where `set_tunnel` asked for one."""
        self.sock = sock = self._racing.connect(self.host, self.port, self.timeout or 0.0)
        sock.settimeout(self.timeout)
        self._limit.watch(sock)
        # http.client has no parameter for it; the tests of proxies check that this works.
        self._create_connection = lambda *_: sock
        super().connect()
        if self.tls is not None:
            self.sock = self.tls.wrap_socket(sock, server_hostname=self.tls_name, do_handshake_on_connect=False)
            self._limit.watch(self.sock)
            self.sock.do_handshake()


def _host(parts: SplitResult) -> str:
    if not parts.hostname:
        raise ValueError("a URL without a host")
    return parts.hostname


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def _login(parts: SplitResult, header: str) -> dict[str, str]:
    """The header of the login that stands in a URL; none where there is none."""
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {b64encode(login.encode()).decode()}"}


def _headers(response: HTTPResponse) -> dict[str, str]:
    """The headers by name in lower case, those of one name joined.

    Raises:
        HTTPException: one has a control character, which a program would take for the end of a line.
    """
    headers: dict[str, str] = {}
    for name, folded in response.headers.items():
        name, value = name.lower(), _FOLD.sub(" ", str(folded)).strip()
        with suppress(UnicodeError):  # http.client reads ISO-8859-1; what servers send of other letters is UTF-8
            value = value.encode("latin-1").decode("utf-8")
        if _CONTROL.search(value):
            raise HTTPException(f"a control character in {name}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
