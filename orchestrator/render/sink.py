"""The interface of a sink, and how all sinks write names and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary


class Sink(Protocol):
    """Gets every event of a run, from any thread, and then the summary once."""

    def __call__(self, event: Event) -> None:
        """Show one event; never raises, so that it cannot disturb the transfer that emitted it."""

    def tell(self, error: OrchError) -> None:
        """Show an error that ended the command: a line a problem, and what to type next."""

    def close(self, summary: Summary) -> None:
        """Show the summary."""


class Tee:
    """A sink that passes everything on to several."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        for sink in self._sinks:
            sink(event)

    def tell(self, error: OrchError) -> None:
        """Pass an error on."""
        for sink in self._sinks:
            sink.tell(error)

    def close(self, summary: Summary) -> None:
        """Pass the summary on."""
        for sink in self._sinks:
            sink.close(summary)


def error_lines(error: OrchError) -> list[str]:
    """An error that ended a command as lines for people."""
    lines = [f"error: {shown_lines(line)}" for line in error.message.splitlines()]
    return [*lines, f"hint: {shown_lines(error.hint)}"] if error.hint else lines


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
