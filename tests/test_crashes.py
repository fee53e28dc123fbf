"""Killed, or refused by the disk, at any change of the file system: the next run fetches nothing twice."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.origin import Origin
from tests.crashing import points
from tests.orch import Orch, made

if TYPE_CHECKING:
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
