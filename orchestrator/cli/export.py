"""The command `orch export`: write a manifest for other tools, or as an offline mirror."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, workspace
from orchestrator.render.json_lines import JsonLines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Context
    from orchestrator.events import Summary
    from orchestrator.store import Store
    from orchestrator.workspace import Workspace


@options.command("export")
@options.manifests
@options.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["sha256sums", "metalink", "aria2", "mirror", "nginx"]),
    metavar="FORM",
    help="sha256sums (for sha256sum -c), metalink (Metalink 4), aria2 (for aria2c --input-file), mirror (a folder), "
    "nginx (what `orch serve` does, as a part of nginx.conf).",
)
@options.option(
    "--output", "-o", metavar="PATH", type=click.Path(), help="File to write instead of stdout; the folder of a mirror."
)
@options.option(
    "--url", metavar="URL", help="Address of the mirror for other machines (default: file:// and its path)."
)
@options.where
@options.serving
@options.json
def command(manifests: tuple[str, ...], form: str, url: str | None, output: str | None, **words: Any) -> int:
    """Export the manifests' files in a form for other tools, or build an offline mirror.

    A mirror is a folder with the verified files under the paths of their URLs, and a site file with which orch on a
    machine without a network takes all files from it: from a USB disk, a file server or any web server.

    \b
    Examples:
      orch export --format sha256sums
      orch export team.yaml --format mirror -o /media/stick/weights

    Exit codes: 0 exported, 5 a file is not in the store (`orch sync` first), 7 the folder cannot be written.
    """
    if form == "mirror" and output is None and len(manifests) > 1:  # how the folder was given before --output existed
        *manifests, output = manifests  # type: ignore[assignment]
    if form == "mirror" and output is None:
        raise click.UsageError("a mirror needs a folder: orch export [MANIFEST...] --format mirror -o DIR")
    folder = output if form == "mirror" else None
    context = context_with_signals()
    from orchestrator.commands.export import FORMS, encoded, entries, write_output
    from orchestrator.store import Store

    sink = listing(context, words, (folder and "export") or "")

    def written(content: bytes) -> None:
        if output is not None:
            write_output(os.path.join(context.cwd, output), content)
        elif isinstance(sink, JsonLines):
            sink.write("export", {"format": form, "text": content.decode("utf-8", "surrogateescape")})
        else:
            click.echo(content, nl=False)

    def work() -> Summary:
        from orchestrator.events import Summary

        space = workspace(context, {**words, "manifests": manifests})
        store = Store(space.store, context.state)
        if form == "nginx":
            written(_nginx_config(context, space, store, words).encode())
            return Summary(ok=True, exit_code=0)
        files = entries(space, store)
        if folder is not None:
            from urllib.parse import quote

            from orchestrator.commands.offline_mirror import export

            path = os.path.abspath(folder)
            return export(context, store, files, path, url or f"file://{quote(path)}/", sink)
        written(encoded(FORMS[form](files), form))
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)


def _nginx_config(context: Context, space: Workspace, store: Store, words: Mapping[str, Any]) -> str:
    from orchestrator.commands import serve
    from orchestrator.commands.nginx_config import Cache

    cache = Cache.at(context.cwd, words["cache"], words["cache_size"])
    return serve.config(context, space, serve.offers(context, space, store), words["listen"], cache)
