"""A loopback HTTP origin that misbehaves on demand; the demo, the tests and the benchmarks use it."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.demo.faults import Behaviour, Content
from orchestrator.demo.request_log import RequestLog, RequestRecord
from orchestrator.demo.wire import Wire, serve_connection

if TYPE_CHECKING:
    from collections.abc import Callable


class Origin:
    """Serves what it is given, from threads of this process; a context manager.

    Args:
        host: the address to listen on.
        also: further addresses (127.0.0.2, ::1) on the same port: one origin with several host names.
        port: 0 takes a free one.
        folder: serve the files below it as well.
        faults: fields of Behaviour, for every path.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        also: tuple[str, ...] = (),
        port: int = 0,
        folder: str | os.PathLike[str] | None = None,
        **faults: Any,
    ) -> None:
        self.host, self.port = host, port
        self._addresses, self._folder = (host, *also), Path(folder).resolve() if folder else None
        self._behaviour = Behaviour(**faults)
        self._served: dict[str, tuple[Content | str, Behaviour]] = {}
        self._requests = RequestLog()
        self._mutex, self._stopping = threading.Lock(), threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Origin:
        for address in self._addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            listener = socket.create_server((address, self.port), family=family, backlog=1024)
            self.port = listener.getsockname()[1]
            self._start(listener, self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._stopping.set()
            threads = tuple(self._threads)
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)

    @property
    def url(self) -> str:
        """The URL that it listens on, without a slash at the end."""
        return self.at(self.host)

    def at(self, name: str) -> str:
        """The same URL with another name of this machine, such as `localhost` or one of `also`."""
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}"

    def serve(self, path: str, data: bytes | str | os.PathLike[str] = b"", **faults: Any) -> str:
        """Serve bytes, or the file of that name, at `path`, and count its faults from 0 again.

        Returns:
            The URL.
        """
        path = "/" + path.lstrip("/")
        content = Content.of(data) if isinstance(data, bytes) else os.fspath(data)
        with self._mutex:
            self._served[path] = content, replace(self._behaviour, **faults)
        self._requests.renew(path)
        return self.url + quote(path)

    @property
    def log(self) -> tuple[RequestRecord, ...]:
        """Every request so far, including those that are still being answered."""
        return self._requests.log()

    def sent(self, path: str) -> int:
        """How many bytes of bodies were sent for this path."""
        return self._requests.sent(path)

    def requests(self, path: str) -> int:
        """How many requests there were for this path."""
        return self._requests.requests(path)

    @property
    def peak_connections(self) -> int:
        """The most requests that were being answered at the same time."""
        return self._requests.peaks[""]

    @property
    def peaks(self) -> dict[str, int]:
        """`peak_connections` by the name in the Host header; `""` is all names together."""
        return dict(self._requests.peaks)

    def _start(self, sock: socket.socket, work: Callable[[socket.socket], None]) -> None:
        def run() -> None:
            with sock, suppress(OSError):
                work(sock)
            with self._mutex:
                self._sockets.discard(sock)
                self._threads.discard(thread)

        thread = threading.Thread(target=run, name="origin", daemon=True)
        with self._mutex:
            if self._stopping.is_set():
                sock.close()
                return
            self._sockets.add(sock)
            self._threads.add(thread)
            thread.start()

    def _listen(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(sock, self._serve_connection)

    def _serve_connection(self, sock: socket.socket) -> None:
        serve_connection(Wire(sock), next(self._numbers), self._requests, self._find)

    def _find(self, path: str) -> tuple[Content, Behaviour]:
        source, behaviour = self._served.get(path, (None, self._behaviour))
        if source is None and self._folder:
            file = (self._folder / path.lstrip("/")).resolve()
            source = str(file) if file.is_relative_to(self._folder) and file.is_file() else None
        if isinstance(source, Content):
            return source, behaviour
        if source is None or not os.path.isfile(source):
            return Content.of(b""), Behaviour(status=404)
        return Content.of(source), behaviour


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main(arguments: list[str] | None = None) -> int:
    """Serve a folder until SIGINT or SIGTERM; prints the URL first, and last what was served, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.demo.server", description=main.__doc__)
    parser.add_argument("folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--also", action="append", default=[], help="a further address, such as 127.0.0.2")
    parser.add_argument("--port", type=int, default=0)
    for name, kind in _FLAGS.items():
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        settings: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(flag, dest=name, default=None, **settings)
    given = vars(parser.parse_args(arguments))
    faults = {name: given[name] for name in _FLAGS if given[name] is not None}
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    place = {"host": given["host"], "also": tuple(given["also"]), "port": given["port"]}
    with Origin(folder=given["folder"], **place, **faults) as origin:
        print(origin.url, flush=True)
        signal.sigwait(stop)
    log = origin.log
    totals = {"requests": len(log), "sent": sum(record.sent for record in log), "peaks": origin.peaks}
    print(json.dumps(totals), flush=True)
    return 0


def _size(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper(), 1)
    return int(float(text.rstrip("kKmMgG")) * unit)


_KINDS: dict[str, Callable[[str], object]] = {
    "bool": bool,
    "int": _size,
    "int | None": _size,
    "float": float,
}
_FLAGS = {item.name: _KINDS.get(str(item.type), str) for item in fields(Behaviour) if item.name != "headers"}


if __name__ == "__main__":
    raise SystemExit(main())
