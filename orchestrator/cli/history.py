"""The command `orch history`: what ran on this machine, from where, and how fast."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, paints
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import print_table

if TYPE_CHECKING:
    from orchestrator.commands.history import RunRecord
    from orchestrator.events import Summary

_SHOWN = 20


@options.command("history")
@options.manifests
@options.option(
    "--since", metavar="TIME", type=options.Duration(), help="Only runs that ended within this time, such as 30d."
)
@options.option(
    "--last",
    metavar="N",
    type=click.IntRange(1),
    help=f"Only the last N runs (default: {_SHOWN}; all in JSON and HTML).",
)
@options.option("--html", metavar="FILE", type=click.Path(dir_okay=False), help="Write one page with charts to FILE.")
@options.json
def command(manifests: tuple[str, ...], since: float | None, last: int | None, html: str | None, json: bool) -> int:
    """Show past runs of this machine: what they downloaded, from where, and how fast.

    It lists the runs of sync, get and verify --repair that changed something, warned or failed.

    \b
    Examples:
      orch history --since 7d
      orch history manifests/team.yaml --html history.html
    """
    context = context_with_signals()
    sink = listing(context, {"json": json})

    def work() -> Summary:
        from orchestrator.commands.history import read, report
        from orchestrator.events import Summary

        runs = read(
            context.state,
            since=context.now() - since if since is not None else 0.0,
            manifests=[os.path.abspath(os.path.join(context.cwd, path)) for path in manifests],
            last=last or (None if json or html else _SHOWN),
        )
        if html:
            _write(os.path.join(context.cwd, html), runs, context.hostname, context.now())
        if isinstance(sink, JsonLines):
            for run in runs:
                sink.write("run", _fields(run))
        elif not html:
            if not runs:
                click.echo("no runs are recorded on this machine")
            for number, (columns, rows) in enumerate(report(runs)):
                click.echo("\n" * number, nl=False)
                print_table(columns, rows, sys.stdout, colour=paints(context, sys.stdout))
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)


def _fields(run: RunRecord) -> dict[str, Any]:
    """The record as JSON has it, with all its fields."""
    import msgspec

    fields: dict[str, Any] = {name: getattr(run, name) for name in run.__struct_fields__}
    fields["failures"] = msgspec.to_builtins(run.failures)
    fields["sources"] = [
        {"host": s.host, "backend": s.backend, "bytes": s.received_bytes, "seconds": s.seconds, "faults": s.faults}
        for s in run.sources
    ]
    fields["warnings"] = [{"host": w.host, "sent_wrong_bytes": w.sent_wrong_bytes} for w in run.warnings]
    when = datetime.fromtimestamp(run.time, UTC).isoformat(timespec="milliseconds")
    return {**fields, "time": when.replace("+00:00", "Z")}


def _write(path: str, runs: list[RunRecord], host: str, now: float) -> None:
    from orchestrator.commands.history_page import page
    from orchestrator.files import write_atomic, write_error

    try:
        write_atomic(path, page(runs, host, now).encode())
    except OSError as error:
        raise write_error(error, path) from error
