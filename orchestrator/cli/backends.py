"""The command `orch backends`: show the downloaders and checksum tools of this machine."""

from __future__ import annotations

import functools
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, paints, workspace
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import print_table
from orchestrator.render.sink import amount, label
from orchestrator.render.table import Column
from orchestrator.render.words import host

_PROGRAMS = (Column("PROGRAM"), Column("VERSION"), Column("PATH", least=16), Column("CAN", least=60, rank=1))
_TOOLS = (Column("CHECKSUM TOOL"), Column("READS", right=True), Column("PATH", least=16), Column("PROBLEM", least=16))
_CHOICES = (Column("FILE", least=16), Column("FROM", least=14), Column("WITH"), Column("WHY", least=24, rank=1))


@options.command("backends")
@options.manifests
@options.only
@options.signed
@options.json
def command(**words: Any) -> int:
    """Show the downloaders of this machine; with a MANIFEST also which one each file would use, and why.

    CAN lists the features of a program that orch uses (docs/glossary.md explains them). READS is how fast a tool
    computes a sha256.

    \b
    Examples:
      orch backends
      orch backends team.yaml

    Exit codes: 0, or 4 if no downloader is usable.
    """
    context = context_with_signals()
    from orchestrator.backends import BACKENDS, select
    from orchestrator.errors import NoBackendError
    from orchestrator.programs import find, install_hint, known_hole
    from orchestrator.sources.route import route_to
    from orchestrator.verify.tools import installed, measure, weakness

    sink = listing(context, words)
    shows = functools.partial(print_table, out=sys.stdout, colour=paints(context, sys.stdout))

    def work() -> Summary:
        programs = find(context, [backend.NAME for backend in BACKENDS])
        rows, warnings = [], []
        for backend in BACKENDS:
            program = programs[backend.NAME]
            traits = sorted(trait.value for trait in backend.TRAITS)
            warning = known_hole(program)
            if isinstance(sink, JsonLines):
                fields = {"name": program.name, "path": program.path, "version": program.version}
                state = {"usable": program.usable, "problem": program.problem, "warning": warning}
                sink.write("backend", {**fields, **state, "traits": traits})
                continue
            where = program.problem or f"{program.path}{' (embedded)' if program.embedded else ''}"
            rows.append((program.name, program.version, where, " ".join(traits)))
            warnings += [f"warning: {program.name} is {warning}"] if warning else []
        if rows:
            shows(_PROGRAMS, rows)
            for text in warnings:
                click.echo(text)
            click.echo()
        tools = [
            _tool(sink, t, measure(context, t) if t.path else 0.0, weakness(context, t)) for t in installed(context)
        ]
        if rows:
            shows(_TOOLS, tools)
        usable = [name for name, program in programs.items() if program.usable]
        if words["manifests"]:
            space = workspace(context, words)
            choices = []
            for wanted in space.wanted:
                for source in wanted.sources:
                    route = route_to(source.url, context.environ, space.hosts)
                    ranked = select.rank(usable, wanted.size, route.requirements)
                    choices.append(_choice(sink, wanted.model, wanted.file, source.url, ranked))
            if rows and choices:
                click.echo()
                shows(_CHOICES, choices)
        if not usable:
            raise NoBackendError("no usable downloader on this machine", install_hint())
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)


def _tool(sink: Any, tool: Any, rate: float, weakness: str) -> tuple[str, ...]:
    """The row of a checksum tool; its JSON is written here."""
    name, problem = tool.kind.name, weakness if tool.path else "not installed"
    if isinstance(sink, JsonLines):
        fields = {"name": name, "path": tool.path, "usable": not problem, "problem": problem}
        sink.write("judge", {**fields, "bytes_per_second": round(rate)})
    return (name, f"{amount(rate)}/s" if tool.path else "", tool.path, problem)


def _choice(sink: Any, model: str, file: str, source: str, ranked: Any) -> tuple[str, ...]:
    """The row of one source of a file; its JSON is written here."""
    best = ranked[0]
    others = {choice.backend.NAME: choice.obstacle or choice.why for choice in ranked[1:]}
    if isinstance(sink, JsonLines):
        chosen = "" if best.obstacle else best.backend.NAME
        fields = {"model": model, "file": file, "source": source, "backend": chosen}
        sink.write("choice", {**fields, "why": best.obstacle or best.why, "others": others})
    name = "none" if best.obstacle else best.backend.NAME
    why = f"{best.backend.NAME}: {best.obstacle}" if best.obstacle else best.why
    return (label(model, file), host(source), name, why)
