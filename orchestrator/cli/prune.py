"""`orch prune`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, lock_wait_s
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import counted, shown, shown_lines
from orchestrator.text import size_text as amount

if TYPE_CHECKING:
    from orchestrator.events import Summary
    from orchestrator.render.listing import Listing
    from orchestrator.store.gc import Garbage
    from orchestrator.workspace import Workspace

WHAT = {
    "blob": "file",
    "partial": "download",
    "bundle": "download",
    "alias": "alias",
    "temporary": "leftover",
    "record": "record",
    "place": "place",
    "tree": "place",
}


@options.command("prune")
@options.manifests
@options.option(
    "--keep",
    default="30d",
    show_default=True,
    metavar="TIME",
    type=options.Duration(),
    help="Keep previous versions for this long after they were replaced; 0s also removes unfinished downloads.",
)
@options.option(
    "--places", is_flag=True, help="Also remove installed files of models that were taken out of the manifests."
)
@options.dry_run
@options.yes
@options.option("--no-wait", is_flag=True, help="Do not wait for a running sync; exit with 75.")
@options.option(
    "--lock-wait",
    metavar="TIME",
    type=options.Duration(),
    help="Wait at most this long for running syncs, then exit with 75 (default: no limit).",
)
@options.store
@options.signed
@options.json
def command(**words: Any) -> int:
    """Remove unreferenced files and abandoned downloads from the store.

    A file is kept if a manifest given here (default: manifests/team.yaml), or one ever synced with this store, refers
    to it. Installed files stay, except with --places: it removes those of models that were taken out of the
    manifests given here, unless they were changed since. It waits for running syncs.

    The first word of each line says what is removed: file (of the store; no manifest wants it), download (abandoned, or
    too old to resume), leftover (of a process that was killed), alias (a name whose file is gone), record (of installed
    files that are all gone), place (an installed file, with --places).

    \b
    Examples:
      orch prune -n
      orch prune --yes --keep 90d
      orch prune --places team.yaml

    Exit codes: 0 done, 3 a manifest cannot be read, 8 the store cannot be changed, 75 a sync is running.
    """
    if not (words["dry_run"] or words["yes"] or sys.stdin.isatty()):
        raise click.UsageError("not a terminal: use --yes to confirm, or -n to preview")
    context = context_with_signals()
    from orchestrator.commands.prune import prune
    from orchestrator.workspace import has_manifest, open_workspace, site, store_path, written

    sink = listing(context, words)
    report = _Report(sink, dry_run=words["dry_run"], yes=words["yes"])

    def read() -> Workspace | None:
        if not words["manifests"] and not has_manifest(context):
            return None
        settings = {name: words[name] for name in ("store", "require_signature")}
        return open_workspace(context, words["manifests"], needs_lock=words["places"], **settings)

    def work() -> Summary:
        space = read()
        if space is None and words["places"]:
            raise click.UsageError("--places needs a manifest: `orch prune --places MANIFEST`")
        store = written(space) if space is not None else store_path(context, site(context), words["store"])
        summary, dropped = prune(
            context,
            store,
            space,
            agree=report.agree,
            tell=report.tell,
            reread=read,
            keep_s=words["keep"],
            show_kept=report.show_kept,
            places=words["places"],
            lock_wait_s=lock_wait_s(words),
        )
        report.end(store, summary, dropped)
        return summary

    return conclude(context, sink, work)


class _Report:
    """What prune says: to people as lines, to programs as events."""

    def __init__(self, sink: JsonLines | Listing, *, dry_run: bool, yes: bool) -> None:
        self._json = sink if isinstance(sink, JsonLines) else None
        self._dry_run, self._yes = dry_run, yes
        self._offered: list[Garbage] = []

    def tell(self, note: str) -> None:
        """Say a note: on stderr, or as an event."""
        if self._json:
            self._json.write("noticed", {"message": note})
        else:
            click.echo(shown_lines(note), err=True)

    def agree(self, shown: list[Garbage]) -> bool:
        """Show what would be removed, and ask whether it may be where nobody has said so."""
        self._offered = shown
        for entry in shown:
            self._show(entry, "prunable")
        if self._dry_run or self._yes:
            return not self._dry_run
        total = amount(sum(entry.frees_bytes for entry in shown))
        return click.confirm(f"Remove {counted(len(shown), 'item')} and free {total}?", err=True)

    def show_kept(self, kept: list[Garbage]) -> None:
        """Show the previous versions that stay for a while: one by one in a dry run, else how many there are."""
        for entry in kept:
            until = _iso(entry.kept_until)
            if self._json:
                self._show(entry, "retained", until=until)
            elif self._dry_run:
                why = f"(previous version, until {until[:10]})"
                click.echo(f"{'kept':<8} {entry.sha256[:12]}  {amount(entry.frees_bytes)}{_name(entry)}  {why}")
        if kept and not self._json:
            size = amount(sum(entry.frees_bytes for entry in kept))
            which = "1 previous version is kept" if len(kept) == 1 else f"{len(kept)} previous versions are kept"
            click.echo(f"{which} ({size}), so that going back needs no download; `--keep 0s` removes them", err=True)

    def end(self, store: str, summary: Summary, dropped: list[Garbage]) -> None:
        """Say what was removed."""
        if self._json:
            for entry in dropped:
                self._show(entry, "pruned")
            return
        done = f"{counted(len(dropped), 'item')} removed, {amount(summary.bytes_freed or 0)} freed"
        freed = amount(sum(entry.frees_bytes for entry in self._offered))
        plan = f"{counted(len(self._offered), 'item')} to remove, which would free {freed}"
        click.echo(f"prune: {plan if self._dry_run else done} in {shown_lines(store)}")

    def _show(self, entry: Garbage, event: str, **more: str) -> None:
        if self._json:
            fields = {"kind": entry.kind, "path": entry.path, "sha256": entry.sha256, "bytes": entry.frees_bytes}
            self._json.write(event, {**fields, "known_as": entry.known_as, **more})
            return
        if entry.kind in ("place", "tree"):
            frees = amount(entry.frees_bytes) if entry.frees_bytes else "frees nothing by itself"
            click.echo(f"{WHAT[entry.kind]:<8} {shown(entry.path)}  {frees}")
            return
        frees = amount(entry.frees_bytes) if entry.frees_bytes else "frees nothing: an installed file shares its bytes"
        said = f"  {frees}" if entry.kind not in ("alias", "record") else ""
        click.echo(f"{WHAT[entry.kind]:<8} {entry.sha256[:12] or os.path.basename(entry.path)}{said}{_name(entry)}")


def _name(entry: Garbage) -> str:
    return f"  {shown(os.path.basename(entry.known_as))}" if entry.known_as else ""


def _iso(when: float) -> str:
    """A time in seconds since the epoch as ISO 8601, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
