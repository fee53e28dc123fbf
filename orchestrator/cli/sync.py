"""`orch sync`."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, run_options, workspace, world_with_signals


@click.command("sync")
@options.manifests
@options.where
@click.option("-n", "--dry-run", is_flag=True, help="As `orch plan`.")
@options.running
@options.talk
def command(dry_run: bool, **words: Any) -> int:
    """Make it so: fetch, verify and place what the manifests want (default: manifests/team.yaml).

    Running it twice is safe: the second run does nothing.
    """
    if dry_run:
        from orchestrator.cli.plan import foresee

        return foresee(**words)
    world = world_with_signals()
    from orchestrator import render
    from orchestrator.engine.run import sync

    sink = render.choose(
        world.environ, json=words["json"], quiet=words["quiet"], verbose=words["verbose"], stop=world.stop
    )

    def work() -> Any:
        space = workspace(world, words)
        return sync(
            world,
            space.store,
            space.wanted,
            sink,
            hosts=space.hosts,
            options=run_options(words),
            unresolved=space.unresolved,
        )

    return conclude(world, sink, work)
