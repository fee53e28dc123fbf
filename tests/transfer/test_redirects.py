"""Redirects: orch follows them, a hub is asked once a file, and a program that meets one tells it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Done, Orch, made
from tests.servers import require

MIB = 1 << 20
PROGRAMS = ["aria2c", "axel", "curl", "wget"]
TOKEN = "t0ps3cret"


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@pytest.fixture
def hub() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def cdn() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def want_all(orch: Orch, hub: Origin, cdn: Origin, files: list[bytes], **faults: Any) -> list[Path]:
    """Want files of a hub that redirects to a CDN."""
    places = []
    for number, content in enumerate(files):
        there = cdn.serve(f"/{number}.bin", content, signed="redirect_holds_s" in faults)
        places.append(orch.want(f"m{number}", content, hub.serve(f"/hub/{number}.bin", redirect=there, **faults)))
    return places


def assert_whole(done: Done, places: list[Path], files: list[bytes]) -> None:
    assert done.code == 0, done.summary
    assert [place.read_bytes() for place in places] == files


def asked(origin: Origin) -> Counter[str]:
    return Counter(record.path for record in origin.log)


# One request to a hub for each file.


ONE_LARGE, SOME_LARGE, ONE_SMALL, MANY_SMALL = (1, 40 * MIB), (8, 9 * MIB), (1, 3000), (20, 3000)
# Without and with a token: the best program and the one with many connections all, the others what they do otherwise.
ASKING = {
    "best": ([ONE_LARGE, SOME_LARGE, ONE_SMALL, MANY_SMALL], [ONE_LARGE, ONE_SMALL, MANY_SMALL]),
    "aria2c": ([ONE_LARGE, SOME_LARGE, ONE_SMALL, MANY_SMALL], [ONE_LARGE, ONE_SMALL, MANY_SMALL]),
    "axel": ([ONE_LARGE, MANY_SMALL], []),  # what a token is exchanged for is a secret, which axel would show
    "curl": ([ONE_LARGE, MANY_SMALL], [ONE_LARGE, ONE_SMALL, MANY_SMALL]),
    "wget": ([SOME_LARGE, MANY_SMALL], [MANY_SMALL]),
}


@pytest.mark.parametrize(
    ("backend", "token", "count", "size"),
    [
        (backend, token, *files)
        for backend, by_token in ASKING.items()
        for token in (False, True)
        for files in by_token[token]
    ],
)
def test_a_hub_is_asked_once_a_file(
    orch: Orch, hub: Origin, cdn: Origin, backend: str, token: bool, count: int, size: int
) -> None:
    require("aria2c" if backend == "best" else backend)
    files = [made(size, seed) for seed in range(count)]
    places = want_all(orch, hub, cdn, files, bearer=TOKEN if token else None)
    if token:
        orch.top["hosts"] = {hub.url.partition("://")[2]: {"token_env": "CORP"}}
        orch.environ["CORP"] = TOKEN
    done = orch.sync(*(() if backend == "best" else ("--backend", backend)))
    assert_whole(done, places, files)
    assert asked(hub) == {f"/hub/{number}.bin": 1 for number in range(count)}
    assert not any("authorization" in record.headers for record in cdn.log)
    if (backend, size) == ("aria2c", 40 * MIB):
        assert asked(cdn)["/0.bin"] > 8  # it is many connections all the same
    if size == 3000 and backend in ("curl", "best"):
        programs = [event["files"] for event in done.named("started")]
        assert programs == ([1] if token else [1, 1]) if count == 1 else [count, count]


@pytest.mark.parametrize("backend", PROGRAMS)
def test_what_the_probe_asked_is_not_asked_again(orch: Orch, hub: Origin, cdn: Origin, backend: str) -> None:
    require(backend)
    files = [made(20 * MIB)]
    with Origin() as mirror:
        mirror.serve("/0.bin", files[0], delay_s=0.3)
        (place,) = want_all(orch, hub, cdn, files)
        orch.models["m0"]["mirrors"] = [f"{mirror.url}/0.bin"]
        done = orch.sync("--backend", backend)
    assert_whole(done, [place], files)
    assert hub.requests("/hub/0.bin") <= 1


def test_a_signed_url_is_renewed_by_one_request(orch: Orch, hub: Origin, cdn: Origin) -> None:
    require("aria2c")
    files = [made(12 * MIB)]
    places = want_all(orch, hub, cdn, files, redirect_holds_s=3)
    cdn.serve("/0.bin", files[0], signed=True, rate=MIB // 2)
    done = orch.sync("--backend", "aria2c", "--connections", "4")
    assert_whole(done, places, files)
    asked_s = sorted(record.started_s for record in hub.log)
    assert len(asked_s) >= len(done.named("started")) > 1
    # On a busy machine one may be over before a program has begun with it: it is asked for anew, once.
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(asked_s)), asked_s


def test_an_interrupted_download_goes_on_where_it_was(orch: Orch, hub: Origin, cdn: Origin) -> None:
    files = [made(9 * MIB)]
    places = want_all(orch, hub, cdn, files)
    cdn.serve("/0.bin", files[0], cut_after=4 * MIB, cut_times=1)
    done = orch.sync("--backend", "curl")
    assert_whole(done, places, files)
    assert (hub.requests("/hub/0.bin"), cdn.sent("/0.bin") < 10 * MIB) == (1, True)


def test_a_file_without_a_digest(orch: Orch, hub: Origin, cdn: Origin) -> None:
    files = [made(9 * MIB)]
    places = want_all(orch, hub, cdn, files)
    orch.models["m0"].update(sha256=None, size=None)
    orch.models["m0"] = {key: value for key, value in orch.models["m0"].items() if value is not None}
    done = orch.run("lock", "--json", "team.yaml")
    assert done.code == 0, done.out
    assert hub.requests("/hub/0.bin") == 1
    assert_whole(orch.sync(), places, files)


def test_a_signed_url_stands_in_no_command_line_and_no_event(orch: Orch, hub: Origin, cdn: Origin) -> None:
    files = [made(9 * MIB)]
    want_all(orch, hub, cdn, files, redirect_holds_s=600)
    done = orch.sync("--backend", "axel")
    assert (done.code, "shows a signed URL in its command line" in done.out) == (4, True)
    done = orch.sync("-v")
    assert (done.code, "Expires=" in done.out + done.err) == (0, False)


# A program meets a redirect.


@pytest.mark.parametrize("backend", PROGRAMS)
@pytest.mark.parametrize("size", [3000, 9 * MIB], ids=["small", "large"])
def test_a_program_that_is_redirected_anew(orch: Orch, hub: Origin, backend: str, size: int) -> None:
    """The host answers orch and redirects the program: its target is judged and used."""
    require(backend)
    content = made(size)
    with Origin(host="127.0.0.2") as cdn:
        url = hub.serve("/f", content, redirect=cdn.serve("/f", content), redirect_after=1)
        place = orch.want("m", content, url)
        done = orch.sync("--backend", backend)
    assert_whole(done, [place], [content])
    if backend != "aria2c":  # which asks on each of its connections
        assert hub.requests("/f") <= 3


@pytest.mark.parametrize("backend", PROGRAMS)
@pytest.mark.parametrize("size", [3000, 9 * MIB], ids=["small", "large"])
def test_a_ring_of_redirects_ends(orch: Orch, hub: Origin, backend: str, size: int) -> None:
    require(backend)
    content = made(size)
    asked_first = size > 3000 or backend in ("aria2c", "axel")
    url = hub.serve("/f", content, redirect=f"{hub.url}/f", redirect_after=int(asked_first))
    orch.want("m", content, url)
    done = orch.sync("--backend", backend, "--retries", "0")
    assert done.code == 5, done.summary
    assert "redirect" in done.summary["failed"][0]["message"]
    if backend != "aria2c":  # which goes round 20 times by itself, on each of its connections
        assert hub.requests("/f") <= 60


# Bundles.


@pytest.mark.parametrize("backend", ["curl", "aria2c"])
def test_a_redirect_in_the_middle_of_a_bundle(orch: Orch, hub: Origin, cdn: Origin, backend: str) -> None:
    require(backend)
    files = [made(2000 + seed, seed) for seed in range(60)]
    places = []
    for number, content in enumerate(files):
        moved = {"redirect": cdn.serve(f"/{number}", content)} if number in (17, 40) else {}
        places.append(orch.want(f"m{number:02}", content, hub.serve(f"/{number}", content, **moved)))
    done = orch.sync("--backend", backend)
    assert_whole(done, places, files)
    assert sum(event["files"] for event in done.named("started") if event["files"] > 30) == 60
    if backend == "curl":
        assert asked(hub) == {f"/{number}": 1 for number in range(60)}
        assert asked(cdn) == {"/17": 1, "/40": 1}


@pytest.mark.parametrize("backend", ["curl", "aria2c"])
def test_a_bundle_whose_files_move_to_several_hosts(orch: Orch, hub: Origin, cdn: Origin, backend: str) -> None:
    require(backend)
    files = [made(2000 + seed, seed) for seed in range(30)]
    with Origin() as other:
        places = want_all(orch, hub, cdn, files, redirect_holds_s=600)
        for number in range(0, 30, 3):
            there = other.serve(f"/{number}", files[number])
            hub.serve(f"/hub/{number}.bin", redirect=there)
        hub.serve("/hub/1.bin", redirect=hub.serve("/next", redirect=f"{cdn.url}/1.bin", redirect_holds_s=600))
        done = orch.sync("--backend", backend)
    assert_whole(done, places, files)
    assert asked(hub) == {f"/hub/{number}.bin": 1 for number in range(30)} | {"/next": 1}
    assert "Expires=" not in done.out + done.err


def test_a_ring_in_a_bundle_ends_and_takes_nobody_along(orch: Orch, hub: Origin) -> None:
    files = [made(2000, seed) for seed in range(10)]
    for number, content in enumerate(files):
        orch.want(f"m{number}", content, hub.serve(f"/{number}", content, redirect_loop=number == 4))
    done = orch.sync("--retries", "0")
    assert (done.code, done.summary["fetched"]) == (5, 9)
    assert "redirect" in done.summary["failed"][0]["message"]
    assert hub.requests("/4") < 60


def test_cookies_that_a_redirect_sets_go_with_it(orch: Orch, hub: Origin) -> None:
    """Only curl can be given them where nobody sees it."""
    files = [made(9 * MIB)]
    there = hub.serve("/there", files[0])
    cookie = (("Set-Cookie", "pass=t0ken; Path=/"),)
    place = orch.want("m", files[0], hub.serve("/f", redirect=there, headers=cookie))
    done = orch.sync("--backend", "curl")
    assert_whole(done, [place], files)
    assert {record.headers.get("cookie") for record in hub.log if record.path == "/there"} == {"pass=t0ken"}
    assert "t0ken" not in done.out + done.err


# An answer about a range that nobody asked for.


@pytest.mark.parametrize("backend", PROGRAMS)
def test_a_length_that_a_wrong_range_tells_is_not_believed(orch: Orch, hub: Origin, backend: str) -> None:
    require(backend)
    content = made(9 * MIB)
    lie = (("Content-Range", f"bytes 7-7/{10**12}"),)
    orch.want("m", content, hub.serve("/f", content, status=206, headers=lie))
    done = orch.sync("--backend", backend, "--retries", "0", "--stall", "4s")
    assert done.code == 5, done.summary
    assert f"every source says {10**12}" not in done.out
    assert done.named("started") == [] or backend != "axel"


# Behind a SOCKS proxy, where our own client cannot ask.


class Socks:
    """A SOCKS5 proxy (RFC 1928) that takes every name for this machine; `asked` are the names and ports."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"socks5h://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Socks:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, IndexError):
            client.recv(512)
            client.sendall(b"\x05\x00")
            request = client.recv(512)
            if request[3] == 3:  # a name
                name, port = request[5 : 5 + request[4]].decode(), request[5 + request[4] :]
            else:
                name, port = socket.inet_ntoa(request[4:8]), request[8:]
            self.asked.append((name, int.from_bytes(port[:2], "big")))
            with socket.create_connection(("127.0.0.1", self.asked[-1][1])) as server:
                client.sendall(b"\x05\x00\x00\x01" + 6 * b"\x00")
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join(10)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(("size", "count"), [(3000, 1), (3000, 4), (9 * MIB, 1)])
def test_behind_socks_each_step_is_judged(orch: Orch, hub: Origin, cdn: Origin, size: int, count: int) -> None:
    require("curl")
    files = [made(size, seed) for seed in range(count)]
    with Socks() as proxy:
        orch.environ["all_proxy"] = proxy.url
        places = []
        for number, content in enumerate(files):
            cdn.serve(f"/{number}", content)
            hub.serve(f"/next/{number}", redirect=f"http://cdn.example:{cdn.port}/{number}")
            hub.serve(f"/{number}", redirect=f"/next/{number}")
            places.append(orch.want(f"m{number}", content, f"http://hub.example:{hub.port}/{number}"))
        assert_whole(orch.sync(), places, files)
        assert {name for name, _ in proxy.asked} == {"hub.example", "cdn.example"}
        for number in range(count):
            hub.serve(f"/evil/{number}", redirect=f"http://2852039166:{cdn.port}/{number}")
            orch.want(f"m{number}", made(size, 100 + number), f"http://hub.example:{hub.port}/evil/{number}")
        proxy.asked.clear()
        done = orch.sync("--retries", "0")
        assert done.code == 5
        assert {name for name, _ in proxy.asked} == {"hub.example"}
    assert "link-local or metadata" in done.summary["failed"][0]["message"]
