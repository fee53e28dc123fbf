"""P3, P4: two thousand small files, fetched, and then with nothing left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import Row, numbered
from benchmarks.contest import fresh
from benchmarks.corpus import KIB, Corpus, size_words
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
        durable = peers.curl(corpus, server.url, durable=True)
        took = bench.contest("P3", [mine, durable, curl, *others])
    for hand, words in (
        (durable.name, "curl -Z, sha256sum -c, sync -f"),
        (curl.name, "curl -Z, sha256sum -c: a power cut may lose all"),
        ("wget by hand", "wget, sha256sum -c: a power cut may lose all"),
        ("pooch", "the library pooch, which verifies"),
    ):
        if hand in took:
            first = hand == durable.name
            bench.rows.append(
                Row(
                    scenario="P3",
                    done=f"Download {corpus.words} from a fast server.",
                    value=took["orch"] / took[hand],
                    of="by hand",
                    orch_s=took["orch"],
                    hand_s=took[hand],
                    hand=words,
                    must=1.2 if first else None,
                    goal=1.0 if first else None,
                    label="many small files" if first else "",
                )
            )


def nothing_to_do(bench: Bench) -> None:
    """P4: all is there; the same with files ten times as large."""
    little, large = _many(bench, "small", _SIZE), _many(bench, "larger", 10 * _SIZE)
    contestants = [_synced(bench, little, "orch"), peers.judge(little), _synced(bench, large, "orch, files x 10")]
    took = bench.contest("P4", contestants)
    orch_s, judge, more = took["orch"], "sha256sum -c alone", "orch, files x 10"
    bench.rows += [
        Row(
            scenario="P4",
            done=f"Sync {little.words} when all are there already.",
            value=orch_s / took[judge],
            of="by hand",
            orch_s=orch_s,
            hand_s=took[judge],
            hand="sha256sum -c",
            must=0.3,
            goal=0.25,
            label="nothing to do",
        ),
        Row(
            scenario="P4",
            done=f"The same with files of {size_words(10 * _SIZE)}, which must not take longer.",
            value=took[more] / orch_s,
            of="the smaller files",
            orch_s=took[more],
            must=1.1,
        ),
    ]


def _many(bench: Bench, name: str, size: int) -> Corpus:
    return bench.corpus(name, dict(numbered(bench.scaled(_FILES, 10), size)))


def _synced(bench: Bench, corpus: Corpus, name: str) -> Contestant:
    place = fresh(bench.folder / f"{corpus.folder.name}-place")
    with nginx(corpus.folder) as server:
        orch.manifest(place, corpus.files, server.url)
        run([*orch.program(), "sync", "team.yaml"], place, place.folder)
    corpus.check(place.files)
    return orch.sync(corpus, "", name=name, kept=place)
