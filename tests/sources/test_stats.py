"""The host's memory: what it knows, what it must never hold, and that nothing hurts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sources.stats import READ_LINES, TRIM_BYTES, AttemptRecord, History, Rate
from orchestrator.urls import host_of

NOW = 1_800_000_000.0
A, B = "https://a.example", "http://b.example:8080"
MIB = 1 << 20


def done(host: str = A, mib: float = 10, seconds: float = 1.0, age_s: float = 60, **more: object) -> AttemptRecord:
    return AttemptRecord(NOW - age_s, host, "aria2c", int(mib * MIB), seconds, **more)  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(str(tmp_path / "state"), lambda: NOW)


def lines(history: History) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(history._path).read_text().splitlines()]


def test_nothing_is_known_at_first_and_nothing_made_by_asking(history: History, tmp_path: Path) -> None:
    assert (history.rate(A), history.round_trip_s(A), history.faults(A), history.last(A)) == (None, None, (), None)
    assert not history.is_failing(A)
    assert not (tmp_path / "state").exists()


def test_a_line_an_attempt_that_the_next_run_reads(history: History, tmp_path: Path) -> None:
    record = done(connections=16, round_trip_s=0.02, fault="network", via="https://hub.example")
    history.add(record)
    assert lines(history) == [
        {
            "time": NOW - 60,
            "host": A,
            "backend": "aria2c",
            "bytes": 10 * MIB,
            "seconds": 1.0,
            "connections": 16,
            "round_trip_s": 0.02,
            "fault": "network",
            "via": "https://hub.example",
        }
    ]
    again = History(str(tmp_path / "state"), lambda: NOW)
    assert again.last(A) == record
    assert again.last("https://hub.example") == record  # where the redirects began
    assert again.faults(A) == (record,)
    assert oct(os.stat(history._path).st_mode & 0o777) == "0o600"


def test_rates_overall_and_by_connection(history: History) -> None:
    history.add(done(mib=80, seconds=5, connections=16))
    assert history.rate(A) == Rate(16 * MIB, MIB)
    assert history.rate(A).over(4) == 4 * MIB  # type: ignore[union-attr]
    assert history.rate(A).over(64) == 16 * MIB  # type: ignore[union-attr]
    history.add(done(mib=0.5, seconds=100))  # a small file tells of round trips
    history.add(done(mib=100, seconds=0))
    history.add(done(B, mib=100))
    assert history.rate(A) == Rate(16 * MIB, MIB)


def test_the_last_attempts_count_most(history: History) -> None:
    for _ in range(20):
        history.add(done(mib=100))
    for _ in range(5):
        history.add(done(mib=10))
    rate = history.rate(A)
    assert rate is not None
    assert rate.overall < 60 * MIB  # a plain mean would say 82
    for _ in range(20):
        history.add(done(mib=10))
    rate = history.rate(A)
    assert rate is not None
    assert rate.overall == pytest.approx(10 * MIB)


def test_what_is_very_old_tells_nothing(history: History, tmp_path: Path) -> None:
    history.add(done(A, age_s=31 * 86400))
    history.add(done(B, age_s=29 * 86400))
    again = History(str(tmp_path / "state"), lambda: NOW)
    assert again.rate(A) is None
    assert again.rate(B) is not None
    history.add(done("http://later", age_s=-1e300))
    assert History(str(tmp_path / "state"), lambda: NOW).last("http://later") is None


def test_the_median_of_the_last_round_trips(history: History) -> None:
    for trip_s in (9.0, 0.1, 0.1, 0.3, 5.0, 0.2):
        history.add(done(round_trip_s=trip_s))
    assert history.round_trip_s(A) == 0.2


@pytest.mark.parametrize(
    ("past", "failing"),
    [
        ([(0, "network", 9), (0, "network", 5)], False),
        ([(0, "network", 9), (0, "tls", 5), (0, "stalled", 1)], True),
        ([(0, "network", 9), (0, "missing", 5), (0, "network", 1)], False),  # that was the file
        ([(0, "network", 9), (0, "network", 5), (1, "network", 1)], False),  # it gave some
        ([(0, "network", 9), (0, "network", 5), (1, None, 1)], False),
        ([(1, None, 9), (0, "network", 5), (0, "busy", 3), (0, "network", 1)], True),
        ([(0, "network", 900), (0, "network", 5), (0, "network", 1)], False),  # long ago
    ],
)
def test_who_fails_and_fails(history: History, past: list[tuple[int, str | None, float]], failing: bool) -> None:
    for mib, fault, age_s in past:
        history.add(done(mib=mib, fault=fault, age_s=age_s))
    assert history.is_failing(A) is failing


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"null", b"[]", b'{"time": "x"}', b"\xff\xfe", b'{"time":1}', b"\0" * 50, b'{"a":' * 5000]
)
def test_a_damaged_line_is_skipped(tmp_path: Path, damage: bytes) -> None:
    history = History(str(tmp_path), lambda: NOW)
    history.add(done())
    with open(history._path, "ab") as file:
        file.write(damage + b"\n")
    history.add(done(B))
    again = History(str(tmp_path), lambda: NOW)
    assert (again.last(A), again.last(B)) == (done(), done(B))


def test_only_the_last_thousand_are_read(tmp_path: Path) -> None:
    history = History(str(tmp_path), lambda: NOW)
    history.add(done(B))
    for _ in range(READ_LINES):
        history.add(done())
    again = History(str(tmp_path), lambda: NOW)
    assert again.last(B) is None
    assert again.last(A) is not None


def test_the_file_is_trimmed_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    history = History(str(tmp_path), lambda: NOW)
    history.add(done())
    with open(history._path, "ab") as file:
        file.write((b"x" * 99 + b"\n") * (TRIM_BYTES // 100 + 1))
    history.add(done(B))
    told = Path(history._path).read_bytes().splitlines()
    assert len(told) == READ_LINES
    assert json.loads(told[-1])["host"] == B
    assert sorted(os.listdir(tmp_path)) == ["home", "runs.jsonl"]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null"])
def test_a_state_that_cannot_be_written_hurts_nobody(folder: str) -> None:
    history = History(folder, lambda: NOW)
    history.add(done())
    assert history.last(A) == done()  # for this run it is known all the same


APPEND = """
import sys
from orchestrator.sources.stats import AttemptRecord, History
history = History(sys.argv[1], lambda: 0.0)
for number in range(200):
    history.add(AttemptRecord(float(number), f"http://{sys.argv[2]}", "curl", 1, 1.0, via="http://" + "v" * 100))
"""


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    crew = [subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path), str(n)]) for n in range(4)]
    assert [process.wait(20) for process in crew] == [0] * 4
    told = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    for number in range(4):
        assert [r["time"] for r in told if r["host"] == f"http://{number}"] == [float(n) for n in range(200)]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/p/f?X-Amz-Signature=s3cret", "https://a.example"),
        ("https://user:s3cret@A.Example:443/p", "https://a.example"),
        ("http://a.example:8080?token=s3cret", "http://a.example:8080"),
        ("http://[::1]:80/f", "http://[::1]"),
        ("http://[::1]:8000/f", "http://[::1]:8000"),
        ("http://[bad/s3cret", "unknown://"),
        ("http://a:99999/s3cret", "unknown://"),
    ],
)
def test_a_host_is_all_that_is_kept_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host
