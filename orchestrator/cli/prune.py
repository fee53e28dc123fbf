"""`orch prune`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.events import Summary
    from orchestrator.model import Wanted
    from orchestrator.store.gc import Garbage

WHAT = {
    "blob": "unwanted",
    "partial": "dead",
    "bundle": "dead",
    "alias": "dangling",
    "temporary": "dead",
    "record": "idle",
}


@click.command("prune")
@options.manifests
@options.store
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.option("--no-wait", is_flag=True, help="Fail (75) where a sync is running.")
@options.json
def command(**words: Any) -> int:
    """Drop the blobs that no manifest it knows wants, and what dead downloads left. It never touches a place.

    Known are the manifests that are named here (without any: manifests/team.yaml, where that is) and all that were
    synced with this store and are still there. It waits for running syncs.
    """
    if not (words["dry_run"] or words["yes"] or sys.stdin.isatty()):
        raise click.UsageError("nobody is there to be asked: say `orch prune --yes`, or look first: `orch prune -n`")
    context = context_with_signals()
    from orchestrator.commands.prune import prune
    from orchestrator.render.sink import amount
    from orchestrator.text import shown_lines
    from orchestrator.workspace import DEFAULT_MANIFEST, open_workspace, site, store_path

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def tell(note: str) -> None:
        if isinstance(sink, JsonLines):
            sink.write("noticed", {"message": note})
        else:
            click.echo(shown_lines(note), err=True)

    def show(left: Garbage, event: str) -> None:
        if isinstance(sink, JsonLines):
            fields = {"kind": left.kind, "path": left.path, "sha256": left.sha256, "bytes": left.frees_bytes}
            sink.write(event, {**fields, "known_as": left.known_as})
            return
        frees = amount(left.frees_bytes) if left.frees_bytes else "frees nothing, a place has its bytes"
        said = f"  {frees}" if left.kind not in ("alias", "record") else ""
        name = f"  {shown_lines(os.path.basename(left.known_as))}" if left.known_as else ""
        click.echo(f"{WHAT[left.kind]:<8} {left.sha256[:16] or os.path.basename(left.path)}{said}{name}")

    offered: list[Garbage] = []

    def agree(shown: list[Garbage]) -> bool:
        offered[:] = shown
        for left in shown:
            show(left, "prunable")
        if words["dry_run"] or words["yes"]:
            return not words["dry_run"]
        total = amount(sum(left.frees_bytes for left in shown))
        return click.confirm(f"Drop these {len(shown)}, which frees {total}?", err=True)

    def work() -> Summary:
        paths = words["manifests"] or ([DEFAULT_MANIFEST] if os.path.exists(DEFAULT_MANIFEST) else [])
        wanted: tuple[Wanted, ...] = ()
        files: list[str] = []
        if paths:
            space = open_workspace(context, paths, store=words["store"])
            wanted, files, store = space.wanted, [m.file for m in space.manifests], space.store
        else:
            store = store_path(context, site(context), words["store"])
        summary, dropped = prune(context, store, wanted, files, agree=agree, tell=tell, wait=not words["no_wait"])
        if not isinstance(sink, JsonLines):
            done = f"{len(dropped)} dropped, {amount(summary.bytes_freed or 0)} freed"
            plan = f"{len(offered)} to drop, {amount(sum(left.frees_bytes for left in offered))} to be freed"
            click.echo(f"prune: {plan if words['dry_run'] else done} in {shown_lines(store)}")
        for left in dropped if isinstance(sink, JsonLines) else ():
            show(left, "pruned")
        return summary

    return conclude(context, sink, work)
