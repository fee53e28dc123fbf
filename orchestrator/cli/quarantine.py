"""The command `orch quarantine`: list, restore or delete what is in quarantine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.render.listing import Listing
    from orchestrator.store.quarantine import QuarantineEntry


@options.command("quarantine")
@click.argument("action", type=click.Choice(["list", "restore", "empty"]), default="list", required=False)
@click.argument("name", required=False)
@options.option("--to", metavar="PATH", help="restore: to this path instead of where the file was.")
@options.option(
    "--older", metavar="TIME", type=options.Duration(), help="list, empty: only files older than this, such as 30d."
)
@options.dry_run
@options.yes
@options.store
@options.json
def command(**words: Any) -> int:
    """List, restore or delete files in quarantine: downloads with a wrong checksum, and files that were replaced.

    \b
    Examples:
      orch quarantine
      orch quarantine restore 3f2a91c0 --to models/mine.bin
      orch quarantine empty --older 30d

    A file is never restored over an existing one. Files that were replaced stay until you empty the quarantine; of
    downloads with a wrong checksum the oldest are deleted once there are more than 10 GiB.
    """
    action, name = words["action"], words["name"]
    if (action == "restore") != bool(name):
        raise click.UsageError("give a name: `orch quarantine restore NAME`" if not name else f"{action} takes no NAME")
    if action == "restore" and words["dry_run"]:
        raise click.UsageError("-n is for empty: `orch quarantine list` shows what can be restored")
    if action == "empty" and not (words["dry_run"] or words["yes"] or sys.stdin.isatty()):
        raise click.UsageError("not a terminal: use --yes to confirm, or -n to preview")
    context = context_with_signals()
    sink = listing(context, words)

    def work() -> Summary:
        from orchestrator.workspace import has_manifest, open_workspace, site, store_path, written

        if words["store"] is None and has_manifest(context):
            store = written(open_workspace(context, (), resolve=False))
        else:
            store = store_path(context, site(context), words["store"])
        if action == "restore":
            from orchestrator.commands.quarantine import restore

            _say(sink, f"restored: {restore(context, store, name, words['to'] or '')}")
            return Summary(ok=True, exit_code=0)
        older_s = words["older"] or 0.0
        if action == "list" or words["dry_run"]:
            return _list(context, store, sink, older_s, preview=action == "empty")
        return _empty(context, store, sink, older_s, yes=words["yes"])

    return conclude(context, sink, work)


def _list(context: Context, store: str, sink: JsonLines | Listing, older_s: float, *, preview: bool) -> Summary:
    """List the entries; with `preview`, as those that `empty` would delete."""
    from orchestrator.commands.quarantine import kept, older
    from orchestrator.text import shown_lines
    from orchestrator.text import size_text as amount

    every = kept(context, store)
    entries = older(context, every, older_s)
    for entry in entries:
        _show(sink, entry, "kept")
    if not isinstance(sink, JsonLines):
        total, where = amount(sum(entry.size_bytes for entry in entries)), shown_lines(store)
        count = len(entries)
        if preview:
            text = f"{count} would be deleted, {len(every) - count} would stay; {total} would be freed in {where}"
        else:
            text = (
                f"{count} of {len(every)} listed, {total} in {where}"
                if older_s
                else f"{count} kept, {total} in {where}"
            )
        click.echo(f"quarantine: {text}")
    return Summary(ok=True, exit_code=0)


def _empty(context: Context, store: str, sink: JsonLines | Listing, older_s: float, *, yes: bool) -> Summary:
    from orchestrator.commands.quarantine import empty
    from orchestrator.text import counted
    from orchestrator.text import size_text as amount

    def agree(entries: list[QuarantineEntry]) -> bool:
        if yes:
            return True
        for entry in entries:
            _show(sink, entry, "kept")
        total = amount(sum(entry.size_bytes for entry in entries))
        return click.confirm(f"Delete {counted(len(entries), 'file')} ({total}) for good?", err=True)

    summary, dropped = empty(context, store, agree=agree, tell=lambda why: _say(sink, why), older_s=older_s)
    for entry in dropped if isinstance(sink, JsonLines) else ():
        _show(sink, entry, "dropped")
    _say(sink, f"quarantine: {len(dropped)} deleted, {amount(summary.bytes_freed or 0)} freed")
    return summary


def _show(sink: JsonLines | Listing, entry: QuarantineEntry, event: str) -> None:
    from orchestrator.commands.quarantine import short_name
    from orchestrator.render.sink import amount
    from orchestrator.text import shown, shown_lines

    if isinstance(sink, JsonLines):
        sink.write(event, {key: value for key, value in entry._asdict().items() if key != "bad"})
        return
    click.echo(f"{short_name(entry):<20}  {amount(entry.size_bytes):>7}  {entry.when}  {shown(entry.origin)}")
    click.echo(f"{'':<20}  {shown_lines(entry.why)}")


def _say(sink: JsonLines | Listing, text: str) -> None:
    from orchestrator.text import shown_lines

    if isinstance(sink, JsonLines):
        sink.write("noticed", {"message": text})
    else:
        click.echo(shown_lines(text), err=True)
