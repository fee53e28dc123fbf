"""`orch sync`."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import begin_unattended, conclude, context_with_signals, run_options, sink_of, workspace


@click.command("sync")
@options.manifests
@options.where
@click.option("-n", "--dry-run", is_flag=True, help="As `orch plan`.")
@click.option("--warm", is_flag=True, help="Then read it into memory, as `orch warm`.")
@options.running
@options.unattended
@options.logged
def command(dry_run: bool, warm: bool, **words: Any) -> int:
    """Make it so: fetch, verify and place what the manifests want (default: manifests/team.yaml).

    Running it twice is safe: the second run does nothing.
    """
    if dry_run:
        from orchestrator.cli.plan import foresee

        return foresee(**words)
    context = context_with_signals()
    from orchestrator.engine.run import sync
    from orchestrator.workspace import run_context

    sink = sink_of(context, words)

    def work() -> Any:
        begin_unattended(context, words, sink)
        space = workspace(context, words)
        run = run_context(context, space, sink, run_options(words))
        summary = sync(run, space.wanted, space.unresolved)
        if warm and summary.ok:
            from orchestrator.commands import warm as memory

            warmed = memory.warm(run_context(context, space, sink), space.wanted)
            return summary if warmed.ok else warmed
        return summary

    return conclude(context, sink, work)
