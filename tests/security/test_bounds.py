"""What the kernel holds a download program to: the length of its files, and its memory."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator import process
from orchestrator.backends import shared
from orchestrator.backends.base import Command, Exit, Job, Want
from orchestrator.errors import ExitCode
from orchestrator.faults import Kind
from orchestrator.process import Bounds
from orchestrator.transfer.child_bounds import SLACK_BYTES, child_bounds
from tests.mounts import tmpfs
from tests.orch import Orch, made
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
_NAMES = {"Max file size": "file", "Max address space": "memory", "Max core file size": "core"}


@contextmanager
def server(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """A server that answers each request by calling `answer` with the connection and the path; gives its URL."""

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(20)
                request = b""
                while b"\r\n\r\n" not in request:
                    if not (got := connection.recv(65536)):
                        return
                    request += got
                answer(connection, request.split(b" ")[1])
            except OSError:
                pass  # the client went away, as it should

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def endless_body(connection: socket.socket, _: bytes = b"") -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(bytes(MIB))


def endless_header(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    lines = b"".join(b"X-%06d: %s\r\n" % (number, b"y" * 1000) for number in range(500))
    while True:
        connection.sendall(lines)


def limits(bounds: Bounds, **how: object) -> dict[str, str]:
    """The soft limits that a child has, in words."""
    exit_ = process.run_program(
        Command(("cat", "/proc/self/limits")), "/bin/cat", stop=threading.Event(), bounds=bounds, **how
    )
    rows = {line[:26].strip(): line[26:].split()[0] for line in exit_.stdout.splitlines()}
    return {short: rows[name] for name, short in _NAMES.items()}


@pytest.mark.parametrize("setpriv", [True, False])
def test_a_child_has_its_limits_before_it_begins(setpriv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not setpriv:
        monkeypatch.setattr(process, "which", lambda name, path: "" if name == "setpriv" else path or name)
    given = limits(Bounds(5 * MIB, 1 << 30))
    assert int(given["file"]) in (5 * MIB, 10 * MIB)  # bash counts in KiB
    assert (given["memory"], given["core"]) == (str(1 << 30), "0")
    assert limits(Bounds())["memory"] == _own(resource.RLIMIT_AS)


def _own(number: int) -> str:
    own = resource.getrlimit(number)[0]
    return "unlimited" if own == resource.RLIM_INFINITY else str(own)


def test_a_lower_limit_of_our_own_stays() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, hard))
    try:
        assert limits(Bounds(5 * MIB))["file"] == str(3 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("bounds", "ended"), [(Bounds(MIB), "oversized"), (Bounds(MIB, is_room=True), "full"), (Bounds(8 * MIB), "itself")]
)
def test_who_writes_more_than_it_may_is_stopped_by_the_kernel(tmp_path: Path, bounds: Bounds, ended: str) -> None:
    file = tmp_path / "f"
    command = Command(("dd", "if=/dev/zero", f"of={file}", "bs=64K", "count=64"))
    exit_ = process.run_program(command, "/bin/dd", stop=threading.Event(), folder=str(tmp_path), bounds=bounds)
    assert (exit_.ended, file.stat().st_size <= 4 * MIB) == (ended, True)
    assert ended == "itself" or file.stat().st_size <= 2 * MIB


def test_the_bound_is_that_of_the_longest_file_or_of_the_room(tmp_path: Path) -> None:
    def job(*lengths: int | None) -> Job:
        return Job(tuple(Want(("http://h/f",), f"{tmp_path}/f", length, 5) for length in lengths), str(tmp_path))

    assert child_bounds("curl", job(7, 3), 10)[:1] == (7 + SLACK_BYTES,)
    assert child_bounds("aria2c", job(None), 7)[:2] == (7 + SLACK_BYTES, 1 << 30)
    bounds, free = child_bounds("curl", job(None), None), os.statvfs(tmp_path)
    assert bounds.file_bytes is not None
    assert bounds.is_room
    assert free.f_bfree * free.f_frsize * 0.9 - (1 << 30) < bounds.file_bytes < free.f_bfree * free.f_frsize


def disk_mib(folder: Path) -> int:
    return sum(entry.lstat().st_blocks * 512 for entry in folder.rglob("*") if entry.is_file()) // MIB


@pytest.mark.parametrize("backend", ["aria2c", "axel", "curl", "wget"])
def test_a_body_without_an_end_leaves_little(tmp_path: Path, backend: str) -> None:
    """The kernel is quicker than a look five times a second."""
    require(backend)
    orch, content = Orch(tmp_path), made(3000)
    with server(endless_body) as evil:
        orch.want("m", content, f"{evil}/m.bin")
        done = orch.sync("--backend", backend, "--retries", "0")
    (failed,) = done.summary["failed"]
    assert failed["fault"] in ("corrupt", "network", "refused"), failed  # aria2c sees that no length is told
    assert disk_mib(tmp_path) <= 3 * SLACK_BYTES // MIB


@pytest.mark.parametrize("backend", ["axel", "curl", "wget"])
def test_a_length_far_beyond_size_is_not_believed(tmp_path: Path, backend: str) -> None:
    """Where the only source names a length, it could name any: `size:` in the manifest bounds what is fetched."""
    require(backend)

    def huge(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 107374182400\r\n\r\n")
        while True:
            connection.sendall(bytes(MIB))

    orch, content = Orch(tmp_path), made(3000)
    with server(huge) as evil:
        orch.want("m", content, f"{evil}/m.bin")
        done = orch.sync("--backend", backend, "--retries", "0")
    assert done.code == ExitCode.DIGEST, done.out
    assert disk_mib(tmp_path) <= 3 * SLACK_BYTES // MIB


def test_a_header_without_an_end_costs_a_bounded_memory(tmp_path: Path) -> None:
    """aria2c keeps all of it: at its limit it dies, which is the source's fault, and said so."""
    require("aria2c")
    orch, content, most = Orch(tmp_path), made(3000), 0

    asked: list[bytes] = []

    def answer(connection: socket.socket, path: bytes) -> None:
        """Fair to orch's own question, which comes first."""
        asked.append(path)
        if len(asked) > 1:
            endless_header(connection, path)
        head = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-0/3000\r\nContent-Length: 1\r\nConnection: close\r\n\r\n"
        connection.sendall(head + content[:1])

    with server(answer) as evil:
        orch.want("m", content, f"{evil}/m.bin")
        running = orch.start("sync", "--json", "team.yaml", "--backend", "aria2c", "--retries", "0")
        while running.poll() is None:
            for child in psutil.Process(running.pid).children(recursive=True):
                with suppress(psutil.Error):
                    most = max(most, child.memory_info().vms)
            time.sleep(0.05)
        out, err = running.communicate()
    assert running.returncode == ExitCode.TRANSFER, out + err
    assert "ran out of the memory that a download may take" in out, out
    assert 0 < most <= 1 << 30


