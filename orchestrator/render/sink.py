"""The interface of a sink, and how all sinks write names and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.events import Event, Summary


class Sink(Protocol):
    """Gets every event of a run, from any thread, and then the summary once."""

    def __call__(self, event: Event) -> None:
        """Show one event; never raises, so that it cannot disturb the transfer that emitted it."""

    def close(self, summary: Summary) -> None:
        """Show the summary."""


def label(model: str, file: str) -> str:
    """The name of a file for people: its model, and its own name where it has one."""
    return shown_lines(model if not file else f"{model}/{file}")


def amount(size_bytes: float) -> str:
    """A size in bytes as text, 1024-based: `37.4M`."""
    for unit in ("B", "K", "M", "G"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}T"
