"""P1, P2, P10: one large file, near, far, and on a wire so wide that the processor is the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import CONNECTIONS, FAR, NEAR, RATE, TRIP_S, Row, pairs
from benchmarks.corpus import GIB, MIB
from benchmarks.servers import find, nginx, origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus


def near(bench: Bench) -> None:
    """P1: the paced origin with no round trip."""
    _paced(bench, "P1", "1 GiB near", NEAR, 0.0, (1.15, 1.06, 0.63))


def far(bench: Bench) -> None:
    """P2: the same with a round trip of 150 ms."""
    _paced(bench, "P2", "1 GiB far", FAR, TRIP_S, (1.35, 1.22, 0.74))


def open_wire(bench: Bench) -> None:
    """P10: nginx, as fast as it can."""
    corpus, hand = _one(bench), "aria2c by hand"
    judges = [peers.judge(corpus), peers.judge(corpus, rhash=True) if find("rhash") else None]
    with nginx(corpus.folder) as server:
        alone = peers.aria2c(corpus, server.url, verify=False)
        took = bench.contest("P10", [orch.sync(corpus, server.url), peers.aria2c(corpus, server.url), alone, *judges])
    plain = max(took["aria2c alone"], took["sha256sum -c alone"])
    shown = pairs(took, "orch", "aria2c alone", "sha256sum -c alone")
    what = "1 GiB, open wire: orch / the larger of aria2c alone and sha256sum -c alone"
    bench.rows.append(Row("P10", what, shown, took["orch"] / plain, must=1.25, goal=1.1))
    fast = took.get("rhash -c alone")
    what = f"1 GiB, open wire: orch {'with rhash installed ' if fast else ''}/ by hand"
    ratio = took["orch"] / took[hand]
    bench.rows.append(Row("P10", what, pairs(took, "orch", hand), ratio, must=0.5 if fast else None, bar=True))
    if fast:
        shown = pairs(took, "orch", "aria2c alone", "rhash -c alone")
        what = "1 GiB, open wire: orch / the larger of aria2c alone and rhash -c alone"
        bench.rows.append(Row("P10", what, shown, took["orch"] / max(took["aria2c alone"], fast)))


def _paced(
    bench: Bench, scenario: str, what: str, flags: tuple[str, ...], trip_s: float, limits: tuple[float, float, float]
) -> None:
    must, goal, must_by_hand = limits
    corpus = _one(bench)
    wire_s = corpus.total / (CONNECTIONS * RATE) + trip_s
    with origin(corpus.folder, *flags) as server:
        third = peers.axel(corpus, server.url) if find("axel") else None
        took = bench.contest(scenario, [orch.sync(corpus, server.url), peers.aria2c(corpus, server.url), third])
    shown = pairs(took, "orch", the_wire=wire_s)
    bench.rows.append(Row(scenario, f"{what}: orch / the wire", shown, took["orch"] / wire_s, must=must, goal=goal))
    for hand, limit in (("aria2c by hand", must_by_hand), ("axel by hand", None)):
        if hand in took:
            shown = pairs(took, "orch", hand)
            ratio = took["orch"] / took[hand]
            bench.rows.append(Row(scenario, f"{what}: orch / {hand}", shown, ratio, must=limit, bar=limit is not None))


def _one(bench: Bench) -> Corpus:
    return bench.corpus("large", {"large.bin": bench.scaled(GIB, 2 * MIB)})
