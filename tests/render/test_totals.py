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
    assert heartbeat(totals) == "35 %, 70.0 MiB of 200.0 MiB, 1.0 MiB/s, 2:10 left, 0 of 2 files"


def test_the_time_left_is_no_less_than_that_of_the_slowest_file() -> None:
    totals = Totals()
    totals.add(events.Planned(2, 2, 200 * MIB), 0)
    totals.add(_started("fast"), 0)
    totals.add(_started("slow"), 0)
    totals.add(events.Progressed("m", "fast", 90 * MIB, 100 * MIB), 10)
    totals.add(events.Progressed("m", "slow", 1 * MIB, 100 * MIB), 10)
    assert totals.left_s() == pytest.approx(990)
    totals.add(events.GaveUp("m", "slow", (), "network", 5, "", ""), 11)
    assert totals.left_s() == pytest.approx(10 / 9)  # what does not come any more takes no time
    assert totals.ended == 1


def test_the_rate_is_that_of_the_last_seconds() -> None:
    totals = Totals()
    totals.add(events.Planned(1, 1, 1000 * MIB), 0)
    totals.add(_started("a", size=1000 * MIB), 0)
    for second in range(1, 101):
        totals.add(events.Progressed("m", "a", min(second, 50) * 10 * MIB, 1000 * MIB), second)
    assert totals.rate == 0
    assert totals.left_s() is None


def test_a_size_that_the_plan_did_not_know_counts_once_it_is_known() -> None:
    totals = Totals()
    totals.add(events.Planned(2, 2, 100 * MIB), 0)
    totals.add(_started("known"), 0)
    totals.add(events.Started("m", "unknown", "curl", "http://h/y", "curl", 0, None), 0)
    totals.add(events.Progressed("m", "known", 50 * MIB, 100 * MIB), 10)
    totals.add(events.Progressed("m", "unknown", 50 * MIB, None), 10)
    assert totals.left_s() is None
    assert heartbeat(totals).startswith("100.0 MiB, 10.0 MiB/s, 0 of 2 files")
    totals.add(events.Progressed("m", "unknown", 50 * MIB, 400 * MIB), 10)
    assert totals.size_bytes == 500 * MIB
    assert totals.left_s() == pytest.approx(70)  # 350 MiB at 5 MiB/s
    # A retry from the beginning neither counts the size again nor what came twice.
    totals.add(events.Started("m", "unknown", "wget", "http://i/y", "wget", 0, 400 * MIB), 11)
    assert totals.size_bytes == 500 * MIB
    assert totals.done_bytes == 50 * MIB


def test_a_reading_goes_when_it_is_at_its_end_or_its_file_is() -> None:
    totals = Totals()
    totals.add(events.Reading("m", "a", "verifying", 10 * MIB, 100 * MIB), 0)
    totals.add(events.Reading("m", "b", "copying", 10 * MIB, 100 * MIB), 0)
    totals.add(events.Reading("m", "a", "verifying", 30 * MIB, 100 * MIB), 1)
    assert totals.readings["m", "a"].left_s() == pytest.approx(70 / 20)
    totals.add(events.Reading("m", "a", "verifying", 100 * MIB, 100 * MIB), 2)
    totals.add(events.GaveUp("m", "b", (), "network", 5, "", ""), 2)
    assert not totals.readings


def test_the_rate_falls_while_nothing_comes_and_no_event_tells_of_it() -> None:
    totals = Totals()
    totals.add(events.Planned(1, 1, 100 * MIB), 0)
    totals.add(_started("a"), 0)
    totals.add(events.Progressed("m", "a", 10 * MIB, 100 * MIB), 10)
    totals.tick(20)
    assert totals.rate == pytest.approx(MIB / 2)
    totals.tick(60)
    assert totals.left_s() is None


def test_what_was_found_at_its_place_need_not_be_downloaded() -> None:
    totals = Totals()
    totals.add(events.Planned(2, 2, 1000 * MIB), 0)
    totals.add(_started("a"), 0)
    totals.add(events.Verified("m", "adopted", "0" * 64, 900 * MIB), 5)
    totals.add(events.Finished("m", "adopted", "placed", size_bytes=900 * MIB), 5)
    totals.add(events.Progressed("m", "a", 50 * MIB, 100 * MIB), 10)
    totals.add(events.Verified("m", "a", "0" * 64), 10)
    assert (totals.done_bytes, totals.size_bytes) == (50 * MIB, 100 * MIB)
    assert totals.left_s() == pytest.approx(10)


def test_what_a_stop_left_is_not_done() -> None:
    totals = Totals()
    totals.add(events.Planned(1, 1, 100 * MIB), 0)
    totals.add(_started("a", have=40 * MIB), 0)
    totals.add(events.GaveUp("m", "a", (), "interrupted", 130, "", ""), 1)
    assert (totals.ended, totals.done_bytes, totals.size_bytes) == (0, 40 * MIB, 100 * MIB)
