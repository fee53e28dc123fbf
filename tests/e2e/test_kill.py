"""Signals and kills in the middle: nothing lost, nobody left, and the next sync goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.base import Trait
from orchestrator.demo.server import Origin
from tests.orch import Orch, is_gone, made
from tests.servers import require

MIB = 1 << 20
RATE = MIB  # a connection, before a kill; faster after it
SIZE = 24 * MIB
NAMES = [backend.NAME for backend in BACKENDS if Trait.HTTP in backend.TRAITS]  # the others: test_rsync.py
# Bytes that a program may fetch again after a kill: what came since it last saved, at up to 4 connections.
SINCE_SAVE = {"aria2c": 2.0, "axel": 1.0, "curl": 0.0, "wget": 0.0}
SPLITS = ("aria2c", "axel")  # with several connections
ENOUGH = {"aria2c": 9 * MIB, "axel": 9 * MIB, "curl": 5 * MIB, "wget": 5 * MIB}  # two seconds, and some
SLACK = 3 * MIB  # aria2c and axel ask for more than they keep, and the server's buffers are full when they die


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def children(process: subprocess.Popen[str], name: str, patience_s: float = 60) -> psutil.Process:
    """Wait for the downloader below orch."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
                words = child.cmdline()  # none once it ends; and each program is asked for its version first
                if words and "--version" not in words and child.name() == name:
                    return child
        time.sleep(0.02)
    raise AssertionError(f"no {name} was started")


def wait_for(condition: object, patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def paced() -> Iterator[tuple[Origin, bytes, str]]:
    content = made(SIZE)
    with Origin() as origin:
        yield origin, content, origin.serve("/w.bin", content, rate=RATE)


@pytest.mark.parametrize("backend", NAMES)
def test_the_backend_is_killed(orch: Orch, paced: tuple[Origin, bytes, str], backend: str) -> None:
    require(backend)
    origin, content, _ = paced
    place = orch.want("w", content, origin.serve("/w.bin", content, rate=RATE if backend in SPLITS else 3 * RATE))
    running = orch.start("sync", "--json", "team.yaml", "--backend", backend, "--connections", "4")
    child = children(running, backend)
    wait_for(lambda: origin.sent("/w.bin") > ENOUGH[backend])
    origin.serve("/w.bin", content, rate=2 * RATE if backend in SPLITS else None)
    child.kill()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert place.read_bytes() == content
    summary = json.loads(out.splitlines()[-1])
    assert summary["fetched"] == 1
    lost = origin.sent("/w.bin") - SIZE
    assert lost <= SINCE_SAVE[backend] * 4 * RATE + SLACK


@pytest.mark.parametrize("backend", NAMES)
def test_orch_is_killed(orch: Orch, paced: tuple[Origin, bytes, str], backend: str) -> None:
    require(backend)
    origin, content, _ = paced
    place = orch.want("w", content, origin.serve("/w.bin", content, rate=RATE if backend in SPLITS else 3 * RATE))
    words = ("sync", "--json", "team.yaml", "--backend", backend, "--connections", "4")
    running = orch.start(*words)
    child = children(running, backend)
    wait_for(lambda: origin.sent("/w.bin") > ENOUGH[backend])
    origin.serve("/w.bin", content, rate=2 * RATE if backend in SPLITS else None)
    running.kill()
    running.communicate()
    wait_for(lambda: is_gone(child))
    assert not place.exists()
    sent = origin.sent("/w.bin")
    done = orch.run(*words)
    assert done.code == 0
    assert place.read_bytes() == content
    assert done.summary["bytes_reused"] > 3 * MIB
    assert origin.sent("/w.bin") - sent <= SIZE - done.summary["bytes_reused"] + SLACK
    assert sent - done.summary["bytes_reused"] <= SINCE_SAVE[backend] * 4 * RATE + SLACK


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)  # HUP: test_stopping.py
def test_a_signal_stops_children_and_keeps_partials(
    orch: Orch, paced: tuple[Origin, bytes, str], number: int, code: int
) -> None:
    origin, content, url = paced
    place = orch.want("w", content, url)
    orch.want("next", made(5000, 7), url + "-none")
    running = orch.start("sync", "--json", "team.yaml", "--jobs", "1", "--connections", "4")
    child = children(running, "aria2c")
    wait_for(lambda: origin.sent("/w.bin") > 8 * MIB)
    origin.serve("/w.bin", content)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["event"], summary["exit_code"], len(summary["failed"])) == ("summary", code, 2)
    wait_for(lambda: is_gone(child))
    assert not place.exists()
    again = orch.run("sync", "--json", "team.yaml", "--only", "w")
    assert (again.code, again.summary["bytes_reused"] > 4 * MIB) == (0, True)


