"""The command `orch warm`: read weights into memory before they are needed."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("warm")
@options.manifests
@options.where
@options.option("--memory", metavar="SIZE", type=options.Size(), help="Read no more than this (default: what is free).")
@options.talk
def command(memory: int | None, **words: Any) -> int:
    """Read what is in place into the page cache, verifying it on the way, and say how much of it is in memory.

    A program that starts then loads its weights from memory: useful before a server's start, where they lie on a
    network disk. Files for which there is no room are left out.
    """
    context = context_with_signals()
    from orchestrator.commands.warm import warm
    from orchestrator.workspace import run_context

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=words["quiet"], verb="warm")

    def work() -> Any:
        space = workspace(context, words)
        return warm(run_context(context, space, sink), space.wanted, space.unresolved, free_bytes=memory)

    return conclude(context, sink, work)
