"""Limits of bandwidth: rates, hours and weekdays as people write them, and which rule applies when."""

from __future__ import annotations

import pytest

from orchestrator.bandwidth import RateRule, parse_days, parse_hour, parse_rate, rate_in_force

MON, FRI, SAT, SUN = 0, 4, 5, 6


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50M", 50 << 20), ("64k", 64 << 10), ("1.5G", 3 << 29), ("100000", 100_000), ("20MiB", 20 << 20), ("0", 0)],
)
def test_a_rate_is_read_as_curl_reads_it(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1M", "50 M", "50Mbit", "1M\n2M", "1", "63K"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        parse_rate(text)


def test_days_may_be_spans_and_lists_and_go_over_the_weekend() -> None:
    assert parse_days("mon-fri") == (0, 1, 2, 3, 4)
    assert parse_days("sat, Sun") == (5, 6)
    assert parse_days("fri-mon,wed") == (0, 2, 4, 5, 6)
    for wrong in ("", "monday", "mon-", "-fri", "mon fri"):
        with pytest.raises(ValueError, match="mon-fri"):
            parse_days(wrong)
    for wrong in ("8:00", "24:01", "12", "12:60"):
        with pytest.raises(ValueError, match="08:00"):
            parse_hour(wrong)


def test_the_first_rule_that_applies_wins() -> None:
    day = RateRule(20, parse_hour("08:00"), parse_hour("20:00"), parse_days("mon-fri"))
    rules = (day, RateRule(50))
    assert rate_in_force([rules], MON, 8 * 60) == 20
    assert rate_in_force([rules], MON, 8 * 60 - 1) == 50
    assert rate_in_force([rules], FRI, 20 * 60) == 50
    assert rate_in_force([rules], SAT, 12 * 60) == 50
    assert rate_in_force([(day,)], SAT, 12 * 60) is None
    assert rate_in_force([(RateRule(0, days=(SUN,)), RateRule(50))], SUN, 0) is None  # 0: no limit then


def test_a_span_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = (RateRule(20, parse_hour("22:00"), parse_hour("06:00"), parse_days("fri,sun")),)
    at = {(day, hour): rate_in_force([night], day, hour * 60) for day in (MON, FRI, SAT, SUN) for hour in (5, 12, 23)}
    assert {when for when, rate in at.items() if rate == 20} == {(FRI, 23), (SAT, 5), (SUN, 23), (MON, 5)}


def test_of_two_lists_the_lower_rate_counts() -> None:
    assert rate_in_force([(RateRule(50),), (RateRule(20),)], MON, 0) == 20
    assert rate_in_force([(RateRule(0),), (RateRule(20),)], MON, 0) == 20
    assert rate_in_force([], MON, 0) is None
