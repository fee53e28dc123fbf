"""A resume by another program, other connections or another limit fetches what is missing, and counts what it kept."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.server import Origin
from tests.backends.rig import midway, when
from tests.orch import Done, Orch, made
from tests.servers import require

MIB = 1 << 20
SIZE = 40 * MIB + 1234
CONTENT = made(SIZE, 3)
RATE = MIB // 2  # of a connection
LOST = MIB  # what was on its way when the first run was ended: 16 connections, 64 KiB each


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    require("aria2c")
    require("curl")
    return Orch(tmp_path)


def begun(orch: Orch, origin: Origin, *words: str, until: int = 12 * MIB) -> tuple[Path, int]:
    """Leave what many connections of aria2c have brought until ^C; the place, and the bytes that were sent."""
    url = origin.serve("/w.bin", CONTENT, rate=RATE)
    place = orch.want("w", CONTENT, url)
    process = orch.start("sync", "--json", "team.yaml", *words)
    with when(midway(origin, "/w.bin", until), lambda: process.send_signal(signal.SIGINT)):
        process.communicate(timeout=60)
    sent = sent_to_programs(origin)
    origin.serve("/w.bin", CONTENT)
    return place, sent


def sent_to_programs(origin: Origin) -> int:
    """The bytes of the file that were sent, without the one that each of orch's own questions asks for."""
    return sum(record.sent for record in origin.log if record.path == "/w.bin" and record.sent > 1)


def assert_resumed(done: Done, place: Path, sent_before: int, sent_after: int, lost: int = LOST) -> None:
    """All is here, nearly nothing came twice, and the summary's two numbers are the file's bytes."""
    assert done.code == 0, done.err
    assert place.read_bytes() == CONTENT
    assert sent_before + sent_after <= SIZE + lost
    fetched, reused = done.summary["bytes_fetched"], done.summary["bytes_reused"]
    assert fetched + reused == SIZE
    assert fetched <= sent_after


@pytest.mark.parametrize(
    "words",
    [("--limit-rate", "20M"), ("--connections", "2"), ("--backend", "curl")],
    ids=["limit", "connections", "curl"],
)
def test_what_many_connections_left_is_kept(orch: Orch, words: tuple[str, ...]) -> None:
    with Origin() as origin:
        place, before = begun(orch, origin)
        assert_resumed(orch.sync(*words), place, before, sent_to_programs(origin) - before)


def test_what_a_program_cannot_keep_is_not_counted_as_reused(orch: Orch) -> None:
    require("wget")
    with Origin() as origin:
        place, before = begun(orch, origin)
        done = orch.sync("--backend", "wget")
        assert_resumed(done, place, before, sent_to_programs(origin) - before, lost=SIZE)
    told = [event["message"] for event in done.named("noticed")]
    assert any("wget" in line and "downloaded again" in line for line in told), told


def test_a_page_of_a_mirror_does_not_hide_that_the_line_broke(orch: Orch) -> None:
    with Origin(also=("127.0.0.2",)) as origin:
        url = origin.serve("/w.bin", CONTENT, cut_after=SIZE // 8, cut_times=6)
        page = origin.serve("/page/w.bin", CONTENT, html=True)
        orch.want("w", CONTENT, url, mirrors=[page.replace("127.0.0.1", "127.0.0.2")])
        done = orch.sync("--backend", "curl", "--retries", "0")
    assert done.code == 5
    (failed,) = done.summary["failed"]
    assert "are kept: run the command again to resume" in failed["hint"], failed


@pytest.mark.parametrize("faults", [{"status": 500}, {"ranges": "ignored", "cut_after": 2 * MIB}])
def test_a_failure_of_which_nothing_can_be_resumed_promises_no_resume(orch: Orch, faults: dict[str, Any]) -> None:
    content = made(8 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w", content, **faults))
        done = orch.sync("--retries", "1")
    (failed,) = done.summary["failed"]
    assert failed["hint"] == "run the command again later, or add a mirror to the manifest"
