"""The fuzzer's inputs, first ones and former finds, are read without a hang or an odd exception."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.__main__ import run_bounded
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import HOUSE, TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
def test_its_inputs_are_no_finds(name: str) -> None:
    for data in TARGETS[name].seeds():
        assert run_bounded(TARGETS[name], data) == "", data[:100]


def test_every_kept_input_is_of_a_target() -> None:
    assert {path.name.partition("-")[0] for path in (HOUSE / "tests/fuzz/seeds").iterdir()} <= set(TARGETS)


def test_a_seed_gives_the_same_inputs_again() -> None:
    first, second = (random.Random(7) for _ in range(2))
    some = [b"one two", b"three"]
    assert [mutated(some[0], some, first) for _ in range(200)] == [mutated(some[0], some, second) for _ in range(200)]


def test_a_hang_an_odd_exception_and_a_control_character_are_finds() -> None:
    def hang(_: bytes) -> list[str]:
        while True:
            pass

    for call, word in ((hang, "HangError"), (lambda _: 1 / 0, "ZeroDivisionError"), (lambda _: ["\x1b"], "control")):
        assert word in run_bounded(Target("x", list, call), b"")
    assert run_bounded(Target("x", list, lambda _: ["words"]), b"") == ""
