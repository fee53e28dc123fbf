"""The command `orch quarantine`: list, restore or delete what is in quarantine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.store.quarantine import QuarantineEntry


@click.command("quarantine")
@click.argument("action", type=click.Choice(["list", "restore", "empty"]), default="list", required=False)
@click.argument("name", required=False)
@options.store
@click.option("--to", metavar="PATH", help="restore: put it here, not where it stood.")
@click.option("--older", metavar="30d", type=options.Duration(), help="list, empty: only what lies there for longer.")
@click.option("--yes", is_flag=True, help="empty: do not ask.")
@options.json
def command(**words: Any) -> int:
    """List what was displaced from its place or came with wrong bytes, put it back, or drop it for good.

    \b
    Examples:
      orch quarantine
      orch quarantine restore 3f2a91c0 --to models/mine.bin
      orch quarantine empty --older 30d

    A file is never restored over something that stands. What stood at a place stays until you empty it; of what
    came over the wire the oldest goes once there are more than 10 GiB.
    """
    action, name = words["action"], words["name"]
    if (action == "restore") != bool(name):
        raise click.UsageError("say what: `orch quarantine restore NAME`" if not name else f"{action} takes no NAME")
    if action == "empty" and not (words["yes"] or sys.stdin.isatty()):
        raise click.UsageError("nobody is there to be asked: say `orch quarantine empty --yes`")
    context = context_with_signals()
    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        from orchestrator.workspace import DEFAULT_MANIFEST, open_workspace, site, store_path

        if words["store"] is None and os.path.exists(DEFAULT_MANIFEST):
            store = open_workspace(context, [DEFAULT_MANIFEST]).store
        else:
            store = store_path(context, site(context), words["store"])
        if action == "restore":
            from orchestrator.commands.quarantine import restore

            _say(sink, f"restored: {restore(context, store, name, words['to'] or '')}")
            return Summary(ok=True, exit_code=0)
        work_on = _list if action == "list" else _empty
        return work_on(context, store, sink, words["older"] or 0.0, yes=words["yes"])

    return conclude(context, sink, work)


def _list(context: Context, store: str, sink: JsonLines | Listing, older_s: float, *, yes: bool) -> Summary:  # noqa: ARG001
    from orchestrator.commands.quarantine import kept
    from orchestrator.render.sink import amount
    from orchestrator.text import shown_lines

    entries = kept(context, store, older_s=older_s)
    for entry in entries:
        _show(sink, entry, "kept")
    if not isinstance(sink, JsonLines):
        total = amount(sum(entry.size_bytes for entry in entries))
        click.echo(f"quarantine: {len(entries)} kept, {total} in {shown_lines(store)}")
    return Summary(ok=True, exit_code=0)


def _empty(context: Context, store: str, sink: JsonLines | Listing, older_s: float, *, yes: bool) -> Summary:
    from orchestrator.commands.quarantine import empty
    from orchestrator.render.sink import amount

    def agree(entries: list[QuarantineEntry]) -> bool:
        if yes:
            return True
        for entry in entries:
            _show(sink, entry, "kept")
        total = amount(sum(entry.size_bytes for entry in entries))
        return click.confirm(f"Drop these {len(entries)} for good ({total})?", err=True)

    summary, dropped = empty(context, store, agree=agree, tell=lambda why: _say(sink, why), older_s=older_s)
    for entry in dropped if isinstance(sink, JsonLines) else ():
        _show(sink, entry, "dropped")
    _say(sink, f"quarantine: {len(dropped)} dropped, {amount(summary.bytes_freed or 0)} freed")
    return summary


def _show(sink: JsonLines | Listing, entry: QuarantineEntry, event: str) -> None:
    from orchestrator.render.sink import amount
    from orchestrator.text import shown_lines

    if isinstance(sink, JsonLines):
        sink.write(event, {key: value for key, value in entry._asdict().items() if key != "bad"})
        return
    click.echo(f"{entry.name[:20]:<20}  {amount(entry.size_bytes):>7}  {entry.when}  {shown_lines(entry.origin)}")
    click.echo(f"{'':<20}  {shown_lines(entry.why)}")


def _say(sink: JsonLines | Listing, text: str) -> None:
    from orchestrator.text import shown_lines

    if isinstance(sink, JsonLines):
        sink.write("noticed", {"message": text})
    else:
        click.echo(shown_lines(text), err=True)
