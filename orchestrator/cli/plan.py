"""The command `orch plan`, which `orch sync --dry-run` runs too: say what a sync would do."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli import options as cli_options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.cli.streams import let_code_stand
from orchestrator.errors import ExitCode
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("plan")
@cli_options.manifests
@cli_options.where
@click.option("--exit-code", is_flag=True, help="End with 10 when there is work to do.")
@cli_options.running
@cli_options.talk
def command(exit_code: bool, **words: Any) -> int:
    """Say what sync would do: what is here, what would be fetched, from where, with which program, and why."""
    return foresee(exit_code=exit_code, **words)


def foresee(*, exit_code: bool = False, **words: Any) -> int:
    """Make and show the plan, for both commands; `words` are the values of their options.

    Returns:
        The exit code.
    """
    context = context_with_signals()
    let_code_stand()
    from orchestrator.commands.plan import plan
    from orchestrator.transfer.run_context import Options
    from orchestrator.workspace import run_context

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=words["quiet"], verb="plan")
    options = Options(backend=words["backend"], offline=words["offline"], force=words["force"])
    work_to_do = False

    def work() -> Any:
        nonlocal work_to_do
        space = workspace(context, words)
        summary = plan(run_context(context, space, sink, options), space.wanted, space.unresolved)
        work_to_do = summary.placed + summary.fetched > 0
        return summary

    code = conclude(context, sink, work)
    return int(ExitCode.WORK) if exit_code and code == 0 and work_to_do else code
