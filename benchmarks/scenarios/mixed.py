"""P5: four large files and some small ones, with so many connections in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import CONNECTIONS, NEAR, RATE, Row, numbered, pairs
from benchmarks.corpus import KIB, MIB
from benchmarks.servers import origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_LARGE, _SMALL = 4, 24


def fetch(bench: Bench) -> None:
    """P5: near; 16 connections, then 64."""
    size = bench.scaled(256 * MIB, MIB)
    sizes = {f"large{number}.bin": size for number in range(_LARGE)} | dict(numbered(_SMALL, 64 * KIB))
    corpus = bench.corpus("mixed", sizes)
    wire_s = corpus.total / (CONNECTIONS * RATE)
    for connections, jobs, must, goal in ((CONNECTIONS, 1, 0.70, None), (4 * CONNECTIONS, 4, 0.80, 0.65)):
        with origin(corpus.folder, *NEAR) as server:
            mine = orch.sync(
                corpus, server.url, "--connections", str(connections), name=f"orch --connections {connections}"
            )
            hand = peers.aria2c_list(corpus, server.url, jobs)
            took = bench.contest("P5", [mine, hand])
        what = f"4 x 256 MiB + 24 small, near, {connections} connections: orch / {hand.name}"
        ratio = took[mine.name] / took[hand.name]
        bench.rows.append(Row("P5", what, pairs(took), ratio, must=must, goal=goal, bar=True))
        if connections == CONNECTIONS:
            what = "4 x 256 MiB + 24 small, near, 16 connections: orch / the wire"
            shown = pairs(took, mine.name, the_wire=wire_s)
            bench.rows.append(Row("P5", what, shown, took[mine.name] / wire_s, goal=1.08))
