"""Piece lengths that fit the line, and connections that a host may see."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import Stopped
from orchestrator.transfer.connections import ConnectionLimits, piece_bytes
from orchestrator.transfer.machine import Machine
from tests.orch import Done, Orch, made
from tests.servers import require

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "connections", "round_trip_s", "expected"),
    [
        (GIB, 16, 0.0005, (4 * MIB, True)),
        (100 * MIB, 16, 0.0005, (MIB, True)),
        (GIB, 16, 0.150, (16 * MIB, True)),  # 19.7 MiB wanted, capped by size / (4 x 16)
        (16 * GIB, 16, 0.150, (32 * MIB, True)),
        (256 * MIB, 16, 0.150, (4 * MIB, True)),
        (32 * MIB, 16, 0.150, (MIB, False)),  # the cap is below 1 MiB: nothing to stream
        (32 * MIB, 1, 0.150, (8 * MIB, True)),
        (None, 16, 0.0, (4 * MIB, True)),
    ],
)
def test_piece_lengths(size: int | None, connections: int, round_trip_s: float, expected: tuple[int, bool]) -> None:
    assert piece_bytes(size, connections, round_trip_s) == expected


@given(st.integers(0, 1 << 40), st.integers(1, 64), st.floats(0, 3), st.floats(1, 1e10))
def test_a_piece_is_a_power_of_two_and_leaves_each_connection_some(
    size: int, connections: int, trip_s: float, rate: float
) -> None:
    piece, in_order = piece_bytes(size, connections, trip_s, rate)
    assert piece >= MIB
    assert piece & (piece - 1) == 0
    if in_order:
        assert piece * 4 * connections <= size


def test_files_share_by_size_and_end_together(tmp_path: Path) -> None:
    context = Context({}, str(tmp_path))
    budget = ConnectionLimits(16, jobs=4, sizes=[400, 400, 200, 200])
    shares = []
    with budget.file(400) as a, budget.file(400) as b, budget.file(200) as c, budget.file(200) as d:
        for ticket in (a, b, c, d):
            taken = budget.connections(context, "http://h:80", ticket)
            shares.append(taken.__enter__())
    assert shares == [5, 5, 3, 3]


def test_one_alone_gets_all_and_a_host_may_say_less(tmp_path: Path) -> None:
    context = Context({}, str(tmp_path))
    budget = ConnectionLimits(16, jobs=4, sizes=[1000])
    with budget.file(1000) as ticket:
        with budget.connections(context, "http://a", ticket) as taken:
            assert taken == 16
        with budget.connections(context, "http://a", ticket, limit=3) as taken:
            assert taken == 3


def test_who_finds_none_free_waits_and_a_stop_ends_that(tmp_path: Path) -> None:
    context = Context({}, str(tmp_path))
    budget = ConnectionLimits(2, jobs=3)
    got: list[object] = []

    def want() -> None:
        with budget.file(1) as ticket:
            try:
                with budget.connections(context, "http://a", ticket) as taken:
                    got.append(taken)
            except Stopped:
                got.append("stopped")

    with budget.file(1) as ticket:
        with budget.connections(context, "http://a", ticket):
            thread = threading.Thread(target=want)
            thread.start()
            time.sleep(0.1)
            assert got == []
        thread.join()
        assert got == [2] or got == [1]
        with budget.connections(context, "http://a", ticket):
            thread = threading.Thread(target=want)
            thread.start()
            context.stop.set()
            thread.join(5)
    assert got[-1] == "stopped"


@pytest.mark.parametrize("limit", [4, 6])
def test_a_host_never_sees_more_than_its_connections(tmp_path: Path, limit: int) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        for number in range(6):
            content = made(4 * MIB, number)
            orch.want(f"w{number}", content, origin.serve(f"/{number}", content, rate=4 * MIB))
        done = orch.sync("--connections", str(limit), "--jobs", "4")
        assert done.code == 0
        # aria2c hangs up on one answer and asks for the next before the origin has noticed.
        assert origin.peak_connections <= limit + 2


def test_two_processes_never_have_more_connections_than_one_may(tmp_path: Path) -> None:
    users = [Orch(tmp_path / name, environ={"XDG_STATE_HOME": str(tmp_path / "state")}) for name in ("a", "b")]
    with Origin(rate=320 << 10) as origin:
        for number, orch in enumerate(users):
            orch.folder.mkdir()
            content = made(36 * MIB, number)
            orch.want("w", content, origin.serve(f"/{number}", content))
        first = users[0].start("sync", "--json", "team.yaml", "--connections", "16")
        while origin.sent("/0") < 4 * MIB:
            assert first.poll() is None
            time.sleep(0.02)
        second = users[1].sync("--connections", "16")
        out, err = first.communicate(timeout=120)
        assert (first.returncode, second.code) == (0, 0), err + second.err
        assert origin.peak_connections <= 16 + 2  # as above
    said = [event["message"] for event in second.named("noticed")]
    assert said == [f"{origin.url}: waiting, other runs on this machine use all its connections"]
    assert len(Done(0, out, err).named("started")) >= 2  # it went on with fewer, although nothing failed
    assert Done(0, out, err).named("failed") == second.named("failed") == []


def test_what_a_killed_process_had_is_free_again(tmp_path: Path) -> None:
    folder = str(tmp_path / "in-use")
    words = (
        "import sys, time; from orchestrator.transfer.machine import Machine\n"
        "with Machine(sys.argv[1]).using('http://h:1') as common:\n"
        " print(common.take(16, 12), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", words, folder], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with Machine(folder).using("http://h:1") as common:
            assert common is not None
            assert (common.processes(), common.take(16, 16)) == (2, (12, 13, 14, 15))
            other.kill()
            other.wait()
            assert (common.processes(), common.take(16, 16)) == (1, tuple(range(12)))
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_without_a_local_state_a_process_goes_on_alone(tmp_path: Path) -> None:
    with Machine("/dev/null/orch").using("http://h:1") as common:
        assert common is None
    budget = ConnectionLimits(4, machine=Machine("/dev/null/orch"))
    with budget.file(1) as ticket, budget.connections(Context({}, str(tmp_path)), "http://h:1", ticket) as taken:
        assert taken == 4


def test_a_file_waits_for_another_process_no_longer_than_it_must(tmp_path: Path) -> None:
    seconds = iter(range(0, 1000, 25))
    context, told = Context({}, str(tmp_path), monotonic=lambda: float(next(seconds))), []
    budget = ConnectionLimits(4, machine=Machine(str(tmp_path / "in-use")), tell=told.append)
    with Machine(str(tmp_path / "in-use")).using("http://h:1") as other, budget.file(1) as ticket:
        assert other is not None and len(other.take(4, 4)) == 4
        with budget.connections(context, "http://h:1", ticket, wait=False) as taken:
            assert taken == 0
        with budget.connections(context, "http://h:1", ticket) as taken:
            assert taken == 1  # one more than there are, after LONGEST_WAIT_S
    assert len(told) == 1


def test_all_files_of_a_process_make_room_together_and_take_more_when_they_are_alone_again(tmp_path: Path) -> None:
    now = 0.0
    context = Context({}, str(tmp_path), monotonic=lambda: now)
    budget = ConnectionLimits(16, 2, [100, 100], Machine(str(tmp_path / "in-use")))

    def yielding(*tickets: int) -> list[bool]:
        nonlocal now
        found = []
        for _ in range(8):
            now += 1
            found = [budget.must_yield(context, ticket) for ticket in tickets]
        return found

    with budget.file(100) as a, budget.file(100) as b:
        with budget.connections(context, "h", a) as of_a, budget.connections(context, "h", b) as of_b:
            assert (of_a, of_b) == (8, 8)
            assert yielding(a, b) == [False, False]
            with Machine(str(tmp_path / "in-use")).using("h") as other:
                assert other is not None
                assert yielding(a, b) == [False, False]  # it waits for nothing
                with other.waiting():
                    assert yielding(a, b) == [True, True]
        with Machine(str(tmp_path / "in-use")).using("h") as other:
            assert other is not None
            both = ExitStack()
            assert both.enter_context(budget.connections(context, "h", a)) == 4
            assert both.enter_context(budget.connections(context, "h", b)) == 4
            assert other.take(16, 16) == tuple(range(8, 16))
            assert yielding(a, b) == [False, False]
        assert yielding(a, b) == [True, True]
        both.close()
        with budget.connections(context, "h", a) as of_a:
            assert of_a == 8


def test_no_byte_is_sent_twice_where_a_file_comes_in_pieces(tmp_path: Path) -> None:
    """A program that asks for all that follows and hangs up at the end of its piece is sent much for nothing."""
    require("aria2c")
    orch = Orch(tmp_path)
    content = made(48 * MIB)
    with Origin(rate=16 * MIB) as origin:
        orch.want("w", content, origin.serve("/w", content))
        assert orch.run("sync", "team.yaml", "--connections", "8", "--backend", "aria2c").code == 0
        assert 0 <= origin.sent("/w") - len(content) < 100_000


def test_a_far_line_gets_longer_pieces(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    content = made(64 * MIB)
    with Origin() as origin:
        orch.want("far", content, origin.serve("/far", content, delay_s=0.15))
        orch.want("near", content[:-1], origin.serve("/near", content[:-1]))
        done = orch.run("sync", "-v", "team.yaml", "--connections", "2", "--jobs", "1")
    assert done.code == 0
    commands = [line for line in done.err.splitlines() if "--piece-length=" in line]
    near, far = sorted(int(c.split("--piece-length=")[1].split()[0]) for c in commands)
    assert far == 8 * MIB  # the most for two connections
    assert near < far  # 4 MiB where the machine is idle
