"""The command `orch demo`: run the demo."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.cli.session import context_with_signals, tell_error

_TIDY_S = 10.0  # it leaves nothing behind, which on a busy machine takes longer than a stop


@options.command("demo")
@options.option("--folder", metavar="DIR", type=click.Path(), help="Work in this empty folder, and keep it.")
@options.verbose
def command(folder: str | None, verbose: bool) -> int:
    """Run a self-contained demo on local servers: a good origin, and mirrors that are slow or dead, break off, or
    send wrong bytes.

    It uses no network. Without --folder nothing is left behind.

    \b
    Example:
      orch demo --folder /tmp/demo

    Exit codes: 0 everything came out as expected, else 1.
    """
    from orchestrator.demo.show import run_demo

    context = context_with_signals(grace_s=_TIDY_S)
    try:
        return run_demo(context, folder, verbose=verbose)
    except Exception as error:
        return tell_error(context, error)
