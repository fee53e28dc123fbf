"""`orch status`."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("status")
@options.manifests
@options.where
@options.talk
def command(**words: Any) -> int:
    """Say what is in place, by stat alone: 0 all, 5 something is missing, 6 a seal is broken, 7 a foreign file."""
    context = context_with_signals()
    from orchestrator.commands.status import status
    from orchestrator.workspace import run_context

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=words["quiet"], verb="status")

    def work() -> Any:
        space = workspace(context, words)
        whole = None if words["only"] else space
        return status(run_context(context, space, sink), space.wanted, space.unresolved, whole=whole)

    return conclude(context, sink, work)
