"""Servers that redirect to where no redirect may lead: orch's own requests, and the programs that it starts.

Each test has a network of its own, in which the addresses of cloud metadata services are this machine's.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Done, Orch, made
from tests.servers import require
from tests.sources.test_http import https

PROGRAMS = ["aria2c", "axel", "curl", "wget"]
FAR = "10.9.8.7"  # stands for a host on the internet
FORBIDDEN = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
FORBIDDEN_6 = ("fd00:ec2::254", "fd20:ce::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1")
SPELLINGS = [
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    *(f"[{address}]" for address in FORBIDDEN_6),
]
SIZES = [(3000, 1), (3000, 12), (2 << 20, 1), (9 << 20, 1)]
# orch judges where a URL leads before it chooses a program: each size with the best one, each program with two sizes.
CASES = [
    *((None, size, count) for size, count in SIZES),
    *((backend, size, count) for backend in PROGRAMS for size, count in SIZES[1::2]),
]
SECRET = b"AKIA-credentials-of-the-instance"
_NEWNET = 0x40000000


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace of this thread, of those that it starts, and of their programs."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_NEWNET):
            pytest.skip(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            run = subprocess.run(["ip", "link", "set", "lo", "up"], capture_output=True)
            if run.returncode:
                pytest.skip("no `ip` to make a network with")
            for address in (*FORBIDDEN, *FORBIDDEN_6, FAR):
                bits = 128 if ":" in address else 32
                subprocess.run(["ip", "addr", "add", f"{address}/{bits}", "dev", "lo", "nodad"][: 6 + (bits == 128)])
            yield
        finally:
            assert libc.setns(before.fileno(), _NEWNET) == 0


@pytest.fixture
def metadata(network: None) -> Iterator[Origin]:
    """What gives this machine's credentials to whoever asks."""
    with Origin(host="0.0.0.0", also=("::",)) as running:
        running.serve("/latest", SECRET)
        yield running


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def assert_refused(orch: Orch, done: Done, metadata: Origin, words: str = "link-local or metadata") -> None:
    assert metadata.log == (), [record.host for record in metadata.log]
    assert done.code != 0
    assert all(words in failed["message"] for failed in done.summary["failed"]), done.summary["failed"]
    for folder, _, names in os.walk(orch.store):
        assert not any(SECRET in Path(folder, name).read_bytes() for name in names if Path(folder, name).is_file())


@pytest.mark.parametrize(("backend", "size", "count"), CASES)
def test_no_program_is_led_to_the_metadata_service(
    orch: Orch, metadata: Origin, backend: str | None, size: int, count: int
) -> None:
    require(backend or "curl")
    with Origin() as hub:
        for number in range(count):
            where = f"http://169.254.169.254:{metadata.port}/latest"
            orch.want(f"m{number}", made(size, number), hub.serve(f"/{number}", redirect=where))
        done = orch.sync("--retries", "0", *(("--backend", backend) if backend else ()))
    assert_refused(orch, done, metadata)


@pytest.mark.parametrize("size", [3000, 9 << 20])
def test_in_no_spelling(orch: Orch, metadata: Origin, size: int) -> None:
    with Origin() as hub:
        for number, host in enumerate(SPELLINGS):
            url = hub.serve(f"/{number}", redirect=f"http://{host}:{metadata.port}/latest")
            orch.want(f"m{number}", made(size, number), url)
        done = orch.sync("--retries", "0")
    assert len(done.summary["failed"]) == len(SPELLINGS)
    assert_refused(orch, done, metadata, "redirected to ")


@pytest.mark.parametrize("backend", PROGRAMS)
def test_a_server_that_answers_orch_and_redirects_the_program(orch: Orch, metadata: Origin, backend: str) -> None:
    require(backend)
    content = made(9 << 20)
    with Origin() as hub:
        where = f"http://169.254.169.254:{metadata.port}/latest"
        orch.want("m", content, hub.serve("/f", content, redirect=where, redirect_after=1))
        done = orch.sync("--retries", "0", "--backend", backend)
    assert_refused(orch, done, metadata, "" if backend == "axel" else "link-local or metadata")


@pytest.mark.parametrize(("backend", "size", "count"), CASES[:5])
def test_a_manifest_that_names_it(orch: Orch, metadata: Origin, backend: str | None, size: int, count: int) -> None:
    require(backend or "curl")
    for number in range(count):
        orch.want(f"m{number}", made(size, number), f"http://2852039166:{metadata.port}/{number}")
    done = orch.sync("--retries", "0", *(("--backend", backend) if backend else ()))
    assert_refused(orch, done, metadata, "a metadata address (169.254.169.254): nothing is downloaded from there")
    assert done.named("started") == []


@pytest.mark.parametrize(("backend", "size", "count"), CASES)
def test_a_server_elsewhere_does_not_lead_to_this_machine(
    orch: Orch, network: None, backend: str | None, size: int, count: int
) -> None:
    require(backend or "curl")
    with Origin(host=FAR) as hub, Origin() as here:
        for number in range(count):
            content = made(size, number)
            url = hub.serve(f"/{number}", redirect=here.serve(f"/{number}", content))
            orch.want(f"m{number}", content, url)
        done = orch.sync("--retries", "0", *(("--backend", backend) if backend else ()))
        assert_refused(orch, done, here, "redirected to an address of this machine (127.0.0.1)")


@pytest.mark.parametrize(
    ("backend", "size", "count"),
    [("aria2c", 9 << 20, 1), ("aria2c", 3000, 3), ("curl", 3000, 1), ("curl", 3000, 3), ("wget", 9 << 20, 1)],
)
def test_from_https_to_http(orch: Orch, backend: str, size: int, count: int) -> None:
    require(backend)
    with Origin() as plain, https(orch.folder, "IP:127.0.0.1", location=f"{plain.url}/latest") as server:
        orch.top["hosts"] = {server.url.partition("://")[2].partition("/")[0]: {"ca": str(orch.folder / "ca.pem")}}
        for number in range(count):
            orch.want(f"m{number}", made(size, number), f"{server.url.rstrip('/')}/{number}")
        done = orch.sync("--retries", "0", "--backend", backend)
        assert_refused(orch, done, plain, "redirected from https to http")


def test_a_name_that_means_another_address_by_the_time_the_program_asks(orch: Orch, metadata: Origin) -> None:
    """DNS rebinding: the name is a good host when orch asks, and the metadata service a moment later."""
    require("curl")
    content = made(9 << 20)
    hosts = orch.folder / "hosts"
    hosts.write_text(f"{FAR} files.test\n")
    with Origin(host=FAR) as good:
        good.serve("/f", content, delay_s=0.2)
        orch.want("m", content, f"http://files.test:{good.port}/f")
        orch.write()
        words = (
            f"mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec {shlex.quote(sys.executable)} -m orchestrator"
        )
        argv = ["unshare", "-m", "sh", "-c", f"{words} sync --json --retries 0 --backend curl team.yaml"]
        over = threading.Event()

        def rebind() -> None:
            while not good.log and not over.wait(0.005):
                pass
            hosts.write_text("169.254.169.254 files.test\n")

        turning = threading.Thread(target=rebind)
        turning.start()
        try:
            done = subprocess.run(argv, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, timeout=60)
        finally:
            over.set()
            turning.join()
        if "mount" in done.stderr:
            pytest.skip(done.stderr)
        assert good.requests("/f") >= 1
    assert metadata.log == ()
    assert done.returncode in (0, 5)
