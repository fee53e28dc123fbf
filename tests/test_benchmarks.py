"""The benchmarks run, judge what they measured, and write what they say; never is a time looked at."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as Tree
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import history
from benchmarks.bench import Bench, Row
from benchmarks.contest import Contestant, contest
from benchmarks.corpus import make
from benchmarks.measure import BenchError
from benchmarks.report import table
from benchmarks.scenarios import slow_disk
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
    assert heads[1:] == ["what was done", "orch", "by hand", "the wire", "figure", "must (goal)", "reached"]
    name, what, orch, hand, wire, figure, *limits = first
    assert name == "P3"
    assert what == "Download 20 files of 64 KiB from a fast server. By hand: curl -Z, sha256sum -c, sync -f."
    assert orch.endswith(" s") and hand.endswith(" s") and not wire
    assert figure.endswith(" x by hand")
    assert limits == ["1.20 x (1.00 x)", ""]  # a quick run reaches nothing and misses nothing
    assert ["P3", "orch"] in [line[:2] for line in more]
    assert "A quick run" in done.stdout
    assert first in cells(page.read_text())
    assert "| kernel |" in page.read_text()
    drawn = "".join(Tree.parse(page.with_suffix(".svg")).getroot().itertext())
    assert "many small files" in drawn
    assert "P3" not in drawn  # no names that only this folder knows


def test_what_was_reached_is_told_in_full_size_only(tmp_path: Path) -> None:
    rows = [
        Row(scenario="P0", done="a", value=1.0, must=1.0),
        Row(scenario="P0", done="b", value=1.1, unit="s", must=1.0),
        Row(scenario="P0", done="c", value=9.0, unit="MB"),
    ]
    assert [line[-1] for line in cells(table(bench_of(tmp_path, 1, *rows)))[2:]] == ["yes", "**no**", ""]
    assert [line[-1] for line in cells(table(bench_of(tmp_path, 0.5, *rows)))[2:]] == ["", "", ""]


def test_the_history_gets_a_line_and_tells_what_is_worse_than_the_one_before(tmp_path: Path) -> None:
    page, when = tmp_path / "HISTORY.md", datetime(2026, 1, 1, tzinfo=UTC)

    def rows(near: float, memory: float) -> list[Row]:
        return [
            Row(scenario="P1", done="a", value=near, of="the wire"),
            Row(scenario="P1", done="a", value=9.0, of="by hand"),
            Row(scenario="P9", done="b", value=memory, unit="MB", of="of memory"),
        ]

    facts = {"orch": "1.0", "cores": "2 (CPU)", "sha256sum reads": "500 MB/s"}
    assert history.add(page, rows(1.02, 150), facts, when) == ()
    assert history.add(page, rows(1.30, 151), {**facts, "orch": "1.1"}, when) == (
        "1 GiB near / wire: 1.30 x, was 1.02 x",
    )
    heads, _, first, second = cells(page.read_text())
    assert first[:4] == ["1.0", "2026-01-01", "2 (CPU), 500 MB/s", "1.02 x"]
    assert len(heads) == len(first) == len(second)
    assert second[heads.index("its memory")] == "151 MB"
    assert "—" in second  # what was not measured


def test_a_slow_disk_is_slow_and_leaves_nothing_behind(tmp_path: Path) -> None:
    if why := slow_disk.obstacle():
        pytest.skip(why)
    size = 64 << 20
    with slow_disk.slow_disk(tmp_path, 128 << 20) as disk:
        before = time.monotonic()
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={disk}/file", "bs=1M", f"count={size >> 20}", "conv=fsync"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        assert time.monotonic() - before > 0.8 * size / slow_disk.DISK_RATE
    assert not any(str(tmp_path) in line for line in Path("/proc/mounts").read_text().splitlines())
    assert not (tmp_path / "disk.img").exists()


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
