"""The command `orch sign`: sign manifests and their lock files."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing
from orchestrator.text import shown_lines


@click.command("sign")
@options.manifests
@options.option(
    "--key", metavar="FILE", type=click.Path(), help="The SSH key to sign with (default: ~/.ssh/id_ed25519)."
)
@options.json
def command(manifests: tuple[str, ...], key: str | None, **words: Any) -> int:
    """Sign each MANIFEST (default: manifests/team.yaml) and its lock file with an SSH key, by files *.sig beside them.

    Whoever syncs with `--require-signature`, or with `signed_by:` in the site file, takes only what is signed by a key
    of the file `allowed_signers`. A key that ssh-agent holds is used from there.
    """
    context = context_with_signals()
    from orchestrator.commands.sign import sign_manifests
    from orchestrator.workspace import DEFAULT_MANIFEST

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=False)

    def work() -> Summary:
        named = dict.fromkeys(manifests or (DEFAULT_MANIFEST,))
        paths = [os.path.abspath(os.path.join(context.cwd, path)) for path in named]
        signed = sign_manifests(context, paths, os.path.join(context.cwd, key) if key else None)
        for made in signed:
            if isinstance(sink, JsonLines):
                sink.write("signed", {"path": made.path, "allowed_signers": made.line})
            else:
                click.echo(shown_lines(f"signed: {made.path}"))
        if signed and signed[0].line and not isinstance(sink, JsonLines):
            click.echo(f"its line in allowed_signers: {shown_lines(signed[0].line)}", err=True)
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)
