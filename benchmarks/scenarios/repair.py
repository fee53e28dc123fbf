"""P11: one byte of a large file in place is wrong: read all, fetch what is bad, put it right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import orch, peers
from benchmarks.bench import NEAR, Row
from benchmarks.contest import Contestant
from benchmarks.corpus import GIB, MIB
from benchmarks.measure import run
from benchmarks.servers import origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contest import Commands
    from benchmarks.corpus import Corpus
    from benchmarks.measure import Place


def flipped(bench: Bench) -> None:
    """P11: 1 GiB near, one byte flipped, against fetching it again by hand."""
    corpus, hand = bench.corpus("large", {"large.bin": bench.scaled(GIB, 16 * MIB)}), "aria2c by hand, anew"
    with origin(corpus.folder, *NEAR) as server:
        anew = peers.aria2c(corpus, server.url)
        mine = _mender(corpus, server.url)
        took = bench.contest("P11", [mine, replace(anew, name=hand)])
    bench.rows.append(
        Row(
            scenario="P11",
            done=f"Repair a file of {corpus.words} in which one byte is wrong.",
            value=took[mine.name] / took[hand],
            of="by hand",
            orch_s=took[mine.name],
            hand_s=took[hand],
            hand="download it again, then sha256sum -c",
            label="repair one byte of a large file",
        )
    )


def _mender(corpus: Corpus, url: str) -> Contestant:
    def prepare(place: Place) -> Commands:
        orch.manifest(place, corpus.files, url)
        for word in ("sync", "lock"):  # with its bytes here, the lock learns their pieces
            run([*orch.program(), word, "team.yaml"], place, place.folder)
        with (place.files / corpus.files[0].name).open("rb+") as file:
            file.seek(corpus.total // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes((byte ^ 1,)))
        return [[*orch.program(), "verify", "--repair", "team.yaml"]]

    return Contestant("orch verify --repair", prepare, lambda place: corpus.check(place.files), size_bytes=corpus.total)
