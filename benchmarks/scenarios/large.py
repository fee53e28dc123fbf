"""P1, P2, P10: one large file, near, far, and on a wire so wide that the processor is the limit; and by https."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import CONNECTIONS, FAR, NEAR, RATE, TRIP_S, Row
from benchmarks.corpus import GIB, MIB
from benchmarks.servers import find, nginx, origin, tls_front

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.contest import Contestant
    from benchmarks.corpus import Corpus
    from benchmarks.servers import Server

_BY_HAND = "aria2c -x16, then sha256sum -c"
_OPEN = "from a server as fast as this machine"


def near(bench: Bench) -> None:
    """P1: the paced origin with no round trip."""
    corpus = _one(bench)
    with origin(corpus.folder, *NEAR) as server:
        _paced(bench, "P1", corpus, server, 0.0, (1.05, 1.02, 0.63))


def far(bench: Bench) -> None:
    """P2: the same with a round trip of 150 ms."""
    corpus = _one(bench)
    with origin(corpus.folder, *FAR) as server:
        _paced(bench, "P2", corpus, server, TRIP_S, (1.12, 1.08, 0.74))


def near_tls(bench: Bench) -> None:
    """P1t: the paced origin behind a front that speaks https."""
    corpus = _one(bench)
    with origin(corpus.folder, *NEAR) as behind, tls_front(behind) as server:
        _paced(bench, "P1t", corpus, server, 0.0, (None, None, None))


def far_tls(bench: Bench) -> None:
    """P2t: the same with a round trip of 150 ms."""
    corpus = _one(bench)
    with origin(corpus.folder, *FAR) as behind, tls_front(behind) as server:
        _paced(bench, "P2t", corpus, server, TRIP_S, (None, None, None))


def open_wire(bench: Bench) -> None:
    """P10: nginx, as fast as it can."""
    corpus = _one(bench)
    judges = [peers.judge(corpus), peers.openssl(corpus) if find("openssl") else None]
    with nginx(corpus.folder) as server:
        alone = peers.aria2c(corpus, server.url, verify=False)
        hand = peers.aria2c(corpus, server.url)
        took = bench.contest("P10", [orch.sync(corpus, server.url), hand, alone, *judges])
    row = Row(
        scenario="P10",
        done=f"Download {corpus.words} {_OPEN}.",
        value=took["orch"] / took[hand.name],
        of="by hand",
        orch_s=took["orch"],
        hand_s=took[hand.name],
        hand=_BY_HAND,
        must=0.5,
        label=f"{corpus.words} {_OPEN}",
    )
    bench.rows.append(row)
    if judges[1] is not None:
        slower = max(took[alone.name], took[judges[1].name])
        least = f"{row.done} It needs at least: the slower of aria2c alone and openssl dgst alone."
        row = replace(row, done=least, value=took["orch"] / slower, of="the slower one", hand_s=slower)
        bench.rows.append(replace(row, hand="", must=1.15, goal=1.08, label=""))


def open_wire_tls(bench: Bench) -> None:
    """P10t: nginx by https, as fast as it can: the program that decrypts is the limit."""
    corpus = _one(bench)
    with nginx(corpus.folder, tls=True) as server:
        alone = [peers.aria2c(corpus, server.url, verify=False, ca=server.ca)]
        if find("curl"):
            alone.append(peers.curl_alone(corpus, server.url, ca=server.ca))
        hand = peers.aria2c(corpus, server.url, ca=server.ca)
        took = bench.contest("P10t", [orch.sync(corpus, server.url, ca=server.ca), hand, *alone])
    row = Row(
        scenario="P10t",
        done=f"Download {corpus.words} by https {_OPEN}.",
        value=took["orch"] / took[hand.name],
        of="by hand",
        orch_s=took["orch"],
        hand_s=took[hand.name],
        hand=_BY_HAND,
        label=f"{corpus.words} by https, {_OPEN}",
    )
    fastest = min((each.name for each in alone), key=lambda name: took[name])
    least = f"{row.done} It needs at least: {fastest}, which verifies nothing."
    bench.rows.append(row)
    row = replace(row, done=least, value=took["orch"] / took[fastest], of=fastest, hand_s=took[fastest])
    bench.rows.append(replace(row, hand="", must=1.15, goal=1.0, label=""))


def _paced(
    bench: Bench,
    scenario: str,
    corpus: Corpus,
    server: Server,
    trip_s: float,
    limits: tuple[float | None, float | None, float | None],
) -> None:
    """Measure on a line that gives each connection so much; `limits`: must and goal of the wire, must of by hand."""
    must, goal, must_by_hand = limits
    wire_s = corpus.total / (CONNECTIONS * RATE) + trip_s
    hand = peers.aria2c(corpus, server.url, ca=server.ca)
    contestants: Sequence[Contestant] = (orch.sync(corpus, server.url, ca=server.ca), hand)
    third = peers.axel(corpus, server.url) if find("axel") and not server.ca else None
    alone = peers.aria2c(corpus, server.url, verify=False, ca=server.ca)
    took = bench.contest(scenario, [*contestants, alone, third])
    where = f"{'by https ' if server.ca else ''}from a {'far' if trip_s else 'near'} server"
    row = Row(
        scenario=scenario,
        done=f"Download {corpus.words} {where}{f' ({trip_s * 1000:.0f} ms away)' if trip_s else ''}.",
        value=took["orch"] / wire_s,
        of="the wire",
        orch_s=took["orch"],
        hand_s=took[hand.name],
        wire_s=wire_s,
        hand=_BY_HAND,
        must=must,
        goal=goal,
    )
    by_hand = took["orch"] / took[hand.name]
    unlimited = replace(row, must=None, goal=None)
    least_s, least = took[alone.name], f"{row.done} It needs at least: {alone.name}, which verifies nothing."
    bench.rows += [
        row,
        replace(row, value=by_hand, of="by hand", must=must_by_hand, goal=None, label=f"{corpus.words} {where}"),
        replace(unlimited, done=least, value=took["orch"] / least_s, of=alone.name, hand_s=least_s, hand=""),
    ]
    if third:
        axel = took[third.name]
        bench.rows.append(
            replace(
                unlimited, value=took["orch"] / axel, of="by hand", hand_s=axel, hand="axel -n16, then sha256sum -c"
            )
        )


def _one(bench: Bench) -> Corpus:
    return bench.corpus("large", {"large.bin": bench.scaled(GIB, 2 * MIB)})
