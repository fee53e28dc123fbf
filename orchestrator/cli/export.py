"""The command `orch export`: write a manifest for other tools, or as an offline mirror."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.events import Summary


@click.command("export")
@click.argument("manifest", type=click.Path())
@click.argument("folder", required=False, type=click.Path(), metavar="[DIR]")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["sha256sums", "metalink", "aria2", "mirror"]),
    help="For sha256sum -c, any Metalink 4 client, aria2c --input-file; or a folder that serves as a mirror.",
)
@click.option("--url", metavar="URL", help="Where the other machine finds DIR (default: file:// and its path).")
@options.where
@options.json
def command(manifest: str, folder: str | None, form: str, url: str | None, **words: Any) -> int:
    """Write what MANIFEST wants in a form that other tools read: to stdout, or `--format mirror` into DIR.

    A mirror holds the verified bytes as their URLs lay them out, and a site file by which orch on a machine without
    the network takes everything from there; a stick, a file server or any web server will do.
    """
    if (form == "mirror") != (folder is not None):
        raise click.UsageError("`--format mirror` wants a DIR: orch export MANIFEST --format mirror DIR; others print")
    context = context_with_signals()
    from orchestrator.commands.export import FORMS, encoded, entries
    from orchestrator.store import Store

    sink = (
        JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False, verb=(folder and "export") or "")
    )

    def work() -> Summary:
        from orchestrator.events import Summary

        space = workspace(context, {**words, "manifests": [manifest]})
        store = Store(space.store, context.state)
        files = entries(space, store)
        if folder is not None:
            from urllib.parse import quote

            from orchestrator.commands.offline_mirror import export

            path = os.path.abspath(folder)
            return export(context, store, files, path, url or f"file://{quote(path)}/", sink)
        text = FORMS[form](files)
        if isinstance(sink, JsonLines):
            sink.write("export", {"format": form, "text": text})
        else:
            click.echo(encoded(text, form), nl=False)
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)
