"""The command `orch`: words in, objects wired, events to a renderer, errors to an exit code. No logic."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from orchestrator.cli import signals

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `orch` with `argv` and give its exit code; without, be the process's own command and end the process.

    The process ends by `os._exit`: the interpreter's own end would wait for threads that hang in a resolver, print
    about streams that cannot be flushed, and die of a signal that comes so late.
    """
    if argv is not None:
        return _run(argv)
    signals.take(signals.end_before_work)
    sys.unraisablehook = _only_what_nobody_asked_for
    from orchestrator.cli import streams

    streams.guard()
    code = streams.account(_run(sys.argv[1:]), lost=8)
    if atexit := sys.modules.get("atexit"):
        atexit._run_exitfuncs()
    streams.flush()
    os._exit(code)


def _run(argv: Sequence[str]) -> int:
    gc.disable()  # until the plan stands: what is imported and read by then stays to the end
    import click

    from orchestrator.cli.app import app
    from orchestrator.errors import ExitCode, Stopped

    try:
        code = app.main(args=list(argv), prog_name="orch", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt, Stopped):
        return int(ExitCode.INTERRUPTED)
    finally:
        gc.freeze()  # it all goes with the process: its last collection need not walk it
        gc.enable()
    return code if isinstance(code, int) else 0


def _only_what_nobody_asked_for(unraisable: sys.UnraisableHookArgs) -> None:
    """Keep quiet about a stop that was asked for just when an object was being thrown away."""
    if unraisable.exc_type.__name__ not in ("Stopped", "KeyboardInterrupt"):
        sys.__unraisablehook__(unraisable)
