"""Looks in whole runs: what they may decide, and that a run waits for none of them once it is to end."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.parametrize("sources", [1, 2], ids=["a look", "a probe"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_look_and_no_other_begins(tmp_path: Path, sources: int, number: int, code: int) -> None:
    orch, content = Orch(tmp_path), made(9 * MIB)
    with Origin() as origin, Origin() as other:
        url = origin.serve("/w", content, silent=True)
        mirrors = [other.serve("/w", content, silent=True)] * (sources - 1)
        orch.want("w", content, url, mirrors=mirrors or None)
        running = orch.start("sync", "--json", "team.yaml")
        while not origin.requests("/w"):
            assert running.poll() is None
            time.sleep(0.02)
        asked = len(origin.log)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        assert (running.returncode, len(origin.log)) == (code, asked), err
    assert json.loads(out.splitlines()[-1])["event"] == "summary"
    assert "Traceback" not in err


def test_a_file_of_another_size_than_the_manifest_says(tmp_path: Path) -> None:
    orch, content = Orch(tmp_path), made(5 * MIB)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content), size=len(content) + 1)
        done = orch.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == content
        assert any(f"every source says {len(content)}" in event["message"] for event in done.named("noticed"))
        assert origin.sent("/w") < 2 * len(content)  # not fetched twice


def test_lock_of_a_file_without_a_digest_asks_for_its_bytes_once(tmp_path: Path) -> None:
    orch, content = Orch(tmp_path), made(5 * MIB)
    with Origin() as origin:
        url = origin.serve("/w", content, etag="")
        orch.models["w"] = {"url": url, "to": "models/"}
        assert orch.run("lock", "team.yaml").code == 0
        assert origin.sent("/w") <= len(content) + MIB // 2
        assert origin.requests("/w") <= 3  # a look, the file, a look that it is still the same
