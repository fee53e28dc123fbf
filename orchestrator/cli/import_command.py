"""The command `orch import`: make models of a list of checksums."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing

if TYPE_CHECKING:
    from orchestrator.events import Summary


@options.command("import")
@click.argument("source", type=click.Path(), metavar="LIST")
@click.argument("manifest", required=False, type=click.Path(), metavar="[MANIFEST]")
@click.option("--into", type=click.Path(), hidden=True, help="MANIFEST, by its earlier name.")
@options.dry_run
@options.option("--base", metavar="URL", default="", help="URL of the files' folder, if the list does not have it.")
@options.option(
    "--name", metavar="NAME", default="", help="Make one model of all files, with this name (default: one each)."
)
@options.adding
@options.json
def command(
    source: str, manifest: str | None, into: str | None, dry_run: bool, base: str, name: str, **words: Any
) -> int:
    """Create manifest entries from a LIST of files: SHA256SUMS, FILE.sha256, Metalink, Git LFS pointers, a pooch
    registry; or a folder of LFS pointers, or of a FILE.sha256 each.

    With MANIFEST the entries are added to it, else they are printed. Its comments and order stay. A comment behind each
    checksum names the list. Nothing is downloaded.

    \b
    Examples:
      orch import SHA256SUMS --base https://example.org/v1/
      orch import weights.meta4 team.yaml --to models/

    Exit codes: 0 created, 3 the list or an entry is wrong, 7 the manifest cannot be written.
    """
    if source.startswith(("http://", "https://")):
        folder, _, file = source.partition("?")[0].rpartition("/")
        first = f"`curl -O {source}`, then `orch import {file or 'LIST'} --base {folder}/`"
        raise click.UsageError(f"a LIST is a file, not a URL: {first}")
    context = context_with_signals()
    from orchestrator.cli.add import entry_defaults, print_lines, put
    from orchestrator.commands.add import from_list
    from orchestrator.commands.import_list import read

    sink = listing(context, words)

    def work() -> Summary:
        path = os.path.abspath(source)
        drafts = from_list(read(path), path, base, entry_defaults(words), name)
        target = None if dry_run else manifest or into
        return put(context, sink, target, drafts) if target else print_lines(context, sink, drafts, path)

    return conclude(context, sink, work)
