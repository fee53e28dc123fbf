"""P7, P8: two sources at once, and three bad ones before a good one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import NEAR, Row, pairs
from benchmarks.corpus import MIB
from benchmarks.servers import nobody, origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus

_SLOW = ("--rate", str(MIB), "--host", "127.0.0.3")
_ALLOWED = 2
_BAD = (
    # name, what the lying mirror does, the goal
    ("a page", "--html", 1.0),
    ("wrong bytes", "--wrong", None),
)


def two(bench: Bench) -> None:
    """P7: one origin with two names, and two connections allowed to each."""
    corpus = _file(bench)
    with origin(corpus.folder, *NEAR, "--also", "127.0.0.2") as server:
        first, second = server.url, server.url.replace("127.0.0.1", "127.0.0.2")
        allowed = {url.removeprefix("http://"): _ALLOWED for url in (first, second)}
        both = orch.sync(corpus, first, name="orch, two sources", mirrors=[second], connections=allowed)
        alone = orch.sync(corpus, first, name="orch, one source", connections=allowed)
        took = bench.contest("P7", [both, alone])
    what = "256 MiB near, 2 connections to a source: two sources / one alone"
    bench.rows.append(Row("P7", what, pairs(took), took[both.name] / took[alone.name], must=0.6, goal=0.52))
    peaks = {name: count for name, count in sorted(server.totals["peaks"].items()) if name}
    told = ", ".join(f"{name} {count}" for name, count in peaks.items())
    bench.notes.append(
        f"P7: most answers under way at once, {_ALLOWED} connections allowed: {told} (one that its client has just"
        " left counts until the origin notices)."
    )


def bad_ones_first(bench: Bench) -> None:
    """P8: a dead, a lying and a slow mirror; the lying one in two ways."""
    corpus = _file(bench)
    with ExitStack() as stack:
        start = stack.enter_context
        good, dead = start(origin(corpus.folder, *NEAR)), start(nobody())
        slow = start(origin(corpus.folder, *_SLOW))
        contestants = [orch.sync(corpus, good.url, name="orch, the good one alone")]
        for name, lie, _ in _BAD:
            liar = start(origin(corpus.folder, *NEAR, "--host", "127.0.0.2", lie))
            mirrors = [dead.url, liar.url, slow.url]
            contestants.append(orch.sync(corpus, good.url, name=f"orch, {name}", mirrors=mirrors))
        took = bench.contest("P8", contestants)
    bench.notes.append("P8: the slow mirror lets 1 MiB/s through on each connection.")
    alone = contestants[0].name
    for name, _, goal in _BAD:
        what = f"256 MiB near behind a dead, a lying ({name}) and a slow mirror: more than alone"
        shown = pairs(took, f"orch, {name}", alone)
        bench.rows.append(Row("P8", what, shown, took[f"orch, {name}"] - took[alone], "s", must=3.0, goal=goal))


def _file(bench: Bench) -> Corpus:
    return bench.corpus("file", {"file.bin": bench.scaled(256 * MIB, 2 * MIB)})
