"""Origins of other schemes than HTTP: a real rsync daemon behind a line that can be told to misbehave, and a folder.

They speak as `orchestrator.demo.server.Origin` does; a fault that is HTTP's own skips the test that asks for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from orchestrator.demo.faults import wrong_bytes
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 16 << 10
_CONFIG = """\
{user}
use chroot = no
reverse lookup = no
log file = {log}
[m]
path = {root}
"""


@dataclass(frozen=True)
class Line:
    """How the line behind a path behaves: bytes a second, and after how many it is cut or hangs."""

    rate: int | None = None
    cut_after: int | None = None
    cut_times: int | None = None
    stall_after: int | None = None
    rst: bool = False


class FolderOrigin:
    """Files in a folder of their own, under file:// URLs."""

    lines = False  # whether there is a line that can be slow or cut

    def __init__(self, **faults: object) -> None:
        if faults:
            pytest.skip(f"{', '.join(faults)}: not of this scheme")
        self._folder = tempfile.TemporaryDirectory(prefix="orch-origin-")
        self.root = Path(self._folder.name)
        self.root.chmod(0o755)  # root copies only what everybody may read

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"file://{self.root}"

    def serve(
        self, path: str, data: bytes = b"", *, wrong: bool = False, wrong_at: int | None = None, **faults: object
    ) -> str:
        """Have these bytes at `path`; `status` 404 has nothing there."""
        there = faults.pop("status", None) != 404
        if faults.pop("etag", ""):
            faults["etag"] = True
        line = {name: faults.pop(name) for name in Line.__dataclass_fields__ if self.lines and name in faults}
        if faults:
            pytest.skip(f"{', '.join(faults)}: not of this scheme")
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        data = wrong_bytes(data) if wrong else data
        if wrong_at is not None:
            data = data[:wrong_at] + wrong_bytes(data[wrong_at : wrong_at + 1]) + data[wrong_at + 1 :]
        new = file.with_name(f"{file.name}.new")
        new.write_bytes(data)
        new.rename(file)  # whoever is reading goes on with the old one
        if not there:
            file.unlink()
        self.tell(path, Line(**line))  # type: ignore[arg-type]
        return self.url + quote(path)

    def tell(self, path: str, line: Line) -> None:
        """Take note of how a path's line behaves."""

    def sent(self, path: str) -> int:
        """How many bytes left for this path: nobody counts."""
        return 0

    def requests(self, path: str) -> int:
        """How many asked for this path."""
        return int((self.root / path.lstrip("/")).exists())


class RsyncOrigin(FolderOrigin):
    """The same files by a real `rsync --daemon`, one a connection (it takes a socket as its stdin, so no port is
    guessed), behind a relay that counts and paces what it sends, cuts it or hangs.
    """

    lines = True

    def __init__(self, *, port: int = 0, **faults: object) -> None:
        program = require("rsync")
        super().__init__(**faults)
        self.port = port
        self._program = f"{self.root}.rsyncd"  # a name of its own: tests look for `rsync` among their children
        os.symlink(program, self._program)
        self._argv = [self._program, "--daemon", "--no-detach", f"--config={self.root}.conf"]
        self._lines: dict[str, Line] = {}
        self._sent: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._cuts: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self):
        user = "uid = root\ngid = root" if os.geteuid() == 0 else ""  # else it may not read a temporary folder
        Path(f"{self.root}.conf").write_text(_CONFIG.format(user=user, root=self.root, log=f"{self.root}.log"))
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = listener.getsockname()[1]
        self._start(lambda: self._listen(listener), listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for daemon in self._daemons:
            daemon.kill()
        for daemon in self._daemons:
            daemon.wait(5)
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()
        for suffix in (".conf", ".log", ".rsyncd"):
            Path(f"{self.root}{suffix}").unlink(missing_ok=True)
        super().__exit__()

    @property
    def url(self) -> str:
        return f"rsync://127.0.0.1:{self.port}/m"

    def tell(self, path: str, line: Line) -> None:
        self._lines[path], self._cuts[path] = line, 0

    def sent(self, path: str) -> int:
        """How many bytes left for this path, what the protocol adds to the file included."""
        return self._sent[path]

    def requests(self, path: str) -> int:
        return self._requests[path]

    def _start(self, work: Callable[[], None], *sockets: socket.socket) -> None:
        def run() -> None:
            with contextlib.suppress(OSError):
                work()

        thread = threading.Thread(target=run, name="rsync-origin", daemon=True)
        self._sockets += sockets
        self._threads.append(thread)
        thread.start()

    def _listen(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            client, _ = listener.accept()
            with socket.create_server(("127.0.0.1", 0)) as between:  # the daemon insists on a peer with an address
                daemon = socket.create_connection(between.getsockname())
                stdin, _ = between.accept()
            with stdin:
                self._daemons.append(subprocess.Popen(self._argv, stdin=stdin, stdout=stdin, stderr=subprocess.DEVNULL))
            asked: list[str] = []
            self._start(lambda c=client, d=daemon, a=asked: self._up(c, d, a), client, daemon)  # type: ignore[misc]
            self._start(lambda c=client, d=daemon, a=asked: self._down(d, c, a))  # type: ignore[misc]

    def _up(self, client: socket.socket, daemon: socket.socket, asked: list[str]) -> None:
        """Pass on what the client says, and read in it what it asks for: words, each with a NUL, then an empty one."""
        head = b""
        while said := client.recv(_BLOCK):
            if not asked:
                head += said
                words = re.search(rb"\0\.\0m(/[^\0]*)\0\0", head)
                if words is not None:
                    path = re.sub(rb"\\([*?\[\]])", rb"\1", words[1]).decode()
                    self._requests[path] += 1
                    asked.append(path)
            daemon.sendall(said)
        daemon.shutdown(socket.SHUT_WR)

    def _down(self, daemon: socket.socket, client: socket.socket, asked: list[str]) -> None:
        """Pass on what the daemon sends, as the line of that path behaves, until it hangs up in whatever way."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _BLOCK)
        daemon.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * _BLOCK)
        try:
            reset = self._pass_on(daemon, client, asked)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.shutdown(socket.SHUT_RD)  # so that nobody waits in it: only then is it closed
                client.close()
        finally:
            for sock in (client, daemon):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, daemon: socket.socket, client: socket.socket, asked: list[str]) -> bool:
        """Do so until either ends, or the line is cut; says whether that is to be a reset."""
        count, due = 0, time.monotonic()
        while block := daemon.recv(_BLOCK):
            path = asked[0] if asked else ""
            line = self._lines.get(path, Line())
            if line.stall_after is not None and count + len(block) > line.stall_after:
                self._stopping.wait(60)
                return False
            client.sendall(block)
            count += len(block)
            self._sent[path] += len(block)
            if line.cut_after is not None and count >= line.cut_after:
                self._cuts[path] += 1
                if line.cut_times is None or self._cuts[path] <= line.cut_times:
                    return line.rst
            if line.rate:
                due = max(due, time.monotonic() - 0.1) + len(block) / line.rate
                self._stopping.wait(max(0.0, due - time.monotonic()))
        return False
