"""What a renderer is, and what all of them share."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orchestrator.events import Event, Summary


class Sink(Protocol):
    """Takes every event of a run, from any thread, then the summary once."""

    def __call__(self, event: Event) -> None:
        """Take one event; must never hurt the transfer that sent it."""

    def close(self, summary: Summary) -> None:
        """Say how the run ended."""


def harmless(text: str) -> str:
    """Make control and bidirectional characters of servers and manifests visible: nothing may steer a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else f"\\x{ord(c):02x}" for c in text
    )


def label(model: str, file: str) -> str:
    """What people call a file: its model, and its own name where that says more."""
    return harmless(model if not file else f"{model}/{file}")


def amount(size_bytes: float) -> str:
    """A size for people, 1024-based."""
    for unit in ("B", "K", "M", "G"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}T"
