"""A server of answers that real servers give and no standard foresees, each with a name, as HTTP clients collect them.

The behaviours are those of curl's tests/data, wget2's and aria2's tests and restic's suite: facts, told anew.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


@dataclass
class Asked:
    """One request: what it asks for, of what, as which request for that name, and how many are under way."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes
    number: int
    under_way: int
    port: int

    @property
    def range(self) -> tuple[int, int] | None:
        """The half-open range asked for, cut to the size."""
        found = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("range", ""))
        if found is None:
            return None
        return int(found[1]), min(len(self.data), int(found[2]) + 1 if found[2] else len(self.data))

    @property
    def is_moved(self) -> bool:
        """Whether it followed a redirect of ours."""
        return self.path.startswith("/ok/") or "go=1" in self.path


@dataclass
class Said:
    """An answer in bytes; `ends` closes the connection."""

    head: bytes
    body: bytes = b""
    ends: bool = False
    late_s: float = field(default=0.0)


def lines(status: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode("latin-1")


def good(asked: Asked, *more: str, status: str = "", ends: bool = False) -> Said:
    """The right answer, with odd headers."""
    data, tag = asked.data, ("Accept-Ranges: bytes", 'ETag: "x"')
    if asked.range is None:
        return Said(lines(status or "200 OK", *tag, f"Content-Length: {len(data)}", *more), data, ends)
    start, stop = asked.range
    if start >= len(data):
        return Said(lines("416 No", f"Content-Range: bytes */{len(data)}", "Content-Length: 0"))
    span = f"Content-Range: bytes {start}-{stop - 1}/{len(data)}"
    head = lines(status or "206 Partial Content", *tag, span, f"Content-Length: {stop - start}", *more)
    return Said(head, data[start:stop], ends)


def whole(asked: Asked, *headers: str, ends: bool = False, status: str = "200 OK") -> Said:
    return Said(lines(status, *headers), asked.data, ends)


def partial(asked: Asked, start: int, stop: int, *, span: str | None = None, tag: str = "") -> Said:
    """A 206 of any bytes, under any Content-Range; the right answer to who asked for no range."""
    if asked.range is None:
        return good(asked)
    told = f"Content-Range: {span}" if span is not None else ""
    headers = [line for line in (told, tag, f"Content-Length: {max(0, stop - start)}") if line]
    return Said(lines("206 Partial Content", "Accept-Ranges: bytes", *headers), asked.data[start : max(start, stop)])


def chunked(asked: Asked, *headers: str, extension: bytes = b"", trailer: bytes = b"") -> Said:
    data, step = asked.data, 70_000
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return Said(lines("200 OK", "Transfer-Encoding: chunked", *headers), body + b"0\r\n" + trailer + b"\r\n")


def moved(asked: Asked, location: str, *more: str, status: str = "302 Found", body: bytes = b"") -> Said:
    if asked.is_moved:
        return good(asked)
    where = f"Location: {location}"
    return Said(lines(status, f"Content-Length: {len(body)}", where, *more), body)


def _multipart(asked: Asked) -> Said:
    if asked.range is None:
        return good(asked)
    start, stop = asked.range
    span = f"Content-Range: bytes {start}-{stop - 1}/{len(asked.data)}"
    body = b"--S\r\n" + f"{span}\r\n\r\n".encode() + asked.data[start:stop] + b"\r\n--S--\r\n"
    kind = "Content-Type: multipart/byteranges; boundary=S"
    return Said(lines("206 Partial Content", kind, f"Content-Length: {len(body)}"), body)


def _short(asked: Asked) -> Said:
    start, stop = asked.range or (0, len(asked.data))
    stop = min(stop, start + MIB)
    return partial(asked, start, stop, span=f"bytes {start}-{stop - 1}/{len(asked.data)}")


def _off_by_one(asked: Asked) -> Said:
    start, stop = asked.range or (0, len(asked.data))
    return partial(asked, start, stop - 1, span=f"bytes {start}-{stop - 2}/{len(asked.data)}")


def _other_start(asked: Asked) -> Said:
    start, stop = asked.range or (0, 0)
    if start == 0:
        return good(asked)
    return partial(asked, 0, stop - start, span=f"bytes 0-{stop - start - 1}/{len(asked.data)}")


def _of(asked: Asked, total: str | None) -> Said:
    start, stop = asked.range or (0, len(asked.data))
    return partial(asked, start, stop, span=None if total is None else f"bytes {start}-{stop - 1}/{total}")


def _etags(asked: Asked) -> Said:
    tag = f'ETag: "{asked.number}"'
    start, stop = asked.range or (0, len(asked.data))
    if asked.range is None or "if-range" in asked.headers:
        return whole(asked, "Accept-Ranges: bytes", tag, f"Content-Length: {len(asked.data)}")
    return partial(asked, start, stop, span=f"bytes {start}-{stop - 1}/{len(asked.data)}", tag=tag)


def _at_most(asked: Asked, most: int, status: str, *more: str) -> Said:
    if asked.under_way > most:
        return Said(lines(status, "Content-Length: 0", *more))
    said = good(asked)
    said.late_s = 0.05
    return said


def _cookie(asked: Asked) -> Said:
    if asked.path.startswith("/ok/") and "s=1" not in asked.headers.get("cookie", ""):
        return Said(lines("403 Forbidden", "Content-Length: 0"))
    return moved(asked, "/ok/x", "Set-Cookie: s=1; Path=/")


def _no_ranges(asked: Asked, status: str) -> Said:
    if asked.range is not None:
        return Said(lines(status, "Content-Length: 0"))
    return good(asked)


def _length(asked: Asked, text: str, *, ends: bool = True) -> Said:
    return whole(asked, f"Content-Length: {text.format(len(asked.data))}", ends=ends)


def gone(_: Asked) -> Said:
    return Said(lines("404 Not Found", "Content-Length: 0"))


# Some program by hand gets the right bytes of these, and so orch must.
FETCHED: dict[str, Callable[[Asked], Said]] = {
    "plain": good,
    "a 103 before the answer": lambda a: _before(good(a), "103 Early Hints"),
    "a 100 before the answer": lambda a: _before(good(a), "100 Continue"),
    "chunks with a trailer": lambda a: chunked(a, "Trailer: X-Sum", trailer=b"X-Sum: 1\r\nX-Other: 2\r\n"),
    "chunks with extensions": lambda a: chunked(a, extension=b";name=v"),
    "chunks with a length": lambda a: chunked(a, f"Content-Length: {len(a.data)}"),
    "the length twice": lambda a: good(
        a, f"Content-Length: {(a.range or (0, len(a.data)))[1] - (a.range or (0, 0))[0]}"
    ),
    "another length behind it": lambda a: good(a, "Content-Length: 17"),
    "a length in a list": lambda a: _length(a, "{0}, {0}"),
    "letters behind the length": lambda a: _length(a, "{0}abc"),
    "a negative length": lambda a: _length(a, "-{0}"),
    "a folded header": lambda a: good(a, "X-Fold: a", " b", "\tc"),
    "a line without a colon": lambda a: good(a, "this header has no colon"),
    "a NUL in a header": lambda a: good(a, "X-N: a\0b"),
    "a first line that is folded": lambda a: whole(a, " Bad: first", f"Content-Length: {len(a.data)}", ends=True),
    "a hundred KB of one header": lambda a: good(a, "X-Long: " + "a" * 90_000),
    "a range as multipart": _multipart,
    "a range from another start": _other_start,
    "a range without Content-Range": lambda a: _of(a, None),
    "a range of *": lambda a: _of(a, "*"),
    "a shorter range": _short,
    "a range short of one byte": _off_by_one,
    "ranges are answered by 500": lambda a: _no_ranges(a, "500 Oops"),
    "ranges are answered by 400": lambda a: _no_ranges(a, "400 Bad Request"),
    "ranges are answered by 416": lambda a: _no_ranges(a, "416 No"),
    "206 without a range": lambda a: (
        good(a)
        if a.range
        else whole(
            a,
            f"Content-Range: bytes 0-{len(a.data) - 1}/{len(a.data)}",
            f"Content-Length: {len(a.data)}",
            status="206 P",
        )
    ),
    "HTTP/1.0 without a length": lambda a: Said(b"HTTP/1.0 200 OK\r\n\r\n", a.data, ends=True),
    "nothing at first": lambda a: Said(b"", ends=True) if a.number == 1 else good(a),
    "502 at first": lambda a: Said(lines("502 Bad", "Content-Length: 0")) if a.number == 1 else good(a),
    "an encoding that is none": lambda a: good(a, "Content-Encoding: identity"),
    "an encoding that is no compression": lambda a: good(a, "Content-Encoding: utf-8"),
    "an encoding that is a lie": lambda a: good(a, "Content-Encoding: gzip"),
    "bytes behind the body": lambda a: _behind(good(a), b"GARBAGE" * 10),
    "a name that leads away": lambda a: good(a, 'Content-Disposition: attachment; filename="../../evil"'),
    "another name": lambda a: good(a, "Content-Disposition: attachment; filename*=UTF-8''other%20name"),
    "another ETag each time": _etags,
    "ranges although it says none": lambda a: (
        good(a) if a.range else whole(a, "Accept-Ranges: none", f"Content-Length: {len(a.data)}")
    ),
    "one connection": lambda a: _at_most(a, 1, "503 Busy"),
    "four connections": lambda a: _at_most(a, 4, "403 Forbidden"),
    "two connections": lambda a: _at_most(a, 2, "429 Too Many", "Retry-After: 1"),
    "a relative location": lambda a: moved(a, "ok/x"),
    "a location with a host": lambda a: moved(a, f"//127.0.0.1:{a.port}/ok/x"),
    "a location with a fragment": lambda a: moved(a, "/ok/x#part"),
    "a location with dots": lambda a: moved(a, "/a/b/../../ok/x"),
    "a location that is a query": lambda a: moved(a, "?go=1"),
    "a location with blanks around": lambda a: moved(a, "   /ok/x   "),
    "a redirect with a body": lambda a: moved(a, "/ok/x", body=b"x" * 40_000),
    "a cookie from a redirect": _cookie,
    "a redirect by 308": lambda a: moved(a, "/ok/x", status="308 Permanent"),
    "a redirect by 303": lambda a: moved(a, "/ok/x", status="303 See Other"),
    "closes each time": lambda a: good(a, "Connection: close", ends=True),
    "no reason": lambda a: good(a, status="206" if a.range else "200"),
}

# Nobody gets the right bytes of these; they end soon, and nothing wrong is placed.
HOPELESS: dict[str, Callable[[Asked], Said]] = {
    "a chunk too large to be": lambda a: Said(
        lines("200 OK", "Transfer-Encoding: chunked"), b"f" * 19 + b"\r\n" + a.data[:100], ends=True
    ),
    "chunks that are none": lambda a: Said(lines("200 OK", "Transfer-Encoding: chunked"), b"zz\r\nx", ends=True),
    "a length of zero": lambda a: Said(lines("200 OK", "Content-Length: 0")),
    "an empty answer": lambda _: Said(lines("204 No Content")),
    "no location": lambda _: Said(lines("302 Found", "Content-Length: 0")),
    "a location that is a file": lambda a: moved(a, "file:///etc/passwd"),
    "a location of another scheme": lambda a: moved(a, "gopher://127.0.0.1/x"),
    "redirects in a ring": lambda a: Said(lines("302 Found", "Content-Length: 0", f"Location: {a.path}")),
    "gone": gone,
}


def _before(said: Said, status: str) -> Said:
    said.head = lines(status, "Link: </x>; rel=preload") + said.head
    return said


def _behind(said: Said, more: bytes) -> Said:
    said.body, said.ends = said.body + more, True
    return said


class Odd:
    """The server: `/NUMBER` is the answer of that number among `rows`, of bytes of its own of `size`."""

    def __init__(self, rows: dict[str, Callable[[Asked], Said]], size: int) -> None:
        self._rows, self._size = (*rows.values(), gone), size
        self._numbers, self._under_way = Counter[str](), Counter[str]()
        self._data: dict[int, bytes] = {}
        self._mutex, self._listener = threading.Lock(), socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[Odd]:
        """Serve while the block lasts."""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def data(self, number: int) -> bytes:
        """The bytes behind a row."""
        if number not in self._data:
            self._data[number] = random.Random(number).randbytes(self._size)
        return self._data[number]

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        heard = b""
        with sock, contextlib.suppress(OSError):
            while True:
                while b"\r\n\r\n" not in heard:
                    block = sock.recv(65536)
                    if not block:
                        return
                    heard += block
                top, _, heard = heard.partition(b"\r\n\r\n")
                if self._answer(sock, top.decode("latin-1")):
                    return

    def _answer(self, sock: socket.socket, top: str) -> bool:
        first, *rest = top.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        name = re.search(r"/(\d+)", path.removeprefix("/ok"))
        row = int(name[1]) if name else len(self._rows) - 1  # the last one says 404
        key = f"{row} {path.startswith('/ok')}"
        with self._mutex:
            self._numbers[key] += 1
            self._under_way[key] += 1
            asked = Asked(method, path, headers, self.data(row), self._numbers[key], self._under_way[key], self.port)
        try:
            said = self._rows[row](asked)
            sock.sendall(said.head.replace(b"/ok/x", b"/ok/%d" % row).replace(b" ok/x", b" ok/%d" % row))
            if said.late_s:
                threading.Event().wait(said.late_s)
            if method != "HEAD":
                sock.sendall(said.body)
        finally:
            with self._mutex:
                self._under_way[key] -= 1
        return said.ends
