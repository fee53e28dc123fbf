"""The command `orch add`: write a model into a manifest."""

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
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.commands.add import EntryDefaults
    from orchestrator.context import Context
    from orchestrator.manifest.edit import Draft
    from orchestrator.render.sink import Sink


@click.command("add")
@click.argument("what", metavar="URL|hf:REPO")
@click.argument("manifest", required=False, type=click.Path(), metavar="[MANIFEST]")
@click.option("--name", default="", help="What to call the model (default: by its file or repository).")
@click.option("--sha256", default="", metavar="HEX", help="Its digest; without one `orch lock` finds it.")
@options.which_files
@options.adding
@options.json
def command(what: str, manifest: str | None, name: str, sha256: str, **words: Any) -> int:
    """Put a model into MANIFEST (default: manifests/team.yaml), comments and order kept. Nothing is fetched."""
    context = context_with_signals()
    from orchestrator.commands.add import of
    from orchestrator.workspace import DEFAULT_MANIFEST

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        draft = of(what, entry_defaults(words), name, sha256=sha256, include=words["include"], exclude=words["exclude"])
        return put(context, sink, manifest or DEFAULT_MANIFEST, [draft])

    return conclude(context, sink, work)


def entry_defaults(words: Mapping[str, Any]) -> EntryDefaults:
    """The values of `--to`, `--for` and `--tag`."""
    from orchestrator.commands.add import EntryDefaults

    return EntryDefaults(words["to"], words["frameworks"], words.get("tags", ()))


def put(context: Context, sink: Sink, manifest: str, drafts: Sequence[Draft]) -> Summary:
    """Write drafts into a manifest, and print what was added and the command to run next.

    Raises:
        ManifestError, PlacementError: as of `commands.add.put_into`; nothing is changed.
    """
    from orchestrator.commands.add import put_into
    from orchestrator.signatures import signature_path

    path = os.path.abspath(os.path.join(context.cwd, manifest))
    is_new = not os.path.lexists(path)
    added = put_into(context, path, drafts)
    unpinned = [m.name for m in added if m.repo or any(not f.sha256 and not f.pins for f in m.files)]
    if isinstance(sink, JsonLines):
        for model in added:
            sink.write("added", {"manifest": path, "model": model.name, "pinned": model.name not in unpinned})
        return Summary(ok=True, exit_code=0, models=len(added))
    for model in added:
        click.echo(f"added {shown_lines(model.name)}")
    names = f"{len(added)} model{'s' if len(added) != 1 else ''}"
    click.echo(f"{shown_lines(manifest)}: {names} more{' (a new manifest)' if is_new else ''}", err=True)
    verb = "lock" if unpinned else "sync"
    why = "  (it finds the digests)" if unpinned else ""
    if os.path.lexists(signature_path(path)):
        click.echo(f"next: orch sign {shown_lines(manifest)}  (its signature fits no more)", err=True)
    click.echo(f"next: orch {verb} {shown_lines(manifest)}{why}", err=True)
    return Summary(ok=True, exit_code=0, models=len(added))


def print_lines(context: Context, sink: Sink, drafts: Sequence[Draft], source: str) -> Summary:
    """Print drafts as lines to paste below a manifest's `models:`; `source` is the list that they were made of.

    Raises:
        ManifestError: the drafts make no valid manifest.
    """
    from orchestrator.commands.add import to_paste
    from orchestrator.manifest.edit import block

    lines = [line for draft in to_paste(context, drafts, source) for line in block(draft)]
    if isinstance(sink, JsonLines):
        sink.write("lines", {"text": "\n".join(lines) + "\n"})
    else:
        for line in lines:
            click.echo(line)
    return Summary(ok=True, exit_code=0, models=len(drafts))
