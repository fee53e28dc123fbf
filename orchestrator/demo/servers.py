"""The demo's servers: an origin on the port of its choice, one that breaks, an address where nobody listens."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from orchestrator.demo.server import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WATCH_S = 0.01


@contextmanager
def origin(port: int, folder: Path, rate: int) -> Iterator[Origin]:
    """Serve a folder at so many bytes a second on a connection; on this port if it is free."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Origin(port=port, folder=folder, rate=rate))
        except OSError:  # another demo, or whatever stands there
            server = stack.enter_context(Origin(folder=folder, rate=rate))
        yield server


@contextmanager
def breaking_at(server: Origin, path: str, size: float) -> Iterator[None]:
    """Take the server down once so many bytes have left it, over however many connections that was."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            if server.sent(path) >= size:
                server.__exit__()
                return

    watcher = threading.Thread(target=watch, name="breaks", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def dead(port: int) -> Iterator[str]:
    """A port that is ours and refuses: bound, so that nobody takes it, and not listening."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
