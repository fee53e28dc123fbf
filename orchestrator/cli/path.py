"""The command `orch path`: print where a model is installed."""

from __future__ import annotations

import os
from typing import Any

import click
from msgspec.structs import replace

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.errors import ManifestError, TransferError
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines


@options.command("path")
@click.argument("name", shell_complete=options.completing("models"))
@options.manifests
@options.option("--file", metavar="FILE", help="Print the path of this file of the model.")
@options.option("--all", "every", is_flag=True, help="Print the path of each file, a line each.")
@options.option("--no-check", is_flag=True, help="Print the path even if files are missing or were changed.")
@options.store
@options.root
@options.caches
@options.signed
@options.json
def command(name: str, file: str | None, every: bool, no_check: bool, **words: Any) -> int:
    """Print the path of an installed model: of its file, or of the folder of several files or a repository.

    \b
    Examples:
      python train.py --weights "$(orch path resnet50)"
      orch path minilm --file config.json team.yaml

    Exit codes: 0 it is in place, 3 no model has this name, 5 a file is missing (`orch sync` first; the path is where
    it will be), 6 a file was changed since it was verified, 7 a file that orch did not make is in the way. With
    --no-check only 0 and 3.
    """
    if file is not None and every:
        raise click.UsageError("--file and --all exclude each other")
    context = context_with_signals()
    from orchestrator.commands.path import file_path, files_of, in_order, model_path, refuse_missing, summary
    from orchestrator.workspace import open_workspace

    sink = listing(context, words, quiet=True)

    def work() -> Summary:
        settings = {name: words[name] for name in ("store", "root", "caches", "require_signature")}
        try:
            space = open_workspace(context, words["manifests"], needs_lock=False, **settings)
            files = files_of(space, name, file)
        except ManifestError as error:
            raise in_order(context, name, words["manifests"], error) from None
        missing = None
        try:
            if not no_check:
                refuse_missing(context, space, files)
        except TransferError as error:
            if error.fault != "absent":
                raise
            sink.tell(missing := error)  # before the path: who reads both in one takes the last line
        one = file is None and not every
        paths = [model_path(context, space, name)] if one else [file_path(context, space, w) for w in files]
        for path in paths:
            if isinstance(sink, JsonLines):
                sink.write("path", {"model": name, "path": path})
            else:
                click.echo(os.fsencode(path))  # a path is bytes: no encoding
        if no_check:
            return Summary(ok=True, exit_code=0, models=1)
        code = 0 if missing is None else int(missing.exit_code)
        return replace(summary(context, space, files), exit_code=code)

    return conclude(context, sink, work)
