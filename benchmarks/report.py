"""The findings as tables: on the screen, and as a page."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.bench import Bench, Row
    from benchmarks.contest import Outcome

_SIGNS = {"x": " x", "s": " s", "MB": " MB"}
_DIGITS = {"x": 2, "s": 2, "MB": 0}


def table(bench: Bench) -> str:
    """Every row with its medians, its figure, and what that had to be."""
    heads = ["", "what", "median seconds", "figure", "must", "goal", "reached"]
    return _aligned(heads, [_cells(row, bench.scale == 1) for row in bench.rows])


def costs(bench: Bench) -> str:
    """What each contestant took: time, processor, memory."""
    heads = ["", "contestant", "median s", "least s", "most s", "CPU s", "peak MB"]
    return _aligned(heads, [_cost(outcome) for outcome in bench.outcomes])


def remarks(bench: Bench) -> list[str]:
    """What a reader must know before believing the figures."""
    told = [
        f"Medians of {bench.runs}; the contestants take turns; nothing is dropped. Wall time of the whole process,"
        " start included; making the state before and checking every byte after are not timed.",
        "The machine is shared with other work and small: the servers take processor time from the contestants, and"
        " seconds vary from run to run. Ratios of one run are worth more than seconds.",
        "orch makes its files durable (fsync) before it calls them good; the programs by hand do not.",
    ]
    if bench.scale != 1:
        told.insert(0, f"Sizes and numbers x {bench.scale:g}: a smoke run, whose figures mean nothing.")
    return told + bench.notes


def page(bench: Bench, facts: Mapping[str, str], when: str, loads: tuple[float, float], picture: str) -> str:
    """RESULTS.md."""
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Measured on {when} by `python -m benchmarks`. Load average before {loads[0]:.1f}, after {loads[1]:.1f}.",
            "",
            *(f"* {remark}" for remark in remarks(bench)),
            "",
            f"![orch's time over that of the work by hand]({picture})",
            "",
            "## What was reached",
            "",
            table(bench),
            "",
            "`must` and `goal` are upper limits of the figure; `reached` is about `must`. Near: our own origin lets"
            " 16 MiB/s through on each connection. Far: the same with a round trip of 150 ms before each answer.",
            "",
            "## What it cost",
            "",
            costs(bench),
            "",
            "CPU and memory count the programs that orch runs too, not the servers. The memory is the largest"
            " process's, and never shown as less than that of the process that measures (some 27 MB).",
            "",
            "## Measured on",
            "",
            "| | |",
            "|---|---|",
            lines,
            "",
        ]
    )


def load() -> float:
    """How busy the machine was during the last minute."""
    return os.getloadavg()[0]


def figure(value: float, unit: str) -> str:
    """A figure with its unit."""
    return f"{value:.{_DIGITS[unit]}f}{_SIGNS[unit]}"


def _cells(row: Row, is_whole: bool) -> list[str]:
    seconds = " · ".join(f"{name} {value:.2f}" for name, value in row.seconds)
    limits = ["—" if limit is None else f"{limit:g}{_SIGNS[row.unit]}" for limit in (row.must, row.goal)]
    reached = {True: "yes", False: "**no**", None: "—"}[row.is_reached if is_whole else None]
    return [row.scenario, row.what, seconds, figure(row.value, row.unit), *limits, reached]


def _cost(outcome: Outcome) -> list[str]:
    walls = [ran.wall_s for ran in outcome.runs]
    times = (statistics.median(walls), min(walls), max(walls), outcome.cpu_s)
    return [outcome.scenario, outcome.name, *(f"{value:.2f}" for value in times), f"{outcome.peak_bytes / 1e6:.0f}"]


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heads, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
