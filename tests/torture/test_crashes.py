"""Killed, or refused by the disk, at any change of the file system: the next run fetches nothing twice."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from tests.crashing import points
from tests.orch import Orch, made
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
HOWS = ("kill", str(errno.ENOSPC))


def forget(orch: Orch) -> None:
    """Make the machine as it was before."""
    for path in (orch.store, orch.folder / "models", orch.folder / "home"):
        shutil.rmtree(path, ignore_errors=True)
    (orch.folder / "team.lock.json").unlink(missing_ok=True)


@pytest.mark.parametrize("how", HOWS)
def test_lock_fetches_nothing_twice(tmp_path: Path, how: str) -> None:
    """From the first moment that the store has the bytes it knows which version of which source they are."""
    orch, content = Orch(tmp_path, environ={"ORCH_CONNECTIONS": "1"}), made(2 * MIB)
    with Origin() as origin:
        orch.want("m", content, origin.serve("/m.bin", content), sha256=None, size=None)
        hits = before = 0
        for _ in points(orch, how, "lock", "team.yaml", only="store/blobs/"):
            hits += 1
            done = orch.run("lock", "--json", "team.yaml")
            assert (done.code, orch.blob(content).exists()) == (0, True), done.out
            sent, before = origin.sent("/m.bin") - before, origin.sent("/m.bin")
            assert sent <= 1.1 * len(content), f"at change {hits}"
            forget(orch)
    assert hits > 3


@pytest.mark.parametrize("how", HOWS)
def test_an_adopted_download_is_not_lost(tmp_path: Path, how: str) -> None:
    """Before it moves it is written down whose it is; whatever happens, its bytes are beside the place or ours."""
    orch, content = Orch(tmp_path, environ={"ORCH_CONNECTIONS": "1"}), made(3 * MIB)
    part = tmp_path / "models/m.bin.part"
    with Origin() as origin:
        orch.want("m", content, origin.serve("/m.bin", content))
        part.parent.mkdir()
        part.write_bytes(content[: 2 * MIB])
        hits = before = 0
        for code in points(orch, how, "sync", "-q", "team.yaml", only="/partial/", most=9):
            hits += 1
            done = orch.sync()
            assert (done.code, orch.blob(content).exists()) == (0, True), done.out
            sent, before = origin.sent("/m.bin") - before, origin.sent("/m.bin")
            assert sent <= 1.1 * MIB, f"at change {hits}, exit {code}"
            forget(orch)
            part.parent.mkdir()
            part.write_bytes(content[: 2 * MIB])
    assert hits > 5


@pytest.mark.parametrize("backend", ["aria2c", "curl"])
def test_a_change_of_programs_loses_nothing(tmp_path: Path, backend: str) -> None:
    """What aria2c left is claimed by its own state or by the next one's, wherever the run ends that goes on with it."""
    require("aria2c")
    orch, content = Orch(tmp_path), made(6 * MIB)
    words = ("--backend", "aria2c", "--connections", "1")
    with Origin() as origin:
        orch.want("m", content, origin.serve("/m.bin", content, rate=3 * MIB))
        running = orch.start("sync", "team.yaml", *words)
        wait_for(lambda: origin.sent("/m.bin") > 4 * MIB)
        running.send_signal(signal.SIGINT)
        running.communicate()
        origin.serve("/m.bin", content)
        before = shutil.copytree(orch.store, tmp_path / "before", symlinks=True)
        for code in points(orch, "kill", "sync", "-q", "--backend", backend, "team.yaml", only="/partial/", most=9):
            done = orch.sync("--backend", backend)
            assert done.code == 0
            assert code != -signal.SIGKILL or done.summary["bytes_reused"] > 2 * MIB, done.out
            forget(orch)
            shutil.copytree(before, orch.store, symlinks=True)


def wait_for(condition: Callable[[], bool], patience_s: float = 15) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
