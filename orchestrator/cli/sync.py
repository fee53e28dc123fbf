"""`orch sync`."""

from __future__ import annotations

from typing import Any

import click
from msgspec.structs import replace

from orchestrator.cli import options
from orchestrator.cli.session import (
    Hooked,
    begin_unattended,
    conclude,
    context_with_signals,
    recorded,
    run_options,
    sink_of,
    workspace,
)
from orchestrator.errors import ExitCode


@options.command("sync")
@options.manifests
@options.dry_run
@options.option("--exit-code", is_flag=True, help="End with 10 if something changed.")
@options.option("--warm", is_flag=True, help="Then read the weights into memory, as `orch warm` does.")
@options.where
@options.running
@options.swarming
@options.unattended
@options.logged
def command(dry_run: bool, exit_code: bool, warm: bool, swarm: bool, seed_time: float, **words: Any) -> int:
    """Download, verify and install the models that the manifests list (default: manifests/team.yaml).

    A second run finds everything in place and does nothing. An interrupted run resumes where it stopped.

    \b
    Examples:
      orch sync
      orch sync --only 'resnet*,tag:ci' models.yaml
      orch sync --quiet --max-time 4h --splay 2h /etc/orch/team.yaml

    Exit codes: 0 all in place, 5 a download failed, 6 wrong checksum, 7 a file that orch did not make is in the
    way, 8 disk, 1 several of these; 10 with --exit-code. `orch --help` lists all.
    """
    if dry_run:
        from orchestrator.cli.plan import foresee

        return foresee(exit_code=exit_code, **words)
    context = context_with_signals()
    from orchestrator.engine.run import sync
    from orchestrator.workspace import run_context

    sink = recorded(context, words, sink_of(context, words), "sync")

    hooked = Hooked(context, words, sink)

    changed = False

    def work() -> Any:
        nonlocal changed
        begin_unattended(context, words, sink)
        space = workspace(context, words)
        hooked.began(space)
        if swarm and not space.swarms:
            raise click.UsageError("--swarm needs a tracker: `swarm: {tracker: URL}` in the manifest or the site file")
        settings = replace(run_options(words), swarm=swarm, seed_time_s=seed_time)
        run = run_context(context, space, sink, settings)
        summary = sync(run, space.wanted, space.unresolved)
        changed = summary.changed
        if warm and summary.ok:
            from orchestrator.commands import warm as memory

            warmed = memory.warm(run_context(context, space, sink), space.wanted)
            return summary if warmed.ok else warmed
        return summary

    code = conclude(context, sink, work, hooked)
    return int(ExitCode.WORK) if exit_code and code == 0 and changed else code
