"""What people see of a job holds none of its secrets, whichever program it is for and however that is given them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.base import Backend, Job, Trait, Want
from orchestrator.transfer.masking import masked_url, shown_command, without_login
from tests.orch import Orch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGNED = "https://u:pass-in-url@cdn.example/f?X-Amz-Signature=5ec2e7&part=1&Policy=p01icy"
OURS = "https://cdn.example/f?whole=5ec2e7&all=p01icy"
SECRETS = ("pass-in-url", "5ec2e7", "p01icy", "b3arer", "pr0xy:w", "pr0xy%3Aw", "pr0xy")


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("length", [None, 1000])
def test_no_program_shows_a_secret(backend: Backend, files: int, length: int | None) -> None:
    if files > 1 and Trait.BUNDLE not in backend.TRAITS:
        pytest.skip("takes one file at a time")
    job = Job(
        wants=tuple(Want((SIGNED, OURS), f"/s/partial/{n}", length, 0) for n in range(files)),
        folder="/s/partial",
        proxy="http://us%40er:pr0xy%3Aw@proxy.example:3128",
        bearer="b3arer",
    )
    shown = shown_command(backend, job, f"/usr/bin/{backend.NAME}", hidden={OURS})
    assert shown.startswith(f"/usr/bin/{backend.NAME} ")
    assert not [secret for secret in SECRETS if secret in shown], shown
    if Trait.HTTP in backend.TRAITS:
        assert "cdn.example/f?X-Amz-Signature=***&part=1" in shown.replace("&amp;", "&")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://h/f", "https://h/f"),
        ("https://h/f?a=1&b=x@y", "https://h/f?a=1&b=x@y"),
        ("https://u:p@h/f", "https://***@h/f"),
        ("https://token@h/f", "https://***@h/f"),
        ("http://u:p@ss@h:1", "http://***@h:1"),
        ("u:p@h:1", "***@h:1"),
        ("https://h/f?Token=x;sig=y", "https://h/f?Token=***;sig=***"),
        ("https://h/f?x%2Damz%2Dsignature=y", "https://h/f?x%2Damz%2Dsignature=***"),
    ],
)
def test_masked_urls(url: str, masked: str) -> None:
    assert masked_url(url) == masked


def test_a_message_without_the_proxys_login() -> None:
    said = "cannot reach us@er:p:w at proxy (us%40er:p%3Aw)"
    assert without_login(said, "http://us%40er:p%3Aw@proxy:1") == "cannot reach *** at proxy (***)"
    assert without_login(said, None) == without_login(said, "http://proxy:1") == said


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that answers each request with three bytes, and the login of whoever asks it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"abc")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://user:Pr0xyPassw0rd@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget"])
@pytest.mark.parametrize("files", [1, 3])
def test_a_run_through_a_proxy_tells_no_password(tmp_path: Path, proxy: str, backend: str, files: int) -> None:
    orch = Orch(tmp_path, environ={"http_proxy": proxy})
    for n in range(files):
        orch.want(f"m{n}", b"abc", f"http://far.example/{n}")
    for words in (["-v"], ["--json"]):
        done = orch.run(
            "sync", *words, "--retries", "0", "--backend", backend, "--store", str(tmp_path / words[0]), "team.yaml"
        )
        assert "Pr0xyPassw0rd" not in done.out + done.err
        assert f"/{backend}" in done.out + done.err
        if backend == "curl":
            assert done.code == 0
            assert "***@127.0.0.1" in done.out + done.err
        for path in places(tmp_path):
            path.unlink()


def places(folder: Path) -> list[Path]:
    """What was put in place."""
    return [path for path in (folder / "models").glob("*") if path.is_file()]


@pytest.mark.parametrize(
    "url", ["https://u:S3cret@h.test/f", "https://h.test/f?token=S3cret", "ssh://u:S3cret@h.test/f"]
)
@pytest.mark.parametrize("words", [["get"], ["get", "--json"], ["add", "--to", "x/"]])
def test_a_refused_url_is_not_repeated(tmp_path: Path, url: str, words: list[str]) -> None:
    done = Orch(tmp_path).run(words[0], url, *words[1:])
    assert done.code == 3
    assert "S3cret" not in done.out + done.err
