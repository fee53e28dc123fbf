"""`python -m benchmarks [P1 P2 ...]`: words in, scenarios run, tables out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import history, machine, picture, report
from benchmarks.bench import Bench
from benchmarks.measure import BenchError
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scenarios import Scenario

_HOUSE = Path(__file__).resolve().parents[1]
_RESULTS = _HOUSE / "benchmarks" / "RESULTS.md"
_HISTORY = _HOUSE / "benchmarks" / "HISTORY.md"
_QUICK = 1 / 8
_PICTURE = _HOUSE / "docs" / "benchmarks.svg"


def main(words: Sequence[str] | None = None) -> int:
    """Measure orch against the work by hand, on loopback."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="P", help=f"which: {' '.join(names)} (default: all)")
    parser.add_argument("--runs", type=int, help="of each contestant (default: 5; 1 with --quick)")
    parser.add_argument("--scale", type=float, help="shrink sizes and numbers (default: 1; 1/8 with --quick)")
    parser.add_argument("--quick", action="store_true", help="all in some two minutes: smaller, and once")
    parser.add_argument(
        "--history", action="store_true", help="add a line to benchmarks/HISTORY.md, when all ran in full size"
    )
    parser.add_argument(
        "--out", type=Path, help="the page (default: benchmarks/RESULTS.md, when all scenarios ran in full size)"
    )
    given = parser.parse_args(words)
    wanted = [f"{name[:1].upper()}{name[1:]}" for name in given.scenarios] or names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"no such scenario: {', '.join(unknown)}")
    runs = given.runs if given.runs is not None else 1 if given.quick else 5
    scale = given.scale if given.scale is not None else _QUICK if given.quick else 1.0
    if runs < 1 or scale <= 0:
        parser.error("--runs and --scale must be more than 0")
    is_whole = wanted == names and scale == 1
    if given.history and not is_whole:
        parser.error("--history needs all scenarios in full size")
    out = given.out or (_RESULTS if is_whole else None)
    return _measure([s for s in SCENARIOS if s.name in wanted], runs, scale, out, adds_line=given.history)


def _measure(scenarios: Sequence[Scenario], runs: int, scale: float, out: Path | None, *, adds_line: bool) -> int:
    before = report.load()
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as folder:
        bench = Bench(Path(folder) / "work", runs, scale, _say)
        bench.folder.mkdir()
        facts = machine.describe(bench.folder)
        failure = _all(bench, scenarios)
    print(report.table(bench), report.costs(bench), *report.remarks(bench), sep="\n\n")
    if failure:
        _say(f"error: {failure}")
        return 1
    if out:
        _write(out.resolve(), bench, facts, (before, report.load()))
    if adds_line:
        for worse in history.add(_HISTORY, bench.rows, facts, datetime.now(UTC)):
            _say(f"slower than in the line before: {worse}")
        _say(f"wrote {_HISTORY}")
    return 0


def _all(bench: Bench, scenarios: Sequence[Scenario]) -> str:
    """Run the scenarios; what ended them too early, if anything did."""
    for scenario in scenarios:
        if lacking := [program for program in scenario.needs if not find(program)]:
            bench.notes.append(f"{scenario.name}: not measured, for there is no {' and no '.join(lacking)} here")
            continue
        try:
            scenario.work(bench)
        except BenchError as error:
            return f"{scenario.name}: {error}"
        bench.clear()
    return ""


def _write(out: Path, bench: Bench, facts: dict[str, str], loads: tuple[float, float]) -> None:
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    drawing = _PICTURE if out == _RESULTS else out.with_suffix(".svg")
    shown = "../docs/benchmarks.svg" if out == _RESULTS else drawing.name
    drawing.write_text(picture.draw(bench.rows, when))
    out.write_text(report.page(bench, facts, when, loads, shown))
    _say(f"wrote {out} and {drawing}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
