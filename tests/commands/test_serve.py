"""`orch serve` by a real nginx: only what may be offered, only by digest; peers and the slice cache, with faults."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, python_for_all, sha256
from tests.servers import nginx, require, reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

A, B, C = made(3_000_000, 1), made(40_000, 2), made(50_000, 3)
NOBODY = 65534


@contextlib.contextmanager
def serving(orch: Orch, *words: str, user: int | None = None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `orch serve` until the block ends, and see that its port is free then; gives `http://HOST:PORT`."""
    require("nginx")
    with reserved_port() as port, _serving(orch, port, words, user) as server:
        yield f"http://127.0.0.1:{port}", server


@contextlib.contextmanager
def _serving(orch: Orch, port: int, words: Sequence[str], user: int | None) -> Iterator[subprocess.Popen[str]]:
    argv, env = ["serve", "--listen", f"127.0.0.1:{port}", *words, "team.yaml"], orch.env()
    orch.write()
    if user is None:
        server = orch.start(*argv)
    else:
        python, more = python_for_all()
        server = subprocess.Popen(
            [*python, "-m", "orchestrator", *argv],
            cwd=orch.folder,
            env={**env, **more},
            user=user,
            group=user,
            extra_groups=[],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):  # `nginx -t` listens for a moment too
                if ask(f"http://127.0.0.1:{port}", "/")[0] == 404:
                    break
            assert server.poll() is None, server.communicate()
            assert time.monotonic() < end, "orch serve did not start"
            time.sleep(0.02)
        yield server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))  # nobody is left there
        sock.listen()


