"""Sixty nights of one cron job: models come, go and change, a third of the nights fails, and nothing grows for ever."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

NIGHTS = 60
DAY_S = 86400
KEEP_DAYS = 30  # the default of `prune --keep`
FAULTS = ("wrong", "gone", "cut", "busy", "killed")
# orch at another date: the process's clock alone is set on; what it writes gets that date by `Machine.date`.
AT = """
import datetime, sys, time
ahead, real = float(sys.argv.pop(1)), time.time
class Date(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().fromtimestamp(time.time(), tz)
time.time, datetime.datetime = lambda: real() + ahead, Date
from orchestrator.cli import main
sys.exit(main())
"""


@dataclass
class Machine:
    """A GPU server with one manifest and one cron job; `contents` are its models' bytes as they are today."""

    orch: Orch
    origin: Origin
    chance: random.Random
    contents: dict[str, bytes] = field(default_factory=dict)
    night: int = 0
    began: float = field(default_factory=time.time)
    seeds: int = 0

    @property
    def log(self) -> Path:
        return self.orch.folder / "orch.log"

    @property
    def state(self) -> Path:
        return self.orch.folder / "home" / ".local/state/orch"

    def publish(self, name: str) -> None:
        """Give a model new bytes, at a URL that names their version."""
        self.seeds += 1
        size = self.chance.choice((700, 40_000, 300_000, 3 << 20))
        content = self.contents[name] = made(size + self.seeds, self.seeds)
        path = f"/{name}/v{self.seeds}.bin"
        self.origin.serve(path, content)
        self.orch.want(name, content, self.origin.url + path, to=f"models/{name}.bin")

    def withdraw(self, name: str) -> None:
        del self.contents[name], self.orch.models[name]

    def run(self, *words: str, kill_after_s: float | None = None) -> tuple[int, str]:
        """Run orch on this night's date; gives its exit code and what it said."""
        self.orch.write()
        process = subprocess.Popen(
            [sys.executable, "-c", AT, str(self.night * DAY_S), *words],
            cwd=self.orch.folder, env=self.orch.env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=kill_after_s or 120)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        self.date()
        return process.returncode, said

    def date(self) -> None:
        """Give what was written just now the date of this night."""
        for top in (self.orch.store, self.state):
            for folder, folders, files in os.walk(top):
                for path in (f"{folder}/{name}" for name in (*folders, *files)):
                    status = os.lstat(path)
                    if self.began - 1 <= status.st_mtime < self.began + DAY_S / 2:
                        ahead_ns = self.night * DAY_S * 10**9
                        times = (status.st_atime_ns, status.st_mtime_ns + ahead_ns)
                        os.utime(path, ns=times, follow_symlinks=False)

    def sizes(self) -> dict[str, int]:
        """What must not grow: files of the store but blobs and wrong bytes, bytes of records and local state."""
        files = [path for path in self.orch.store.rglob("*") if path.is_file()]
        rest = [path for path in files if path.relative_to(self.orch.store).parts[0] not in ("blobs", "quarantine")]
        own = [path for path in self.state.rglob("*") if path.is_file()]
        return {
            "files of the store": len(rest),
            "bytes of the store": sum(path.stat().st_size for path in rest),
            "files of the state": len(own),
            "bytes of the state": sum(path.stat().st_size for path in own),
        }

    def wrong(self) -> list[str]:
        """The models whose place does not hold today's bytes."""
        folder = self.orch.folder / "models"
        found = {path.stem: path.read_bytes() for path in folder.glob("*.bin")}
        return [name for name, content in self.contents.items() if found.get(name) != content]

    def blobs(self) -> set[str]:
        return {path.name for path in (self.orch.store / "blobs/sha256").iterdir()}

    def prune(self) -> None:
        code, said = self.run("prune", "--yes", "--places", "--json", "team.yaml")
        assert code == 0, said


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Origin() as origin:
        yield Machine(Orch(tmp_path), origin, random.Random(12))


def change(machine: Machine) -> None:
    """What a team does to its manifest in a day."""
    names, chance = sorted(machine.contents), machine.chance
    if len(names) < 6 or chance.random() < 0.4:
        machine.publish(f"m{machine.seeds}")
    if len(names) > 4 and chance.random() < 0.4:
        machine.withdraw(chance.choice(names))
    names = sorted(machine.contents)
    if chance.random() < 0.4:
        machine.publish(chance.choice(names))


def break_something(machine: Machine, fault: str) -> float | None:
    """Let tonight's newest model fail; gives the seconds after which orch is killed instead, where it is."""
    name = f"m{machine.seeds}"
    machine.publish(name)
    if fault == "killed":
        return machine.chance.uniform(0.1, 0.6)
    content = machine.contents[name]
    faults: dict[str, dict[str, Any]] = {
        "wrong": {"wrong_at": len(content) // 2},
        "gone": {"status": 404},
        "cut": {"cut_after": len(content) // 3},
        "busy": {"status": 503},
    }
    machine.origin.serve(f"/{name}/v{machine.seeds}.bin", content, **faults[fault])
    return None


def test_nothing_grows_for_ever(machine: Machine) -> None:
    sync = ("sync", "-q", "--retries", "0", "--log-file", str(machine.log), "--metrics", "orch.prom", "team.yaml")
    codes = {"wrong": 6, "gone": 5, "cut": 5, "busy": 5}
    sizes: list[dict[str, int]] = []
    for machine.night in range(NIGHTS):
        change(machine)
        fault = FAULTS[machine.night // 3 % len(FAULTS)] if machine.night % 3 == 2 else ""
        kill_after_s = break_something(machine, fault) if fault else None
        code, said = machine.run(*sync, kill_after_s=kill_after_s)
        if fault == "killed":
            assert code in (0, -signal.SIGKILL), said
        else:
            assert code == codes.get(fault, 0), said
        broken = machine.wrong()
        assert len(broken) <= (len(machine.contents) if fault == "killed" else bool(fault)), said
        if fault not in ("", "killed"):  # whoever runs the server mends it in the morning
            name = broken[0]
            machine.origin.serve(f"/{name}/v{machine.seeds}.bin", machine.contents[name])
        if machine.night % 7 == 6:
            machine.prune()
        sizes.append(machine.sizes())
    # The history has a line for each run and each attempt until it is trimmed; places come and go.
    assert sizes[-1]["files of the state"] == sizes[9]["files of the state"]
    assert sizes[-1]["bytes of the state"] < NIGHTS * 600
    pruned = [size["files of the store"] for size in sizes[6::7]]  # between, a kill may have left a lease
    assert pruned[-1] <= pruned[0] + 1
    assert sizes[-1]["bytes of the store"] < 2_000 + 600 * len(machine.contents)
    log = machine.log.read_text("utf-8").splitlines()
    assert len(log) < NIGHTS * 8
    assert [line for line in log if not re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d \S", line)] == []

    # Nobody changes anything for a month: then nothing is left but what the manifest wants.
    assert machine.run(*sync)[0] == 0
    machine.night += KEEP_DAYS + 1
    machine.prune()
    assert machine.wrong() == []
    assert machine.blobs() == {sha256(content) for content in machine.contents.values()}
    assert list((machine.orch.store / "partial").iterdir()) == []
    assert machine.sizes()["files of the store"] <= pruned[0] + 1
    assert machine.run(*sync) == (0, "")
