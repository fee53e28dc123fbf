"""The command `orch demo`: run the demo."""

from __future__ import annotations

import sys

import click

from orchestrator.cli import options
from orchestrator.cli.session import context_with_signals, foreseen
from orchestrator.render.listing import Listing

_TIDY_S = 10.0  # it leaves nothing behind, which on a busy machine takes longer than a stop


@click.command("demo")
@click.option("--folder", metavar="DIR", type=click.Path(), help="Work in this empty folder and keep it.")
@options.verbose
def command(folder: str | None, verbose: bool) -> int:
    """Show the whole thing on this machine, with no network: a good origin, and mirrors that are slow, lie, break.

    It ends with 0 when all came out as it should. Without --folder nothing is left behind.
    """
    from orchestrator.demo.show import run_demo

    context = context_with_signals(grace_s=_TIDY_S)
    try:
        return run_demo(context, folder, verbose=verbose)
    except Exception as error:
        told = foreseen(context, error)
        Listing(sys.stdout, quiet=True).tell(told)
        return int(told.exit_code)
