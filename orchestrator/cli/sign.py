"""The command `orch sign`: sign manifests and their lock files."""

from __future__ import annotations

import os
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import shown_lines


@options.command("sign")
@options.manifests
@options.option("--key", metavar="FILE", type=click.Path(), help="SSH key to sign with (default: ~/.ssh/id_ed25519).")
@options.json
def command(manifests: tuple[str, ...], key: str | None, **words: Any) -> int:
    """Sign manifests and their lock files with an SSH key; write the signatures beside them, as *.sig files.

    Machines that use `--require-signature`, or `signed_by:` in their site file, accept only manifests signed by a key
    that is listed in their file `allowed_signers`. A key that ssh-agent holds is used from there.

    \b
    Example:
      orch sign --key ~/.ssh/release team.yaml

    Exit codes: 0 signed, 11 it cannot be signed.
    """
    context = context_with_signals()
    from orchestrator.commands.sign import sign_manifests
    from orchestrator.workspace import manifest_paths

    sink = listing(context, words)

    def work() -> Summary:
        paths = list(manifest_paths(context, manifests))
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
