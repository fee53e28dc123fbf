"""P6: orch killed ten times on its way; what the origin had to send in all."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import NEAR, Row
from benchmarks.contest import Outcome, fresh
from benchmarks.corpus import GIB, MIB
from benchmarks.measure import LIMIT_S, BenchError, Place, Ran, reap, run, started, tail, together
from benchmarks.servers import origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus

_KILLS = 10
_LOOK_S = 0.005
_DISK_BLOCK = 512


def killed(bench: Bench) -> None:
    """P6: 1 GiB near, ten times kill -9, then to the end."""
    corpus = bench.corpus("large", {"large.bin": bench.scaled(GIB, 8 * MIB)})
    outcome, ratios, kills = Outcome("P6", "orch, killed ten times", size_bytes=corpus.total), [], []
    for number in range(1, bench.runs + 1):
        place = fresh(bench.folder / "place")
        with origin(corpus.folder, *NEAR) as server:
            orch.manifest(place, corpus.files, server.url)
            lives = _lives(corpus, place)
            last = run([*orch.program(), "sync", "team.yaml"], place, place.folder)
        corpus.check(place.files)
        shutil.rmtree(place.folder)
        outcome.runs.append(together([*lives, last]))
        ratios.append(int(server.totals["sent"]) / corpus.total)
        kills.append(len(lives))
        bench.say(f"P6 {number}/{bench.runs} {len(lives)} kills, sent {ratios[-1]:.3f} x the size")
    bench.outcomes.append(outcome)
    bench.rows.append(
        Row(
            scenario="P6",
            done=f"Download {corpus.words} although orch is killed (-9) ten times: bytes that the server had to send.",
            value=statistics.median(ratios),
            of="the file's size",
            orch_s=outcome.wall_s,
            must=1.15,
            goal=1.05,
        )
    )
    bench.notes.append(f"P6: kills in each run: {', '.join(map(str, kills))}.")


def _lives(corpus: Corpus, place: Place) -> list[Ran]:
    """What the killed lives took, evenly over the file; a life that ends by itself is the last one."""
    lives = []
    for number in range(1, _KILLS + 1):
        at = max(number * corpus.total // (_KILLS + 1), _landed(place) + corpus.total // 50)
        with started([*orch.program(), "sync", "team.yaml"], place, place.folder) as child:
            began_s = time.monotonic()
            while _landed(place) < at and not _has_ended(child.pid):
                if time.monotonic() - began_s > LIMIT_S:
                    raise BenchError(f"orch stands still:\n{tail(place.log)}")
                time.sleep(_LOOK_S)
            os.kill(child.pid, signal.SIGKILL)  # of nobody else: it is not waited for yet
            ran, code = reap(child, began_s)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            raise BenchError(f"orch ended with {code} in its life {number}:\n{tail(place.log)}")
        lives.append(ran)
    return lives


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _landed(place: Place) -> int:
    """Bytes of unfinished files on the disk: blocks, for a size lies where there are holes."""
    blocks = 0
    for folder, _, names in os.walk(place.folder / "store" / "partial"):
        for name in names:
            with suppress(OSError):
                blocks += os.stat(os.path.join(folder, name)).st_blocks
    return blocks * _DISK_BLOCK
