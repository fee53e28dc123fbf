"""Ranges of bytes: joined, and taken from each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.shared import merge, subtract
from orchestrator.model import Range

RANGES = st.lists(st.builds(Range, st.integers(0, 30), st.integers(0, 30)), max_size=8)


def members(ranges: tuple[Range, ...] | list[Range]) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


@given(RANGES, RANGES)
def test_what_is_left_is_in_the_first_and_in_none_of_the_others(ranges: list[Range], others: list[Range]) -> None:
    left = subtract(ranges, others)
    assert members(left) == members(ranges) - members(others)
    assert merge(left) == left


def test_a_large_file_with_every_second_block_missing() -> None:
    """A resume asks this; in pairs, it took 3 s for the first half of a GiB."""
    block, count = 1 << 20, 100_000
    missing = [Range(number * block, (number + 1) * block) for number in range(0, count, 2)]
    here = subtract([Range(0, count * block)], missing)
    assert len(here) == count // 2
    assert subtract(here, missing) == here