def test_a_second_interrupt_is_at_once(orch: Orch) -> None:
    content = made(SIZE)
    stubborn = orch.folder / "bin"
    stubborn.mkdir()
    # A downloader that ignores INT and TERM holds a patient stop for two seconds.
    script = (
        "#!/bin/sh\ncase $1 in --version) echo curl 8.0.0; exit;; esac\ntrap '' INT TERM\nwhile :; do sleep 0.1; done\n"
    )
    (stubborn / "curl").write_text(script)
    (stubborn / "curl").chmod(0o755)
    orch.environ["ORCH_PROGRAMS"] = str(stubborn)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content))
        running = orch.start("sync", "team.yaml", "--backend", "curl")
        child = children(running, "curl")
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)  # as coreutils' `timeout` does: that is one request
        time.sleep(1.1)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1].startswith("sync: ")
    assert "interrupted" in err.splitlines()[-1]
    wait_for(lambda: is_gone(child))


def test_two_at_once_fetch_once(orch: Orch, paced: tuple[Origin, bytes, str]) -> None:
    origin, content, url = paced
    place = orch.want("w", content, url)
    words = ("sync", "--json", "team.yaml", "--connections", "4")
    first = orch.start(*words)
    child = children(first, "aria2c")
    wait_for(lambda: origin.sent("/w.bin") > MIB)
    child.suspend()  # so that it cannot be done before the others have looked
    second = orch.start(*words)
    assert second.stdout is not None
    told = ""
    while "waiting" not in told:
        told = second.stdout.readline()
        assert told
    hasty = orch.run(*words, "--no-wait")
    assert (hasty.code, hasty.summary["failed"][0]["fault"]) == (75, "lease")
    child.resume()
    outs = [p.communicate(timeout=60)[0] for p in (first, second)]
    assert [p.returncode for p in (first, second)] == [0, 0]
    counts = [json.loads(out.splitlines()[-1]) for out in outs]
    assert sorted(c["fetched"] for c in counts) == [0, 1]
    assert place.read_bytes() == content
    assert origin.sent("/w.bin") < 1.3 * SIZE


def test_a_store_that_is_being_changed_is_waited_for_as_long_as_was_said(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content), to="store")
        assert orch.sync().code == 0
        orch.want("more", made(999), origin.serve("/more", made(999)), to="store")
        with (orch.store / ".turn").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as `orch prune` does
            for words in (("--no-wait",), ("--lock-wait", "1s")):
                done = orch.sync(*words)
                (failed,) = done.summary["failed"]
                assert (done.code, failed["fault"], failed["exit_code"]) == (75, "lease", 75)
                assert "is in use by" in failed["message"] and "--lock-wait" in failed["hint"]
        assert orch.sync("--lock-wait", "1m").code == 0


def test_two_crashes_do_not_bring_the_liar_back(orch: Orch) -> None:
    """Found out once, it is not asked again the next night, and the good bytes of the other are kept."""
    content = made(SIZE)
    with Origin() as lying, Origin() as good:
        bad = lying.serve("/w.bin", content, wrong_at=5)
        place = orch.want("w", content, good.serve("/w.bin", content, rate=4 * RATE), mirrors=[bad])
        words = ("sync", "--json", "team.yaml", "--connections", "4")
        for part in (0.35, 0.85):
            running = orch.start(*words)
            wait_for(lambda part=part: good.sent("/w.bin") > part * SIZE)  # type: ignore[misc]
            running.kill()
            running.communicate()
        lied = lying.sent("/w.bin")
        done = orch.run(*words)
        assert (done.code, place.read_bytes() == content) == (0, True), done.out
        assert not done.named("mismatched")
        assert lying.sent("/w.bin") - lied < 2 * MIB, "its rate is measured, no more"
        assert good.sent("/w.bin") <= 1.1 * SIZE + 2 * SLACK


def test_a_liar_that_is_the_last_hope_is_asked_again(orch: Orch) -> None:
    """Who was mended meanwhile may serve when nobody else does; and it is said what it did."""
    content = made(SIZE)
    with Origin() as lying, Origin() as good:
        bad = lying.serve("/w.bin", content, wrong_at=5)
        place = orch.want("w", content, good.serve("/w.bin", content, status=404), mirrors=[bad])
        assert orch.sync("--retries", "0").code == 6
        lying.serve("/w.bin", content)
        done = orch.sync()
        assert (done.code, place.read_bytes() == content) == (0, True), done.out
        assert any(bad in e["message"] and "wrong bytes" in e["message"] for e in done.named("noticed"))
    assert list((orch.store / "partial").iterdir()) == []
