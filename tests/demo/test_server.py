"""The loopback origin keeps its promises, good and bad: judged by a plain client and by the real programs."""

from __future__ import annotations

import contextlib
import gc
import gzip
import http.client
import pickletools
import random
import socket
import subprocess
import threading
import time
import urllib.parse
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, dataclass

import pytest
from safetensors.numpy import load_file

from orchestrator.demo.answers import ESCAPES, HTML
from orchestrator.demo.faults import replaced, wrong_bytes
from orchestrator.demo.server import Origin
from orchestrator.demo.weights import make_safetensors, make_torch_zip
from tests.servers import nginx, origin_process, require

DATA = random.Random(1).randbytes(300_001)
N = len(DATA)
FEW = {"Range": "bytes=5-9"}
HALF = {"Range": f"bytes={N // 2}-"}


@dataclass(frozen=True)
class Got:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    end: str  # "whole", "cut", "reset", "stall"


def ask(url: str, headers: dict[str, str] | None = None, method: str = "GET", patience_s: float = 0.4) -> Got:
    """One request on a connection of its own, with whatever of the body arrives."""
    parts = urllib.parse.urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience_s)
    body, end = b"", "whole"
    with contextlib.closing(client):
        client.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers or {})
        reply = client.getresponse()
        try:
            while block := reply.read1(65536):
                body += block
            if reply.length:  # read1 does not mind a body that ends too early
                end = "cut"
        except http.client.IncompleteRead:
            end = "cut"
        except ConnectionResetError:
            end = "reset"
        except TimeoutError:
            end = "stall"
    names = {name.lower(): value for name, value in reply.getheaders()}
    return Got(reply.status, reply.reason, names, body, end)


# -- a good server


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        (None, 200, 0, N),
        ("bytes=0-", 206, 0, N),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=5-9", 206, 5, 10),
        (f"bytes={N - 1}-", 206, N - 1, N),
        ("bytes=-3", 206, N - 3, N),
        (f"bytes=-{N + 5}", 206, 0, N),
        (f"bytes=7-{N * 9}", 206, 7, N),
        ("bytes=1-2,4-5", 200, 0, N),
        ("bytes=-", 200, 0, N),
        ("lines=1-2", 200, 0, N),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_range(origin, tmp_path, kind, asked, status, start, stop):
    (tmp_path / "w.bin").write_bytes(DATA)
    url = origin.serve("/w.bin", DATA if kind == "bytes" else tmp_path / "w.bin")
    got = ask(url, {"Range": asked} if asked else None)
    assert (got.status, got.body, got.end) == (status, DATA[start:stop], "whole")
    assert got.headers.get("content-range") == (f"bytes {start}-{stop - 1}/{N}" if status == 206 else None)
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers["etag"].startswith('"')
    assert got.headers["last-modified"].endswith("GMT")


def test_range_beyond_the_end(origin):
    got = ask(origin.serve("/w", DATA), {"Range": f"bytes={N}-"})
    assert (got.status, got.headers["content-range"]) == (416, f"bytes */{N}")
    got = ask(origin.serve("/w", DATA, bare_416=True), {"Range": f"bytes={N}-"})
    assert (got.status, got.headers.get("content-range")) == (416, None)


def test_if_range(origin):
    url = origin.serve("/w", DATA)
    etag = ask(url, method="HEAD").headers["etag"]
    assert ask(url, {**HALF, "If-Range": etag}).status == 206
    assert ask(url, {**HALF, "If-Range": '"other"'}).status == 200


def test_head_and_other_methods(origin):
    url = origin.serve("/w", DATA)
    got = ask(url, method="HEAD")
    assert (got.status, got.headers["content-length"], got.body) == (200, str(N), b"")
    assert ask(url, method="PUT").status == 405
    assert origin.sent("/w") == len(b"405 Method Not Allowed\n")


def test_empty_file(origin):
    got = ask(origin.serve("/w", b""))
    assert (got.status, got.body, got.end) == (200, b"", "whole")


# -- a bad one: behaviour, request headers, status, body, how it ends, some headers of the answer

