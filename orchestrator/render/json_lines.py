"""JSON lines: each event as one object with `event`, `time` and the event's fields; the summary is the last."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.errors import ManifestError
from orchestrator.events import Noticed
from orchestrator.render.sink import completed_hint

if TYPE_CHECKING:
    from orchestrator.errors import OrchError, Problem
    from orchestrator.events import Event, Summary


class JsonLines:
    """A sink for programs; each line is flushed at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Write one event, named as its class in snake case."""
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        self.write(snake(type(event).__name__), _with_hint(fields))

    def problem(self, problem: Problem) -> None:
        """Write one problem of a manifest."""
        self.write("problem", {name: getattr(problem, name) for name in problem.__struct_fields__})

    def tell(self, error: OrchError) -> None:
        """Write an error that ended the command; of a manifest, each problem."""
        if isinstance(error, ManifestError):
            for problem in error.problems:
                self.problem(problem)
        else:
            hint = completed_hint(error.hint, error.code)
            self(Noticed(f"{error.message}; {hint}" if hint else error.message, error.code))

    def close(self, summary: Summary) -> None:
        """Write the summary; events that come later, from threads that nobody waits for, are dropped."""
        fields = summary.as_dict()
        fields["failed"] = [_with_hint(each) for each in fields["failed"]]
        self._write("summary", fields, last=True)

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write one line; its `time` is ISO 8601, UTC."""
        self._write(event, fields)

    def _write(self, event: str, fields: dict[str, Any], *, last: bool = False) -> None:
        import json  # imported at the first line: every command imports this sink, few write to it

        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with self._lock, suppress(OSError, ValueError):  # stdout may be closed: the work goes on
            if self._closed:
                return
            self._closed = last
            self._out.write(json.dumps({"event": event, "time": now, **fields}) + "\n")
            self._out.flush()


def _with_hint(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event, with the commands in its hint as a person would be told them."""
    if hint := fields.get("hint"):
        fields["hint"] = completed_hint(hint, fields.get("code", ""))
    return fields


def snake(name: str) -> str:
    """Convert a class name to snake case: GaveUp -> gave_up."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
