"""The output of plan, status and verify: a table on a terminal, else a line for each file; hints once at the end."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TextIO

from orchestrator import events
from orchestrator.render.sink import INTERRUPTED, amount, error_lines, label, told_hint, was_only_ended
from orchestrator.render.table import Column, table
from orchestrator.render.table import line as table_line
from orchestrator.render.terminal import painted, style_of, width, wrap
from orchestrator.render.words import action_word, closing, host, line, state_word
from orchestrator.text import cells, counted, shown_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.model import Wanted
    from orchestrator.render.bars import Live

_STATE, _SIZE = 11, 8  # cells of a table whose rows are printed as they come
_SAID_BY_STATE = ("absent", "outdated", "unverified", INTERRUPTED)  # a word says it all of these
_TOLD = 10  # problems that are told in full below a table, and hints
_STYLES = {
    "present": "green", "good": "green", "warm": "green", "download": "cyan", "place": "cyan", "adopt": "cyan",
    "absent": "yellow", "outdated": "yellow", "unverified": "yellow", "read": None, "cold": "yellow", "left": "yellow",
    "repair": "yellow", "unlocked": "yellow",
}  # fmt: skip


class _Row(NamedTuple):
    """A file in a table: its state, its name, its size, where it is or comes from, and by what."""

    state: str
    name: str
    size: str = ""
    where: str = ""
    by: str = ""


class Listing:
    """A sink for commands whose result is text on stdout; `quiet` prints only what is wrong.

    On a terminal it makes a table that fits its width, and shows on stderr how far a long reading is. Elsewhere each
    file is a line with its full text. What a stop left unread is told at the end of a quiet run, and not where
    --max-time was the stop: the next run goes on.

    Args:
        out: where to.
        quiet: print only what is wrong.
        verb: the first word of the closing line; without one there is none.
        colour: whether to write colours.
        streams: print the rows of a table as they come: of a command that reads for hours.
    """

    def __init__(
        self, out: TextIO, *, quiet: bool, verb: str = "", colour: bool = False, streams: bool = False
    ) -> None:
        self._out, self._quiet, self._verb, self._colour, self._streams = out, quiet, verb, colour, streams
        self._screen = width(out)
        self._width = self._screen if verb and not quiet else None  # of the table
        self._hints: dict[str, None] = {}
        self._held: list[str] = []
        self._rows: list[_Row] = []
        self._is_headed = False
        self._wanted: dict[tuple[str, str], Wanted] = {}
        self._live: Live | None = None

    def know(self, wanted: Sequence[Wanted]) -> None:
        """Take the files of which the events will tell: a table shows their sizes and places."""
        if self._width is not None:
            self._wanted = {(w.model, w.file): w for w in wanted}

    def __call__(self, event: Event) -> None:
        """Write one file's line, or hold its row of the table."""
        match event:
            # First, because a plan has a hundred thousand of these.
            case events.Foreseen() | events.Warmed() | events.Finished(how="present") | events.Verified():
                if self._quiet:
                    return
                if self._width is None:
                    self._write(_line(event))
                else:
                    self._row(self._row_of(event))
            case events.Reading():
                self._read(event)
            case events.GaveUp():
                self._fail(event)
            case _ if self._quiet:
                return
            case events.LeftBehind():
                self._hints[told_hint(event.hint, "")] = None
                self._write(line(event) or "")
            case events.Noticed():
                self._write(line(event) or "")
            case events.Measured():
                self._tell(line(event) or "")
            case _:
                return

    def _fail(self, event: events.GaveUp) -> None:
        self._hints[told_hint(event.hint, event.code)] = None
        name, message, state = label(event.model, event.file), shown_lines(event.message), state_word(event)
        is_named = message.startswith(f"{name}: ")
        if is_named and self._screen is not None:
            text = f"{state:<8} {message}"
        else:  # two columns, and the name once
            text = f"{state:<8} {name}  {message.removeprefix(f'{name}: ')}"
        if self._quiet and event.fault == INTERRUPTED:
            self._held.append(text)
        elif self._width is None:
            self._write(text)
        else:
            size = self._size(event)
            if event.have_bytes:
                size = f"{amount(event.have_bytes)} of {size}"
            self._row(_Row(state, name, size, self._place(event)))
            if event.fault not in _SAID_BY_STATE:
                self._held.append(f"{state}: {message}")

    def _tell(self, text: str) -> None:
        """Write a line, below the table where there is one."""
        if self._width is None:
            self._write(text)
        else:
            self._held.append(text)

    def _row_of(self, event: Event) -> _Row:
        match event:
            case events.Foreseen():
                size = "?" if event.size_bytes is None else amount(event.size_bytes)
                origin = host(event.source) if event.source else event.why
                origin += f" (resumes, {amount(event.have_bytes)} are here)" if event.have_bytes else ""
                return _Row(action_word(event.action), label(event.model, event.file), size, origin, event.backend)
            case events.Warmed():
                state = (line(event) or "").split(" ", 1)[0]
                return _Row(state, label(event.model, event.file), amount(event.size_bytes), event.path)
            case _:
                assert isinstance(event, (events.Finished, events.Verified))
                word = "good" if isinstance(event, events.Verified) else "present"
                size, place = self._size(event), "" if self._verb == "plan" else self._place(event)
                return _Row(word, label(event.model, event.file), size, place)

    def _size(self, event: events.Finished | events.Verified | events.GaveUp) -> str:
        wanted = self._wanted.get((event.model, event.file))
        known = wanted.size if wanted is not None else None
        size = known if known is not None else getattr(event, "size_bytes", 0)
        return amount(size) if size else "?"

    def _place(self, event: events.Finished | events.Verified | events.GaveUp) -> str:
        wanted = self._wanted.get((event.model, event.file))
        places = [place.path for place in wanted.places] if wanted is not None else []
        # Of several the one that is wrong is meant.
        named = next((path for path in places if getattr(event, "message", "").startswith(f"{path}: ")), "")
        return named or next(iter(places), "")

    def _row(self, row: _Row) -> None:
        if not self._streams:
            self._rows.append(row)
            return
        columns, room = _columns("")[:3], max(12, (self._width or 80) - _STATE - _SIZE - 4)
        widths = (_STATE, room, _SIZE)
        if not self._is_headed:
            self._is_headed = True
            self._write_head(table_line(columns, widths, [column.head for column in columns]))
        self._write_row(row.state, table_line(columns, widths, row[:3]))

    def _table(self) -> None:
        """Write the rows, those that are in place first: what is not is seen without scrolling."""
        rows = sorted(self._rows, key=lambda row: row.state not in ("present", "good"))
        if self._verb == "plan":
            rows = [row for row in rows if row.state != "present"]  # the closing line counts them
        if not rows:
            return
        head, *lines = table(_columns(self._verb), rows, self._width)
        self._write_head(head)
        for row, text in zip(rows, lines, strict=True):
            self._write_row(row.state, text)

    def _write_head(self, text: str) -> None:
        self._put(painted(text, "bold", colour=self._colour))

    def _write_row(self, state: str, text: str) -> None:
        """Write a line of the table with its first word in the colour of its state."""
        self._put(painted(state, _STYLES.get(state, "red"), colour=self._colour) + text.removeprefix(state))

    def _read(self, event: events.Reading) -> None:
        """Show how far a reading is, where stderr is a terminal."""
        if self._live is None:
            if self._quiet or not sys.stderr.isatty():
                return
            from orchestrator.render.bars import Live

            self._live = Live(sys.stderr, colour=self._colour)
        with self._live.lock, suppress(OSError, ValueError):
            self._live.take(event)

    def tell(self, error: OrchError) -> None:
        """Write an error that ended the command to stderr, and what to type next."""
        self._end_live()
        colour = self._colour and sys.stderr.isatty() >= self._out.isatty()  # it was decided for stdout
        screen = width(sys.stderr)
        for text in error_lines(error):
            wraps = screen is not None and text.startswith(("error: ", "hint: "))  # a manifest's line stays as it is
            for each in (wrap(text, screen or 80) if wraps else text).split("\n"):
                print(painted(each, style_of(text), colour=colour), file=sys.stderr)

    def close(self, summary: Summary) -> None:
        """Write the table, what is wrong in full, the hints and the closing line."""
        self._end_live()
        if self._quiet and (summary.ok or was_only_ended(summary)):
            return
        self._table()
        held = self._held if self._quiet else self._held[:_TOLD]
        for text in held:
            self._write(text)
        if len(self._held) > len(held):
            self._write(f"... and {len(self._held) - len(held):,} more (`--json` tells all)")
        for hint in list(self._hints)[:_TOLD]:
            self._write(f"hint: {hint}")
        if (more := len(self._hints) - _TOLD) > 0:
            self._write(f"... and {counted(more, 'more hint')} (`--json` tells all)")
        if self._verb:
            self._write(closing(summary, self._verb), "green" if summary.ok else "red")

    def _end_live(self) -> None:
        if self._live is not None:
            with self._live.lock:
                self._live.end()

    def _write(self, text: str, style: str | None = None) -> None:
        if self._screen is not None:
            text = wrap(text, self._screen)
        if self._colour:
            style = style or style_of(text)
            text = "\n".join(painted(each, style, colour=True) for each in text.split("\n"))
        self._put(text)

    def _put(self, text: str) -> None:
        try:
            if self._live is None:
                self._out.write(text + "\n")
                return
            with self._live.paused():
                self._out.write(text + "\n")
                self._out.flush()
        except (OSError, ValueError):  # stdout may be closed: the exit code still tells
            pass


def _line(event: Event) -> str:
    """The line of one file for those who read no table."""
    if isinstance(event, (events.Foreseen, events.Warmed)):
        return line(event) or ""
    assert isinstance(event, (events.Finished, events.Verified))
    word = "good" if isinstance(event, events.Verified) else "present"
    return f"{word:<8} {label(event.model, event.file)}"


def _columns(verb: str) -> tuple[Column, ...]:
    where = "FROM" if verb == "plan" else "PLACE"
    return (
        Column("ACTION" if verb == "plan" else "STATE"),
        Column("FILE", least=16),
        Column("SIZE", right=True),
        Column(where, least=14, rank=2),
        Column("WITH", rank=1),
    )


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Format rows as lines with aligned columns; the last column is not padded."""
    safe = [[shown_lines(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(*safe, strict=True)]
    for row in safe:
        parts = [cell + " " * (width - cells(cell)) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join((*parts, row[-1])).rstrip()


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], out: TextIO, *, colour: bool = False) -> None:
    """Print a table that fits the terminal which `out` is; where it is none, with the full text."""
    for number, text in enumerate(table(columns, rows, width(out))):
        out.write(painted(text, None if number else "bold", colour=colour) + "\n")
