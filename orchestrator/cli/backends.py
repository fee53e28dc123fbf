"""The command `orch backends`: show the downloaders and checksum tools of this machine."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing


@click.command("backends")
@options.manifests
@options.where
@options.json
def command(**words: Any) -> int:
    """Show the downloaders of this machine; with a MANIFEST also which would be chosen for each file, and why."""
    context = context_with_signals()
    from orchestrator.backends import BACKENDS, select
    from orchestrator.errors import NoBackendError
    from orchestrator.programs import find, install_hint, known_hole
    from orchestrator.sources.route import route_to
    from orchestrator.verify.tools import installed, measure, weakness

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        programs = find(context, [backend.NAME for backend in BACKENDS])
        for backend in BACKENDS:
            program = programs[backend.NAME]
            traits = sorted(trait.value for trait in backend.TRAITS)
            warning = known_hole(program)
            if isinstance(sink, JsonLines):
                fields = {"name": program.name, "path": program.path, "version": program.version}
                state = {"usable": program.usable, "problem": program.problem, "warning": warning}
                sink.write("backend", {**fields, **state, "traits": traits})
                continue
            text = program.problem or f"{program.version}  {program.path}{' (embedded)' if program.embedded else ''}"
            click.echo(f"{program.name:<7} {text}\n        {' '.join(traits)}")
            if warning:
                click.echo(f"        {program.name} is {warning}")
        for tool in installed(context):
            _show_tool(sink, tool, measure(context, tool) if tool.path else 0.0, weakness(context, tool))
        usable = [name for name, program in programs.items() if program.usable]
        if words["manifests"]:
            space = workspace(context, words)
            for wanted in space.wanted:
                for source in wanted.sources:
                    route = route_to(source.url, context.environ, space.hosts)
                    ranked = select.rank(usable, wanted.size, route.requirements)
                    _show_choice(sink, wanted.model, wanted.file, source.url, ranked)
        if not usable:
            raise NoBackendError("no usable downloader on this machine", install_hint())
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)


def _show_tool(sink: Any, tool: Any, rate: float, weakness: str) -> None:
    from orchestrator.render.sink import amount

    name, problem = tool.kind.name, weakness if tool.path else "not installed"
    if isinstance(sink, JsonLines):
        fields = {"name": name, "path": tool.path, "usable": not problem, "problem": problem}
        sink.write("judge", {**fields, "bytes_per_second": round(rate)})
        return
    text = f"{tool.path}  judges {amount(rate)}/s" if tool.path else problem
    click.echo(f"{name:<9} {text}{f'  ({problem})' if tool.path and problem else ''}")


def _show_choice(sink: Any, model: str, file: str, source: str, ranked: Any) -> None:
    from orchestrator.render.sink import label
    from orchestrator.render.words import host
    from orchestrator.text import shown_lines

    best = ranked[0]
    others = {choice.backend.NAME: choice.obstacle or choice.why for choice in ranked[1:]}
    if isinstance(sink, JsonLines):
        chosen = "" if best.obstacle else best.backend.NAME
        fields = {"model": model, "file": file, "source": source, "backend": chosen}
        sink.write("choice", {**fields, "why": best.obstacle or best.why, "others": others})
        return
    name = "none" if best.obstacle else best.backend.NAME
    why = f"{best.backend.NAME}: {best.obstacle}" if best.obstacle else best.why
    click.echo(f"{label(model, file)} from {host(source)}: {name} ({shown_lines(why)})")
