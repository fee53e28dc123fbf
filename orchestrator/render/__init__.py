"""Show events to people and programs; `choose` picks the sink by where the output goes."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Literal, TextIO

from orchestrator.render.terminal import wants_colour

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Stop
    from orchestrator.events import Summary
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
    color: str = "auto",
) -> Sink:
    """Make the sink of a command: JSON lines on stdout, bars on a terminal, or plain lines on stderr; and a log.

    Args:
        environ: for TERM, NO_COLOR and FORCE_COLOR.
        json, quiet, verbose: the command's options.
        log_file: to this file each event is appended as well, whatever else is shown.
        log_format: the log's form: lines with a time stamp, or JSON; without a log file that of stderr.
        err: where to write instead of stderr.
        verb: the first word of the last line.
        plain: no bars, because the command may ask a question.
        stop: may interrupt the main thread, but not while it draws bars.
        state: the folder of the local state, where a quiet run remembers what it has warned of.
        color: `auto`, `always` or `never`.

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

        colour = not is_log and wants_colour(color, environ, err)
        sink = Lines(err, quiet=quiet, verbose=verbose, verb=verb, stamped=is_log, state=state, colour=colour)
    else:
        from orchestrator.render.bars import Bars

        sink = Bars(err, verbose=verbose, colour=wants_colour(color, environ, err), verb=verb, stop=stop)
    if log_file is None:
        return sink
    return _with_log(sink, log_file, log_format, verb, verbose=verbose)


class _LogFile(io.TextIOWrapper):
    """The file of --log-file, open as long as the process; it remembers its first error in `lost`."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        super().__init__(open(fd, "ab"), encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self.lost = ""

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.lost = self.lost or (error.strerror or str(error)).lower()
            raise


def _with_log(shown: Sink, path: str, form: Literal["text", "json"] | None, verb: str, *, verbose: bool) -> Sink:
    """A sink that shows events as `shown` does, appends them to a file, and says on stderr where lines were lost."""
    from orchestrator.render.sink import Tee
    from orchestrator.text import shown_lines

    class Logged(Tee):
        def close(self, summary: Summary) -> None:
            super().close(summary)
            if file.lost:
                text = f"warning: --log-file {shown_lines(path)}: {file.lost}: lines are missing from it"
                print(text, file=sys.stderr)

    file = _LogFile(path)
    return Logged(shown, _log(file, form, verb, verbose=verbose))


def _log(out: TextIO, form: Literal["text", "json"] | None, verb: str, *, verbose: bool) -> Sink:
    if form == "json":
        from orchestrator.render.json_lines import JsonLines

        return JsonLines(out)
    from orchestrator.render.plain import Lines

    return Lines(out, verbose=verbose, verb=verb, stamped=True)
