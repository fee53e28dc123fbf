"""How far a run is: bytes, rate and time left, from its events."""

from __future__ import annotations

import pytest

from orchestrator import events
from orchestrator.render.totals import Totals
from orchestrator.render.words import heartbeat

MIB = 1 << 20


def _started(file: str, have: int = 0, size: int = 100 * MIB) -> events.Started:
    return events.Started("m", file, "curl", "http://h/x", "curl", have, size)


def test_bytes_of_an_earlier_run_are_done_but_say_nothing_of_the_rate() -> None:
    totals = Totals()
    totals.add(events.Planned(3, 2, 200 * MIB), 0)
    totals.add(_started("a", have=60 * MIB), 0)
    totals.add(_started("b"), 0)
    totals.add(events.Progressed("m", "a", 70 * MIB, 100 * MIB), 10)
    assert totals.done_bytes == 70 * MIB
    assert totals.rate == pytest.approx(MIB)
    assert totals.left_s() == pytest.approx(130)
    assert heartbeat(totals) == "35 %, 70.0M of 200.0M, 1.0M/s, 2:10 left, 0 of 2 files"


def test_the_time_left_is_no_less_than_that_of_the_slowest_file() -> None:
    totals = Totals()
    totals.add(events.Planned(2, 2, 200 * MIB), 0)
    totals.add(_started("fast"), 0)
    totals.add(_started("slow"), 0)
    totals.add(events.Progressed("m", "fast", 90 * MIB, 100 * MIB), 10)
    totals.add(events.Progressed("m", "slow", 1 * MIB, 100 * MIB), 10)
    assert totals.left_s() == pytest.approx(990)
    totals.add(events.GaveUp("m", "slow", (), "network", 5, "", ""), 11)
    assert totals.left_s() == pytest.approx(109 / 9.1, rel=0.01)
    assert totals.ended == 1


def test_the_rate_is_that_of_the_last_seconds() -> None:
    totals = Totals()
    totals.add(events.Planned(1, 1, 1000 * MIB), 0)
    totals.add(_started("a", size=1000 * MIB), 0)
    for second in range(1, 101):
        totals.add(events.Progressed("m", "a", min(second, 50) * 10 * MIB, 1000 * MIB), second)
    assert totals.rate == 0
    assert totals.left_s() is None
