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
    from contextlib import AbstractContextManager

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
  server {{ listen 127.0.0.1:{port} backlog=511{tls}; {content} }}
}}
"""
_TLS = " ssl; ssl_certificate {prefix}/cert.pem; ssl_certificate_key {prefix}/key.pem"
# Bytes go on as they come, on as many connections as the clients have.
_FRONT = "location / {{ proxy_pass {url}; proxy_buffering off; proxy_http_version 1.1; }}"


def find(program: str) -> str | None:
    """A program's path, administrators' folders included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(slots=True)
class Server:
    """A running server; `totals` is there once our own origin ended: requests, sent, peaks by host name.

    `ca` is the file of the authority that signed its certificate; empty for plain http.
    """

    url: str
    ca: str = ""
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


def nginx(folder: Path, *, tls: bool = False) -> AbstractContextManager[Server]:
    """nginx over a folder: as fast as this machine can."""
    return _nginx(f'root "{folder}";', tls=tls)


def tls_front(behind: Server) -> AbstractContextManager[Server]:
    """nginx that speaks https to clients and http to another server."""
    return _nginx(_FRONT.format(url=behind.url), tls=True)


@contextmanager
def _nginx(content: str, *, tls: bool) -> Iterator[Server]:
    program = find("nginx") or "nginx"
    with tempfile.TemporaryDirectory(prefix="orch-bench-nginx-") as made, ExitStack() as stack:
        prefix = Path(made)
        if tls:
            _certify(prefix)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=511))
        port = listener.getsockname()[1]
        config = prefix / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",  # else its worker cannot read our folder
                prefix=prefix,
                temporary=" ".join(f"{name}_temp_path {prefix}/{name};" for name in _TEMPORARY),
                port=port,
                tls=_TLS.format(prefix=prefix) if tls else "",
                content=content,
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
        if tls:
            yield Server(f"https://127.0.0.1:{port}", str(prefix / "cert.pem"))
        else:
            yield Server(f"http://127.0.0.1:{port}")


def _certify(folder: Path) -> None:
    """Make a key and a certificate of our own for 127.0.0.1, which is its own authority."""
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


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
