"""What a scenario is, what it is given, and what it finds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmarks.contest import Contestant, Outcome, contest
from benchmarks.corpus import MIB, Corpus, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

RATE = 16 * MIB  # bytes a second that the paced origin lets through on one connection
CONNECTIONS = 16
TRIP_S = 0.15  # the round trip of the far origin
NEAR = ("--rate", str(RATE))
FAR = (*NEAR, "--delay", str(TRIP_S))
Unit = Literal["x", "s", "MB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what was done, what it took, and a figure with what that had to be at most.

    Attributes:
        scenario: the name by which it is run, such as `P1`.
        done: the work, as a sentence for people who know no scenario.
        value: the figure, in `unit`.
        of: what the figure is a multiple of or more than, such as `the wire`; empty where it stands for itself.
        orch_s, hand_s, wire_s: the medians, in seconds; None where there is none. `wire_s` is computed.
        hand: how the work is done by hand.
        must, goal: the most that the figure may be, and the most that it should be.
        label: the work in a few words, for the picture; empty: the picture does not show it.
    """

    scenario: str
    done: str
    value: float
    unit: Unit = "x"
    of: str = ""
    orch_s: float | None = None
    hand_s: float | None = None
    wire_s: float | None = None
    hand: str = ""
    must: float | None = None
    goal: float | None = None
    label: str = ""

    @property
    def is_reached(self) -> bool | None:
        return None if self.must is None else self.value <= self.must


@dataclass(slots=True)
class Bench:
    """One run of the benchmarks: how often, how large, where; and all that was found so far."""

    folder: Path
    runs: int
    scale: float
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def scaled(self, whole: int, least: int = 1) -> int:
        """A size or a number, shrunk for a smoke run."""
        return max(least, round(whole * self.scale))

    def corpus(self, name: str, sizes: Mapping[str, int]) -> Corpus:
        """Files for a server to show; the scenario before has cleared its own away."""
        self.say(f"making {name}: {len(sizes)} files, {sum(sizes.values()) / MIB:.0f} MiB")
        return make(self.folder / name, sizes)

    def contest(self, scenario: str, contestants: Sequence[Contestant | None]) -> dict[str, float]:
        """Let them run in turn: each one's median seconds by name. None are peers that are not here."""
        found = contest(scenario, [c for c in contestants if c], self.runs, self.folder, self.say)
        self.outcomes += found
        return {outcome.name: outcome.wall_s for outcome in found}

    def clear(self) -> None:
        """Give the disk back."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()


def numbered(count: int, size: int) -> Iterator[tuple[str, int]]:
    """Names and sizes of many small files."""
    return ((f"m{number:06}.bin", size) for number in range(count))
