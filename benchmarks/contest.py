"""Contestants that take turns, each from a clean state, and what they took."""

from __future__ import annotations

import os
import shutil
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.corpus import GIB, MIB
from benchmarks.measure import Place, Ran, run, together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_LARGE_BYTES = 64 * MIB
Commands = list[list[str]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who does the work.

    `prepare` makes the state it starts from and gives its commands, which run one after the other; `check` judges
    the result. Neither is timed. Who has a place `kept` goes on with the state of its last run.
    """

    name: str
    prepare: Callable[[Place], Commands]
    check: Callable[[Place], None]
    kept: Place | None = None
    size_bytes: int = 0  # of what it fetches or reads
    disk: Path | None = None  # where its place is made; None: in the folder of all
    cwd: Callable[[Place], Path] = lambda place: place.folder


@dataclass(slots=True)
class Outcome:
    """What one contestant took, run by run; nothing is dropped."""

    scenario: str
    name: str
    runs: list[Ran] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def wall_s(self) -> float:
        return statistics.median(ran.wall_s for ran in self.runs)

    @property
    def cpu_s(self) -> float:
        return statistics.median(ran.cpu_s for ran in self.runs)

    @property
    def cpu_s_per_gib(self) -> float | None:
        """Processor seconds for each GiB; None where its start and end weigh more than its bytes."""
        return self.cpu_s * GIB / self.size_bytes if self.size_bytes >= _LARGE_BYTES else None

    @property
    def peak_bytes(self) -> float:
        return statistics.median(ran.peak_bytes for ran in self.runs)


def contest(
    scenario: str, contestants: Sequence[Contestant], runs: int, folder: Path, say: Callable[[str], None]
) -> list[Outcome]:
    """Let all run in turn, A B A B ..., so that a machine's bad minute meets them all."""
    outcomes = [Outcome(scenario, contestant.name, size_bytes=contestant.size_bytes) for contestant in contestants]
    for number in range(1, runs + 1):
        for contestant, outcome in zip(contestants, outcomes, strict=True):
            ran = _turn(contestant, folder)
            outcome.runs.append(ran)
            say(f"{scenario} {number}/{runs} {contestant.name}: {ran.wall_s:.2f} s")
    return outcomes


def fresh(folder: Path) -> Place:
    """An empty place, and a disk with nothing left to write."""
    shutil.rmtree(folder, ignore_errors=True)
    place = Place(folder)
    place.files.mkdir(parents=True)
    os.sync()
    return place


def _turn(contestant: Contestant, folder: Path) -> Ran:
    place = contestant.kept or fresh((contestant.disk or folder) / "place")
    commands = contestant.prepare(place)
    cwd = contestant.cwd(place)
    ran = together([run(argv, place, cwd) for argv in commands])
    contestant.check(place)
    if contestant.kept is None:
        shutil.rmtree(place.folder)
    return ran
