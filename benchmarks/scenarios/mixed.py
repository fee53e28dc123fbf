"""P5: four large files and some small ones, with so many connections in all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import CONNECTIONS, NEAR, RATE, Row, numbered
from benchmarks.corpus import KIB, MIB, size_words
from benchmarks.servers import origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_LARGE, _SMALL = 4, 24


def fetch(bench: Bench) -> None:
    """P5: near; 16 connections, then 64."""
    size = bench.scaled(256 * MIB, MIB)
    sizes = {f"large{number}.bin": size for number in range(_LARGE)} | dict(numbered(_SMALL, 64 * KIB))
    corpus = bench.corpus("mixed", sizes)
    work = f"{_LARGE} files of {size_words(size)} and {_SMALL} small ones"
    for connections, jobs, must, must_of_wire in ((CONNECTIONS, 1, None, 1.05), (4 * CONNECTIONS, 4, 0.52, None)):
        with origin(corpus.folder, *NEAR) as server:
            mine = orch.sync(
                corpus, server.url, "--connections", str(connections), name=f"orch --connections {connections}"
            )
            hand = peers.aria2c_list(corpus, server.url, jobs)
            took = bench.contest("P5", [mine, hand])
        wire_s = corpus.total / (connections * RATE)
        row = Row(
            scenario="P5",
            done=f"Download {work} from a near server, {connections} connections.",
            value=took[mine.name] / wire_s,
            of="the wire",
            orch_s=took[mine.name],
            hand_s=took[hand.name],
            wire_s=wire_s,
            hand=f"aria2c -j{jobs}, then sha256sum -c",
            must=must_of_wire,
            goal=1.03 if must_of_wire else None,
        )
        label = f"{_LARGE} large files and {_SMALL} small ones, {connections} connections"
        by_hand = took[mine.name] / took[hand.name]
        bench.rows += [row, replace(row, value=by_hand, of="by hand", must=must, goal=None, label=label)]
