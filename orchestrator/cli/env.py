"""The command `orch env`: print the frameworks' variables."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, tell_unread
from orchestrator.commands.env import SHELLS, export, of_user
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("env")
@options.manifests
@options.caches
@options.signed
@click.option("--shell", type=click.Choice(SHELLS), help="Whose lines to print (default: by $SHELL).")
@click.option("--offline", is_flag=True, help="With the switches that keep the frameworks off the network.")
@options.json
def command(**words: Any) -> int:
    """Print the variables by which the manifests' frameworks find their files: `eval "$(orch env)"`.

    In fish: `orch env | source`; in csh: eval "`orch env`".
    """
    context = context_with_signals()
    from orchestrator.commands.env import environment

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=True)
    shell = words["shell"] or of_user(context.environ.get("SHELL", ""))

    def work() -> Summary:
        found = environment(context, words["manifests"], words["caches"], require_signature=words["require_signature"])
        for name, value in {**found.variables, **(found.offline if words["offline"] else {})}.items():
            if isinstance(sink, JsonLines):
                sink.write("variable", {"name": name, "value": value})
            else:
                click.echo(os.fsencode(export(shell, name, value)))  # a path is bytes: no encoding
        tell_unread(found.unread_frameworks)
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)
