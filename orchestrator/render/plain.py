"""Plain lines for pipes and cron on stderr, and with time stamps for a log file; with --quiet only failures."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from orchestrator import events, local_state
from orchestrator.render.sink import error_lines, label, was_only_ended
from orchestrator.render.terminal import painted, style_of
from orchestrator.render.totals import Totals
from orchestrator.render.words import SharedFailures, closing, heartbeat, line
from orchestrator.text import shown_lines, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary, Warned

HEARTBEAT_S = 30.0
_REMIND_S = 86400.0  # a mirror that is dead is told once in so long
_FORGET_S = 30 * 86400.0


class Lines:
    """A sink that writes one line for each event, and one every 30 s while something is downloaded.

    Args:
        out: where to.
        quiet: hold errors back until the run has failed, and leave out the rest; warnings are told, and the pins that a
            lock changes.
        verbose: write each program's command, too.
        verb: the first word of the last line.
        stamped: put the time before each line (ISO 8601 with the zone's offset).
        state: the folder of the local state, which remembers what a quiet run has warned of; None: always warn.
        colour: whether to write colours, as a terminal without bars and some logs of CI show them.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        quiet: bool = False,
        verbose: bool = False,
        verb: str = "sync",
        stamped: bool = False,
        state: str | None = None,
        colour: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._quiet, self._verbose, self.verb = out, quiet, verbose, verb
        self._stamped, self._state, self._clock, self._colour = stamped, state, clock, colour
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._errors: set[str] = set()
        self._failures = SharedFailures()
        self._closed = False
        self._totals = Totals()
        self._beat = clock()

    def __call__(self, event: Event) -> None:
        """Write one event, or hold it back."""
        if type(event) is events.Finished and event.how == "present" and self._totals.is_idle:
            return  # first, because a run with nothing to do has one of these for each file
        is_new_pin = isinstance(event, events.Changed) and bool(event.old and event.new)
        if self._quiet and not (is_new_pin or isinstance(event, (events.GaveUp, events.Mismatched))):
            return
        if isinstance(event, events.GaveUp) and event.shared:  # told at the end, all in one line
            with self._lock:
                self._failures.add(event)
                if not self._quiet:
                    self._count(event)
            return
        text = line(event, verbose=self._verbose)
        with self._lock:
            if self._closed:  # an event of a thread that nobody waits for
                return
            if not self._quiet:
                self._count(event)
            if text is None:
                return
            if isinstance(event, events.GaveUp):
                if text in self._errors:  # one cause may end many files
                    return
                self._errors.add(text)
            if not self._quiet or is_new_pin:
                self._write(text)
            else:
                self._held.append(text)

    def _count(self, event: Event) -> None:
        now = self._clock()
        self._totals.add(event, now)
        if isinstance(event, events.Planned):
            self._beat = now
        elif now - self._beat < HEARTBEAT_S:
            return
        elif isinstance(event, events.Progressed):
            self._beat = now
            self._write(f"{self.verb}: {heartbeat(self._totals)}")
        elif isinstance(event, events.Reading) and event.done_bytes < event.size_bytes:
            self._beat = now
            name, far = label(event.model, event.file), 100 * event.done_bytes // event.size_bytes
            self._write(f"{self.verb}: {event.doing} {name}, {far} % of {size_text(event.size_bytes)}")

    def tell(self, error: OrchError) -> None:
        """Write an error that ended the command, and what to type next."""
        with self._lock:
            for text in error_lines(error):
                self._write(text)

    def close(self, summary: Summary) -> None:
        """Write what was held back if the run failed, and the closing line; warnings always."""
        with self._lock:
            self._closed = True
            if self._quiet and (summary.ok or was_only_ended(summary)):
                for warning in self._due(summary.warnings):
                    more = ""
                    if warning.host and not warning.urgent:
                        look = f"orch mirrors {summary.manifest}".strip()
                        more = f"; the files came from other sources: `{look}`"
                    self._write(f"warning: {shown_lines(warning.message + more)}")
                return
            for text in (*self._held, *self._failures.lines()):
                self._write(text)
            for warning in summary.warnings if self._quiet else ():
                if not warning.host:
                    self._write(f"warning: {shown_lines(warning.message)}")
            self._write(closing(summary, self.verb))

    def _due(self, warnings: Sequence[Warned]) -> list[Warned]:
        """The warnings to write now: wrong bytes always, a host that fails if that was not said within a day."""
        lasting = {warning.host for warning in warnings if not warning.urgent}
        told = _Told(self._state) if self._state and lasting else None
        due = [w for w in warnings if w.urgent or told is None or told.is_due(w.host)]
        if told is not None:
            told.save()
        return due

    def _write(self, text: str) -> None:
        if self._stamped:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            text = "\n".join(f"{now} {each}" for each in text.splitlines())
        elif self._colour:
            text = "\n".join(painted(each, style_of(each), colour=True) for each in text.splitlines())
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (OSError, ValueError):  # a closed or full stderr must not end a transfer
            return


class _Told:
    """When quiet runs warned of each host: `warned.json` in the local state. Losing it costs a line."""

    def __init__(self, state: str) -> None:
        import json  # here and below: a run with nothing to do warns of nothing

        self._path, self._now = f"{state}/warned.json", time.time()
        self._times: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            with local_state.open_to_read(self._path) as file:
                known = json.loads(file.read(1 << 20))
            self._times = {str(host): float(when) for host, when in known.items()}

    def is_due(self, host: str) -> bool:
        """Whether to warn of a host now; from then on it is not due."""
        # The machine's clock may have been ahead when it was written.
        is_due = not 0 <= self._now - self._times.get(host, 0.0) < _REMIND_S
        if is_due:
            self._times[host] = self._now
        return is_due

    def save(self) -> None:
        """Write it; a disk that cannot be written is ignored."""
        import json

        from orchestrator.files import write_atomic

        kept = {host: when for host, when in self._times.items() if self._now - when < _FORGET_S}
        with suppress(OSError):
            local_state.make_folder(os.path.dirname(self._path))
            write_atomic(self._path, json.dumps(kept).encode())
