"""The command `orch import`: make models of a list of checksums."""

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


@click.command("import")
@click.argument("source", type=click.Path())
@click.option("--into", metavar="MANIFEST", type=click.Path(), help="Put them there (else their lines are printed).")
@click.option("--base", metavar="URL", default="", help="Where the files are, if the list does not say.")
@click.option("--name", default="", help="One model of all files, called so (else a model each).")
@options.adding
@options.json
def command(source: str, into: str | None, base: str, name: str, **words: Any) -> int:
    """Make models of a list: SHA256SUMS, FILE.sha256, Metalink, Git LFS pointers (a file or folder), a pooch registry.

    Nothing is fetched. Comments and the order of the manifest stay as they are; each digest says where it is from.
    """
    context = context_with_signals()
    from orchestrator.cli.add import entry_defaults, print_lines, put
    from orchestrator.commands.add import from_list
    from orchestrator.commands.import_list import read

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        path = os.path.abspath(source)
        drafts = from_list(read(path), path, base, entry_defaults(words), name)
        return put(context, sink, into, drafts) if into else print_lines(context, sink, drafts, path)

    return conclude(context, sink, work)
