"""The command `orch env`: print the frameworks' variables."""

from __future__ import annotations

import os
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, tell_unread
from orchestrator.commands.env import SHELLS, export, of_user
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines


@options.command("env")
@options.manifests
@options.option("--shell", type=click.Choice(SHELLS), help="Syntax to print (default: that of $SHELL).")
@options.option("--offline", is_flag=True, help="Also print the frameworks' offline switches.")
@options.only
@options.caches
@options.signed
@options.json
def command(**words: Any) -> int:
    """Print the variables by which the manifests' frameworks find their files.

    \b
    Examples:
      eval "$(orch env)"              # bash, zsh, sh
      orch env team.yaml | source     # fish
      eval "`orch env`"               # csh
    """
    context = context_with_signals()
    from orchestrator.commands.env import environment

    sink = listing(context, words, quiet=True)
    shell = words["shell"] or of_user(context.environ.get("SHELL", ""))

    def work() -> Summary:
        found = environment(
            context,
            words["manifests"],
            words["caches"],
            require_signature=words["require_signature"],
            only=words["only"],
        )
        for name, value in {**found.variables, **(found.offline if words["offline"] else {})}.items():
            if isinstance(sink, JsonLines):
                sink.write("variable", {"name": name, "value": value})
            else:
                click.echo(os.fsencode(export(shell, name, value)))  # a path is bytes: no encoding
        tell_unread(found.unread_frameworks)
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)