PAGES = {401: b"401 Unauthorized\n", 503: b"503 Service Unavailable\n", 302: b"302 Found\n"}
KINDS = [
    ({"status": 503, "retry_after": "5"}, {}, 503, PAGES[503], "whole", {"retry-after": "5"}),
    ({"status": 503}, {}, 503, PAGES[503], "whole", {"retry-after": None}),
    ({"redirect": "http://127.0.0.1:1/x"}, {}, 302, PAGES[302], "whole", {"location": "http://127.0.0.1:1/x"}),
    ({"redirect_loop": True}, {}, 302, PAGES[302], "whole", {"location": "/w"}),
    ({"bearer": "abc"}, {}, 401, PAGES[401], "whole", {"www-authenticate": "Bearer"}),
    ({"bearer": "abc"}, {"Authorization": "Bearer abc"}, 200, DATA, "whole", {}),
    ({"html": True}, HALF, 200, HTML, "whole", {"content-type": "text/html", "content-range": None}),
    ({"html_on_range": True}, HALF, 200, HTML, "whole", {"content-type": "text/html"}),
    ({"html_on_range": True}, {"Range": "bytes=0-"}, 206, DATA, "whole", {}),
    ({"refuse_bare_get": True}, {}, 400, b"400 Bad Request\n", "whole", {}),
    ({"refuse_bare_get": True}, {"Range": "bytes=0-"}, 206, DATA, "whole", {}),
    ({"ranges": "ignored"}, HALF, 200, DATA, "whole", {"accept-ranges": None, "content-range": None}),
    ({"ranges": "refused416"}, HALF, 416, None, "whole", {"content-range": f"bytes */{N}"}),
    ({"ranges": "refused416"}, {}, 200, DATA, "whole", {}),
    ({"ranges": "wrong"}, FEW, 206, DATA[:5], "whole", {"content-range": f"bytes 0-4/{N}"}),
    ({"no_length": True}, HALF, 200, DATA, "whole", {"content-length": None, "connection": "close"}),
    ({"chunked": True}, HALF, 200, DATA, "whole", {"content-length": None, "transfer-encoding": "chunked"}),
    ({"etag": "v1"}, {}, 200, DATA, "whole", {"etag": '"v1"'}),
    ({"etag": ""}, {}, 200, DATA, "whole", {"etag": None}),
    ({"wrong": True}, {}, 200, wrong_bytes(DATA), "whole", {"content-length": str(N)}),
    ({"wrong": True, "chunked": True}, {}, 200, wrong_bytes(DATA), "whole", {}),
    ({"wrong_at": 7}, FEW, 206, DATA[5:7] + wrong_bytes(DATA[7:8]) + DATA[8:10], "whole", {}),
    ({"wrong_at": 7}, {"Range": "bytes=8-9"}, 206, DATA[8:10], "whole", {}),
    ({"replace_after": 0}, HALF, 206, replaced(DATA)[N // 2 :], "whole", {}),
    ({"content_type": "a/x-torrent"}, {}, 200, DATA, "whole", {"content-type": "a/x-torrent"}),
    ({"headers": (("Content-Disposition", "x"),)}, {}, 200, DATA, "whole", {"content-disposition": "x"}),
    ({"cut_after": 1000}, {}, 200, DATA[:1000], "cut", {"content-length": str(N)}),
    ({"cut_after": 1000}, {"Range": "bytes=5-"}, 206, DATA[5:1005], "cut", {}),
    ({"cut_after": 0}, {}, 200, b"", "cut", {}),
    ({"cut_after": N}, {}, 200, DATA, "whole", {}),
    ({"cut_after": 1000, "rst": True}, {}, 200, None, "reset", {}),
    ({"cut_after": 1000, "chunked": True}, {}, 200, DATA[:1000], "cut", {}),
    ({"cut_after": 1000, "no_length": True}, {}, 200, DATA[:1000], "whole", {}),  # nobody can tell
    ({"stall_after": 1000}, {}, 200, DATA[:1000], "stall", {}),
    ({"stall_after": 1000, "cut_after": 900}, {}, 200, DATA[:900], "cut", {}),
    ({"stall_after": 800, "cut_after": 900}, {}, 200, DATA[:800], "stall", {}),
]  # fmt: skip


@pytest.mark.parametrize(("faults", "headers", "status", "body", "end", "expected"), KINDS)
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_behaviour(origin, tmp_path, kind, faults, headers, status, body, end, expected):
    (tmp_path / "w").write_bytes(DATA)
    url = origin.serve("/w", DATA if kind == "bytes" else tmp_path / "w", **faults)
    got = ask(url, headers, patience_s=0.1 if end == "stall" else 5)
    assert (got.status, got.end) == (status, end)
    assert body is None or got.body == body
    assert {name: got.headers.get(name) for name in expected} == expected


def test_gzip(origin):
    got = ask(origin.serve("/w", DATA, gzip=True), HALF)
    assert (got.status, got.headers["content-encoding"]) == (200, "gzip")
    assert int(got.headers["content-length"]) == len(got.body) != N
    assert gzip.decompress(got.body) == DATA


def test_silent(origin):
    with pytest.raises(TimeoutError):
        ask(origin.serve("/w", DATA, silent=True), patience_s=0.1)
    with pytest.raises(ConnectionResetError):
        ask(origin.serve("/w", DATA, silent=True, rst=True))
    assert [record.status for record in origin.log] == [0, 0]


def test_escapes_in_the_status_line(origin):
    got = ask(origin.serve("/w", DATA, status=404, status_line_escape=True))
    assert (got.status, got.reason) == (404, ESCAPES)


def test_header_flood(origin):
    origin.serve("/w", DATA, header_flood=12_000_000)
    with (
        socket.create_connection((origin.host, origin.port), timeout=5) as client,
        client.makefile("rb") as file,
    ):
        client.sendall(b"GET /w HTTP/1.0\r\n\r\n")
        head, _, body = file.read().partition(b"\r\n\r\n")
    assert 12_000_000 <= len(head) < 12_100_000
    assert body == DATA


# -- faults that begin or end


@pytest.mark.parametrize(
    ("faults", "statuses", "ends"),
    [
        ({"status": 503, "status_times": 2}, (503, 503, 200, 200), ("whole",) * 4),
        ({"status": 403, "status_after": 2}, (200, 200, 403, 403), ("whole",) * 4),
        ({"status": 403, "status_after": 1, "status_times": 1}, (200, 403, 200, 200), ("whole",) * 4),
        ({"redirect": "/x", "redirect_after": 2}, (200, 200, 302, 302), ("whole",) * 4),
        ({"cut_after": 9, "cut_times": 1}, (200,) * 4, ("cut", "whole", "whole", "whole")),
        ({"stall_after": 9, "stall_times": 2}, (200,) * 4, ("stall", "stall", "whole", "whole")),
    ],
)
def test_fault_that_passes(origin, faults, statuses, ends):
    url = origin.serve("/w", DATA, **faults)
    for _ in range(2):  # served anew, the fault is new
        got = [ask(url, patience_s=0.1) for _ in statuses]
        assert tuple(one.status for one in got) == statuses
        assert tuple(one.end for one in got) == ends
        origin.serve("/w", DATA, **faults)


def test_only_what_happened_counts(origin):
    url = origin.serve("/w", DATA, cut_after=9, cut_times=1)
    assert [ask(url, headers).end for headers in (FEW, {}, {})] == ["whole", "cut", "whole"]


@pytest.mark.parametrize("when", [{"replace_after": 1}, {"replace_after_bytes": N - 1}])
def test_changed_file(origin, when):
    url = origin.serve("/w", DATA, **when)
    before, after = ask(url), ask(url)
    assert (before.body, after.body) == (DATA, replaced(DATA))
    assert before.headers["etag"] != after.headers["etag"]
    assert before.headers["last-modified"] != after.headers["last-modified"]


# -- time


def test_bucket_survives_keep_alive(origin):
    rate, part = 2 << 20, 256 << 10
    origin.serve("/w", bytes(part), rate=rate)
    client = http.client.HTTPConnection(origin.host, origin.port, timeout=10)

    def take(times: int) -> float:
        started_s = time.monotonic()
        for _ in range(times):
            client.request("GET", "/w")
            assert len(client.getresponse().read()) == part
        return time.monotonic() - started_s

    with contextlib.closing(client):
        wire_s = 4 * part / rate  # 0.5 s
        assert take(4) > wire_s * 0.95
        time.sleep(0.2)
        assert take(1) > part / rate * 0.95


def test_rate_is_per_connection(origin):
    url = origin.serve("/w", bytes(1 << 20), rate=1 << 20)
    started_s = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert all(len(got.body) == 1 << 20 for got in pool.map(ask, [url] * 4))
    assert 0.9 < time.monotonic() - started_s < 3.5  # one rate for all of them would take 4 s


def test_slow_drip(origin):
    origin.serve("/w", bytes(1000), rate=80)
    with socket.create_connection((origin.host, origin.port), timeout=5) as client:
        client.sendall(b"GET /w HTTP/1.1\r\n\r\n")
        text, started_s = b"", time.monotonic()
        while text.count(b"\0") < 20:
            text += client.recv(4096)
        assert time.monotonic() - started_s > 0.2
        assert text.count(b"\0") < 60


def test_delay_is_a_round_trip(origin):
    origin.serve("/w", b"x" * 10, delay_s=0.5)
    request = b"GET /w HTTP/1.1\r\nHost: a:1\r\n\r\n"
    for sends, least_s, most_s in (((request * 3,), 0.49, 1.45), ((request,) * 3, 1.45, 20)):
        with socket.create_connection((origin.host, origin.port), timeout=5) as client:
            started_s, text = time.monotonic(), b""
            for number, send in enumerate(sends, 1):
                client.sendall(send)
                while text.count(b"x" * 10) < 3 * number / len(sends):
                    text += client.recv(65536)
            assert least_s < time.monotonic() - started_s < most_s


# -- counting


def test_log_and_counts(origin):
    url = origin.serve("/a b.bin", DATA)
    origin.serve("/other", b"12345")
    client = http.client.HTTPConnection("localhost", origin.port, timeout=5)
    with contextlib.closing(client):
        for method, path, headers in (("GET", "/a%20b.bin?key=1", {"X-Tag": "t"}), ("HEAD", "/other", {})):
            client.request(method, path, headers=headers)
            client.getresponse().read()
    ask(url, {"Range": "bytes=0-9"})
    first, second, third = origin.log
    assert (first.path, first.query, first.method, first.range) == ("/a b.bin", "key=1", "GET", None)
    assert (first.status, first.sent, first.host) == (200, N, f"localhost:{origin.port}")
    assert first.headers["x-tag"] == "t"
    assert abs(first.started_s - time.time()) < 60
    assert (second.method, second.sent) == ("HEAD", 0)
    assert first.connection == second.connection != third.connection
    assert (third.range, third.status, third.sent) == ("bytes=0-9", 206, 10)
    assert (origin.sent("/a b.bin"), origin.requests("/a b.bin")) == (N + 10, 2)
    assert (origin.sent("/other"), origin.requests("/other"), origin.requests("/none")) == (0, 1, 0)
    assert origin.peak_connections == 1
    with pytest.raises(FrozenInstanceError):
        first.sent = 1


def test_a_transfer_under_way_is_seen(origin):
    url = origin.serve("/w", DATA, stall_after=1000)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, url, patience_s=0.5)
        until_s = time.monotonic() + 5
        while origin.sent("/w") < 1000 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert [(record.status, record.sent) for record in origin.log] == [(200, 1000)]
        assert not waiting.done()


def test_peaks_by_host_name():
    with Origin(also=("127.0.0.2",), rate=2 << 20) as origin:
        origin.serve("/w", bytes(300_000))
        urls = [origin.at(name) + "/w" for name in ("127.0.0.2",) * 3 + ("localhost",) * 2]
        with ThreadPoolExecutor(5) as pool:
            assert [len(got.body) for got in pool.map(ask, urls)] == [300_000] * 5
        assert origin.peaks == {"": 5, "127.0.0.2": 3, "localhost": 2}
        for _ in range(3):
            ask(urls[0])
        assert origin.peak_connections == 5


def test_ipv6():
    with Origin(host="::1") as origin:
        assert ask(origin.serve("/w", DATA)).body == DATA
        assert origin.url == f"http://[::1]:{origin.port}"


# -- folders, names, the process of its own


def test_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "ü #1.bin").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    with Origin(folder=root, delay_s=0.01) as origin:
        assert ask(origin.url + urllib.parse.quote("/ü #1.bin")).body == DATA
        for path in ("/../secret", "/%2e%2e/secret", "/none", "/"):
            assert ask(origin.url + path).status == 404
        url = origin.serve("/gone", root / "gone")
        assert ask(url).status == 404


