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
    """Every row as a sentence, with its medians, its figure, and what that had to be."""
    heads = ["", "what was done", "orch", "by hand", "the wire", "figure", "must (goal)", "reached"]
    return _aligned(heads, [_cells(row, bench.scale == 1) for row in bench.rows])


def costs(bench: Bench) -> str:
    """What each contestant took: time, processor, memory."""
    heads = ["", "contestant", "median s", "least s", "most s", "CPU s", "CPU s / GiB", "peak MB"]
    return _aligned(heads, [_cost(outcome) for outcome in bench.outcomes])


def remarks(bench: Bench) -> list[str]:
    """What a reader must know before believing the figures."""
    told = [
        f"Medians of {bench.runs}; the contestants take turns; nothing is dropped. Wall time of the whole process,"
        " start included; making the state before and checking every byte after are not timed.",
        "The machine is shared with other work and small: the servers take processor time from the contestants, and"
        " seconds vary from run to run. Ratios of one run are worth more than seconds.",
        "orch knows the versions and rates of this machine's programs from an earlier run, as it does in every run but"
        " the first on a machine; it remembers nothing else.",
        "orch makes its files durable (fsync) before it calls them good; the programs by hand do not.",
    ]
    if bench.scale != 1:
        told.insert(
            0,
            f"A quick run: sizes and numbers x {bench.scale:g}. Start and end weigh more than in full size, so whether"
            " a figure is reached is not said.",
        )
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
            f"![How long orch takes, beside the same work by hand]({picture})",
            "",
            "## What was reached",
            "",
            table(bench),
            "",
            "Times are medians. `must` and, in brackets, the goal are upper limits of the figure; `reached` is about"
            " `must`. The wire: the time that the line alone would take, computed. A near server is our own origin,"
            " which lets 16 MiB/s through on each of 16 connections; a far one has a round trip of 150 ms before each"
            " answer; one as fast as this machine is nginx on loopback.",
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
    done = f"{row.done} By hand: {row.hand}." if row.hand else row.done
    seconds = ["" if each is None else f"{each:.2f} s" for each in (row.orch_s, row.hand_s, row.wire_s)]
    said = f"{figure(row.value, row.unit)} {row.of}".rstrip()
    must = "" if row.must is None else figure(row.must, row.unit)
    limits = f"{must} ({figure(row.goal, row.unit)})".lstrip() if row.goal is not None else must
    reached = {True: "yes", False: "**no**", None: ""}[row.is_reached if is_whole else None]
    return [row.scenario, done, *seconds, said, limits, reached]


def _cost(outcome: Outcome) -> list[str]:
    walls = [ran.wall_s for ran in outcome.runs]
    times = (statistics.median(walls), min(walls), max(walls), outcome.cpu_s)
    each = "" if outcome.cpu_s_per_gib is None else f"{outcome.cpu_s_per_gib:.2f}"
    memory = f"{outcome.peak_bytes / 1e6:.0f}"
    return [outcome.scenario, outcome.name, *(f"{value:.2f}" for value in times), each, memory]


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heads, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
