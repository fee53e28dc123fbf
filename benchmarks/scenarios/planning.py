"""P9: a very long manifest, planned: time and memory."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import Row, numbered
from benchmarks.contest import Contestant
from benchmarks.corpus import File
from benchmarks.measure import BenchError, tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.contest import Commands
    from benchmarks.measure import Place

_MANY, _FEW = 100_000, 2000
_SIZE = 1000  # nobody serves them: a plan opens no socket
_MB = 1e6


def plan(bench: Bench) -> None:
    """P9: 100,000 files, and 2,000."""
    many, few = bench.scaled(_MANY, 10), bench.scaled(_FEW, 10)
    bench.contest("P9", [_planner("orch plan, 100,000", many), _planner("orch plan, 2,000", few), _reader(many)])
    whole, part, read = bench.outcomes[-3:]
    row = Row(
        scenario="P9",
        done=f"Plan a sync of {many:,} files, none of which is here.",
        value=whole.wall_s,
        unit="s",
        orch_s=whole.wall_s,
        must=2.5,
        goal=2.0,
    )
    reading = replace(row, value=whole.wall_s / read.wall_s, unit="x", of="PyYAML alone", must=None, goal=None)
    memory, done = whole.peak_bytes / _MB, f"Plan a sync of {few:,} files."
    bench.rows += [
        row,
        replace(reading, hand="PyYAML (libyaml) reads the manifest", hand_s=read.wall_s),
        replace(row, value=memory, unit="MB", of="of memory", must=200, goal=150),
        replace(
            row,
            done=done,
            value=part.peak_bytes / _MB,
            unit="MB",
            of="of memory",
            orch_s=part.wall_s,
            must=60,
            goal=None,
        ),
    ]


def _planner(name: str, count: int) -> Contestant:
    def prepare(place: Place) -> Commands:
        orch.manifest(place, _invented(count), "http://127.0.0.1:9/weights")
        return [[*orch.program(), "plan", "team.yaml"]]

    def check(place: Place) -> None:
        with place.log.open() as log:
            if sum(line.startswith("download ") for line in log) != count:
                raise BenchError(f"not every file is in the plan:\n{tail(place.log)}")

    return Contestant(name, prepare, check)


def _reader(count: int) -> Contestant:
    """The least that a plan by any Python program needs: libyaml reads the manifest, and nothing is done with it."""

    def prepare(place: Place) -> Commands:
        orch.manifest(place, _invented(count), "http://127.0.0.1:9/weights")
        words = f"import yaml; assert len(yaml.load(open('team.yaml'), yaml.CSafeLoader)['models']) == {count}"
        return [[sys.executable, "-c", words]]

    return Contestant("PyYAML alone, 100,000", prepare, lambda _: None)


def _invented(count: int) -> Iterator[File]:
    return (File(name, size, hashlib.sha256(name.encode()).hexdigest()) for name, size in numbered(count, _SIZE))
