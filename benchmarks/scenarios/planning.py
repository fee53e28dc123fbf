"""P9: a very long manifest, planned: time and memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import Row, numbered, pairs
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
    took = bench.contest("P9", [_planner("orch plan, 100,000", many), _planner("orch plan, 2,000", few)])
    whole, part = bench.outcomes[-2:]
    shown = pairs(took, whole.name)
    bench.rows.append(Row("P9", "plan of 100,000 files", shown, whole.wall_s, "s", must=4.0, goal=2.5))
    bench.rows.append(Row("P9", "its peak memory", shown, whole.peak_bytes / _MB, "MB", must=250))
    shown = pairs(took, part.name)
    bench.rows.append(Row("P9", "peak memory for 2,000 files", shown, part.peak_bytes / _MB, "MB", must=60))


def _planner(name: str, count: int) -> Contestant:
    def prepare(place: Place) -> Commands:
        orch.manifest(place, _invented(count), "http://127.0.0.1:9/weights")
        return [[*orch.program(), "plan", "team.yaml"]]

    def check(place: Place) -> None:
        with place.log.open() as log:
            if sum(line.startswith("fetch ") for line in log) != count:
                raise BenchError(f"not every file is in the plan:\n{tail(place.log)}")

    return Contestant(name, prepare, check)


def _invented(count: int) -> Iterator[File]:
    return (File(name, size, hashlib.sha256(name.encode()).hexdigest()) for name, size in numbered(count, _SIZE))
