"""The command `orch add`: write models into a manifest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, tell
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

MOST_LINES = 30  # of what was added, shown


@options.command("add")
@click.argument("words", nargs=-1, required=True, metavar="URL|hf:REPO... [MANIFEST]")
@options.option(
    "--name", metavar="NAME", default="", help="Name of the model (default: that of its file or repository)."
)
@options.option("--sha256", default="", metavar="HEX", help="Expected SHA-256; without one `orch lock` records it.")
@options.one_file
@options.which_files
@options.adding
@options.dry_run
@options.json
def command(words: tuple[str, ...], name: str, sha256: str, *, dry_run: bool, **kwargs: Any) -> int:
    """Add models to MANIFEST; its comments and order stay. Nothing is downloaded.

    The default MANIFEST is the one that `orch sync` uses; if there is none, manifests/team.yaml is created. The address
    of a web page that shows a file or a repository can be given too. A repository goes into the cache of its hub's
    client, a file into models/, unless --to, --for or the manifest's `defaults:` say otherwise.

    \b
    Examples:
      orch add https://example.org/resnet50.pth --for torch
      orch add hf:sentence-transformers/all-MiniLM-L6-v2
      orch add https://example.org/a.bin https://example.org/b.bin team.yaml

    Exit codes: 0 added, 3 the manifest or the new entry is wrong, 7 the manifest cannot be written.
    """
    context = context_with_signals()
    sink = listing(context, kwargs)

    def work() -> Summary:
        addresses, manifest = split_manifest(context, words)
        refuse_for_several(addresses, {"--name": name, "--sha256": sha256, **one_file_options(kwargs)})
        drafts = [draft_of(sink, each, kwargs, name, sha256) for each in addresses]
        return put(context, sink, manifest, drafts, dry_run=dry_run)

    return conclude(context, sink, work)


def split_manifest(context: Context, words: Sequence[str]) -> tuple[Sequence[str], str]:
    """Split the words of `orch add` into addresses and the manifest, which is the last word, if it is one; "" if none.

    A manifest's name ends as YAML does, or it is there; and it is no URL.
    """
    last = words[-1]
    is_address = "://" in last or last.startswith(("hf:", "modelscope:"))
    is_manifest = last.endswith((".yaml", ".yml")) or os.path.isfile(os.path.join(context.cwd, last))
    if is_address or not is_manifest:
        return words, ""
    if len(words) == 1:
        raise click.UsageError(f"nothing to add to {last}: `orch add URL {last}`")
    return words[:-1], last


def one_file_options(words: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `options.one_file` by their flags."""
    return {"--mirror": words["mirrors"], "--size": words["size"]}


def refuse_for_several(addresses: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse options that say something of one file where there are several.

    Raises:
        UsageError: there are.
    """
    flags = [flag for flag, value in given.items() if value not in (None, "", ())]
    if flags and len(addresses) > 1:
        raise click.UsageError(f"{flags[0]} is for one file, and {len(addresses)} were given: one at a time")


def draft_of(sink: Sink, address: str, words: Mapping[str, Any], name: str, sha256: str) -> Draft:
    """Draft the model of an address by a command's options, and say what was made of a page's.

    Raises:
        ManifestError: as `commands.add.of`.
    """
    from orchestrator.commands.add import of, read_address
    from orchestrator.events import Noticed

    what, include, note = read_address(address)
    if note:
        if isinstance(sink, Listing):
            tell(f"note: {note}")
        else:
            sink(Noticed(note))
    return of(
        what,
        entry_defaults(words),
        name,
        sha256=sha256,
        size=words["size"],
        mirrors=words["mirrors"],
        include=words["include"] or include,
        exclude=words["exclude"],
    )


def entry_defaults(words: Mapping[str, Any]) -> EntryDefaults:
    """The values of `--to`, `--for` and `--tag`."""
    from orchestrator.commands.add import EntryDefaults

    return EntryDefaults(words["to"], words["frameworks"], words.get("tags", ()))


def put(context: Context, sink: Sink, manifest: str, drafts: Sequence[Draft], *, dry_run: bool = False) -> Summary:
    """Write drafts into a manifest ("": that of commands which name none), and print them and what to run next.

    Raises:
        ManifestError, PlacementError: as of `commands.add.put_into`; nothing is changed.
    """
    from orchestrator.commands.add import put_into
    from orchestrator.commands.init import ignore_weights, text_for
    from orchestrator.signatures import signature_path
    from orchestrator.workspace import default_manifests

    named = bool(manifest)
    if not named:
        defaults = default_manifests(context)
        if len(defaults) > 1:
            raise click.UsageError(f"ORCH_MANIFEST names {len(defaults)} manifests: name one of them")
        manifest = defaults[0]
    path = os.path.abspath(os.path.join(context.cwd, manifest))
    is_new = not os.path.lexists(path)
    added = put_into(context, path, drafts, text_for(path), dry_run=dry_run)
    ignored = ignore_weights(path) if is_new and not dry_run else None
    models = added.models
    unpinned = [m.name for m in models if m.repo or any(not f.sha256 and not f.pins for f in m.files)]
    if isinstance(sink, JsonLines):
        for model in models:
            sink.write("added", {"manifest": path, "model": model.name, "pinned": model.name not in unpinned})
        return Summary(ok=True, exit_code=0, models=len(models), changed=not dry_run)
    for model in models:
        click.echo(f"{'would add' if dry_run else 'added'} {shown_lines(model.name)}")
    click.echo(f"{shown_lines(manifest)}{' (a new manifest)' if is_new else ''}:", err=True)
    for line in added.lines[:MOST_LINES]:
        click.echo(shown_lines(line), err=True)
    if len(added.lines) > MOST_LINES:
        click.echo(f"  ... {len(added.lines) - MOST_LINES} more lines", err=True)
    if ignored is not None:
        click.echo(shown_lines(f"{ignored.how}: {os.path.relpath(ignored.path, context.cwd)}"), err=True)
    if dry_run:
        return Summary(ok=True, exit_code=0, models=len(models))
    verb = "lock" if unpinned else "sync"
    why = "  (it finds the checksums)" if unpinned else ""
    last = f" {shown_lines(manifest)}" if named else ""
    if os.path.lexists(signature_path(path)):
        click.echo(f"next: orch sign{last}  (its signature is no longer valid)", err=True)
    click.echo(f"next: orch {verb}{last}{why}", err=True)
    return Summary(ok=True, exit_code=0, models=len(models), changed=True)


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
