"""Plain lines on stderr, for logs, pipes and cron; with --quiet only if something failed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TextIO

from orchestrator import events
from orchestrator.render.words import closing, line

if TYPE_CHECKING:
    from orchestrator.events import Event, Summary


class Lines:
    """A sink that writes one line for each event; `quiet` holds errors back until the run has failed."""

    def __init__(self, out: TextIO, *, quiet: bool = False, verbose: bool = False, verb: str = "sync") -> None:
        self._out, self._quiet, self._verbose, self.verb = out, quiet, verbose, verb
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._errors: set[str] = set()
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Write one event, or hold it back."""
        if self._quiet and not isinstance(event, (events.GaveUp, events.Mismatched)):
            return
        text = line(event, verbose=self._verbose)
        if text is None:
            return
        with self._lock:
            if self._closed:  # an event of a thread that nobody waits for
                return
            if isinstance(event, events.GaveUp):
                if text in self._errors:  # one cause may end many files
                    return
                self._errors.add(text)
            if not self._quiet:
                self._write(text)
            else:
                self._held.append(text)

    def close(self, summary: Summary) -> None:
        """Write what was held back if the run failed, and the closing line."""
        with self._lock:
            self._closed = True
            if self._quiet and summary.ok:
                return
            for text in self._held:
                self._write(text)
            self._write(closing(summary, self.verb))

    def _write(self, text: str) -> None:
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (OSError, ValueError):  # a closed or full stderr must not end a transfer
            return
