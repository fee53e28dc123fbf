"""Readings that take long are told, those that do not are not; each ends with all of its bytes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.events import Reading
from orchestrator.transfer.reading import Part, Several, told
from tests.orch import Orch, made
from tests.render.test_terminal import SLOW_SUM

MIB = 1 << 20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def context(clock: Clock) -> Context:
    return replace(Context.real(), monotonic=clock)


def test_it_is_told_after_two_seconds_and_every_half_of_one(context: Context, clock: Clock) -> None:
    events: list[Any] = []
    with told(context, events.append, "hashing", "m", "f", 100) as reading:
        for tenth in range(1, 32):
            clock.now = tenth / 10
            reading.reading(tenth)
    assert [event.done_bytes for event in events] == [20, 25, 30, 100]
    assert {(event.model, event.file, event.doing, event.size_bytes) for event in events} == {
        ("m", "f", "hashing", 100)
    }
    clock.now, count = 100.0, len(events)
    with told(context, events.append, "hashing", "m", "short", 100) as reading:
        reading.reading(50)
    assert len(events) == count


def test_a_copy_that_is_verified_is_half_done_when_it_is_copied(context: Context, clock: Clock) -> None:
    events: list[Any] = []
    with told(context, events.append, "copying", "m", "f", 100, 2) as reading:
        for second, done in ((3, 50), (4, 100), (5, 20), (6, 80)):
            clock.now = second
            reading.reading(done)
    assert [event.done_bytes for event in events] == [25, 50, 60, 90, 100]


def test_of_several_files_all_are_told_and_the_one_at_hand(context: Context, clock: Clock) -> None:
    events: list[Any] = []
    several = Several(context, events.append, "verifying", 1000)
    with several.batch([Part("m", "a", 100), Part("m", "b", 400)]) as reading:
        for second in range(6):
            clock.now = second
            reading.reading(90 * second)
    with several.batch([Part("m", "c", 500)]) as reading:
        clock.now = 10
        reading.reading(0)
        clock.now = 13
        reading.reading(250)
    several.end()
    assert [(e.file, e.done_bytes) for e in events if e.model] == [
        ("b", 260),
        ("b", 350),
        ("b", 400),
        ("c", 0),
        ("c", 250),
        ("c", 500),
    ]
    assert [e.done_bytes for e in events if not e.model] == [180, 270, 360, 450, 500, 750, 1000]
    assert all(isinstance(e, Reading) for e in events)


def test_verify_and_adoption_tell_how_far_they_are(tmp_path: Path) -> None:
    orch, content = Orch(tmp_path), made(8 * MIB)
    slow = tmp_path / "slow-sha256sum"
    slow.write_text(SLOW_SUM.format(python=sys.executable, pause_s=0.5))
    slow.chmod(0o755)
    orch.environ["ORCH_SHA256SUM"] = str(slow)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w.bin", content))
        place.parent.mkdir()
        place.write_bytes(content)
        for command in ("sync", "verify"):
            done = orch.run(command, "--json", "team.yaml")
            assert done.summary["ok"]
            told_ = [e for e in done.named("reading") if e["model"]]  # verify reads the store's copy, too
            assert {(e["model"], e["file"], e["size_bytes"]) for e in told_} == {("w", "w.bin", 8 * MIB)}
            assert done.named("verified")[0]["size_bytes"] == 8 * MIB
            assert told_[0]["doing"] == "verifying"
            assert 0 < told_[0]["done_bytes"] < told_[-1]["done_bytes"] == 8 * MIB
        assert not origin.log
