"""Plain lines: one every 30 s while something is downloaded; and what a quiet run still says."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest

from orchestrator import events
from orchestrator.errors import StoreError
from orchestrator.render.bars import Bars
from orchestrator.render.plain import Lines
from orchestrator.render.words import clock, line
from tests.orch import Orch

WRONG = events.Warned("evil.example", "checksum mismatch from http://evil.example/a", urgent=True)
DEAD = events.Warned("dead.example", "http://dead.example/a: connection refused", urgent=False)


def _quiet(state: Path, *warnings: events.Warned) -> str:
    out = io.StringIO()
    sink = Lines(out, quiet=True, state=str(state))
    sink(events.Noticed("hello"))
    sink.close(events.Summary(ok=True, exit_code=0, warnings=warnings))
    return out.getvalue()


def test_a_line_every_30_seconds() -> None:
    now = 0.0
    out = io.StringIO()
    sink = Lines(out, clock=lambda: now)
    sink(events.Planned(1, 1, 1000 << 20))
    sink(events.Started("m", "", "curl", "http://h/x", "curl", 0, 1000 << 20))
    for second in range(1, 91):
        now = float(second)
        sink(events.Progressed("m", "", second << 20, 1000 << 20))
    beats = [line for line in out.getvalue().splitlines() if " left" in line]
    assert beats == [
        "sync: 3 %, 30.0 MiB of 1000.0 MiB, 1.0 MiB/s, 16:10 left, 0 of 1 file",
        "sync: 6 %, 60.0 MiB of 1000.0 MiB, 1.0 MiB/s, 15:40 left, 0 of 1 file",
        "sync: 9 %, 90.0 MiB of 1000.0 MiB, 1.0 MiB/s, 15:10 left, 0 of 1 file",
    ]


def test_each_line_of_a_log_has_its_time() -> None:
    out = io.StringIO()
    sink = Lines(out, stamped=True)
    sink.tell(StoreError("two\nlines", "free some space"))
    sink.close(events.Summary(ok=False, exit_code=8))
    lines = out.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines[:3]] == [
        "error: two",
        "error: lines",
        "hint: free some space (orch explain disk)",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)


def test_a_quiet_run_warns_of_wrong_bytes_always_and_of_a_dead_mirror_once_a_day(tmp_path: Path) -> None:
    both = "warning: checksum mismatch from http://evil.example/a\nwarning: http://dead.example/a: connection refused"
    both += "; the files came from other sources: `orch mirrors`\n"
    assert _quiet(tmp_path) == ""
    assert _quiet(tmp_path, WRONG, DEAD) == both
    assert _quiet(tmp_path, WRONG, DEAD) == both.splitlines(keepends=True)[0]
    assert _quiet(tmp_path, DEAD) == ""
    known = tmp_path / "warned.json"
    for told in (time.time() - 86401, time.time() + 86400):  # a day ago; the clock was ahead
        known.write_text(json.dumps({"dead.example": told}))
        assert "dead.example" in _quiet(tmp_path, DEAD)
    for damaged in ("[1]", "{", '{"dead.example": "x"}'):
        known.write_text(damaged)
        assert "dead.example" in _quiet(tmp_path, DEAD)


def test_a_quiet_run_that_cannot_remember_warns_anyway(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert "dead.example" in _quiet(tmp_path / "state", DEAD)


def test_of_many_problems_the_first_ten_are_told_and_how_many_more(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    for number in range(30):
        orch.models[f"m{number}"] = {"url": "https://h.example/w"}
    done = orch.run("sync", "team.yaml")
    lines = done.err.splitlines()
    assert done.code == 3
    assert [line for line in lines if line.startswith("error: ")][10:] == ["error: and 50 more"]
    assert "hint: fix these 60 problems" in done.err
    told = [event for event in orch.sync().events if event["event"] == "problem"]
    assert len(told) == 60


@pytest.mark.parametrize("sink_of", [Lines, Bars])
def test_files_of_a_host_that_is_down_are_told_in_one_line_and_one_alone_by_its_name(
    sink_of: type[Lines] | type[Bars],
) -> None:
    out = io.StringIO()
    sink = sink_of(out, colour=False)
    for number in range(1200):
        why, message = "cannot connect to h: connection refused", f"m/{number}: every source failed: http://h/{number}"
        sink(events.GaveUp("m", str(number), (), "network", 5, message, "later", why))
    sink(events.GaveUp("m", "own", (), "missing", 5, "m/own: every source failed: 404", "look"))
    sink(events.GaveUp("m", "one", (), "network", 5, "m/one: every source failed: http://i/one", "later", "no i"))
    sink.close(events.Summary(ok=False, exit_code=5))
    assert [line for line in out.getvalue().splitlines() if line.startswith("error")] == [
        "error: m/own: every source failed: 404",
        "error: 1,200 files: cannot connect to h: connection refused",
        "error: m/one: every source failed: http://i/one",
    ]


def test_a_moments_wait_is_no_line() -> None:
    out = io.StringIO()
    sink = Lines(out)
    sink(events.Waiting("m", "f", 0.3, "connection refused"))
    sink(events.Waiting("m", "f", 2.0, "connection refused"))
    assert out.getvalue() == "m/f: connection refused; retrying in 2 s\n"


@pytest.mark.parametrize(
    "event",
    [
        events.Finished("SHA256SUMS", "w\nerror: forged", "placed"),
        events.Placed("m", "f", "/srv/w\nerror: forged", "hard"),
        events.Replaced("m", "f", "/srv/w\nerror: forged", "a" * 64, "b" * 64),
        events.LeftBehind("team.yaml", "/srv/w\nerror: forged", "a" * 64, 3, "hint"),
        events.Measured("/srv/w\nerror: forged", 3, 3),
    ],
)
def test_a_name_with_a_line_break_makes_no_line_of_its_own(event: events.Event) -> None:
    told = line(event, verbose=True)
    assert told is not None
    assert len(told.splitlines()) == 1
    assert r"w\nerror: forged" in told


def test_a_time_left_fits_its_cell_however_long_it_is() -> None:
    spans = (280, 3723, 43_500, 360_000, 8_640_000, 86_400_000)
    assert [clock(span) for span in spans] == ["4:40", "1:02:03", "12h 05m", "4d 04h", "100d", "1000d"]
