"""Show events to people and programs; `choose` picks the sink by where the output goes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal, TextIO

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
    log_file: str | None = None,
    log_format: Literal["text", "json"] | None = None,
    err: TextIO | None = None,
    verb: str = "sync",
    plain: bool = False,
    stop: Stop | None = None,
    state: str | None = None,
) -> Sink:
    """Make the sink of a command: JSON lines on stdout, bars on a terminal, or plain lines on stderr; and a log.

    Args:
        environ: for TERM and NO_COLOR.
        json, quiet, verbose: the command's options.
        log_file: to this file each event is appended as well, whatever else is shown.
        log_format: the log's form: lines with a time stamp, or JSON; without a log file that of stderr.
        err: where to write instead of stderr.
        verb: the first word of the last line.
        plain: no bars, because the command may ask a question.
        stop: may interrupt the main thread, but not while it draws bars.
        state: the folder of the local state, where a quiet run remembers what it has warned of.

    Raises:
        OSError: the log file cannot be opened.
    """
    err = err or sys.stderr
    is_log = log_format is not None and log_file is None
    # Only the chosen sink is imported.
    sink: Sink
    if json or (is_log and log_format == "json"):
        from orchestrator.render.json_lines import JsonLines

        sink = JsonLines(sys.stdout if json else err)
    elif quiet or plain or is_log or not err.isatty() or environ.get("TERM") == "dumb":
        from orchestrator.render.plain import Lines

        sink = Lines(err, quiet=quiet, verbose=verbose, verb=verb, stamped=is_log, state=state)
    else:
        from orchestrator.render.bars import Bars

        sink = Bars(err, verbose=verbose, colour=not environ.get("NO_COLOR"), verb=verb, stop=stop)
    if log_file is None:
        return sink
    from orchestrator.render.sink import Tee

    return Tee(sink, _log(log_file, log_format, verb))


def _log(path: str, form: Literal["text", "json"] | None, verb: str) -> Sink:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    out = open(fd, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - it is open as long as the process
    if form == "json":
        from orchestrator.render.json_lines import JsonLines

        return JsonLines(out)
    from orchestrator.render.plain import Lines

    return Lines(out, verbose=True, verb=verb, stamped=True)
