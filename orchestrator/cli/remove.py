"""The command `orch remove`: take models out of a manifest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.commands.remove import Removed
    from orchestrator.events import Summary
    from orchestrator.render.listing import Listing


@options.command("remove")
@click.argument(
    "names", nargs=-1, required=True, metavar="MODEL... [MANIFEST]", shell_complete=options.completing("models")
)
@options.dry_run
@options.json
def command(names: tuple[str, ...], dry_run: bool, **words: Any) -> int:
    """Remove models from MANIFEST and its lock file; its comments and order stay.

    Installed files stay; `orch prune --places` removes them.

    \b
    Examples:
      orch remove resnet50
      orch remove -n resnet50 minilm manifests/team.yaml

    Exit codes: 0 removed, 3 no model has this name, 7 the manifest cannot be written.
    """
    manifest = names[-1] if names[-1].endswith((".yaml", ".yml")) else ""
    names = names[:-1] if manifest else names
    if not names:
        raise click.UsageError(f"nothing to remove from {manifest}: `orch remove MODEL {manifest}`")
    if manifest:
        click.get_current_context().params["manifests"] = (manifest,)  # for hints, which repeat it
    context = context_with_signals()
    sink = listing(context, words)

    def work() -> Summary:
        from orchestrator.commands.remove import remove
        from orchestrator.events import Summary
        from orchestrator.workspace import default_manifests

        shown = (manifest,) if manifest else default_manifests(context)
        paths = {os.path.abspath(os.path.join(context.cwd, path)): path for path in shown}
        done = remove(context, tuple(paths), names, dry_run=dry_run)
        for each in done:
            _tell(sink, each, paths[each.manifest], dry_run=dry_run)
        if not isinstance(sink, JsonLines) and not dry_run:
            last = f" {shown_lines(manifest)}" if manifest else ""
            click.echo(f"next: orch prune --places{last}  (it removes their installed files)", err=True)
        count = sum(len(each.models) for each in done)
        return Summary(ok=True, exit_code=0, models=count, changed=not dry_run)

    return conclude(context, sink, work)


def _tell(sink: JsonLines | Listing, each: Removed, shown: str, *, dry_run: bool) -> None:
    from orchestrator.signatures import signature_path

    for name in each.models:
        if isinstance(sink, JsonLines):
            fields = {"manifest": each.manifest, "model": name, "dry_run": dry_run}
            sink.write("removed", fields)
        else:
            verb = "would be removed" if dry_run else "removed"
            click.echo(shown_lines(f"{verb}: {name}, from {shown}{' and its lock file' * each.lock_changed}"))
    if not dry_run and os.path.lexists(signature_path(each.manifest)) and not isinstance(sink, JsonLines):
        click.echo(shown_lines(f"next: orch sign {shown}  (its signature is no longer valid)"), err=True)
