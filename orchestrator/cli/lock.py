"""The command `orch lock`: resolve what the manifests leave open, into the lockfile."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, run_options, sink_of


@click.command("lock")
@options.manifests
@options.where
@click.option(
    "--update",
    multiple=True,
    is_flag=False,
    flag_value="*",
    metavar="[NAME]",
    help="Resolve anew, all or this model (--update=NAME); shows what changes before it is written.",
)
@click.option("--check", is_flag=True, help="Say what drifted, change nothing: 3 where anything did.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be resolved and fetched.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before an update is written.")
@options.fetching
@options.logged
def command(update: tuple[str, ...], check: bool, dry_run: bool, yes: bool, **words: Any) -> int:
    """Find out what the manifests do not say: digests, sizes, the commits of hub repositories.

    They go into team.lock.json beside team.yaml, which belongs into version control. What was fetched for it stays in
    the store, so the sync that follows fetches nothing again.
    """
    context = context_with_signals()
    from orchestrator.workspace import open_workspace

    # In `--update team.yaml` the word is a manifest, not the name of a model.
    files = tuple(word for word in update if word.endswith((".yaml", ".yml")) or os.sep in word)
    manifests = (*files, *words["manifests"])
    names = tuple(word for word in update if word not in files and word != "*")
    sink = sink_of(context, words, "lock", plain=bool(update) and not yes)

    def work() -> Any:
        space = open_workspace(context, manifests, store=words["store"], root=words["root"], resolve=False)
        if check:
            from orchestrator.commands.lock_check import find_drift

            return find_drift(context, space, sink, words["only"])
        from orchestrator.commands.lock import Asked, lock

        asked = Asked(words["only"], names if update else None, dry_run)
        return lock(context, space, sink, asked, options=run_options(words), confirm=_always if yes else _confirm)

    return conclude(context, sink, work)


def _always(_: int) -> bool:
    return True


def _confirm(changes: int) -> bool:
    """Ask on a terminal; elsewhere nobody could answer, so write the changes: the log and git have them."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm(f"write {'this change' if changes == 1 else f'these {changes} changes'}?", err=True)
