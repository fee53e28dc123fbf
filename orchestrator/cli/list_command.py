"""The command `orch list`: show the models of the manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.render.json_lines import JsonLines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.commands.list_models import ModelRow
    from orchestrator.events import Summary
    from orchestrator.render.listing import Listing

# The states that `orch status` calls otherwise in its text; JSON has those of `ModelRow`.
_WORDS = {"modified": "changed", "obstructed": "foreign", "wrong": "foreign"}
HEADER = ("MODEL", "FILES", "SIZE", "FOR", "TAGS", "STATE")


@options.command("list")
@options.manifests
@options.where
@options.json
def command(**words: Any) -> int:
    """Show the models of the manifests: files, size, frameworks, tags, and whether they are installed.

    The state comes from file metadata alone, as in `orch status`; an `unlocked` model needs `orch lock` first.

    \b
    Examples:
      orch list
      orch list --only tag:vision --json

    Exit codes: 0 whatever is installed, 3 a manifest is wrong.
    """
    context = context_with_signals()
    sink = listing(context, words, quiet=True)

    def work() -> Summary:
        from orchestrator.commands.list_models import rows
        from orchestrator.events import Summary
        from orchestrator.workspace import open_workspace

        settings = {name: words[name] for name in ("only", "store", "root", "caches", "require_signature")}
        space = open_workspace(context, words["manifests"], needs_lock=False, **settings)
        paths = [manifest.file for manifest in space.manifests]
        whole = open_workspace(context, paths, resolve=False, require_signature=words["require_signature"])
        found = list(rows(context, space, whole))
        _show(sink, found)
        return Summary(ok=True, exit_code=0, models=len(found))

    return conclude(context, sink, work)


def _show(sink: JsonLines | Listing, found: Sequence[ModelRow]) -> None:
    from orchestrator.render.listing import aligned
    from orchestrator.render.sink import amount

    if isinstance(sink, JsonLines):
        for row in found:
            sink.write("model", {name: getattr(row, name) for name in row.__struct_fields__})
        return
    lines = [HEADER]
    for row in found:
        files = str(row.files or "?") if row.present in (0, row.files) else f"{row.present}/{row.files}"
        size = "?" if row.size_bytes is None else amount(row.size_bytes)
        frameworks, tags = (" ".join(words) or "-" for words in (row.frameworks, row.tags))
        lines.append((row.model, files, size, frameworks, tags, _WORDS.get(row.state, row.state)))
    if not found:
        click.echo("no models: `orch add URL` adds one", err=True)
        return
    for line in aligned(lines):
        click.echo(line)
