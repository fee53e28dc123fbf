"""Hubs that answer what no hub answers: bounded in bytes, values, pages and time; the token stays with its hub."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator.context import Context
from orchestrator.hubs import huggingface, transport
from orchestrator.model import Repo
from tests.orch import Done, Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
TOKEN = "hf_aSecretOfSomebody"
COMMIT = "a" * 40
JSON = ("Content-Type", "application/json")
HUBS = ("hf", "modelscope")


class HostileHub:
    """A hub whose every answer is made by a function of the request; it keeps what it heard."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[Any], None] = lambda handler: reply(handler, b"{}")
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                try:
                    hub.answer(self)
                except OSError:  # the client went away, as it should
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"

    @property
    def tokens(self) -> int:
        return sum("authorization" in headers for _, headers in self.heard)

    @contextmanager
    def running(self) -> Iterator[HostileHub]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@pytest.fixture
def hub() -> Iterator[HostileHub]:
    with HostileHub().running() as running:
        yield running


@pytest.fixture
def other() -> Iterator[HostileHub]:
    with HostileHub("127.0.0.2").running() as running:
        yield running


def reply(handler: Any, body: bytes, *headers: tuple[str, str], status: int = 200) -> None:
    handler.send_response(status)
    for name, value in (("Content-Length", str(len(body))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def start(tmp_path: Path, hub: HostileHub, name: str) -> subprocess.Popen[str]:
    endpoint = "HF_ENDPOINT" if name == "hf" else "MODELSCOPE_ENDPOINT"
    tmp_path.mkdir(exist_ok=True)
    orch = Orch(tmp_path, {"m": {"repo": f"{name}:o/n", "to": "models/m/"}})
    orch.environ = {endpoint: hub.url, "HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": TOKEN}
    return orch.start("lock", "team.yaml")


def lock(tmp_path: Path, hub: HostileHub, name: str) -> tuple[Done, int]:
    """Lock a repository; gives the end of the command and the most memory that it had, in MiB."""
    running, most = start(tmp_path, hub, name), 0
    while running.poll() is None:
        try:
            most = max(most, psutil.Process(running.pid).memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    out, err = running.communicate(timeout=60)
    assert "Traceback" not in err, err
    assert TOKEN not in out + err
    return Done(running.returncode, out, err), most // MIB


def commit_only(handler: Any) -> bool:
    """Answer the question for the commit, as a hub does; gives whether that was the question."""
    if "/tree/" not in handler.path:
        reply(handler, json.dumps({"id": "o/n", "sha": COMMIT, "gated": False, "siblings": []}).encode(), JSON)
        return True
    return False


@pytest.mark.parametrize("name", HUBS)
def test_a_body_without_an_end_is_left_at_64_mib(tmp_path: Path, hub: HostileHub, name: str) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * MIB)

    hub.answer = endless
    done, most = lock(tmp_path, hub, name)
    assert (done.code, most < 400) == (5, True), (done, most)
    assert "answers more than 64 MiB" in done.err
    assert "hint: check HF_ENDPOINT" in done.err
    assert all(headers["accept-encoding"] == "identity" for _, headers in hub.heard)


@pytest.mark.parametrize("name", HUBS)
def test_a_packed_body_is_not_unpacked(tmp_path: Path, hub: HostileHub, name: str) -> None:
    bomb = gzip.compress(bytes(100 * MIB))
    hub.answer = lambda handler: reply(handler, bomb, ("Content-Encoding", "gzip"), JSON)
    done, most = lock(tmp_path, hub, name)
    assert (done.code, most < 150) == (5, True), (done, most)
    assert "compresses its answer" in done.err


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize(
    "body",
    [b"[" * 300_000, b"[" + b"{}," * 8_000_000 + b"0]", b'{"sha": 1%s}' % (b"0" * 5000), b"[]", b'"x"', b"\xff", b""],
)
def test_odd_json_is_an_error_of_that_model(tmp_path: Path, hub: HostileHub, name: str, body: bytes) -> None:
    hub.answer = lambda handler: reply(handler, body, JSON)
    done, most = lock(tmp_path, hub, name)
    assert (done.code in (3, 5), most < 400) == (True, True), (done, most)
    assert f"{name}:o/n" in done.err


@pytest.mark.parametrize("name", HUBS)
def test_a_redirect_takes_no_token_to_another_host(
    tmp_path: Path, hub: HostileHub, other: HostileHub, name: str
) -> None:
    hub.answer = lambda handler: reply(handler, b"", ("Location", other.url + handler.path), status=302)
    done, _ = lock(tmp_path, hub, name)
    assert done.code in (3, 5)
    assert (hub.tokens > 0 or name != "hf", other.tokens) == (True, 0)


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("address", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]"])
def test_a_redirect_to_a_metadata_address_is_refused(tmp_path: Path, hub: HostileHub, name: str, address: str) -> None:
    hub.answer = lambda handler: reply(handler, b"", ("Location", f"http://{address}/latest/"), status=302)
    done, _ = lock(tmp_path, hub, name)
    assert done.code == 5
    assert re.search("link-local or metadata|another host", done.err), done.err


@pytest.mark.parametrize("with_token", [True, False])
def test_the_next_page_is_on_the_same_host(
    tmp_path: Path, hub: HostileHub, other: HostileHub, with_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: Any) -> None:
        if not commit_only(handler):
            reply(
                handler,
                b'[{"type": "directory", "path": "d", "oid": "x"}]',
                JSON,
                ("Link", f'<{other.url}/>; rel="next"'),
            )

    hub.answer = answer
    if not with_token:
        monkeypatch.setitem(globals(), "TOKEN", "")
    running = start(tmp_path, hub, "hf")
    _, err = running.communicate(timeout=60)
    assert (running.returncode, other.heard) == (5, []), err
    assert "next page on another host (127.0.0.2)" in err


def test_pages_without_an_end_have_one(tmp_path: Path, hub: HostileHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handler: Any, content: str = "[]") -> None:
        if not commit_only(handler):
            reply(handler, content.encode(), JSON, ("Link", f'<{hub.url}/tree/{len(hub.heard)}>; rel="next"'))

    hub.answer = answer
    done, _ = lock(tmp_path / "empty", hub, "hf")
    assert (done.code, len(hub.heard) <= 4) == (5, True), done
    assert "an empty page, and another one behind it" in done.err
    hub.heard.clear()
    hub.answer = lambda handler: answer(
        handler, json.dumps([{"type": "directory", "path": f"d{len(hub.heard)}", "oid": "x"}])
    )
    monkeypatch.setattr(transport, "REQUESTS", 20)
    context = Context({"HF_ENDPOINT": hub.url, "HOME": str(tmp_path)}, str(tmp_path))
    with pytest.raises(transport.AnswerError, match="lists more than 20 pages"):
        huggingface.resolve(context, Repo("hf", "o/n"))
    assert len(hub.heard) <= 21


def test_shards_that_names_call_for_are_counted(tmp_path: Path, hub: HostileHub) -> None:
    lfs = {"oid": "c" * 64, "size": 10, "pointerSize": 100}
    names = [f"a{number}-00001-of-99999.bin" for number in range(400)]
    listing = [{"type": "file", "path": name, "size": 10, "oid": "b" * 40, "lfs": lfs} for name in names]

    def answer(handler: Any) -> None:
        if not commit_only(handler):
            reply(handler, json.dumps(listing).encode(), JSON)

    hub.answer = answer
    done, most = lock(tmp_path, hub, "hf")
    assert (done.code, most < 200) == (3, True), (done, most)
    assert "a0-00002-of-99999.bin (and 39999199 more) is missing" in done.err


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_that_drips_hears_a_stop(tmp_path: Path, hub: HostileHub, name: str) -> None:
    asked = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        asked.set()
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.2)

    hub.answer = drip
    running = start(tmp_path, hub, name)
    assert asked.wait(30)
    running.terminate()
    _, err = running.communicate(timeout=30)
    assert running.returncode == 143, err
    assert "Traceback" not in err


def test_one_model_s_hub_is_no_other_model_s_matter(tmp_path: Path, hub: HostileHub) -> None:
    """The others are locked."""
    content = made(1000)
    hub.answer = lambda handler: reply(handler, b"[" * 300_000, JSON)
    orch = Orch(tmp_path, {"evil": {"repo": "hf:o/n", "to": "models/m/"}})
    orch.environ = {"HF_ENDPOINT": hub.url}
    orch.want("good", content, f"{hub.url}/g.bin")
    done = orch.run("lock", "team.yaml")
    assert done.code == 3, done
    assert "hf:o/n" in done.err
    assert (
        sha256(content) in (tmp_path / "team.lock.json").read_text() if (tmp_path / "team.lock.json").exists() else True
    )
