"""orch is killed at any moment, and its children and judges: nothing wrong is placed, nothing right is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from orchestrator.demo.server import Origin
from tests.torture.conftest import Campaign
from tests.torture.machine import WORKS, Machine, kill

CHILDREN = {"aria2c", "axel", "curl", "wget", "rsync", "sha256sum", "rhash"}
DEAD_CHILD = {"large by aria2c", "large by axel", "large by curl", "large by wget", "local by rsync", "bundle", "get"}


def lengths(campaign: Campaign, tmp_path: Path, origin: Origin, names: list[str]) -> dict[str, float]:
    """How long each work takes when nobody disturbs it, in seconds."""
    found = {}
    for name in names:
        m = WORKS[name](tmp_path / f"whole-{name.replace(' ', '-')}", origin)
        began = time.monotonic()
        code = m.run()
        found[name] = time.monotonic() - began
        campaign.wrong += [
            f"{name}, undisturbed: {text}" for text in (*([f"exit {code}"] if code else []), *m.final_problems())
        ]
        m.remove()
    return found


def finish(campaign: Campaign, m: Machine, name: str, history: str) -> None:
    """The same command once more, undisturbed, ends well; what it left is looked at."""
    code = m.run()
    found = [*([f"then exit {code}: {m.said.strip()[-300:]}"] if code not in m.codes else []), *m.final_problems()]
    campaign.wrong += [f"{name} {history}: {text}" for text in found]
    m.remove()


def test_orch_is_killed_at_random(tmp_path: Path, origin: Origin, campaign: Campaign) -> None:
    took = lengths(campaign, tmp_path, origin, list(WORKS))
    names = list(WORKS)
    sent = costs = number = 0
    each = {name: [0, 0] for name in names}  # sent, needed
    m: Machine | None = None
    history = ""
    for _ in campaign.rounds(1.0, 7):
        if m is None:
            name = names[number % len(names)]
            number += 1
            m, history = WORKS[name](tmp_path / f"k{number}", origin), "killed at"
            planned = campaign.chance.randint(1, 4)
        process = m.start()
        moment = campaign.chance.uniform(0.05, took[name])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        if kill(process):
            campaign.figures["kills"] += 1
            history += f" {moment:.2f}"
            campaign.wrong += [f"{name} {history}: {text}" for text in m.problems()]
            campaign.wrong += [f"{name} {history}: still works: {words[:150]}" for words in m.survivors()]
            planned -= 1
        else:
            planned = 0
        if planned <= 0:
            paths, cost, before = list(m.paths), m.costs, m.before
            finish(campaign, m, name, history)
            got = sum(origin.sent(path) for path in paths) - before
            each[name][0] += got
            each[name][1] += cost
            sent, costs, m = sent + got, costs + cost, None
            if got > 1.3 * cost + (1 << 20):
                campaign.figures["works over 1.3 x"] += 1
    if m is not None:
        finish(campaign, m, name, history)
    campaign.figures["works"] = number
    for name, (got, cost) in each.items():
        if cost:
            campaign.figures[f"{name}: sent / needed, in percent"] = round(100 * got / cost)
    campaign.figures["sent / needed, in percent"] = round(100 * sent / costs) if costs else 0
    if sent > 1.10 * costs:
        campaign.wrong.append(f"the origin sent {sent / costs:.3f} x of what was needed")
    campaign.end()


def below(pid: int) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() in CHILDREN and "--version" not in child.cmdline():
                    found.append(child)
    return found


def test_children_are_killed_at_random(tmp_path: Path, origin: Origin, campaign: Campaign) -> None:
    names = [name for name in WORKS if name in DEAD_CHILD or name in ("repair", "copies", "liar first")]
    for number in campaign.rounds(0.4, 5):
        name = names[number % len(names)]
        m = WORKS[name](tmp_path / f"c{number}", origin)
        process = m.start()
        how = campaign.chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        wait = time.monotonic() + campaign.chance.uniform(0.0, 1.5)
        history = ""
        while process.poll() is None:
            if time.monotonic() > wait and (found := below(process.pid)):
                victim = campaign.chance.choice(found)
                with contextlib.suppress(psutil.Error):
                    history = f"{how.name} to {victim.name()}"
                    victim.send_signal(how)
                    campaign.figures["kills"] += 1
                    campaign.figures[victim.name() if victim.is_running() else "gone"] += 1
                break
            time.sleep(0.01)
        try:
            code = process.wait(90)
        except subprocess.TimeoutExpired:
            campaign.wrong.append(f"{name}, {history}: no end within 90 s")
            os.kill(process.pid, signal.SIGKILL)
            code = process.wait()
        campaign.figures["ended well at once"] += code == 0
        campaign.wrong += [f"{name}, {history}: {text}" for text in m.problems()]
        if code not in (0, 5, 6, 7, 8):
            campaign.wrong.append(f"{name}, {history}: exit {code}: {m.said[-300:]}")
        finish(campaign, m, name, history)
    campaign.end()
