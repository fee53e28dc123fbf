"""P12: many small files of a host that is down: alone, where all must fail soon, and before a good one."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import Row, numbered
from benchmarks.contest import Commands, Contestant
from benchmarks.corpus import KIB
from benchmarks.measure import BenchError, tail
from benchmarks.servers import nginx, nobody, origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus
    from benchmarks.measure import Place

_STALL_S = 3
_FLAGS = ("--stall", f"{_STALL_S}s")
_EXIT_TRANSFER = 5
_IS = {"refused": "refuses connections", "silent": "never says a word"}


def down(bench: Bench) -> None:
    """P12: a host that refuses connections, and one that takes them and never says a word."""
    corpus = bench.corpus("files", dict(numbered(bench.scaled(2000, 20), 16 * KIB)))
    with ExitStack() as stack:
        start = stack.enter_context
        good, refusing = start(nginx(corpus.folder)), start(nobody())
        silent = start(origin(corpus.folder, "--silent", "--host", "127.0.0.2"))
        alone = orch.sync(corpus, good.url, *_FLAGS, name="orch, the good one alone")
        contestants = [alone]
        for name, server in (("refused", refusing), ("silent", silent)):
            contestants.append(_failing(corpus, server.url, f"orch, {name}"))
            # mirrors come before the URL
            beside = f"orch, {name} beside a good one"
            contestants.append(orch.sync(corpus, good.url, *_FLAGS, name=beside, mirrors=[server.url]))
        took = bench.contest("P12", contestants)
    for name, must, more in (("refused", 10.0, 1.0), ("silent", 2.0 * _STALL_S + 10, _STALL_S + 1.0)):
        failed, beside = f"orch, {name}", f"orch, {name} beside a good one"
        bench.rows.append(
            Row(
                scenario="P12",
                done=f"Give up {corpus.words} whose only server {_IS[name]}.",
                value=took[failed],
                unit="s",
                orch_s=took[failed],
                must=must,
            )
        )
        bench.rows.append(
            Row(
                scenario="P12",
                done=f"Download {corpus.words} where the first of two servers {_IS[name]}.",
                value=took[beside] - took[alone.name],
                unit="s",
                of="more than without it",
                orch_s=took[beside],
                must=more,
            )
        )
    bench.notes.append(f"P12: orch runs with `--stall {_STALL_S}s`, and its five retries.")


def _failing(corpus: Corpus, url: str, name: str) -> Contestant:
    """`orch sync team.yaml`, which must fail with the exit code of a failed transfer."""

    def prepare(place: Place) -> Commands:
        orch.manifest(place, corpus.files, url)
        words = shlex.join([*orch.program(), "sync", "team.yaml", *_FLAGS])
        return [["sh", "-c", f"{words}; test $? = {_EXIT_TRANSFER}"]]

    def check(place: Place) -> None:
        if f"error: {len(corpus.files):,} files: " not in tail(place.log):
            raise BenchError(f"not all files failed together:\n{tail(place.log)}")

    return Contestant(name, prepare, check)