def test_process_of_its_own(tmp_path):
    (tmp_path / "w").write_bytes(DATA)
    with origin_process(tmp_path, "--rate", "4M", "--delay", "0.1", "--ranges", "ignored") as running:
        started_s = time.monotonic()
        got = ask(running.url + "/w", HALF)
        assert (got.status, got.body) == (200, DATA)
        assert time.monotonic() - started_s > 0.1 + N / (4 << 20) * 0.9
    assert running.totals == {"requests": 1, "sent": N, "peaks": {"": 1, "127.0.0.1": 1}}


# -- the end


@pytest.mark.parametrize(
    "faults",
    [{}, {"silent": True}, {"stall_after": 10}, {"rate": 10}, {"delay_s": 60.0}, {"chunked": True}],
    ids=str,
)
def test_clean_end(tmp_path, faults):
    with open(tmp_path / "big", "wb") as file:
        file.truncate(64 << 20)
    threads = threading.enumerate()
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("error")
        with Origin() as origin:
            origin.serve("/w", tmp_path / "big", **faults)
            clients = []
            for request in (b"GET /w HTTP/1.1\r\n\r\n", b"GET /", b""):  # reads nothing; half a request; none
                client = stack.enter_context(socket.create_connection((origin.host, origin.port)))
                client.sendall(request)
                clients.append(client)
            until_s = time.monotonic() + 5
            while len(threading.enumerate()) < len(threads) + 4 and time.monotonic() < until_s:
                time.sleep(0.01)
            assert len(threading.enumerate()) == len(threads) + 4
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 20
        assert threading.enumerate() == threads
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((origin.host, origin.port))
        with clients[0].makefile("rb") as file:  # what had left is still on its way
            body = file.read().partition(b"\r\n\r\n")[2]
        assert origin.sent("/w") == len(body) or "chunked" in faults
        gc.collect()