def ask(base: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def site(orch: Orch, **keys: object) -> None:
    folder = orch.folder / "home" / ".config"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orch.yaml").write_text(json.dumps(keys))


def host(folder: Path, name: str) -> Orch:
    (folder / name).mkdir()
    return Orch(folder / name)


@pytest.mark.parametrize("user", [None, NOBODY], ids=["ourselves", "uid 65534"])
def test_only_offered_files_are_served_only_by_digest_and_a_sync_adds_to_them(
    public_path: Path, user: int | None
) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can be another user")
    secret = public_path / "secret.bin"
    secret.write_bytes(C)
    (public_path / "www").mkdir()
    (public_path / "www" / "a.bin").write_bytes(A)
    (public_path / "www" / "b.bin").write_bytes(B)
    with nginx(public_path / "www") as origin:
        orch = host(public_path, "host")
        orch.want("a", A, f"{origin.url}/a.bin", to="store")
        orch.want("local", C, f"file://{secret}", to="store")
        other = Orch(orch.folder, {}, {"store": str(orch.store)})
        other.want("b", B, f"{origin.url}/b.bin", to="store")
        assert other.sync().code == 0  # in the store, and wanted by no manifest that is served
        if user is not None:
            (orch.folder / "home").mkdir(exist_ok=True)
            for path in (orch.folder, *orch.folder.rglob("*")):
                os.chown(path, user, user, follow_symlinks=False)
        with serving(orch, user=user) as (url, server):
            digest = sha256(A)
            assert ask(url, f"/sha256/{digest}")[0] == 404  # not here yet
            python, more = python_for_all() if user is not None else ([], {})
            words = ["-m", "orchestrator", "sync", "--json", "team.yaml"]
            if user is None:
                assert orch.sync().code == 0
            else:
                done = subprocess.run(
                    [*python, *words], cwd=orch.folder, env={**orch.env(), **more}, user=user, group=user, check=False
                )
                assert done.returncode == 0
            status, headers, body = ask(url, f"/sha256/{digest}")
            assert (status, body) == (200, A)
            assert headers["content-type"] == "application/octet-stream"
            assert headers["server"] == "nginx"
            assert headers["etag"]
            assert ask(url, f"/sha256/{digest}", Range="bytes=10-19")[::2] == (206, A[10:20])
            assert ask(url, f"/sha256/{digest}", "HEAD")[1]["content-length"] == str(len(A))
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
                assert ask(url, f"/sha256/{digest}", method, Content_Length="0")[0] in (405, 413), method
            for content, name in ((B, "of another manifest"), (C, "of a file: source")):
                assert orch.blob(content).exists()
                assert ask(url, f"/sha256/{sha256(content)}")[0] == 404, name
            places = next((orch.store / "places").glob("*.json")).name
            for path in (
                "/",
                "/sha256/",
                "/sha256",
                f"/sha256/{digest.upper()}",
                f"/sha256/{digest}/",
                f"/sha256/{digest}.aria2",
                f"/sha256/../sha256/{sha256(B)}",
                f"/sha256/%2e%2e/%2e%2e/places/{places}",
                f"/places/{places}",
                "/CACHEDIR.TAG",
                "/../team.yaml",
            ):
                assert ask(url, path)[0] in (400, 404), path
            orch.blob(A).unlink()
            orch.blob(A).symlink_to(secret)
            assert ask(url, f"/sha256/{digest}")[0] in (403, 404)
        assert server.returncode == 0
        assert not list(Path(orch.env()["HOME"], ".local/state/orch").glob("*/serve/*/pid"))


def test_what_a_token_may_have_been_needed_for_is_offered_only_by_share(tmp_path: Path) -> None:
    orch = Orch(tmp_path, top={"hosts": {"files.corp.example": {"token_env": "CORP_TOKEN"}}})
    hub = "https://huggingface.co/org/name/resolve/main"
    orch.want("corp", A, "https://files.corp.example/a.bin", to="store")
    orch.want("gated", B, f"{hub}/b.bin", to="store")
    orch.want("public", C, "https://example.org/c.bin", to="store")
    orch.want("shared", made(9, 4), f"{hub}/d.bin", to="store", share=True)
    orch.want("never", made(9, 5), "https://example.org/e.bin", to="store", share=False)
    orch.want("both", made(9, 6), "https://example.org/f.bin", to="store")
    orch.want("both-with-token", made(9, 6), "https://files.corp.example/f.bin", to="store")
    done = orch.run("export", "team.yaml", "--format", "nginx", "--cache", "cache", "-o", "part.conf")
    assert (done.code, done.out) == (0, "")
    text = (tmp_path / "part.conf").read_text()
    offered = [
        number for number in range(1, 7) if sha256([b"", A, B, C, made(9, 4), made(9, 5), made(9, 6)][number]) in text
    ]
    assert offered == [3, 4]
    assert "corp.example" not in text  # nor would a cache fetch it


def test_the_cache_fetches_each_file_once_also_through_redirects_and_sends_nothing_of_a_client_on(
    public_path: Path,
) -> None:
    seen: list[tuple[str, dict[str, str]]] = []
    where: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(302)
            self.send_header("Location", where[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            return

    (public_path / "www").mkdir()
    for name, content in (("a.bin", A), ("b.bin", B), ("c.bin", C)):
        (public_path / "www" / name).write_bytes(content)
    redirecting = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=redirecting.serve_forever, daemon=True).start()
    try:
        with nginx(public_path / "www") as origin, nginx(public_path / "www") as inner:
            hub = f"http://127.0.0.1:{redirecting.server_address[1]}"
            where.update({"/a.bin": "/hop/a.bin", "/hop/a.bin": f"{origin.url}/a.bin"})
            where["/b.bin"] = f"{inner.url}/b.bin"  # a host that no manifest names
            where["/c.bin"] = f"{inner.url}/c.bin?x=>https://example.org/"
            orch = host(public_path, "cache-host")
            orch.want("a", A, f"{hub}/a.bin", to="store")
            orch.want("b", B, f"{hub}/b.bin", to="store")
            orch.want("c", C, f"{hub}/c.bin", to="store")
            orch.want("named", b"x", f"{origin.url}/x.bin", to="store")
            with serving(orch, "--cache", "cache", "--cache-size", "1G") as (url, _):
                path = f"/sha256/{sha256(A)}"
                assert ask(url, path, "HEAD")[0] == 204
                assert not seen
                with ThreadPoolExecutor(8) as pool:
                    answers = list(pool.map(lambda _: ask(url, path, Authorization="Bearer x", Cookie="y=z"), range(8)))
                assert [(status, body == A) for status, _, body in answers] == [(200, True)] * 8
                assert ask(url, path, Range="bytes=1500000-1500009")[::2] == (206, A[1_500_000:1_500_010])
                assert origin.sent("/a.bin") == len(A)
                assert all(not {"authorization", "cookie"} & set(headers) for _, headers in seen)
                slices = orch.folder / "cache" / "slices"
                purge = f'grep -rlaZ "^KEY: {path}" {slices} | xargs -0 rm'  # as docs/fleet.md has it
                assert len([each for each in slices.rglob("*") if each.is_file()]) == 3
                assert subprocess.run(["sh", "-c", purge], check=False).returncode == 0
                assert not [each for each in slices.rglob("*") if each.is_file()]
                assert ask(url, path, Range="bytes=0-9")[::2] == (206, A[:10])
                for content in (B, C):
                    assert ask(url, f"/sha256/{sha256(content)}")[0] == 502
                assert not inner.counts()
                assert ask(url, f"/sha256/{sha256(b'unknown')}")[0] == 404
    finally:
        redirecting.shutdown()
        redirecting.server_close()


def test_peers_are_asked_first_and_judged_like_anybody(public_path: Path) -> None:
    (public_path / "www").mkdir()
    (public_path / "www" / "a.bin").write_bytes(A)
    (public_path / "www" / "b.bin").write_bytes(B)
    lies = public_path / "lies" / "sha256"
    lies.mkdir(parents=True)
    (lies / sha256(A)).write_bytes(bytes(len(A)))
    with (
        nginx(public_path / "www") as origin,
        nginx(public_path / "lies") as liar,
        socket.create_server(("127.0.0.1", 0)) as silent,  # accepts, and says nothing
    ):
        first, second, third = (host(public_path, name) for name in ("first", "second", "third"))
        for each in (first, second, third):
            each.want("a", A, f"{origin.url}/a.bin")
            each.want("b", B, f"{origin.url}/b.bin")
        assert first.sync().code == 0
        before = origin.counts()
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(first) as (url, _), serving(second) as (own, _), reserved_port() as closed:
            site(second, peers=[f"http://127.0.0.1:{closed}", mute, own, f"{url}/sha256"])
            done = second.sync()
            assert done.summary["fetched"] == 2
            assert {event["source"] for event in done.named("finished")} == {
                f"{url}/sha256/{sha256(content)}" for content in (A, B)
            }
            assert not done.named("failed")
            assert origin.counts() == before

            site(third, peers=[liar.url])
            done = third.sync()
            assert done.summary["fetched"] == 2
            assert [(f["fault"], f["source"]) for f in done.named("failed")] == [
                ("corrupt", f"{liar.url}/sha256/{sha256(A)}")
            ]
            assert (third.folder / "models/a.bin").read_bytes() == A
            assert "Authorization" not in (liar.prefix / "access.log").read_text()

        fourth = host(public_path, "fourth")
        fourth.environ["T"] = "secret"
        fourth.want("a", A, f"{origin.url}/a.bin")
        name = liar.url.removeprefix("http://")
        fourth.top["hosts"] = {name: {"token_env": "T"}}
        site(fourth, peers=[liar.url])
        asked = liar.counts()
        done = fourth.sync()
        assert done.summary["fetched"] == 1
        assert any("is not asked: `hosts` names a token for it" in event["message"] for event in done.named("noticed"))
        assert liar.counts() == asked


def test_what_is_wrong_is_said_before_nginx_runs(tmp_path: Path) -> None:
    require("nginx")
    orch = Orch(tmp_path)
    orch.want("a", A, "https://example.org/a.bin", to="store")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = orch.run("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "team.yaml")
    assert done.code == ExitCode.SEVERAL
    assert "address already in use" in done.err
    assert "hint: `ss -ltnp" in done.err
    assert orch.run("serve", "--listen", "8080", "team.yaml").code == ExitCode.USAGE
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    done = orch.run("serve", "--listen", "127.0.0.1:1", "--cache", "full", "team.yaml")
    assert done.code == ExitCode.PLACEMENT
    assert "thesis.tex" in done.err
    assert (tmp_path / "full" / "thesis.tex").exists()
    orch.environ["PATH"] = str(tmp_path)
    if os.geteuid() == 0:  # nginx's workers could not enter it
        (tmp_path / "store/blobs/sha256").mkdir(parents=True)
        (tmp_path / "store").chmod(0o700)
        done = orch.run("serve", "--listen", "127.0.0.1:1", "team.yaml")
        assert done.code == ExitCode.STORE
        assert "chmod o+x" in done.err


def test_what_is_in_the_store_is_counted_and_a_new_store_is_told(public_path: Path) -> None:
    require("nginx")
    orch = Orch(public_path)

    def said() -> str:
        with serving(orch) as (_, server):
            assert server.stderr is not None
            return "".join(server.stderr.readline() for _ in range(2))

    with Origin() as origin:
        orch.want("a", A, origin.serve("/a.bin", A), to="store")
        orch.want("b", B, origin.serve("/b.bin", B), to="store")
        first = said()
        assert f": 0 of 2 are in the store {orch.store}\nwarning: there was no store at {orch.store}" in first
        assert orch.sync("--only", "a").code == 0
    second = said()
    assert ": 1 of 2 are in the store" in second
    assert "warning" not in second
