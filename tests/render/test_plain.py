"""Plain lines: one every 30 s while something is downloaded; and what a quiet run still says."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

from orchestrator import events
from orchestrator.errors import StoreError
from orchestrator.render.plain import Lines

WRONG = events.Warned("evil.example", "wrong bytes from http://evil.example/a", urgent=True)
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
        "sync: 3 %, 30.0M of 1000.0M, 1.0M/s, 16:10 left, 0 of 1 files",
        "sync: 6 %, 60.0M of 1000.0M, 1.0M/s, 15:40 left, 0 of 1 files",
        "sync: 9 %, 90.0M of 1000.0M, 1.0M/s, 15:10 left, 0 of 1 files",
    ]


def test_each_line_of_a_log_has_its_time() -> None:
    out = io.StringIO()
    sink = Lines(out, stamped=True)
    sink.tell(StoreError("two\nlines", "free some space"))
    sink.close(events.Summary(ok=False, exit_code=8))
    lines = out.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines[:3]] == ["error: two", "error: lines", "hint: free some space"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)


def test_a_quiet_run_warns_of_wrong_bytes_always_and_of_a_dead_mirror_once_a_day(tmp_path: Path) -> None:
    both = "warning: wrong bytes from http://evil.example/a\nwarning: http://dead.example/a: connection refused\n"
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
