"""orch is killed just before each of its changes of the file system, one after the other."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from orchestrator.demo.server import Origin
from tests.servers import require
from tests.torture.conftest import Campaign
from tests.torture.machine import WORKS

NAMES = ("tree", "adoption", "lock", "repair", "export", "prune", "add", "bundle", "get blind", "copies")


def test_each_change_is_a_crash_point(tmp_path: Path, origin: Origin, campaign: Campaign) -> None:
    gcc = require("gcc")
    shim = tmp_path / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    points: list[tuple[str, int]] = []
    for name in NAMES:
        m = WORKS[name](tmp_path / f"count-{name.replace(' ', '-')}", origin)
        count = tmp_path / "count"
        environ = {"LD_PRELOAD": str(shim), "TORTURE_BELOW": str(m.folder), "TORTURE_COUNT": str(count)}
        code = m.run(*m.words, **environ)
        assert code == 0, (name, m.said)
        points += [(name, n) for n in range(1, int(count.read_text()) + 1)]
        m.remove()
    campaign.figures["points known"] = len(points)
    campaign.chance.shuffle(points)
    for number in campaign.rounds(0.5, 4):
        if number >= len(points):
            break
        name, at = points[number]
        m = WORKS[name](tmp_path / f"p{number}", origin)
        code = m.run(*m.words, LD_PRELOAD=str(shim), TORTURE_BELOW=str(m.folder), TORTURE_AT=str(at))
        campaign.figures["kills"] += code == -signal.SIGKILL
        what = f"{name}, before change {at}"
        campaign.wrong += [f"{what}: {text}" for text in (*m.problems(), *m.survivors())]
        code = m.run()
        found = [*([f"then exit {code}: {m.said[-300:]}"] if code else []), *m.final_problems()]
        campaign.wrong += [f"{what}: {text}" for text in found]
        m.remove()
    campaign.end()