def test_client_that_leaves(tmp_path, capfd):
    with open(tmp_path / "big", "wb") as file:
        file.truncate(64 << 20)
    with Origin() as origin:
        idle = threading.active_count()
        for faults in ({}, {"stall_after": 10}, {"rate": 1 << 20}, {"delay_s": 60.0}, {"silent": True}):
            origin.serve("/w", tmp_path / "big", **faults)
            with socket.create_connection((origin.host, origin.port)) as client:
                client.sendall(b"GET /w HTTP/1.1\r\n\r\n")
                time.sleep(0.05)
        for nonsense in (b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 300_000):
            with socket.create_connection((origin.host, origin.port), timeout=5) as client:
                client.sendall(nonsense)
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
        until_s = time.monotonic() + 5
        while threading.active_count() > idle and time.monotonic() < until_s:
            time.sleep(0.01)
        assert threading.active_count() == idle
        assert origin.serve("/w", DATA)
        assert ask(origin.url + "/w").body == DATA
    assert capfd.readouterr() == ("", "")


# -- the real programs


def test_curl(origin, tmp_path):
    curl = (require("curl"), "-q", "-sS", "--noproxy", "*", "-m", "10", "-o", str(tmp_path / "out"))

    def code(url: str, *flags: str) -> int:
        return subprocess.run([*curl, *flags, url], check=False, stderr=subprocess.DEVNULL).returncode

    url = origin.serve("/w", DATA, cut_after=N // 2, cut_times=1)
    assert code(url) == 18
    assert code(url, "-C", "-") == 0
    assert (tmp_path / "out").read_bytes() == DATA
    assert origin.sent("/w") == N
    assert code(origin.serve("/loop", redirect_loop=True), "-L") == 47
    assert code(origin.serve("/rst", DATA, cut_after=9, rst=True)) == 56
    assert code(origin.serve("/to", redirect=url), "-L") == 0
    assert (tmp_path / "out").read_bytes() == DATA


def test_aria2c(origin, tmp_path):
    data = random.Random(2).randbytes(8 << 20)
    (tmp_path / "w").write_bytes(data)
    url = origin.serve("/w", tmp_path / "w", rate=8 << 20)
    flags = (
        "--no-conf",
        "-q",
        "-x4",
        "-s4",
        "-k1M",
        "--file-allocation=none",
        "--all-proxy=",
        "-d",
        str(tmp_path),
    )
    started_s = time.monotonic()
    subprocess.run([require("aria2c"), *flags, "-o", "out", url], check=True, timeout=20)
    assert time.monotonic() - started_s > 0.2
    assert (tmp_path / "out").read_bytes() == data
    assert 3 <= origin.peak_connections <= 5  # one that hung up may not be noticed yet
    assert len(data) <= origin.sent("/w") < 1.3 * len(data)


def test_nginx_serves_and_counts(tmp_path):
    (tmp_path / "w").write_bytes(DATA)
    with nginx(tmp_path, extra="max_ranges 1;") as server:
        assert ask(server.url + "/w").body == DATA
        got = ask(server.url + "/w", {"Range": "bytes=5-9"})
        assert (got.status, got.body) == (206, DATA[5:10])
        assert ask(server.url + "/none").status == 404
        assert (server.sent("/w"), server.requests("/w"), server.requests("/none")) == (N + 5, 2, 1)
    with pytest.raises(ConnectionRefusedError):
        ask(server.url + "/w")
    assert not server.prefix.exists()


def test_nginx_that_cannot_start(tmp_path):
    require("nginx")
    with pytest.raises(pytest.fail.Exception, match="unknown directive"), nginx(tmp_path, extra="nonsense;"):
        pass


def test_require(monkeypatch):
    monkeypatch.setenv("ORCH_TEST_REQUIRE", "sh,no-such-program")
    assert require("sh").endswith("/sh")
    with pytest.raises(pytest.fail.Exception):
        require("no-such-program")
    monkeypatch.setenv("ORCH_TEST_REQUIRE", "aria2c")
    with pytest.raises(pytest.skip.Exception):
        require("no-such-program")


# -- weights


@pytest.mark.parametrize(
    ("make", "digest"),
    [
        (make_safetensors, "64f2771c9acce07199c5253bc8e49c2b73b82d27a15f5151d8df7550c1656716"),
        (make_torch_zip, "63d763a778f143f51d87f16cb33efafb9d9420b1fd469eccaf6d440afb0cb222"),
    ],
)
def test_weights_are_the_same_everywhere(tmp_path, make, digest):
    one, again, other = (make(tmp_path / str(number), 1, seed) for number, seed in enumerate((7, 7, 8)))
    assert one == again != other
    assert one == (digest, (tmp_path / "0").stat().st_size)


def test_safetensors(tmp_path):
    make_safetensors(tmp_path / "w.safetensors", 2, 7)
    tensors = load_file(tmp_path / "w.safetensors")
    shapes = {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        "embedding.weight": ("float16", (512, 1024)),
        "layers.0.weight": ("float32", (128, 1024)),
        "layers.1.weight": ("float32", (128, 1024)),
    }
    assert all(abs(tensor).max() < 2 and abs(tensor).max() > 1 for tensor in tensors.values())


def test_torch_zip(tmp_path):
    """Torch itself is too large for this suite: here the zip, the opcodes and the bytes are looked at."""
    make_torch_zip(tmp_path / "w.pth", 1, 7)
    make_safetensors(tmp_path / "w.safetensors", 1, 7)
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        names = ("data.pkl", "byteorder", "data/0", "data/1", "version")
        assert archive.namelist() == [f"archive/{name}" for name in names]
        words = [word for _, word, _ in pickletools.genops(archive.read("archive/data.pkl"))]
        tensors = load_file(tmp_path / "w.safetensors")
        assert [archive.read(f"archive/data/{number}") for number in (0, 1)] == [
            tensors[name].tobytes() for name in ("embedding.weight", "layers.0.weight")
        ]
    assert words.count("torch._utils _rebuild_tensor_v2") == 2
    assert {"torch HalfStorage", "torch FloatStorage", "embedding.weight", "layers.0.weight"} <= set(words)
