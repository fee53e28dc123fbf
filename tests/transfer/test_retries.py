"""What the loop does after a failed attempt, where the policy's tables cannot show it: that it ends."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

from tests.orch import Orch, made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
DATA = made(6 * MIB)


class Broken(http.server.BaseHTTPRequestHandler):
    """Gives the first two MiB of a file and not a byte more, whatever range is asked for."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range", ""))
        begin, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(begin), int(end) + 1 if end else len(DATA)
        self.send_response(206)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(DATA)}")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(DATA[start : min(stop, 2 * MIB)])
        self.close_connection = self.close_connection or stop > 2 * MIB


@contextmanager
def broken() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/w.bin"
    finally:
        server.shutdown()
        server.server_close()


def test_two_sources_that_both_stop_half_way_do_not_take_turns_for_ever(tmp_path: Path) -> None:
    """Bytes of no known digest are begun anew at another source: what came again is no progress."""
    orch = Orch(tmp_path, environ={"ORCH_RETRIES": "1"})
    with broken() as one, broken() as two:
        orch.want("w", DATA, one, mirrors=[two], sha256=None, size=None)
        done = orch.run("lock", "--json", "team.yaml")
    assert done.code == 5, done.out
    assert len(Broken.asked) < 200
