"""The output of plan, status and verify: one line for each file on stdout, each hint once at the end."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from orchestrator import events
from orchestrator.render.sink import error_lines, label
from orchestrator.render.words import closing, line
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary


class Listing:
    """A sink for commands whose result is text on stdout; `quiet` prints only what is wrong."""

    def __init__(self, out: TextIO, *, quiet: bool, verb: str = "") -> None:
        self._out, self._quiet, self._verb = out, quiet, verb
        self._hints: dict[str, None] = {}

    def __call__(self, event: Event) -> None:
        """Write one file's line."""
        match event:
            case events.GaveUp():
                self._hints[shown_lines(event.hint)] = None
                self._write(f"{event.fault:<8} {label(event.model, event.file)}  {shown_lines(event.message)}")
            case _ if self._quiet:
                return
            case events.LeftBehind():
                self._hints[shown_lines(event.hint)] = None
                self._write(line(event) or "")
            case events.Foreseen() | events.Measured() | events.Noticed() | events.Warmed():
                self._write(line(event) or "")
            case events.Finished(how="present") | events.Verified():
                word = "good" if isinstance(event, events.Verified) else "present"
                self._write(f"{word:<8} {label(event.model, event.file)}")
            case _:
                return

    def tell(self, error: OrchError) -> None:
        """Write an error that ended the command to stderr, and what to type next."""
        for text in error_lines(error):
            print(text, file=sys.stderr)

    def close(self, summary: Summary) -> None:
        """Write the hints and the closing line."""
        if self._quiet and summary.ok:
            return
        for hint in self._hints:
            self._write(f"hint: {hint}")
        if self._verb:
            self._write(closing(summary, self._verb))

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # stdout may be closed: the exit code still tells
            self._out.write(text + "\n")


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Format rows as lines with aligned columns; the last column is not padded."""
    safe = [[shown_lines(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    for row in safe:
        cells = (cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        yield "  ".join((*cells, row[-1])).rstrip()
