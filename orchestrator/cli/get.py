"""The command `orch get`: download one thing without a manifest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, run_options, sink_of
from orchestrator.render.json_lines import JsonLines

if TYPE_CHECKING:
    from orchestrator.events import Summary


@click.command("get")
@click.argument("what", metavar="URL|hf:REPO")
@click.option("--sha256", default="", metavar="HEX", help="Its digest; without one the first seen is taken, and told.")
@click.option("--name", default="", help="What to call it (default: by its file or repository).")
@options.which_files
@options.adding
@options.store
@options.running
@options.logged
def command(what: str, name: str, sha256: str, **words: Any) -> int:
    """Fetch one thing, now, without a manifest; print the lines by which a manifest has it.

    It goes into the current folder, a repository into a folder of its name there, or where --to and --for say.
    """
    context = context_with_signals()
    from orchestrator.cli.add import entry_defaults
    from orchestrator.commands.add import EntryDefaults, of

    sink = sink_of(context, words, "get")
    lines: list[str] = []

    def work() -> Summary:
        from orchestrator.commands.get import get, place
        from orchestrator.events import Noticed

        asked = entry_defaults(words)
        to = tuple(place(context, text) for text in asked.to)
        draft = of(
            what,
            EntryDefaults(to, asked.frameworks, asked.tags),
            name,
            sha256=sha256,
            include=words["include"],
            exclude=words["exclude"],
        )
        got = get(context, draft, sink, store=words["store"], options=run_options(words))
        for digest in got.first_seen:
            sink(Noticed(f"no digest was given: {digest} is the first seen; compare it with the publisher's"))
        if words["json"] and got.lines:
            JsonLines(sys.stdout).write("lines", {"text": "\n".join(got.lines) + "\n"})
        elif not words["quiet"]:
            lines.extend(got.lines)
        return got.summary

    code = conclude(context, sink, work)
    for line in lines:  # after the bars are removed
        click.echo(line)
    return code
