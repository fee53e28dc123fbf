"""`orch get`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, run_options, world_with_signals
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
@options.talk
def command(what: str, name: str, sha256: str, **words: Any) -> int:
    """Fetch one thing, now, without a manifest; print the lines by which a manifest has it.

    It goes into the current folder, a repository into a folder of its name there, or where --to and --for say.
    """
    world = world_with_signals()
    from orchestrator import render
    from orchestrator.cli.add import manner
    from orchestrator.commands.add import Manner, of

    talk = {name: words[name] for name in ("json", "quiet", "verbose")}
    sink = render.choose(world.environ, **talk, stop=world.stop, verb="get")
    lines: list[str] = []

    def work() -> Summary:
        from orchestrator.commands.get import get, place
        from orchestrator.events import Noticed

        asked = manner(words)
        to = tuple(place(world, text) for text in asked.to)
        draft = of(
            what,
            Manner(to, asked.frameworks, asked.tags),
            name,
            sha256=sha256,
            include=words["include"],
            exclude=words["exclude"],
        )
        got = get(world, draft, sink, store=words["store"], options=run_options(words))
        for digest in got.first_seen:
            sink(Noticed(f"no digest was given: {digest} is the first seen; compare it with the publisher's"))
        if isinstance(sink, JsonLines) and got.lines:
            sink.write("lines", {"text": "\n".join(got.lines) + "\n"})
        elif not words["quiet"]:
            lines.extend(got.lines)
        return got.summary

    code = conclude(world, sink, work)
    for line in lines:  # when the bars are gone
        click.echo(line)
    return code
