"""Servers and programs that tests lean on: nginx, the origin in a process of its own, and what is missing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {prefix}/pid;
error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format counted '$status $body_bytes_sent $request_method $uri';
  access_log {prefix}/access.log counted;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  {temporary}
  server {{
    listen 127.0.0.1:{port};
    root "{root}";
    {extra}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx: where it listens and what it logged."""

    url: str
    prefix: Path

    def sent(self, path: str) -> int:
        """How many bytes of bodies left for this path, once the log is still."""
        return sum(int(sent) for _, sent, _, found in self._lines() if found == path)

    def requests(self, path: str) -> int:
        return sum(found == path for *_, found in self._lines())

    def counts(self) -> Counter[str]:
        """How many requests came for each path."""
        return Counter(found for *_, found in self._lines())

    def _lines(self) -> list[list[str]]:
        log, seen = self.prefix / "access.log", -1  # a line is written when its answer is over, not before
        while seen != (seen := log.stat().st_size):
            time.sleep(0.03)
        return [line.split(" ", 3) for line in log.read_text().splitlines()]


def require(program: str) -> str:
    """The path of a program; without it the test is skipped, or fails where ORCH_TEST_REQUIRE names it."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found:
        return found
    if program in os.environ.get("ORCH_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{program} is missing, and ORCH_TEST_REQUIRE demands it")
    return pytest.skip(f"{program} is missing")


@contextlib.contextmanager
def nginx(root: str | os.PathLike[str], extra: str = "") -> Iterator[Nginx]:
    """Serve a folder by a real nginx on a loopback port; `extra` goes into its `server` block."""
    program = require("nginx")
    with tempfile.TemporaryDirectory(prefix="orch-nginx-") as folder, contextlib.ExitStack() as stack:
        prefix = Path(folder)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=511))
        port = listener.getsockname()[1]
        config = prefix / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",  # else a worker cannot read tmp_path
                prefix=prefix,
                temporary=" ".join(f"{name}_temp_path {prefix}/{name};" for name in _TEMPORARY),
                port=port,
                root=Path(root).resolve(),
                extra=extra,
            )
        )
        argv = [program, "-p", folder, "-c", str(config), "-e", str(prefix / "error.log")]
        # nginx inherits the bound socket, as at its own upgrades: nobody can take the port in between.
        env = {**os.environ, "NGINX": f"{listener.fileno()};"}
        master = subprocess.Popen(argv, env=env, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        stack.callback(_end, master)
        listener.close()  # else a connection to a dead nginx would hang, not be refused
        while not (prefix / "pid").exists():
            if master.poll() is not None:
                pytest.fail(f"nginx did not start:\n{(prefix / 'error.log').read_text()}")
            time.sleep(0.01)
        yield Nginx(f"http://127.0.0.1:{port}", prefix)


class Running:
    """The origin in a process of its own; `totals` is there once it ended."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.totals: dict[str, object] = {}


@contextlib.contextmanager
def origin_process(folder: str | os.PathLike[str], *flags: str) -> Iterator[Running]:
    """Serve a folder by `python -m orchestrator.demo.server`, in an interpreter of its own."""
    argv = [sys.executable, "-m", "orchestrator.demo.server", *flags, os.fspath(folder)]
    house = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(argv, cwd=house, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as lines:
        try:
            running = Running(lines.readline().strip())
            yield running
            child.terminate()
            running.totals = json.loads(lines.readline())
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def tracker(*info_hashes: bytes, port: int = 0) -> Iterator[str]:
    """Run an opentracker on loopback that serves these torrents; gives its announce URL.

    Debian builds it closed: without a list it refuses all. The list is read after chroot(2).
    """
    program = require("opentracker")
    with tempfile.TemporaryDirectory(prefix="orch-tracker-") as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        (Path(folder) / "white.txt").write_text("".join(f"{each.hex()}\n" for each in info_hashes))
        port = port or stack.enter_context(reserved_port())
        argv = [program, "-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", folder, "-w", "white.txt"]
        argv += ["-u", "nobody"] if os.geteuid() == 0 else []
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert child.poll() is None, "opentracker did not start"
                assert time.monotonic() < end, "opentracker does not listen"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/announce"
        finally:
            _end(child)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that refuses connections until a server of this test listens there; nobody else is given it.

    Linux binds a second socket to a port if both have SO_REUSEADDR and none listens yet, but hands such a port out to
    nobody by itself. So it may be reserved before, between and after the servers on it.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
