"""The command `orch mirrors`: show which sources answer, and how fast."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.commands.mirrors import Mirror

HEADER = ("source", "role", "answers", "trip", "rate", "ranges", "length", "tls", "last seen")


@click.command("mirrors")
@options.manifests
@options.where
@options.json
def command(**words: Any) -> int:
    """Show which sources of a MANIFEST answer, how fast, and whether they honour ranges: 5 if a file has none."""
    context = context_with_signals()
    from orchestrator.commands.mirrors import survey
    from orchestrator.render.listing import aligned

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)
    found: list[Mirror] = []

    def work() -> Any:
        space = workspace(context, words)
        summary = survey(context, space.wanted, found.append, failed.append, hosts=space.hosts)
        if isinstance(sink, JsonLines):
            for mirror in found:
                sink.write("mirror", dataclasses.asdict(mirror))
        else:
            for line in aligned([HEADER, *map(_row, found)]):
                click.echo(line)
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
    said = f"{last}  ({mirror.message})" if mirror.message else last
    measured = (trip, rate, words[mirror.ranges], words[mirror.length_right], mirror.tls or "-")
    return (mirror.prefix, mirror.role, answers, *measured, said)
