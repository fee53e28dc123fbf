"""`orch mirrors` from outside: what is told of each source, and 5 where a file has none."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256
from tests.servers import nginx

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
        assert best["round_trip_s"] > 0.03  # our clock starts a little after the server's
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
    assert " ".join(lines[0].split()) == "SOURCE ROLE ANSWERS TRIP RATE RANGES LENGTH TLS LAST SEEN NOTE"
    (line,) = [line for line in lines if line.startswith(f"{good.url}/ ")]
    assert " good 20" in line
    (line,) = [line for line in lines if line.startswith(f"{closed}/ ")]
    assert " dead " in line
    assert re.search(" never  +connection refused$", line)


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
        assert "lost  no source answers" in plainly.out
        assert "hint: check the URLs" in plainly.out


def test_what_is_absent_of_the_largest_says_nothing_of_the_others(orch: Orch) -> None:
    with Origin() as origin:
        large, small = made(50_000), made(5000, 2)
        orch.want("large", large, origin.serve("/large", large, status=404))
        orch.want("small", small, origin.serve("/small", small))
        done = orch.run("mirrors", "--json", "team.yaml")
    assert [f["model"] for f in done.summary["failed"]] == ["large"]


def test_peers_are_named_by_plan_and_shown_with_what_they_have(orch: Orch, closed: str, tmp_path: Path) -> None:
    large, small, other = made(9 * MIB), made(5000, 2), made(4000, 3)
    (tmp_path / "peer/sha256").mkdir(parents=True)
    (tmp_path / "peer/sha256" / sha256(small)).write_bytes(small)
    (tmp_path / "empty").mkdir()
    config = tmp_path / "home/.config/orch.yaml"
    with Origin() as good, nginx(tmp_path / "peer") as peer, nginx(tmp_path / "empty") as empty:
        orch.want("large", large, good.serve("/large", large))
        orch.want("small", small, f"{closed}/small")
        orch.want("other", other, good.serve("/other", other))
        config.write_text(json.dumps({"peers": [peer.url, empty.url, closed, "srv:_orch._tcp.example.org"]}))
        (told,) = orch.run("plan", "--json", "team.yaml").named("noticed")
        bases = f"{peer.url}/, {empty.url}/, {closed}/, srv:_orch._tcp.example.org"
        assert told["message"] == f"sync asks these peers first: {bases}"
        assert not peer.counts()

        config.write_text(json.dumps({"peers": [peer.url, empty.url, closed]}))
        done = orch.run("mirrors", "--json", "team.yaml")
        shown = {m["prefix"]: m for m in done.named("mirror") if m["role"] == "peer"}
        assert set(shown) == {f"{peer.url}/", f"{empty.url}/", f"{closed}/"}
        has = shown[f"{peer.url}/"]
        assert (has["answers"], has["url"], has["length_right"]) == (True, f"{peer.url}/sha256/{sha256(small)}", True)
        assert (shown[f"{empty.url}/"]["verdict"], shown[f"{closed}/"]["verdict"]) == ("not there", "dead")
        (failed,) = done.named("gave_up")
        assert (done.code, failed["model"]) == (5, "small"), "a peer is no mirror"
        assert f": only a peer has it ({peer.url}/), no source of the manifest answers: " in failed["message"]
        assert orch.sync().summary["fetched"] == 3
        (said,) = (e for e in orch.run("plan", "--json", "team.yaml").events if e["event"] != "finished")
        assert said["event"] == "summary", "with nothing to fetch no peer is asked, nor named"
