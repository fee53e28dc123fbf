"""The command `orch lock`: resolve missing checksums, sizes and commits, and write the lock file."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

import click

from orchestrator.cli import hints, options
from orchestrator.cli.session import conclude, context_with_signals, recorded, run_options, sink_of
from orchestrator.text import shown_lines


@options.command("lock")
@options.manifests
@options.option(
    "--update",
    multiple=True,
    is_flag=False,
    flag_value="*",
    metavar="[NAME]",
    help="Resolve all models again, or only one (--update=NAME); shows the changes and asks before writing; "
    "without a terminal it needs --yes.",
)
@options.option("--check", is_flag=True, help="Report drift without writing; exit with 3 if there is any.")
@options.dry_run
@options.yes
@options.option("--pieces", is_flag=True, help="Record the piece checksums that `orch sync --swarm` needs.")
@options.only
@options.store
@options.root
@options.signed
@options.fetching
@options.logged
def command(update: tuple[str, ...], check: bool, dry_run: bool, yes: bool, pieces: bool, **words: Any) -> int:
    """Resolve missing checksums, sizes and commits, and write the lock file.

    The lock file of team.yaml is team.lock.json beside it; commit both. Files that had to be downloaded for their
    checksum stay in the store, so the next sync does not download them again.

    \b
    Examples:
      orch lock
      orch lock --update=resnet50 team.yaml
      orch lock --check team.yaml

    Exit codes: 0 locked, 3 the manifest or a repository lacks something, or with --check something drifted, 5 a hub
    or host cannot be reached, 6 a file is damaged or not the one that is pinned, 11 a publisher's signature is not
    valid.
    """
    asks = bool(update) and not (yes or dry_run or check)
    if asks and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("not a terminal: use --yes to confirm, or -n to preview")
    context = context_with_signals()
    from orchestrator.manifest import lock_path
    from orchestrator.workspace import open_workspace

    # In `--update team.yaml` the word is a manifest, not the name of a model.
    files = tuple(word for word in update if word.endswith((".yaml", ".yml")) or os.sep in word)
    manifests = (*files, *words["manifests"])
    names = tuple(word for word in update if word not in files and word != "*")
    sink = sink_of(context, words, "lock", plain=asks)
    if not (check or dry_run):
        sink = recorded(context, words, sink, "lock")

    following: list[str] = []

    def work() -> Any:
        settings = {name: words[name] for name in ("store", "root", "require_signature")}
        space = open_workspace(context, manifests, resolve=False, **settings)
        if check:
            from orchestrator.commands.lock_check import find_drift

            return find_drift(context, space, sink, words["only"])
        from orchestrator.commands.lock import Asked, lock

        asked = Asked(words["only"], names if update else None, dry_run, pieces)
        done = lock(context, space, sink, asked, options=run_options(words), confirm=_confirm if asks else _always)
        if done.ok and done.changed and not (words["json"] or words["quiet"]):
            paths = [
                os.path.relpath(path, context.cwd) for m in space.manifests for path in (m.file, lock_path(m.file))
            ]
            there = " ".join(shlex.quote(word) for word in manifests)
            sync = hints.completed(f"orch sync {there}".rstrip())
            following.append(f"next: {sync}; commit {' and '.join(paths)}")
        return done

    code = conclude(context, sink, work)
    for line in following:
        click.echo(shown_lines(line), err=True)
    return code


def _always(_: int) -> bool:
    return True


def _confirm(changes: int) -> bool:
    return click.confirm(f"write {'this change' if changes == 1 else f'these {changes} changes'}?", err=True)
