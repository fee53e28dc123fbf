"""Connections of orch's own HTTP client: race all addresses of a name (RFC 8305), and obey a stop while waiting."""

from __future__ import annotations

import errno
import os
import queue
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STAGGER_S = 0.25  # RFC 8305, section 5: the delay between two connection attempts
STOP_S = 0.1  # how often the stop is checked

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


@lru_cache(maxsize=8)
def trust(ca: str) -> ssl.SSLContext:
    """The TLS context for a CA bundle, cached: reading one takes some 20 ms (plain http may redirect to https)."""
    return ssl.create_default_context(cafile=ca)


class Racing:
    """Makes a client's connections.

    `ipv4_only` is set once an IPv6 address was silent and an IPv4 one answered. `judge`, where a caller sets one, is
    shown the addresses of a host before any of them is connected to; what it raises ends the request.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.ipv4_only = False
        self.judge: Callable[[Sequence[str]], None] | None = None
        self._stop = stop or threading.Event()

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to whichever address of `host` answers first.

        Raises:
            TimeoutError: none did within `timeout_s`.
            OSError: there is no such name, or every address refused or was unreachable.
            Stopped: a stop was asked for.
            Whatever `judge` raises.
        """
        end = time.monotonic() + timeout_s
        addresses = interleaved(resolve(host, port, timeout_s, self._stop))
        if self.judge is not None:
            self.judge([str(address[0]) for _, address in addresses])
        sock, silent = _race(addresses, end, self._stop)
        if sock.family == socket.AF_INET and socket.AF_INET6 in silent:
            self.ipv4_only = True
        return sock


def resolve(host: str, port: int, timeout_s: float, stop: threading.Event | None = None) -> list[Address]:
    """Look up the addresses of a name, in the system's order, in a thread that is abandoned if it hangs.

    Raises:
        TimeoutError: no answer within `timeout_s`.
        OSError: there is no such name.
        UnicodeError: it cannot be a name.
        Stopped: a stop was asked for.
    """
    with suppress(OSError, UnicodeError):
        return _ask(host, port, socket.AI_NUMERICHOST)
    answers: queue.Queue[list[Address] | OSError | UnicodeError] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(_ask(host, port, 0))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="orch-resolve", daemon=True).start()
    end = time.monotonic() + timeout_s
    while True:
        try:
            found = answers.get(timeout=max(0.0, min(STOP_S, end - time.monotonic())))
        except queue.Empty:
            if stop is not None and stop.is_set():
                raise Stopped("stopped while a name was looked up") from None
            if time.monotonic() >= end:
                raise TimeoutError("the name was not resolved in time") from None
            continue
        if isinstance(found, list):
            return found
        raise found


def _ask(host: str, port: int, flags: int) -> list[Address]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in infos))


def interleaved(addresses: list[Address]) -> list[Address]:
    """Alternate the addresses of both families, beginning with the system's first (RFC 8305, section 4)."""
    if not addresses:
        return []
    preferred = addresses[0][0]
    first = [address for address in addresses if address[0] == preferred]
    second = [address for address in addresses if address[0] != preferred]
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


def _race(
    addresses: list[Address], end: float, stop: threading.Event
) -> tuple[socket.socket, set[socket.AddressFamily]]:
    """Try the addresses in order, the next one whenever one fails or after 250 ms; the first to answer wins.

    Returns:
        Its socket, and the families of the addresses that were tried before it and did not answer.
    """
    left, begun, lost = list(addresses), dict[int, socket.socket](), list[socket.AddressFamily]()
    error: OSError = TimeoutError("no address answered in time")
    poll, next_s = select.poll(), 0.0
    try:
        while left or begun:
            now = time.monotonic()
            if stop.is_set():
                raise Stopped("stopped while connecting")
            if now >= end:
                raise TimeoutError("no address answered in time")
            if left and (now >= next_s or not begun):
                family, address = left.pop(0)
                next_s = now + STAGGER_S
                try:
                    sock = _begin(family, address)
                except OSError as problem:
                    error = problem
                    lost.append(family)
                    continue
                begun[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
            wait_s = min(STOP_S, end - now, next_s - now if left else STOP_S)
            for fd, _ in poll.poll(max(0.0, wait_s) * 1000):
                poll.unregister(fd)
                sock = begun.pop(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return sock, {*lost, *(other.family for other in begun.values())}
                error = OSError(code, os.strerror(code))
                lost.append(sock.family)
                sock.close()
                next_s = 0.0
        raise error
    finally:
        for sock in begun.values():
            sock.close()


def _begin(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
