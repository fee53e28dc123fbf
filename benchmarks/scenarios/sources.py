"""P7, P8: two sources at once, and three bad ones before a good one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import NEAR, Row
from benchmarks.corpus import MIB
from benchmarks.servers import nobody, origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus

_SLOW = ("--rate", str(MIB), "--host", "127.0.0.3")
_ALLOWED = 2
_BAD = (
    # what the lying mirror sends, its flags, must and goal
    ("an HTML page", ("--html",), 0.3, 0.2),
    ("wrong bytes", ("--wrong",), 1.2, None),
    ("one wrong byte", ("--wrong-at", str(MIB)), None, None),  # which no sample shows: the digest alone does
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
    bench.rows.append(
        Row(
            scenario="P7",
            done=f"Download {corpus.words} from two servers at once, {_ALLOWED} connections to each.",
            value=took[both.name] / took[alone.name],
            of="from one of them",
            orch_s=took[both.name],
            must=0.6,
            goal=0.52,
        )
    )
    peaks = {name: count for name, count in sorted(server.totals["peaks"].items()) if name}
    told = ", ".join(f"{name} {count}" for name, count in peaks.items())
    bench.notes.append(
        f"P7: most answers under way at once, {_ALLOWED} connections allowed: {told} (one that its client has just"
        " left counts until the origin notices)."
    )


def bad_ones_first(bench: Bench) -> None:
    """P8: a dead, a lying and a slow mirror; the lying one in three ways."""
    corpus = _file(bench)
    with ExitStack() as stack:
        start = stack.enter_context
        good, dead = start(origin(corpus.folder, *NEAR)), start(nobody())
        slow = start(origin(corpus.folder, *_SLOW))
        contestants = [orch.sync(corpus, good.url, name="orch, the good one alone")]
        for name, lie, _, _ in _BAD:
            liar = start(origin(corpus.folder, *NEAR, "--host", "127.0.0.2", *lie))
            mirrors = [dead.url, liar.url, slow.url]
            contestants.append(orch.sync(corpus, good.url, name=f"orch, {name}", mirrors=mirrors))
        took = bench.contest("P8", contestants)
    bench.notes.append("P8: the slow mirror lets 1 MiB/s through on each connection.")
    alone = contestants[0].name
    for name, _, must, goal in _BAD:
        bench.rows.append(
            Row(
                scenario="P8",
                done=f"Download {corpus.words} with three bad mirrors before the good one: dead, {name}, and slow.",
                value=took[f"orch, {name}"] - took[alone],
                unit="s",
                of="more than without them",
                orch_s=took[f"orch, {name}"],
                must=must,
                goal=goal,
            )
        )


def _file(bench: Bench) -> Corpus:
    return bench.corpus("file", {"file.bin": bench.scaled(256 * MIB, 2 * MIB)})
