"""The servers: our own paced origin and nginx, each a process of its own on a loopback port."""

# ruff: noqa: S603 - every command is made in this package

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import BenchError

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
  access_log off;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  {temporary}
  server {{ listen 127.0.0.1:{port} backlog=511; root "{root}"; }}
}}
"""


def find(program: str) -> str | None:
    """A program's path, administrators' folders included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(slots=True)
class Server:
    """A running server; `totals` is there once our own origin ended: requests, sent, peaks by host name."""

    url: str
    totals: dict[str, Any] = field(default_factory=dict)


@contextmanager
def origin(folder: Path, *flags: str) -> Iterator[Server]:
    """The paced origin of the demo, in an interpreter of its own."""
    argv = [sys.executable, "-m", "orchestrator.demo.server", *flags, str(folder)]
    house = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(argv, cwd=house, stdout=subprocess.PIPE, text=True)
    try:
        if child.stdout is None or not (url := child.stdout.readline().strip()):
            raise BenchError("the origin did not start")
        server = Server(url)
        yield server
        child.terminate()
        server.totals = json.loads(child.stdout.readline())
    finally:
        _end(child)


@contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """nginx over a folder: as fast as this machine can."""
    program = find("nginx") or "nginx"
    with tempfile.TemporaryDirectory(prefix="orch-bench-nginx-") as made, ExitStack() as stack:
        prefix = Path(made)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=511))
        port = listener.getsockname()[1]
        config = prefix / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",  # else its worker cannot read our folder
                prefix=prefix,
                temporary=" ".join(f"{name}_temp_path {prefix}/{name};" for name in _TEMPORARY),
                port=port,
                root=folder,
            )
        )
        argv = [program, "-p", made, "-c", str(config), "-e", str(prefix / "error.log")]
        # nginx inherits the bound socket, as at its own upgrades: nobody can take the port in between.
        env = {**os.environ, "NGINX": f"{listener.fileno()};"}
        child = subprocess.Popen(argv, env=env, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        stack.callback(_end, child)
        listener.close()
        while not (prefix / "pid").exists():
            if child.poll() is not None:
                raise BenchError(f"nginx did not start:\n{(prefix / 'error.log').read_text()}")
            time.sleep(0.01)
        yield Server(f"http://127.0.0.1:{port}")


@contextmanager
def nobody() -> Iterator[Server]:
    """A port of this machine that refuses: it is bound, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.4", 0))
        yield Server(f"http://127.0.0.4:{sock.getsockname()[1]}")


def _end(child: subprocess.Popen[Any]) -> None:
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout:
        child.stdout.close()
