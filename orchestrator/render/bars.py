"""Progress bars on a terminal (rich): one for each transfer and one for all; at the end a table of the files."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from textwrap import fill
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from orchestrator import events
from orchestrator.context import Stop
from orchestrator.render.sink import amount, error_lines, label
from orchestrator.render.totals import Totals
from orchestrator.render.words import clock, closing, host, label_of, line

if TYPE_CHECKING:
    from rich.progress import Task

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary


# Columns that a line keeps for sizes, rate, time left, and a bar of some ten cells at 80 columns.
_OTHER_COLUMNS = 38
_LEAST_LABEL = 12
_ROWS = 40


class Bars:
    """A sink for a terminal; there are bars only while something is downloaded."""

    def __init__(
        self, out: TextIO, *, verbose: bool = False, colour: bool = True, verb: str = "sync", stop: Stop | None = None
    ) -> None:
        self._console = Console(file=out, no_color=not colour, highlight=False)
        self._verbose, self.verb = verbose, verb
        self._lock = threading.Lock()
        self._closed = False
        self._stop = stop or Stop()
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._total: TaskID | None = None
        self._totals = Totals()
        self._errors: set[str] = set()
        self._finished: list[events.Finished] = []  # the first few: a run may have a hundred thousand
        self._unlisted = 0
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            DownloadedColumn(),
            TimeLeftColumn(self._totals),
            console=self._console,
            transient=True,
            expand=True,
        )

    def __call__(self, event: Event) -> None:
        """Move a bar or print a line above the bars."""
        # The terminal may be gone: the work goes on. A stop must not leave half a bar drawn.
        with self._stop.deferred(then_raise=True), self._lock, suppress(OSError, ValueError):
            if self._closed:  # an event of a thread that nobody waits for
                return
            self._totals.add(event, time.monotonic())
            match event:
                case events.Planned(_, to_fetch, size) if to_fetch:
                    self._total = self._progress.add_task("in all", total=size or None, sums=True)
                    self._progress.start()
                case events.Started():
                    self._bar(event)
                case events.Progressed():
                    self._move(event)
                case events.Finished() | events.GaveUp():
                    self._end(event)
                case _:
                    pass
            text = line(event, verbose=self._verbose)
            if isinstance(event, events.GaveUp):
                text = None if text in self._errors else text  # one cause may end many files
                self._errors.add(text or "")
            silent = (
                (events.Planned, events.Finished)
                if self._verbose
                else (events.Planned, events.Finished, events.Started)
            )
            if text is not None and not isinstance(event, silent):
                wrapped = escape(_wrap(text, self._console.width))
                self._console.print(wrapped, style=_style(event), overflow="ignore", crop=False)

    def _bar(self, event: events.Started) -> None:
        key, have = (event.model, event.file), event.have_bytes
        who = f"{event.backend} {_short(host(event.source), 24)}"
        room = max(_LEAST_LABEL, self._console.width - _OTHER_COLUMNS - len(who) - 2)
        description = escape(f"{_short(label_of(event), room)}  {who}")
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(description, total=event.size_bytes, completed=have)
        else:  # a new attempt: the rate of the last one says nothing of this one's
            self._progress.reset(self._bars[key], description=description, total=event.size_bytes, completed=have)
        kept = have > self._done.get(key, 0)
        self._done[key] = have
        self._sum(anew=kept)  # bytes of an earlier run were not downloaded now

    def _move(self, event: events.Progressed) -> None:
        key = (event.model, event.file)
        if key in self._bars:
            self._progress.update(self._bars[key], completed=event.done_bytes, total=event.size_bytes)
            self._done[key] = event.done_bytes
        self._sum()

    def _sum(self, *, anew: bool = False) -> None:
        if self._total is None:
            return
        done = sum(self._done.values())
        full = self._progress.tasks[0].finished  # which rich does not reset
        if anew or (full and done < self._progress.tasks[0].completed):
            self._progress.reset(self._total, completed=done)
        else:
            self._progress.update(self._total, completed=done)

    def _end(self, event: events.Finished | events.GaveUp) -> None:
        key = (event.model, event.file)
        if key in self._bars:
            self._progress.remove_task(self._bars.pop(key))
        if not isinstance(event, events.Finished) or event.how == "present":
            return
        if len(self._finished) < _ROWS:
            self._finished.append(event)
        else:
            self._unlisted += 1

    def tell(self, error: OrchError) -> None:
        """Print an error that ended the command, and what to type next."""
        with self._lock, suppress(OSError, ValueError):
            self._progress.stop()
            for text in error_lines(error):
                self._console.print(escape(text), soft_wrap=True)

    def close(self, summary: Summary) -> None:
        """Remove the bars, and print the table and the closing line."""
        with self._lock, suppress(OSError, ValueError):
            self._closed = True
            self._progress.stop()
            if self._finished:
                self._console.print(self._table())
            style = "green" if summary.ok else "red"
            self._console.print(escape(closing(summary, self.verb)), style=style)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("file", "size", "how", "from"):
            table.add_column(name, overflow="fold", justify="right" if name == "size" else "left")
        for f in self._finished:
            origin = f"{host(f.source)} ({f.backend})" if f.backend else "store"
            table.add_row(escape(label(f.model, f.file)), amount(f.size_bytes), f.how, escape(origin))
        if self._unlisted:
            table.add_row(f"... {self._unlisted} more", "", "", "")
        return table


def _style(event: Event) -> str | None:
    match event:
        case events.GaveUp() | events.Mismatched():
            return "red"
        case events.Failed() | events.Waiting() | events.Noticed():
            return "yellow"
        case _:
            return None


def _wrap(text: str, width: int) -> str:
    """Wrap at blanks; paths, URLs and commands stay whole, so that they can be copied."""
    words, begin, command = text.partition("\n  $ ")
    lines = (fill(line, width, break_long_words=False, break_on_hyphens=False) for line in words.splitlines())
    return "\n".join(lines) + begin + command


def _short(text: str, width: int = 28) -> str:
    return text if len(text) <= width else f"…{text[-width + 1 :]}"


class DownloadedColumn(ProgressColumn):
    """A column as `37.4/64.0M  12.2M/s`: 1024-based like all sizes of orch, and never wrapped."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right"))

    def render(self, task: Task) -> Text:
        """Draw the column for one bar."""
        rate = f"{amount(task.speed)}/s" if task.speed else ""
        done, whole = amount(task.completed), amount(task.total) if task.total is not None else "?"
        if done[-1] == whole[-1]:
            done = done[:-1].rstrip()
        return Text(f"{done}/{whole} {rate:>8}", style="progress.download")


class TimeLeftColumn(TimeRemainingColumn):
    """A column with the time left; of all files together no less than that of the slowest."""

    def __init__(self, totals: Totals) -> None:
        super().__init__(compact=True, table_column=Column(no_wrap=True))
        self._totals = totals

    def render(self, task: Task) -> Text:
        """Draw the column for one bar."""
        if not task.fields.get("sums"):
            return super().render(task)
        left_s = self._totals.left_s()
        return Text("--:--" if left_s is None else clock(left_s), style="progress.remaining")
