"""`orch add`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, world_with_signals
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.events import Summary


@click.command("add")
@click.argument("what", metavar="URL|hf:REPO")
@click.argument("manifest", required=False, type=click.Path(), metavar="[MANIFEST]")
@click.option("--name", default="", help="What to call the model (default: by its file or repository).")
@click.option("--sha256", default="", metavar="HEX", help="Its digest; without one `orch lock` finds it.")
@options.which_files
@options.adding
@options.json
def command(what: str, manifest: str | None, name: str, sha256: str, **words: Any) -> int:
    """Put a model into MANIFEST (default: manifests/team.yaml), comments and order kept. Nothing is fetched."""
    world = world_with_signals()
    from orchestrator.cli.additions import manner, put
    from orchestrator.commands.add import of
    from orchestrator.workspace import DEFAULT_MANIFEST

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        draft = of(what, manner(words), name, sha256=sha256, include=words["include"], exclude=words["exclude"])
        return put(world, sink, manifest or DEFAULT_MANIFEST, [draft])

    return conclude(world, sink, work)
