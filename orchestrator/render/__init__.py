"""Events for people and programs: a sink each, chosen by where the output goes."""

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
    """JSON lines on stdout, or talk on stderr: rich bars on a terminal, plain lines elsewhere.

    `verb` begins the last line; `plain` wants no bars, which live to the end and leave no room for a question.
    `stop` is what may interrupt the main thread, which bars must not be.
    """
    err = err or sys.stderr
    # Each sink with what it needs, and no other.
    if json:
        from orchestrator.render.json_lines import JsonLines

        return JsonLines(sys.stdout)
    if quiet or plain or not err.isatty() or environ.get("TERM") == "dumb":
        from orchestrator.render.plain import Lines

        return Lines(err, quiet=quiet, verbose=verbose, verb=verb)
    from orchestrator.render.bars import Bars

    return Bars(err, verbose=verbose, colour=not environ.get("NO_COLOR"), verb=verb, stop=stop)
