"""P12B: one limit of bandwidth over four transfers by two programs in two runs, and through a change of the hour."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import Row
from benchmarks.contest import Contestant
from benchmarks.corpus import MIB
from benchmarks.servers import origin

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contest import Commands
    from benchmarks.measure import Place

_RATE = 16 * MIB
_LATER = 8 * MIB  # bytes a second from eight o'clock on
_EARLY_S = 5  # before that
_BUFFERS = ("--send-buffer", str(32 << 10))  # else megabytes in the kernel count as sent
_AT_EIGHT = """\
import sys, time
from dataclasses import replace
from orchestrator.context import Context
from orchestrator.engine.run import sync
from orchestrator.workspace import open_workspace, run_context
start = time.mktime((2026, 1, 5, 8, 0, 0, 0, 0, -1)) - float(sys.argv[1]) - time.monotonic()
context = replace(Context.real(), now=lambda: start + time.monotonic())
space = open_workspace(context, ["team.yaml"])
sys.exit(sync(run_context(context, space, lambda event: None), space.wanted).exit_code)
"""


def kept(bench: Bench) -> None:
    """P12B: four files, aria2c and curl at once; then four files over eight o'clock."""
    corpus = bench.corpus("limited", {f"w{number}.bin": bench.scaled(64 * MIB, MIB) for number in range(4)})

    def two_runs(place: Place) -> Commands:
        half = len(corpus.files) // 2
        lines = []
        for name, backend, files in (("a", "aria2c", corpus.files[:half]), ("b", "curl", corpus.files[half:])):
            orch.manifest(place, files, server.url)
            (place.folder / "team.yaml").rename(place.folder / f"{name}.yaml")
            program = " ".join(orch.program())
            lines.append(f"{program} sync {name}.yaml --limit-rate {_RATE} --backend {backend}")
        return [["sh", "-c", f"{lines[0]} & {lines[1]} && wait $!"]]

    def over_eight(place: Place) -> Commands:
        orch.manifest(place, corpus.files, server.url)
        with (place.folder / "team.yaml").open("a") as out:
            out.write(f"limits: [{{from: 08:00, to: 20:00, rate: {_LATER}}}, {{rate: {_RATE}}}]\n")
        return [[sys.executable, "-c", _AT_EIGHT, str(_EARLY_S)]]

    early = min(corpus.total, _EARLY_S * _RATE)
    for name, work, wire_s in (
        ("orch, two runs", two_runs, corpus.total / _RATE),
        ("orch, over the hour", over_eight, early / _RATE + (corpus.total - early) / _LATER),
    ):
        with origin(corpus.folder, *_BUFFERS) as server:
            mine = Contestant(name, work, lambda place: corpus.check(place.files), size_bytes=corpus.total)
            took = bench.contest("P12B", [mine])
        sent = int(server.totals["sent"]) / bench.runs
        how = "two runs share 16 MiB/s" if work is two_runs else "16 MiB/s, and 8 MiB/s from eight o'clock on"
        rate = wire_s / took[name] * sent / corpus.total
        for words, value, of, must in (
            ("bytes that came a second", rate, "the limit", 1.1),
            ("the time", took[name] / wire_s, "what the limit allows", None),
        ):
            bench.rows.append(
                Row(
                    scenario="P12B",
                    done=f"Download {corpus.words} under a limit of bandwidth ({how}): {words}.",
                    value=value,
                    of=of,
                    orch_s=took[name],
                    wire_s=wire_s,
                    must=must,
                )
            )
