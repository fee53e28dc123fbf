"""The command `orch report`: an inventory of the models for auditors."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator import __version__
from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, workspace

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.events import Summary


@options.command("report")
@options.manifests
@options.option(
    "--format",
    "form",
    default="cyclonedx",
    show_default=True,
    type=click.Choice(["cyclonedx"]),
    help="CycloneDX 1.6 JSON, an ML-BOM.",
)
@options.option(
    "--output", "-o", metavar="FILE", type=click.Path(dir_okay=False), help="Write to this file instead of stdout."
)
@options.where
def command(form: str, output: str | None, **words: Any) -> int:  # noqa: ARG001 - there is one form
    """Write an inventory of the models for auditors: files, checksums, sources, state, time of verification.

    It checks only the metadata of files, and has the exit codes of `orch status`. The report is also written if files
    are missing, and names them. Files that `orch verify` read on this machine and that are unchanged since have the
    property `orch:verified`.

    \b
    Example:
      orch verify team.yaml && orch report team.yaml -o team.cdx.json
    """
    context = context_with_signals()
    sink = listing(context, words, "report", out=sys.stderr, quiet=True)  # stdout is for the inventory

    def work() -> Summary:
        from orchestrator.commands.export import write_output
        from orchestrator.commands.report import digests, report
        from orchestrator.workspace import manifest_paths, run_context

        paths = list(manifest_paths(context, words["manifests"]))
        time_s, before = _time(context), digests(paths)
        space = workspace(context, words)
        run = run_context(context, space, sink)
        bom, summary = report(run, space, before, version=__version__, only=words["only"], time_s=time_s)
        text = json.dumps(bom, indent=1) + "\n"
        if output is not None:
            write_output(os.path.join(context.cwd, output), text.encode())
        else:
            click.echo(text, nl=False)
        return summary

    return conclude(context, sink, work)


def _time(context: Context) -> float:
    """The report's time: SOURCE_DATE_EPOCH where it is set (https://reproducible-builds.org), else now.

    Raises:
        UsageError: it is no time.
    """
    told = context.environ.get("SOURCE_DATE_EPOCH", "")
    if not told:
        return context.now()
    if not told.isdecimal() or len(told) > 11:
        raise click.UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds since 1970: {told[:40]!r}")
    return float(told)
