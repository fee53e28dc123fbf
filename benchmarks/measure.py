"""Run programs and measure them: wall time, processor time and peak memory."""

# ruff: noqa: S603 - every command is made in this package

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LIMIT_S = 900.0
_TAIL_BYTES = 2000


class BenchError(Exception):
    """A contestant failed or gave a wrong result: nothing that was measured with it means anything."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What some programs took, one after the other; the memory is the largest process's."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant runs: a folder with a home of its own and a log of all that its programs said."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def files(self) -> Path:
        """Where the files end up."""
        return self.folder / "models"

    @property
    def env(self) -> dict[str, str]:
        """No settings of this user's, no proxy, no state from before."""
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
        home = self.folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        return {**kept, "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


def run(argv: Sequence[str], place: Place, cwd: Path) -> Ran:
    """Run one program to its end; any exit code but 0 is a failure."""
    with started(argv, place, cwd) as child:
        late = threading.Timer(LIMIT_S, _kill, [child.pid])
        late.start()
        began_s = time.monotonic()
        try:
            ran, code = reap(child, began_s)
        finally:
            late.cancel()
    if code:
        raise BenchError(f"{' '.join(argv)[:200]}: exit {code}\n{tail(place.log)}")
    return ran


@contextmanager
def started(argv: Sequence[str], place: Place, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program on its way; what is still running at the end is killed."""
    env = place.env
    with place.log.open("ab") as log:
        child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield child
    finally:
        if child.returncode is None:
            _kill(child.pid)
            child.wait()


def reap(child: subprocess.Popen[bytes], began_s: float) -> tuple[Ran, int]:
    """Wait for a program: what it took since `began_s`, its own children included, and its exit code."""
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.monotonic() - began_s
    child.returncode = os.waitstatus_to_exitcode(status)
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), child.returncode


def together(parts: Sequence[Ran]) -> Ran:
    """Several programs, one after the other, as one."""
    return Ran(sum(p.wall_s for p in parts), sum(p.cpu_s for p in parts), max(p.peak_bytes for p in parts))


def tail(log: Path) -> str:
    """The last words of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
