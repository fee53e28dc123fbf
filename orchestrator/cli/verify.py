"""`orch verify`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.run import conclude, workspace, world_with_signals
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

SUMS = (".sha256", ".sha256sum", "SHA256SUMS", "sha256sums.txt")


@click.command("verify")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST...|FILE.sha256...]")
@options.where
@options.talk
def command(**words: Any) -> int:
    """Read every byte again with sha256sum -c: 0 all good, 5 something is missing, 6 wrong bytes."""
    world = world_with_signals()
    from orchestrator.runs.reread import read_sums, reread

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=words["quiet"], verb="verify")

    def work() -> Any:
        paths = words["manifests"]
        sums = [path for path in paths if path.endswith(SUMS)]
        manifests = [path for path in paths if path not in sums]
        wanted = tuple(w for path in sums for w in read_sums(os.path.abspath(path)))
        space = None
        if manifests or not sums:
            space = workspace(world, {**words, "manifests": manifests})
            wanted += space.wanted
        unresolved = space.unresolved if space else ()
        return reread(world, space.store if space else "/nonexistent", wanted, sink, unresolved=unresolved)

    return conclude(sink, work)
