"""Progress bars on a terminal: one for each transfer and each long reading, one for all; at the end what failed.

They are drawn by `terminal.Screen` and not by rich: its `Live` hides the cursor, which a killed process cannot show
again, and leaves half lines behind when the terminal gets narrower, as it moves up by the rows that it wrote.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TextIO

from orchestrator import events
from orchestrator.context import Stop
from orchestrator.render.sink import INTERRUPTED, amount, error_lines, label
from orchestrator.render.table import Column, pad, table
from orchestrator.render.terminal import Screen, can_show, painted, style_of, wrap
from orchestrator.render.totals import Totals
from orchestrator.render.words import SharedFailures, clock, closing, host, hosts, label_of, line, outcome_word
from orchestrator.text import cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.render.totals import Transfer


TICK_S = 0.25  # how often the bars are drawn where nothing happens: the width may have changed, and a rate falls
DRAW_S = 0.1  # they are drawn no more often than this
_LEAST_BAR, _MOST_BAR = 10, 40
_LEAST_LABEL = 12
STORE = "the store"
_FILES = 40  # of the table at the end
_FAILURES = 10  # that are told in full at the end; `--json` tells all
_AMOUNT, _RATE, _LEFT = 14, 9, 7  # cells: `126.2M/451.1M`, `102.5K/s`, `1:02:03`


class _Row(NamedTuple):
    """A row of the bars: what, by whom, and how far; `left_s` None where nobody can say."""

    label: str
    doing: str
    host: str
    done: int
    size: int | None
    rate: float
    left_s: float | None


class Board:
    """What is shown of a run while it goes on: the events make it, `rows` gives it as lines."""

    def __init__(self, *, colour: bool, is_ascii: bool = False) -> None:
        self.totals = Totals()
        self._colour, self._is_ascii = colour, is_ascii
        self._full, self._rest = ("#", "-") if is_ascii else ("━", "─")

    @property
    def is_empty(self) -> bool:
        """Whether nothing goes on."""
        return not self.totals.readings and not any(t.is_running for t in self.totals.transfers.values())

    def rows(self, width: int, height: int) -> list[str]:
        """The rows, none wider than `width` cells, and no more than `height`."""
        if self.is_empty:
            return []
        shown = self._rows()
        more = len(shown) - max(1, height)
        if more > 0:
            shown, more = shown[: max(1, height - 1)], more + 1
        lines = list(self._lines(shown, width - 1))  # the last column stays free: some terminals wrap behind it
        if more > 0 and height > 1:
            lines.append(pad(f"... and {more} more", width - 1).rstrip())
        return [each.replace("…", "~") for each in lines] if self._is_ascii else lines

    def _rows(self) -> list[_Row]:
        totals, shown = self.totals, []
        running = {key: transfer for key, transfer in totals.transfers.items() if transfer.is_running}
        readings = dict(totals.readings)
        if (all_read := readings.pop(("", ""), None)) is not None:
            shown.append(_row(all_read, "total"))
        elif totals.to_fetch > 1 and totals.transfers:
            ended = min(totals.ended, totals.to_fetch)
            size = totals.size_bytes if totals.is_size_known else None
            name = f"total {ended}/{totals.to_fetch} files"
            shown.append(_Row(name, "", "", totals.done_bytes, size, totals.rate, totals.left_s()))
        for key, transfer in (running | readings).items():  # a file that is read in the end was downloaded
            event = transfer.event
            name = label_of(event) if isinstance(event, events.Started) else label(*key)
            shown.append(_row(transfer, name))
        return shown

    def _lines(self, rows: list[_Row], width: int) -> Iterator[str]:
        """The rows as lines: where there is little room, the host goes first, then the program, the bar, the rate."""
        room = width - (_AMOUNT + _LEFT + 2)
        has_rate = room - (_RATE + 1) >= _LEAST_LABEL
        room -= (_RATE + 1) * has_rate
        bar = min(_MOST_BAR, max(_LEAST_BAR, room // 4)) if room - (_LEAST_BAR + 1) >= _LEAST_LABEL else 0
        room -= bar + 1 if bar else 0
        who, by = self._who(rows, room)
        named = min(max(cells(row.label) for row in rows), room - (by + 2 if by else 0))
        for row, text in zip(rows, who, strict=True):
            if named < _LEAST_LABEL // 2:  # a terminal as narrow as this shows what fits
                yield pad(f"{_done(row)} {row.label}", max(0, width)).rstrip()
                continue
            parts = [pad(row.label, named) + (f"  {pad(text, by)}" if by else "")]
            parts += [self._bar(row, bar)] if bar else []
            parts.append(pad(_done(row), _AMOUNT, right=True))
            parts += [pad(f"{amount(row.rate)}/s" if row.rate else "", _RATE, right=True)] if has_rate else []
            parts.append(pad("--:--" if row.left_s is None else clock(row.left_s), _LEFT, right=True))
            yield " ".join(parts)

    @staticmethod
    def _who(rows: list[_Row], room: int) -> tuple[list[str], int]:
        """By whom each is downloaded, as far as there is room beside the names, and the cells that it takes."""
        names = max(cells(row.label) for row in rows)
        programs = [row.doing for row in rows]
        for texts, least in (
            ([f"{row.doing} {row.host}".strip() for row in rows], names),
            (programs, 2 * _LEAST_LABEL),
        ):
            taken = max(map(cells, texts))
            if taken and min(names, least) + 2 + taken <= room:
                return texts, taken
        return [""] * len(rows), 0

    def _bar(self, row: _Row, width: int) -> str:
        full = min(width, width * row.done // row.size) if row.size else 0
        done = painted(self._full * full, "green" if full == width else "cyan", colour=self._colour)
        return done + painted(self._rest * (width - full), "dim", colour=self._colour)


def _row(transfer: Transfer, name: str) -> _Row:
    event = transfer.event
    if isinstance(event, events.Started):
        doing, origin = event.backend, host(event.source)
    else:
        doing, origin = event.doing, ""
    return _Row(name, doing, origin, transfer.done, transfer.size, transfer.rate.value(), transfer.left_s())


def _done(row: _Row) -> str:
    done = amount(row.done)
    if row.size is None:
        return done
    return f"{done}/{amount(row.size)}"


class Live:
    """The board of a run on a terminal, drawn again and again by a thread of its own, and the lines above it."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self.board = Board(colour=colour, is_ascii=not can_show("━─…", out))
        self.screen = Screen(out)
        self.lock = threading.RLock()
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._drawn = 0.0

    def take(self, event: Event) -> None:
        """Move the bars; the caller has the lock.

        Raises:
            OSError, ValueError: the terminal is gone.
        """
        now = time.monotonic()
        was_empty = self.board.is_empty
        self.board.totals.add(event, now)
        if self._ended.is_set() or (was_empty and self.board.is_empty):
            return
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="orch-bars", daemon=True)
            self._ticker.start()
        if now - self._drawn >= DRAW_S or self.board.is_empty:
            self._draw(now)

    def print(self, text: str) -> None:
        """Print a text above the bars; the caller has the lock.

        Raises:
            OSError, ValueError: the terminal is gone.
        """
        self.screen.print(text, self._rows())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without bars while something else writes to the terminal; the next event draws them again."""
        with self.lock:
            with suppress(OSError, ValueError):
                self.screen.draw(())
            yield

    def end(self) -> None:
        """Remove the bars for good; the caller has the lock."""
        self._ended.set()
        with suppress(OSError, ValueError):
            self.screen.draw(())

    def _rows(self) -> list[str]:
        if self._ended.is_set():
            return []
        width, height = self.screen.size
        return self.board.rows(width, height - 1)

    def _draw(self, now: float) -> None:
        self._drawn = now
        self.board.totals.tick(now)
        self.screen.draw(self._rows())

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            with self.lock, suppress(OSError, ValueError):
                if not self._ended.is_set():
                    self._draw(time.monotonic())


class Bars:
    """A sink for a terminal; there are bars only while something is downloaded, read or copied.

    Args:
        out: the terminal.
        verbose: write each program's command, too.
        colour: whether to write colours.
        verb: the first word of the last line.
        stop: may interrupt the main thread, but not while it draws.
    """

    def __init__(
        self, out: TextIO, *, verbose: bool = False, colour: bool = True, verb: str = "sync", stop: Stop | None = None
    ) -> None:
        self._out, self._verbose, self._colour, self.verb = out, verbose, colour, verb
        self._live = Live(out, colour=colour)
        self._closed = False
        self._stop = stop or Stop()
        self._failures: dict[str, None] = {}  # one cause may end many files
        self._shared = SharedFailures()
        self._interrupted: dict[str, None] = {}  # and what to type next
        self._told: list[str] = []
        self._finished: list[events.Finished] = []  # the first few: a run may have a hundred thousand
        self._unlisted = 0

    def __call__(self, event: Event) -> None:
        """Move a bar or print a line above the bars."""
        # The terminal may be gone: the work goes on. A stop must not leave half a line.
        with self._stop.deferred(then_raise=True), self._live.lock, suppress(OSError, ValueError):
            if self._closed:  # an event of a thread that nobody waits for
                return
            if isinstance(event, events.Finished) and event.how != "present":
                self._book(event)
            self._live.take(event)
            if (text := self._text(event)) is not None:
                self._print(text, _style(event))

    def _text(self, event: Event) -> str | None:
        """The line above the bars that tells an event; failures are told in full at the end."""
        match event:
            case events.GaveUp():
                return self._failed(event)
            case events.Planned() | events.Finished():
                return None
            case events.Started() if not self._verbose:
                return None
        return line(event, verbose=self._verbose)

    def _failed(self, event: events.GaveUp) -> str | None:
        if event.fault == INTERRUPTED:
            self._interrupted[line(event) or ""] = None
            return None
        if event.shared:  # of a host that is down, whose files are told all in one line
            self._shared.add(event)
            return None
        self._failures[line(event) or ""] = None
        return f"failed: {label(event.model, event.file)} ({event.fault})"

    def _book(self, event: events.Finished) -> None:
        if len(self._finished) < _FILES:
            self._finished.append(event)
        else:
            self._unlisted += 1

    def tell(self, error: OrchError) -> None:
        """Take an error that ended the command, and what to type next: it is told at the end."""
        with self._live.lock:
            self._told += error_lines(error)

    def close(self, summary: Summary) -> None:
        """Remove the bars; print a table of the files, the closing line, and what failed, where it is seen."""
        with self._live.lock, suppress(OSError, ValueError):
            self._closed = True
            self._live.end()
            for text in self._table():
                self._live.print(text)
            self._print(closing(summary, self.verb), "green" if summary.ok else "red")
            failures = [*self._failures, *self._shared.lines()]
            for text in (*failures[:_FAILURES], *self._told):
                for each in text.splitlines():
                    self._print(each, style_of(each))
            for text in list(self._interrupted)[:_FAILURES]:
                for each in text.splitlines():
                    self._print(each, "cyan" if each.startswith("hint: ") else None)
            if (more := len(failures) - _FAILURES) > 0:
                self._print(f"error: and {more:,} more (`--json` tells all)", "red")

    def _print(self, text: str, style: str | None) -> None:
        wrapped = wrap(text, self._live.screen.size[0])
        self._live.print("\n".join(painted(each, style, colour=self._colour) for each in wrapped.split("\n")))

    def _table(self) -> Iterator[str]:
        """The files that came, as lines."""
        if not self._finished:
            return
        columns = (Column("FILE", least=_LEAST_LABEL), Column("SIZE", right=True), Column("HOW"),
                   Column("FROM", least=8, rank=1), Column("WITH", rank=2))  # fmt: skip
        rows = [
            (
                label(f.model, f.file),
                amount(f.size_bytes),
                outcome_word(f.how),
                hosts(f) if f.backend else "the store",
                f.backend,
            )
            for f in self._finished
        ]
        head, *body = table(columns, rows, self._live.screen.size[0])
        yield painted(head, "bold", colour=self._colour)
        yield from body
        if self._unlisted:
            yield f"... and {self._unlisted:,} more"


def _style(event: Event) -> str | None:
    match event:
        case events.GaveUp() | events.Mismatched():
            return "red"
        case events.Failed() | events.Waiting() | events.Noticed():
            return "yellow"
        case _:
            return None
