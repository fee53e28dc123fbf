"""Beside a running program: progress for people, the last good sidecar kept, an overrun ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.transfer.partial import total

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend
    from orchestrator.transfer.state import Effort

PROGRESS_S = 0.5
KEEP_S = 1.0
AXEL_SAVES_S = 10.0  # axel writes its state so often; it begins a cut connection anew for ever


class Watch:
    """Called some five times a second with the bytes that the program has written."""

    def __init__(self, effort: Effort, backend: Backend, good_before: int) -> None:
        self._effort, self._backend, self._before = effort, backend, good_before
        self._told = self._kept = 0.0
        self._least: int | None = None
        self._moved = effort.kit.world.monotonic()

    def __call__(self, written_bytes: int) -> str | None:
        """Do what is due; a word ends the program."""
        holding, now = self._effort.holding, self._effort.kit.world.monotonic()
        length = holding.length()
        if holding.is_too_long():
            return "overrun"
        if now - self._told >= PROGRESS_S:
            self._told = now
            done = self._before + written_bytes if self._backend.SIDECAR else holding.partial.have
            self._effort.emit_progress(min(done, length) if length is not None else done)
        if self._backend.SIDECAR and length is not None and now - self._kept >= KEEP_S:
            self._kept = now
            self._keep_sidecar(length, now)
            if self._backend.NAME == "axel" and now - self._moved > 2 * AXEL_SAVES_S:
                return "hammering"
        return None

    def _keep_sidecar(self, length: int, now: float) -> None:
        partial = self._effort.holding.partial
        content = partial.sidecar(self._backend.SIDECAR)
        if not content:
            return
        least = total(self._backend.missing(content, length, partial.have))
        if self._least is None or least <= self._least:
            self._moved = now if self._least is None or least < self._least else self._moved
            self._least = least
            try:
                partial.keep_sidecar(content)
            except OSError:  # full: what was kept before is still there
                return
