"""The benchmarks run, judge what they measured, and write what they say; never is a time looked at."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as Tree
from pathlib import Path

import pytest

from benchmarks.bench import Bench, Row
from benchmarks.contest import Contestant, contest
from benchmarks.corpus import make
from benchmarks.measure import BenchError
from benchmarks.report import table
from tests.servers import require

HOUSE = Path(__file__).resolve().parents[1]


def cells(text: str) -> list[list[str]]:
    """The cells of all lines that belong to a table."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]


def bench_of(folder: Path, scale: float, *rows: Row) -> Bench:
    return Bench(folder, 1, scale, print, list(rows))


def test_a_tiny_scenario_from_end_to_end(tmp_path: Path) -> None:
    require("nginx")
    require("curl")
    page = tmp_path / "page.md"
    argv = [sys.executable, "-m", "benchmarks", "p3", "--runs", "1", "--scale", "0.01", "--out", str(page)]
    done = subprocess.run(argv, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    heads, _, first, *more = cells(done.stdout)
    assert heads[1:] == ["what", "median seconds", "figure", "must", "goal", "reached"]
    name, what, seconds, figure, *limits = first
    assert (name, what) == ("P3", "2,000 x 64 KiB, open: orch / curl -Z by hand")
    assert seconds.startswith("orch ")
    assert " · curl -Z by hand " in seconds
    assert figure.endswith(" x")
    assert limits == ["1.5 x", "1.15 x", "—"]  # a smoke run reaches nothing and misses nothing
    assert ["P3", "orch"] in [line[:2] for line in more]
    assert "smoke run" in done.stdout
    assert first in cells(page.read_text())
    assert "| kernel |" in page.read_text()
    assert "P3  2,000 x 64 KiB, open · curl -Z by hand" in "".join(
        Tree.parse(page.with_suffix(".svg")).getroot().itertext()
    )


def test_what_was_reached_is_told_in_full_size_only(tmp_path: Path) -> None:
    rows = [Row("P0", "a", (), 1.0, must=1.0), Row("P0", "b", (), 1.1, "s", must=1.0), Row("P0", "c", (), 9.0, "MB")]
    assert [line[-1] for line in cells(table(bench_of(tmp_path, 1, *rows)))[2:]] == ["yes", "**no**", "—"]
    assert [line[-1] for line in cells(table(bench_of(tmp_path, 0.5, *rows)))[2:]] == ["—", "—", "—"]


@pytest.mark.parametrize("command", [["true"], ["sh", "-c", "printf wrong > models/a"], ["false"]])
def test_a_wrong_result_ends_it(tmp_path: Path, command: list[str]) -> None:
    corpus = make(tmp_path / "source", {"a": 5})
    liar = Contestant("liar", lambda _: [command], lambda place: corpus.check(place.files))
    with pytest.raises(BenchError):
        contest("P0", [liar], 1, tmp_path / "work", print)


def test_contestants_take_turns_each_in_an_empty_place(tmp_path: Path) -> None:
    said: list[str] = []

    def contestant(name: str) -> Contestant:
        script = f"ls models; echo {name}; : > models/left-over"
        return Contestant(name, lambda _: [["sh", "-c", script]], lambda place: said.append(place.log.read_text()))

    outcomes = contest("P0", [contestant("a"), contestant("b")], 2, tmp_path / "work", print)
    assert said == ["a\n", "b\n", "a\n", "b\n"]
    assert [len(outcome.runs) for outcome in outcomes] == [2, 2]
