"""Rows of words as lines with their columns aligned, for pipes and terminals alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.render.sink import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row as one line; the last column is as long as it likes."""
    safe = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    for row in safe:
        cells = (cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        yield "  ".join((*cells, row[-1])).rstrip()
