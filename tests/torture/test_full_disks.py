"""A disk is full at each step: of the store, of the places, of the state, of the temporary folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.mounts import tmpfs
from tests.torture.conftest import Campaign
from tests.torture.machine import LARGE, TREE, WORKS

WHERE = ("store", "models", "home", "tmp")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_each_disk_is_full(tmp_path: Path, origin: Origin, campaign: Campaign) -> None:
    works = ("large by aria2c", "large by curl", "bundle", "tree", "copies", "repair")
    most = {"store": 2 * len(LARGE), "models": 7 * len(LARGE), "home": 1 << 20, "tmp": 1 << 20}
    for number in campaign.rounds(0.2, 2.5):
        name, where = works[number % len(works)], WHERE[number // len(works) % len(WHERE)]
        size = campaign.chance.randrange(4096, len(TREE) if name in ("tree", "bundle") else most[where])
        if where in ("home", "tmp"):
            size = campaign.chance.choice((4096, 65536))
        m = WORKS[name](tmp_path / f"d{number}", origin)
        if name == "repair" and where in ("store", "models"):
            m.remove()
            continue  # its blob and its place are on one disk, and are there before
        folder = m.folder / where
        folder.mkdir(exist_ok=True)
        kept = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with tmpfs(folder, str(size)):
            folder.chmod(0o755)
            for path, content in kept.items():
                if size > 3 * len(content):
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(content)
            if kept and not all((folder / path).exists() for path in kept):
                continue
            code = m.run()
            campaign.figures[f"exit {code}"] += 1
            what = f"{name}, {where} of {size} bytes: exit {code}"
            campaign.wrong += [f"{what}: {text}" for text in m.problems()]
            if code not in (0, 1, 7, 8):
                campaign.wrong.append(f"{what}: {m.said[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=400m", str(folder)], check=True)
            code = m.run()
            found = [*([f"then exit {code}: {m.said[-300:]}"] if code else []), *m.final_problems()]
            campaign.wrong += [f"{what}: {text}" for text in found]
        m.remove()
    campaign.end()
