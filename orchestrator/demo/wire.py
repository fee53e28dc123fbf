"""One client's connection to the loopback origin: read requests, send bodies at a rate, cut or stall on demand."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from orchestrator.demo.answers import Answer, Case, answer, framing, head
from orchestrator.demo.faults import Behaviour, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from orchestrator.demo.faults import Content
    from orchestrator.demo.request_log import LiveRequest, RequestLog

    Ending: TypeAlias = "Callable[[Wire], None]"


BURST_BYTES = 64 * 1024  # what a late block may make up for
_BLOCK_BYTES = 1024 * 1024
_REQUEST_MAX_BYTES = 256 * 1024


class Wire:
    """A connection to one client. The rate limit spans its answers, so that keep-alive allows no new burst."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._hangup = select.poll()
        self._hangup.register(sock, select.POLLRDHUP)
        self._buffer = b""
        self._due_s = self._begun_s = self._heard_s = time.monotonic()
        self._pipelined = False

    def read(self) -> Request | None:
        """Read the next request; None where the client has left or what it sent is no request."""
        while b"\r\n\r\n" not in self._buffer:
            block = self._sock.recv(64 * 1024)
            self._buffer += block
            if not block or len(self._buffer) > _REQUEST_MAX_BYTES:
                return None
            self._heard_s = self._begun_s if self._pipelined else time.monotonic()
        top, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3:
            return None
        pairs = (line.partition(":")[::2] for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        path, _, query = words[1].partition("?")
        keep = words[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Request(words[0], unquote(path), query, headers, keep)

    def wait_round_trip(self, delay_s: float) -> None:
        """Wait for `delay_s` since the request arrived; a pipelined request arrived while the last answer was sent."""
        if delay_s:
            self._wait(self._heard_s + delay_s - time.monotonic())
        self._begun_s, self._pipelined = time.monotonic(), False
        self._due_s = max(self._due_s, self._begun_s)  # an idle connection gains no allowance

    def send_head(self, reply: Answer, behaviour: Behaviour) -> None:
        self._sock.sendall(head(reply, behaviour))

    def send_body(self, reply: Answer, behaviour: Behaviour, stop: int, live: LiveRequest) -> None:
        """Send the body up to the offset `stop`, in blocks as the rate allows."""
        block = min(BURST_BYTES, max(1, behaviour.rate // 32)) if behaviour.rate else _BLOCK_BYTES
        if behaviour.send_buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, behaviour.send_buffer)
            block = min(block, behaviour.send_buffer)
        chunked = framing(reply, behaviour) == "chunked"
        at = reply.start
        with ExitStack() as stack:
            file = stack.enter_context(open(reply.content.file, "rb")) if reply.content.file else None
            send = self._sender(reply, file, chunked)
            while at < stop:
                size = min(block, stop - at)
                if behaviour.rate:
                    self._wait_rate(size, behaviour.rate)
                if at + size == reply.stop:
                    self._pipelined = self._next_is_pipelined()
                    live.finish()
                live.sent += (
                    size  # counted before they are sent: a client that has the last byte may ask for the count at once
                )
                sent = 0
                try:
                    sent = send(at, size)
                finally:
                    live.sent -= size - sent
                if not sent:
                    raise BrokenPipeError("the file became shorter")
                at += sent
        if chunked and stop == reply.stop:
            self._sock.sendall(b"0\r\n\r\n")

    def stall(self) -> None:
        """Send nothing more until the client leaves or the origin stops."""
        while self._sock.recv(64 * 1024):
            pass

    def hang_up(self) -> None:
        """End a body early: the close that follows is enough."""

    def reset(self) -> None:
        """Make the close that follows a reset (RST) instead of a FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _wait_rate(self, size: int, rate: int) -> None:
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - BURST_BYTES / rate) + size / rate
        self._wait(self._due_s - now_s)

    def _wait(self, wait_s: float) -> None:
        """Wait for so many seconds.

        Raises:
            ConnectionAbortedError: the client has left, or the origin stops.
        """
        if wait_s > 0 and self._hangup.poll(wait_s * 1000):
            raise ConnectionAbortedError("the client has left")

    def _next_is_pipelined(self) -> bool:
        try:
            return bool(self._buffer or self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _sender(self, reply: Answer, file: BinaryIO | None, chunked: bool) -> Callable[[int, int], int]:
        """The function that sends `size` bytes from an offset; sendfile(2) where they are a file's, unchanged."""
        data, transform = memoryview(reply.content.data), reply.transform

        def block(at: int, size: int) -> bytes | memoryview:
            plain = os.pread(file.fileno(), size, at) if file else data[at : at + size]
            return transform(at, bytes(plain)) if transform else plain

        def chunk(at: int, size: int) -> int:
            body = bytes(block(at, size))
            self._sock.sendall(b"%x\r\n%b\r\n" % (len(body), body))
            return len(body)

        if chunked:
            return chunk
        if file and transform is None:
            out, source = self._sock.fileno(), file.fileno()
            return lambda at, size: os.sendfile(out, source, at, size)
        return lambda at, size: self._sock.send(block(at, size))


def serve_connection(
    wire: Wire, number: int, log: RequestLog, find: Callable[[str], tuple[Content, Behaviour]]
) -> None:
    """Answer the requests of one connection in order, until the client leaves or a fault ends it.

    Args:
        number: identifies the connection in the log.
        find: gives the content and the behaviour of a path.
    """
    while request := wire.read():
        live = log.begin(request, number)
        try:
            content, behaviour = find(request.path)
            if not _reply(wire, request, live, log, content=content, behaviour=behaviour):
                return
        finally:
            live.finish()


def _reply(
    wire: Wire, request: Request, live: LiveRequest, log: RequestLog, *, content: Content, behaviour: Behaviour
) -> bool:
    """Answer one request; returns whether the connection stays open."""
    if behaviour.silent:
        (wire.reset if behaviour.rst else wire.stall)()
        return False
    wire.wait_round_trip(behaviour.delay_s)
    reply = answer(_case(request, log, content, behaviour))
    live.status = reply.status
    if request.method == "HEAD" or not reply.length:
        live.finish()
    wire.send_head(reply, behaviour)
    if request.method == "HEAD":
        return request.keep
    stop, end = _end(request.path, log, reply, behaviour)
    wire.send_body(reply, behaviour, stop, live)
    if end:
        end(wire)
    return request.keep and end is None and framing(reply, behaviour) != "close"


def _case(request: Request, log: RequestLog, content: Content, behaviour: Behaviour) -> Case:
    path, requests, sent = request.path, behaviour.replace_after, behaviour.replace_after_bytes
    failing = behaviour.status is not None and log.spend(path, "status", behaviour.status_times, behaviour.status_after)
    changed = requests is not None and log.spend(path, "replace", None, requests)
    changed = changed or (sent is not None and log.sent(path) >= sent)
    after = behaviour.redirect_after
    return Case(request, content, behaviour, failing, changed, not after or log.spend(path, "redirect", None, after))


def _end(path: str, log: RequestLog, reply: Answer, behaviour: Behaviour) -> tuple[int, Ending | None]:
    """The offset at which the body stops, and how the connection ends where that is before the body's end."""
    faults: tuple[tuple[str, int | None, int | None, Ending], ...] = (
        ("cut", behaviour.cut_after, behaviour.cut_times, Wire.reset if behaviour.rst else Wire.hang_up),
        ("stall", behaviour.stall_after, behaviour.stall_times, Wire.stall),
    )
    due = [
        (reply.start + after, ending)
        for name, after, times, ending in faults
        if after is not None and after < reply.length and log.spend(path, name, times)
    ]
    return min(due, key=lambda end: end[0], default=(reply.stop, None))
