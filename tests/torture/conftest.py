"""The torture campaign: only where `make torture` asks for it, bounded in rounds and minutes, repeated by its seed."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read here: tests/conftest.py takes every ORCH_ variable away before a test begins.
ROUNDS = int(os.environ.get("ORCH_TORTURE_ROUNDS", "0"))
SEED = int(os.environ.get("ORCH_TORTURE_SEED", "1"))
MINUTES = float(os.environ.get("ORCH_TORTURE_MINUTES", "45"))
collect_ignore_glob = [] if ROUNDS else ["test_*"]
FIGURES = Path(__file__).resolve().parents[2] / "build" / "torture.json"
_began = time.monotonic()


class Campaign:
    """One part of the campaign: its chance, its share of rounds and minutes, what it counted, what was wrong."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chance = random.Random(f"{SEED} {name}")
        self.figures: Counter[str] = Counter()
        self.wrong: list[str] = []

    def rounds(self, share: float, minutes: float) -> Iterator[int]:
        """Numbers from 0: `share` of all rounds, as far as `minutes` of the 15 go."""
        until = time.monotonic() + 60 * minutes * MINUTES / 15
        for number in range(max(1, round(ROUNDS * share))):
            if time.monotonic() > until:
                return
            self.figures["rounds"] += 1
            yield number

    def end(self) -> None:
        """Write the figures down and fail with all that was wrong."""
        known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        known[self.name] = {**self.figures, "wrong": len(self.wrong)}
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(f"\n{self.name}: {dict(self.figures)}, {len(self.wrong)} wrong")
        assert not self.wrong, "\n" + "\n".join(self.wrong)


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Campaign:
    return Campaign(request.node.name.removeprefix("test_"))
