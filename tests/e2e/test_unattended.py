"""Runs that nobody watches: --max-time ends one and the next goes on; --splay spreads a fleet."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_the_time_is_up_and_the_next_night_goes_on(orch: Orch) -> None:
    content = made(24 * MIB)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content, rate=2 * MIB))
        first = orch.sync("--max-time", "4s", "--connections", "1")
        assert first.code == 9
        assert [failed["fault"] for failed in first.summary["failed"]] == ["interrupted"]
        assert first.summary["bytes_fetched"] > 0
        second = orch.run("sync", "-q", "--max-time", "2s", "--connections", "1", "team.yaml")
        assert (second.code, second.out, second.err) == (9, "", "")
        assert orch.run("sync", "--max-time", "1s", "--connections", "1", "team.yaml").code == 9
        origin.serve("/w", content)
        last = orch.sync("--max-time", "60s", "--connections", "1")
        assert origin.sent("/w") <= len(content) + 4 * MIB  # nothing came twice but what was on its way at an end
    assert last.code == 0
    assert last.summary["bytes_reused"] >= first.summary["bytes_fetched"]
    assert place.read_bytes() == content


def test_a_stop_says_which_file_the_next_run_begins_again(orch: Orch) -> None:
    content = made(24 * MIB)
    with Origin(rate=2 * MIB, also=("127.0.0.2",)) as origin:
        origin.serve("/whole", content, ranges="ignored")
        orch.want("whole", content, f"{origin.at('127.0.0.2')}/whole")
        orch.want("ranges", made(24 * MIB, 2), origin.serve("/ranges", made(24 * MIB, 2)))
        done = orch.sync("--max-time", "4s", "--connections", "1")
    said = {failed["model"]: failed["message"] for failed in done.summary["failed"]}
    assert said["ranges"] == "interrupted; the bytes downloaded so far are kept"
    assert re.fullmatch(r"whole/whole: interrupted at [\d.]+ MiB; .*, so the next run starts over", said["whole"])


def test_the_time_is_up_while_a_wrong_file_was_found(orch: Orch) -> None:
    content, wrong = made(24 * MIB), made(3000)
    # Two hosts: the large file may take the only connection of one first, and keep the other file waiting.
    with Origin(rate=2 * MIB) as origin, Origin() as other:
        orch.want("w", content, origin.serve("/w", content))
        orch.want("x", made(3000, 2), other.serve("/x", wrong), to="models/x")
        done = orch.run("sync", "-q", "--max-time", "5s", "--connections", "1", "team.yaml")
    assert done.code == 9
    assert "/x" in done.err


def test_a_run_that_ends_in_time_is_not_disturbed(orch: Orch) -> None:
    with Origin() as origin:
        orch.want("w", b"w", origin.serve("/w", b"w"))
        assert orch.sync("--max-time", "1m").code == 0


def test_splay_is_the_same_for_one_host_and_another_for_another_manifest(orch: Orch) -> None:
    def told(*words: str) -> str:
        running = orch.start("sync", *words, "--splay", "1000h", "team.yaml")
        assert running.stderr is not None
        line = running.stderr.readline()
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 143
        running.communicate()
        match = re.fullmatch(r"starting in (\d+) s \(--splay\)\n", line)
        assert match, line
        return match[1]

    (orch.folder / "other.yaml").write_text("version: 1\nmodels: {}\n")
    assert told() == told() != told("other.yaml")


@pytest.mark.parametrize("command", ["sync", "verify"])
def test_a_quiet_run_that_is_stopped_before_it_begins_writes_nothing(orch: Orch, command: str) -> None:
    running = orch.start(command, "--quiet", "--splay", "1000h", "team.yaml")
    status = Path(f"/proc/{running.pid}/task")
    while len(list(status.iterdir())) < 2:  # until its thread for signals is there
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    assert (running.wait(60), running.communicate()) == (143, ("", ""))


def test_splay_does_not_count_as_time_of_the_run(orch: Orch) -> None:
    with Origin() as origin:
        orch.want("w", b"w", origin.serve("/w", b"w"))
        began = time.monotonic()
        done = orch.sync("--splay", "3s", "--max-time", "20s")
        assert done.code == 0
        match = re.search(r"starting in (\d+) s", done.named("noticed")[0]["message"])
        assert match
        assert time.monotonic() - began >= int(match[1]) - 1


def test_a_quiet_verify_that_runs_out_of_time_writes_nothing(orch: Orch) -> None:
    place = orch.want("huge", b"", "http://127.0.0.1:9/huge", size=None)
    place.parent.mkdir()
    with place.open("wb") as file:
        file.truncate(64 << 30)  # a hole: some 30 s for sha256sum, and no room
    done = orch.run("verify", "-q", "--max-time", "1s", "team.yaml")
    assert (done.code, done.out, done.err) == (9, "", "")
    assert re.search(r"interrupted huge.*\nhint: .*\nverify: .*time limit reached", orch.run(
        "verify", "--max-time", "1s", "team.yaml"
    ).out, re.S)  # fmt: skip
    with place.open("wb") as file:
        file.truncate(10)
    done = orch.run("verify", "-q", "--max-time", "1h", "team.yaml")
    assert (done.code, "wrong bytes" in done.out) == (6, True)
