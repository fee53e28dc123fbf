"""The command `orch`: words in, objects wired, events to a renderer, errors to an exit code. No logic."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `orch` with `argv` (default: the process's) and give its exit code; only bugs show a traceback."""
    gc.disable()  # until the plan stands: what is imported and read by then stays to the end
    try:
        _have_standard_streams()
        return _run(argv)
    finally:
        gc.freeze()  # it all goes with the process: its last collection need not walk it
        gc.enable()


def _run(argv: Sequence[str] | None) -> int:
    import click

    from orchestrator.cli.app import app
    from orchestrator.errors import ExitCode

    try:
        code = app.main(args=list(argv) if argv is not None else None, prog_name="orch", standalone_mode=False)
        _flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return int(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _flush()
        return int(ExitCode.OK)
    except Exception:
        import traceback

        traceback.print_exc()
        print("error: this is a bug in orch\nhint: please report it with the lines above", file=sys.stderr)
        return int(ExitCode.BUG)
    return code if isinstance(code, int) else 0


def _have_standard_streams() -> None:
    """Open what was closed (`>&-`): else the next file we open would be a child's stdout."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _flush() -> None:
    """Flush what was said; where that cannot be (a closed pipe, a full disk) the work's exit code still counts."""
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)  # or the interpreter's own flush at its end would fail
