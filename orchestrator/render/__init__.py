"""Show events to people and programs; `choose` picks the sink by where the output goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Stop
    from orchestrator.render.sink import Sink


def choose(
    environ: Mapping[str, str],
    *,
    json: bool,
    quiet: bool,
    verbose: bool,
    err: TextIO | None = None,
    verb: str = "sync",
    plain: bool = False,
    stop: Stop | None = None,
) -> Sink:
    """Make the sink of a command: JSON lines on stdout, bars on a terminal, or plain lines on stderr.

    Args:
        environ: for TERM and NO_COLOR.
        json, quiet, verbose: the command's options.
        err: where to write instead of stderr.
        verb: the first word of the last line.
        plain: no bars, because the command may ask a question.
        stop: may interrupt the main thread, but not while it draws bars.
    """
    err = err or sys.stderr
    # Only the chosen sink is imported.
    if json:
        from orchestrator.render.json_lines import JsonLines

        return JsonLines(sys.stdout)
    if quiet or plain or not err.isatty() or environ.get("TERM") == "dumb":
        from orchestrator.render.plain import Lines

        return Lines(err, quiet=quiet, verbose=verbose, verb=verb)
    from orchestrator.render.bars import Bars

    return Bars(err, verbose=verbose, colour=not environ.get("NO_COLOR"), verb=verb, stop=stop)
