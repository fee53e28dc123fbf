"""The command `orch init`: write a first manifest."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.events import Summary


@options.command("init")
@click.argument("folder", default=".", type=click.Path(file_okay=False), metavar="[DIR]")
@options.json
def command(folder: str, **words: Any) -> int:
    """Write a commented manifest, manifests/team.yaml, below DIR (default: the working folder).

    In a git work tree, models/ is added to .gitignore. A manifest that is there already is never changed.

    \b
    Examples:
      orch init
      orch init ~/projects/vision

    Exit codes: 0 written, 3 a manifest is there already, 7 it cannot be written.
    """
    if folder.endswith((".yaml", ".yml")) and not os.path.isdir(folder):
        raise click.UsageError(f"DIR is a folder, not a manifest: `orch add URL {shlex.quote(folder)}` makes that one")
    context = context_with_signals()
    sink = listing(context, words)

    def work() -> Summary:
        from orchestrator.commands.init import init
        from orchestrator.events import Summary

        changes = init(context, folder)
        for change in changes:
            if isinstance(sink, JsonLines):
                sink.write("file", change._asdict())
            else:
                click.echo(shown_lines(f"{change.how}: {os.path.relpath(change.path, context.cwd)}"))
        if not isinstance(sink, JsonLines):
            there = f"cd {folder} && " if os.path.relpath(folder, context.cwd) != "." else ""
            click.echo(shown_lines(f"next: {there}orch add URL  (a file's URL, or hf:ORG/NAME)"), err=True)
        return Summary(ok=True, exit_code=0, changed=True)

    return conclude(context, sink, work)
