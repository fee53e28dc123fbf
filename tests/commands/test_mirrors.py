"""`orch mirrors` from outside: what is told of each source, and 5 where a file has none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@pytest.fixture
def closed() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_each_prefix_is_told_once(orch: Orch, closed: str) -> None:
    large, small = made(9 * MIB), made(5000, 2)
    with Origin(delay_s=0.05) as good, Origin(ranges="ignored", rate=2 * MIB) as plain, Origin(html=True) as portal:
        for name, content in (("large", large), ("small", small)):
            mirrors = [f"{closed}/{name}", plain.serve(f"/pub/{name}", content), portal.serve(f"/x/{name}", content)]
            orch.want(name, content, good.serve(f"/{name}", content), mirrors=mirrors)
        orch.models["rsync"] = {**orch.models["small"], "mirrors": ["rsync://nas.example/w"], "to": "elsewhere/"}
        done = orch.run("mirrors", "--json", "team.yaml")
        told = {m["prefix"]: m for m in done.named("mirror")}
        assert (done.code, done.summary["files"], done.summary["fetched"]) == (0, 3, 3)
        assert done.summary["bytes_fetched"] == 0
        assert set(told) == {
            f"{closed}/", f"{plain.url}/pub/", f"{portal.url}/x/", f"{good.url}/", "rsync://nas.example/"
        }  # fmt: skip
        best = told[f"{good.url}/"]
        assert (best["answers"], best["ranges"], best["length_right"], best["tls"]) == (True, True, True, "")
        assert (best["url"], best["host"], best["role"]) == (f"{good.url}/large", good.url, "origin")
        assert 0.05 <= best["round_trip_s"] < 0.5
        assert best["bytes_per_s"] > 4 * MIB
        assert best["seen"] is None
        other = told[f"{plain.url}/pub/"]
        assert (other["answers"], other["ranges"]) == (True, False)
        assert MIB < other["bytes_per_s"] < 4 * MIB
        assert (told[f"{closed}/"]["verdict"], told[f"{closed}/"]["message"]) == ("dead", "connection refused")
        assert told[f"{portal.url}/x/"]["verdict"] == "another file"
        assert told[f"{portal.url}/x/"]["length_right"] is False
        assert told["rsync://nas.example/"]["answers"] is None
        # after a sync the local state knows more
        assert orch.sync("--only", "large").code == 0
        plainly = orch.run("mirrors", "team.yaml")
    lines = plainly.out.splitlines()
    assert plainly.code == 0
    assert lines[0].split() == ["source", "role", "answers", "trip", "rate", "ranges", "length", "tls", "last", "seen"]
    (line,) = [line for line in lines if line.startswith(f"{good.url}/ ")]
    assert " good 20" in line
    (line,) = [line for line in lines if line.startswith(f"{closed}/ ")]
    assert " dead " in line
    assert line.endswith("never  (connection refused)")


def test_a_file_that_no_source_has(orch: Orch, closed: str) -> None:
    with Origin() as good, Origin(status=404) as gone:
        content = made(5000)
        orch.want("fine", content, good.serve("/fine", content))
        orch.want("lost", content, gone.serve("/lost"), mirrors=[f"{closed}/lost"])
        done = orch.run("mirrors", "--json", "team.yaml")
        (failed,) = done.summary["failed"]
        assert (done.code, failed["model"], failed["exit_code"]) == (5, "lost", 5)
        assert "connection refused" in failed["message"]
        assert "server answered 404" in failed["message"]
        assert done.named("gave_up")[0]["hint"]
        plainly = orch.run("mirrors", "team.yaml")
        assert plainly.code == 5
        assert "lost: no source answers" in plainly.out
        assert "hint: look at the URLs" in plainly.out


def test_what_is_absent_of_the_largest_says_nothing_of_the_others(orch: Orch) -> None:
    with Origin() as origin:
        large, small = made(50_000), made(5000, 2)
        orch.want("large", large, origin.serve("/large", large, status=404))
        orch.want("small", small, origin.serve("/small", small))
        done = orch.run("mirrors", "--json", "team.yaml")
    assert [f["model"] for f in done.summary["failed"]] == ["large"]
