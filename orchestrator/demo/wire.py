"""One client's connection to the loopback origin: reading requests, pacing bodies, ending badly."""

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
    from orchestrator.demo.ledger import Ledger, Live

    Ending: TypeAlias = "Callable[[Wire], None]"


BURST_BYTES = 64 * 1024  # what a late block may make up for
_BLOCK_BYTES = 1024 * 1024
_REQUEST_MAX_BYTES = 256 * 1024


class Wire:
    """A connection. Its pace outlives each answer, so keep-alive brings no fresh burst."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._leaving = select.poll()
        self._leaving.register(sock, select.POLLRDHUP)
        self._buffer = b""
        self._due_s = self._begun_s = self._heard_s = time.monotonic()
        self._pipelined = False

    def read(self) -> Request | None:
        """The next request; None when the client is gone or talks nonsense."""
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
        """Wait from the request on; a pipelined one was under way while the answer before it was sent."""
        if delay_s:
            self._wait(self._heard_s + delay_s - time.monotonic())
        self._begun_s, self._pipelined = time.monotonic(), False
        self._due_s = max(self._due_s, self._begun_s)  # a wire cannot save up while it idles

    def send_head(self, reply: Answer, how: Behaviour) -> None:
        self._sock.sendall(head(reply, how))

    def send_body(self, reply: Answer, how: Behaviour, stop: int, live: Live) -> None:
        """Send the body up to `stop`, in blocks that the rate lets through."""
        block = min(BURST_BYTES, max(1, how.rate // 32)) if how.rate else _BLOCK_BYTES
        chunked = framing(reply, how) == "chunked"
        at = reply.start
        with ExitStack() as stack:
            file = stack.enter_context(open(reply.content.file, "rb")) if reply.content.file else None
            send = self._sender(reply, file, chunked)
            while at < stop:
                size = min(block, stop - at)
                if how.rate:
                    self._wait_rate(size, how.rate)
                if at + size == reply.stop:
                    self._pipelined = self._has_next()
                    live.finish()
                live.sent += size  # before they leave: who has the last byte may ask for the count at once
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
        """Say nothing more until the client leaves or the origin stops."""
        while self._sock.recv(64 * 1024):
            pass

    def hang_up(self) -> None:
        """Nothing more comes: the close does it."""

    def reset(self) -> None:
        """Make the coming close a reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _wait_rate(self, size: int, rate: int) -> None:
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - BURST_BYTES / rate) + size / rate
        self._wait(self._due_s - now_s)

    def _wait(self, wait_s: float) -> None:
        """Wait, unless the client leaves or the origin stops: who is gone is no longer under way."""
        if wait_s > 0 and self._leaving.poll(wait_s * 1000):
            raise ConnectionAbortedError("the client has left")

    def _has_next(self) -> bool:
        try:
            return bool(self._buffer or self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _sender(self, reply: Answer, file: BinaryIO | None, chunked: bool) -> Callable[[int, int], int]:
        """How to send so many bytes from an offset: by the kernel alone where nothing is done to them."""
        data, mangle = memoryview(reply.content.data), reply.mangle

        def block(at: int, size: int) -> bytes | memoryview:
            plain = os.pread(file.fileno(), size, at) if file else data[at : at + size]
            return mangle(at, bytes(plain)) if mangle else plain

        def chunk(at: int, size: int) -> int:
            body = bytes(block(at, size))
            self._sock.sendall(b"%x\r\n%b\r\n" % (len(body), body))
            return len(body)

        if chunked:
            return chunk
        if file and mangle is None:
            out, source = self._sock.fileno(), file.fileno()
            return lambda at, size: os.sendfile(out, source, at, size)
        return lambda at, size: self._sock.send(block(at, size))


def converse(wire: Wire, number: int, ledger: Ledger, find: Callable[[str], tuple[Content, Behaviour]]) -> None:
    """Answer one request after the other, until either side has had enough."""
    while request := wire.read():
        live = ledger.begin(request, number)
        try:
            if not _reply(wire, request, live, ledger, *find(request.path)):
                return
        finally:
            live.finish()


def _reply(wire: Wire, request: Request, live: Live, ledger: Ledger, content: Content, how: Behaviour) -> bool:
    """Answer one request; whether the connection stays open."""
    if how.silent:
        (wire.reset if how.rst else wire.stall)()
        return False
    wire.wait_round_trip(how.delay_s)
    reply = answer(_case(request, ledger, content, how))
    live.status = reply.status
    if request.method == "HEAD" or not reply.length:
        live.finish()
    wire.send_head(reply, how)
    if request.method == "HEAD":
        return request.keep
    stop, end = _end(request.path, ledger, reply, how)
    wire.send_body(reply, how, stop, live)
    if end:
        end(wire)
    return request.keep and end is None and framing(reply, how) != "close"


def _case(request: Request, ledger: Ledger, content: Content, how: Behaviour) -> Case:
    path, requests, sent = request.path, how.replace_after, how.replace_after_bytes
    failing = how.status is not None and ledger.spend(path, "status", how.status_times, how.status_after)
    changed = requests is not None and ledger.spend(path, "replace", None, requests)
    changed = changed or (sent is not None and ledger.sent(path) >= sent)
    return Case(request, content, how, failing, changed)


def _end(path: str, ledger: Ledger, reply: Answer, how: Behaviour) -> tuple[int, Ending | None]:
    """Where the body stops, and how the connection ends when that is too early."""
    faults: tuple[tuple[str, int | None, int | None, Ending], ...] = (
        ("cut", how.cut_after, how.cut_times, Wire.reset if how.rst else Wire.hang_up),
        ("stall", how.stall_after, how.stall_times, Wire.stall),
    )
    due = [
        (reply.start + after, ending)
        for name, after, times, ending in faults
        if after is not None and after < reply.length and ledger.spend(path, name, times)
    ]
    return min(due, key=lambda end: end[0], default=(reply.stop, None))
