"""P3, P4: two thousand small files, fetched, and then with nothing left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import Row, numbered, pairs
from benchmarks.contest import fresh
from benchmarks.corpus import KIB, Corpus
from benchmarks.measure import run
from benchmarks.servers import find, nginx

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contest import Contestant

_FILES = 2000
_SIZE = 64 * KIB


def fetch(bench: Bench) -> None:
    """P3: from nginx."""
    corpus = _many(bench, "small", _SIZE)
    with nginx(corpus.folder) as server:
        others = [peers.wget(corpus, server.url) if find("wget") else None, peers.pooch(corpus, server.url)]
        mine, curl = orch.sync(corpus, server.url), peers.curl(corpus, server.url)
        took = bench.contest("P3", [mine, curl, *others])
    for hand in list(took)[1:]:
        first = hand == curl.name
        what = f"2,000 x 64 KiB, open: orch / {hand}"
        shown, ratio = pairs(took, "orch", hand), took["orch"] / took[hand]
        bench.rows.append(
            Row("P3", what, shown, ratio, must=1.5 if first else None, goal=1.15 if first else None, bar=first)
        )


def nothing_to_do(bench: Bench) -> None:
    """P4: all is there; the same with files ten times as large."""
    little, large = _many(bench, "small", _SIZE), _many(bench, "larger", 10 * _SIZE)
    contestants = [_synced(bench, little, "orch"), peers.judge(little), _synced(bench, large, "orch, files x 10")]
    took = bench.contest("P4", contestants)
    orch_s, judge, more = took["orch"], "sha256sum -c alone", "orch, files x 10"
    what = "no-op of P3: orch / sha256sum -c over the same files"
    shown = pairs(took, "orch", judge)
    bench.rows.append(Row("P4", what, shown, orch_s / took[judge], must=0.5, goal=0.3, bar=True))
    what = "no-op, files ten times as large / as they were (the same, but for noise)"
    bench.rows.append(Row("P4", what, pairs(took, "orch", more), took[more] / orch_s, must=1.1))


def _many(bench: Bench, name: str, size: int) -> Corpus:
    return bench.corpus(name, dict(numbered(bench.scaled(_FILES, 10), size)))


def _synced(bench: Bench, corpus: Corpus, name: str) -> Contestant:
    place = fresh(bench.folder / f"{corpus.folder.name}-place")
    with nginx(corpus.folder) as server:
        orch.manifest(place, corpus.files, server.url)
        run([*orch.program(), "sync", "team.yaml"], place, place.folder)
    corpus.check(place.files)
    return orch.sync(corpus, "", name=name, kept=place)
