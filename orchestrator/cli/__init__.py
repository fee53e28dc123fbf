"""The command `orch`: parse the command line, call commands/, show events, and turn errors into exit codes."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from orchestrator import __version__
from orchestrator.cli import signals

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `orch` with these arguments; without any, with those of this process, which then ends.

    The process ends by `os._exit`: the interpreter's own end would wait for threads that hang in a resolver, complain
    about streams that cannot be flushed, and die of a signal that comes late.

    Returns:
        The exit code.
    """
    if argv is not None:
        return _run(argv)
    signals.install_handlers(signals.end_before_work)
    sys.unraisablehook = _ignore_stops_in_destructors
    from orchestrator.cli import streams

    streams.guard()
    code = streams.exit_code_after_output(_run(sys.argv[1:]), lost=8)
    if atexit := sys.modules.get("atexit"):
        atexit._run_exitfuncs()
    streams.flush()
    os._exit(code)


def _run(argv: Sequence[str]) -> int:
    gc.disable()  # enabled once the plan is made: what is imported and read until then lives to the end
    if len(argv) == 1 and argv[0] in ("-V", "--version"):  # asked by scripts; click's import takes most of the time
        print(f"orch {__version__}")
        return 0
    import click

    if "_ORCH_COMPLETE" in os.environ:  # a shell asks for completions
        from orchestrator.cli import completion  # noqa: F401 - it brings its own way to speak with bash
    from orchestrator.cli.app import app
    from orchestrator.cli.grammar import tell_usage_error, usage_error_text, warn_of_unknown_variables
    from orchestrator.errors import ExitCode, Stopped

    warn_of_unknown_variables()
    try:
        code = app.main(args=list(argv), prog_name="orch", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if "--json" in _options(argv) or os.environ.get("ORCH_JSON", "0") not in ("", "0"):
            from orchestrator.errors import Problem
            from orchestrator.events import Summary
            from orchestrator.render.json_lines import JsonLines

            sink = JsonLines(sys.stdout)
            sink.problem(Problem("", 0, "", usage_error_text(error)))
            sink.close(Summary(ok=False, exit_code=int(ExitCode.USAGE), version=__version__))
        else:
            tell_usage_error(error)
        return int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt, Stopped):
        return int(ExitCode.INTERRUPTED)
    finally:
        gc.freeze()  # the last collection need not walk what ends with the process
        gc.enable()
    return code if isinstance(code, int) else 0


def _options(argv: Sequence[str]) -> Sequence[str]:
    """The words before `--`: what follows is another command's."""
    return argv[: argv.index("--")] if "--" in argv else argv


def _ignore_stops_in_destructors(unraisable: sys.UnraisableHookArgs) -> None:
    """Print no traceback for a stop that was raised in a destructor."""
    if unraisable.exc_type.__name__ not in ("Stopped", "KeyboardInterrupt"):
        sys.__unraisablehook__(unraisable)
