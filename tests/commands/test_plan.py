"""`orch plan` says before the first byte what stands in the way of a sync, and what it cannot know."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from orchestrator.text import size_text
from tests.backends.rig import midway, when
from tests.mounts import read_only
from tests.orch import Orch, made


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_sizes_that_nobody_says_are_told_with_the_space(orch: Orch) -> None:
    orch.want("b", b"b", "http://h.example/b", size=None)
    orch.want("c", b"c", "http://h.example/c", size=None)
    said = orch.run("plan", "team.yaml").out
    assert re.search(r"^space    \S+: unknown \(size of 2 files\), .* free$", said, re.M)
    orch.want("sized", b"abc", "http://h.example/a")
    said = orch.run("plan", "team.yaml").out
    assert re.search(r"^space    \S+: at least 3 bytes required \(size of 2 files unknown\), .* free$", said, re.M)
    (measured,) = orch.run("plan", "--json", "team.yaml").named("measured")
    assert (measured["needed_bytes"], measured["unsized_files"]) == (3, 2)
    assert orch.run("plan", "--only", "sized", "--json", "team.yaml").named("measured")[0]["unsized_files"] == 0


def test_a_place_or_a_store_that_cannot_be_written_is_told_before_the_first_byte(orch: Orch, tmp_path: Path) -> None:
    content = made(100_000)
    closed = tmp_path / "closed"
    closed.mkdir()
    with Origin() as origin, read_only(closed):
        url = origin.serve("/w", content)
        orch.want("w", content, url, to="closed/new/")
        for command in ("plan", "sync"):
            done = orch.run(command, "--json", "team.yaml")
            (failed,) = done.summary["failed"]
            assert (done.code, failed["fault"]) == (ExitCode.PLACEMENT, "placement"), command
            assert "ead-only file system" in failed["message"]
            assert f"findmnt -T {closed}" in failed["hint"]
        orch.want("w", content, url)
        for command in ("plan", "sync"):
            done = orch.run(command, "--store", str(closed / "store"), "team.yaml")
            assert done.code == ExitCode.STORE, command
            assert "ead-only file system" in done.out + done.err
            assert f"findmnt -T {closed}" in done.out + done.err
        assert not origin.log
        orch.models.clear()
    (closed / "have").write_bytes(content)
    with read_only(closed):
        orch.want("have", content, "http://127.0.0.1:9/have", to="closed/")
        assert [orch.run(command, "team.yaml").code for command in ("plan", "sync")] == [0, 0], "it needs no write"


def test_a_store_that_is_mounted_read_only_is_named_so_by_sync_and_doctor(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w", content))
        assert orch.sync().code == 0
        orch.want("v", content, origin.serve("/v", content), to="more/")
        with read_only(orch.store):
            for done in (orch.run("sync", "team.yaml"), orch.run("doctor", "--store", str(orch.store))):
                assert "ead-only file system" in done.out + done.err
                assert f"findmnt -T {orch.store}" in done.out + done.err


def test_what_is_here_of_a_download_is_told_by_stat(orch: Orch) -> None:
    content = made(12 << 20)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content, rate=4 << 20))
        orch.want("new", b"new", origin.serve("/new.bin", b"new"))
        process = orch.start("sync", "--only", "w", "--backend", "curl", "team.yaml")
        with when(midway(origin, "/w.bin", 3 << 20), lambda: process.send_signal(signal.SIGINT)):
            process.communicate(timeout=60)
        asked = len(origin.log)
        done = orch.run("plan", "--json", "team.yaml")
        have = {each["model"]: each["have_bytes"] for each in done.named("foreseen")}
        assert 1 << 20 < have["w"] < 12 << 20
        assert have["new"] == 0
        assert done.summary["bytes_to_fetch"] == len(content) + 3 - have["w"]
        (line,) = (text for text in orch.run("plan", "team.yaml").out.splitlines() if "w/w.bin" in text)
        assert f"; resumes, {size_text(have['w'])} of 12.0 MiB are here; " in line
        status = orch.run("status", "--json", "team.yaml")
        assert {each["model"]: each["have_bytes"] for each in status.named("gave_up")} == have
        assert {each["model"]: each["have_bytes"] for each in status.summary["failed"]} == have
        lines = orch.run("status", "team.yaml").out.splitlines()
        told = f"absent; sync resumes, {size_text(have['w'])} of 12.0 MiB are here"
        assert [line.rpartition(": ")[2] for line in lines if line.startswith("absent")] == [told, "absent"]
        assert len(origin.log) == asked


def test_bytes_from_a_server_without_ranges_are_not_promised_again(orch: Orch) -> None:
    content = made(12 << 20)
    with Origin() as origin:
        url = origin.serve("/w.bin", content, rate=4 << 20, ranges="ignored")
        orch.want("w", content, url)
        process = orch.start("sync", "--backend", "curl", "team.yaml")
        with when(midway(origin, "/w.bin", 3 << 20), lambda: process.send_signal(signal.SIGKILL)):
            process.communicate(timeout=60)
        done = orch.run("plan", "--json", "team.yaml")
        assert [each["have_bytes"] for each in done.named("foreseen")] == [0]
        assert done.summary["bytes_to_fetch"] == len(content)
        assert "resumes" not in orch.run("plan", "team.yaml").out
        assert "resumes" not in orch.run("status", "team.yaml").out
        other = origin.serve("/other.bin", content)
        orch.want("w", content, url, mirrors=[other])
        assert "; resumes, " in orch.run("plan", "team.yaml").out  # the other one may support them