def test_of_a_bundle_only_the_endless_file_fails(tmp_path: Path) -> None:
    """The bound is that of the longest file; the program that it ends is started again for the others."""
    require("curl")
    orch, contents = Orch(tmp_path), [made(3000, seed) for seed in range(6)]
    by_path = {f"/{number}.bin".encode(): content for number, content in enumerate(contents)}

    def answer(connection: socket.socket, path: bytes) -> None:
        if path == b"/3.bin":
            endless_body(connection)
        body = by_path[path]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    with server(answer) as evil:
        places = [orch.want(f"m{n}", content, f"{evil}/{n}.bin") for n, content in enumerate(contents)]
        done = orch.sync("--backend", "curl", "--retries", "0")
    (failed,) = done.summary["failed"]
    assert (failed["model"], failed["fault"], done.code) == ("m3", "corrupt", ExitCode.DIGEST), done.out
    assert [place.exists() for place in places] == [True, True, True, False, True, True]
    assert disk_mib(tmp_path) <= 3 * SLACK_BYTES // MIB


def test_a_server_s_words_are_no_want_of_memory() -> None:
    said = "  HTTP/1.1 503 wget: out of memory\n  X: bad\nERROR 503: Out of memory.\n"
    assert shared.ended(Exit(8, stderr=said)) is None
    for said in ("what():  std::bad_alloc\n", "curl: (27) Out of memory\n", "wget: memory exhausted\n"):
        fault = shared.ended(Exit(1, stderr=said))
        assert fault is not None
        assert fault.kind is Kind.REFUSED


def test_a_file_of_unknown_length_leaves_its_disk_some_room(tmp_path: Path) -> None:
    """Nobody can say what is too much; a full disk is everybody's trouble."""
    require("curl")
    orch = Orch(tmp_path)
    with tmpfs(tmp_path / "small", "64m") as small, server(endless_body) as evil:
        orch.want("m", made(3000), f"{evil}/m.bin", size=None)
        done = orch.sync("--store", str(small / "store"), "--backend", "curl", "--retries", "0")
        status = os.statvfs(small)
    (failed,) = done.summary["failed"]
    assert (failed["fault"], done.code, "df -h" in failed["hint"]) == ("disk", ExitCode.STORE, True), failed
    assert status.f_bfree * status.f_frsize > 2 * MIB
