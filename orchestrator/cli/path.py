"""The command `orch path`: print a model's first place."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("path")
@click.argument("name")
@options.manifests
@options.store
@options.root
@options.caches
@options.signed
@options.json
def command(name: str, **words: Any) -> int:
    """Print the first place of the model NAME, one line (for a model of several files: of its first)."""
    context = context_with_signals()
    from orchestrator.api import first_place
    from orchestrator.workspace import open_workspace

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=True)

    def work() -> Summary:
        settings = {name: words[name] for name in ("store", "root", "caches", "require_signature")}
        space = open_workspace(context, words["manifests"], **settings)
        place = first_place(context, space, name)
        if isinstance(sink, JsonLines):
            sink.write("path", {"model": name, "path": place})
        else:
            click.echo(os.fsencode(place))  # a path is bytes: no encoding
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)
