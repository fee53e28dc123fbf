"""The backends: one module for each download program, the best for one large file first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.backends import aria2c, axel, curl, rsync, wget

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend

BACKENDS: tuple[Backend, ...] = (aria2c, axel, curl, wget, rsync)


def by_name(name: str) -> Backend | None:
    """Find a backend by its program's name."""
    return next((backend for backend in BACKENDS if name == backend.NAME), None)
