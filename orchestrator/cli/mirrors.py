"""The command `orch mirrors`: show which sources answer, and how fast."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, paints, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import print_table
from orchestrator.render.table import Column
from orchestrator.render.terminal import width, wrap
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.commands.mirrors import Mirror

HEADER = (
    Column("SOURCE", least=20), Column("ROLE", rank=5), Column("ANSWERS"), Column("TRIP", right=True, rank=3),
    Column("RATE", right=True), Column("RANGES", rank=1), Column("LENGTH", rank=4), Column("TLS", rank=2),
    Column("LAST SEEN", least=10, rank=6), Column("NOTE", rank=7),
)  # fmt: skip


@options.command("mirrors")
@options.manifests
@options.only
@options.signed
@options.json
def command(**words: Any) -> int:
    """Show which sources of the manifests and which peers answer, how fast, and whether they support ranges.

    TRIP is the round trip, RATE that of one connection. RANGES: downloads from there can be resumed. LENGTH: the file
    has the expected size. LAST SEEN is what this machine knows from earlier runs.

    \b
    Example:
      orch mirrors --only 'llama*' team.yaml

    Exit codes: 0 each file has a source, 5 a file has none.
    """
    context = context_with_signals()
    from orchestrator.commands.mirrors import survey

    sink = listing(context, words)
    found: list[Mirror] = []

    def work() -> Any:
        space = workspace(context, words)
        summary = survey(context, space.wanted, found.append, failed.append, hosts=space.hosts, peers=space.peers)
        if isinstance(sink, JsonLines):
            for mirror in found:
                sink.write("mirror", dataclasses.asdict(mirror))
        else:
            columns = width(sys.stdout)
            rows = [_row(mirror) for mirror in found]
            if columns is not None:  # the notes come below: beside the rest there is no room for them
                rows = [(*row[:-1], "") for row in rows]
            print_table(HEADER, rows, sys.stdout, colour=paints(context, sys.stdout))
            if columns is not None:
                for text in dict.fromkeys(f"{mirror.prefix}: {mirror.message}" for mirror in found if mirror.message):
                    click.echo(wrap(shown_lines(text), columns))
        for event in failed:
            sink(event)
        return summary

    failed: list[Any] = []
    return conclude(context, sink, work)


def _row(mirror: Mirror) -> tuple[str, ...]:
    from orchestrator.render.sink import amount

    answers = {True: "yes", False: mirror.verdict, None: "not asked"}[mirror.answers]
    trip = f"{mirror.round_trip_s * 1000:.0f} ms" if mirror.round_trip_s is not None else "-"
    rate = f"{amount(mirror.bytes_per_s)}/s" if mirror.bytes_per_s is not None else "-"
    words = {True: "yes", False: "NO", None: "-"}
    seen = mirror.seen or {}
    past = f"{amount(seen['bytes_per_s'])}/s " if seen.get("bytes_per_s") else ""
    last = f"{past}{seen['fault'] or 'good'} {seen['time']}" if seen else "never"
    measured = (trip, rate, words[mirror.ranges], words[mirror.length_right], mirror.tls or "-")
    return (mirror.prefix, mirror.role, answers, *measured, last, mirror.message)
