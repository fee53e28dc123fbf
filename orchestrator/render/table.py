"""PURE: tables for people: columns that fit the width of a terminal, with wide characters counted as two cells.

Written by hand, because a plan may have a hundred thousand rows and `orch status` must start in a tenth of a second:
rich takes as long to be imported, and 20 s for such a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator.text import cells, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAP = "  "


class Column(NamedTuple):
    """A column: its header, whether it is right-aligned, and what may be done to make the table fit.

    `least` is the number of cells down to which its texts may be cut in the middle; 0: they are never cut. Where that
    does not suffice, the columns with a `rank` are left out, the highest first; those with rank 0 stay.
    """

    head: str
    right: bool = False
    least: int = 0
    rank: int = 0


def elide(text: str, width: int) -> str:
    """Cut a text in the middle, so that it takes no more than `width` cells: `model-00001…afetensors`."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    behind = (width - 1) // 2
    return f"{_head(text, width - 1 - behind)}…{_head(text[::-1], behind)[::-1]}"


def _head(text: str, width: int) -> str:
    taken = 0
    for number, char in enumerate(text):
        taken += cells(char)
        if taken > width:
            return text[:number]
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text up with blanks to `width` cells, and cut it where it is longer."""
    text = elide(text, width)
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Format rows below their headers, as lines of at most `width` cells; None: nothing is cut or left out.

    Control characters are escaped, and columns without any text are left out.
    """
    safe = [[shown(cell) for cell in row] for row in rows]
    natural = [max((cells(row[number]) for row in safe), default=0) for number in range(len(columns))]
    widths = _fit(columns, natural, width)
    yield line(columns, widths, [column.head for column in columns])
    for row in safe:
        yield line(columns, widths, row)


def line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    """Format one row with columns of these widths; one of width 0 is left out."""
    parts = zip(row, widths, columns, strict=True)
    return GAP.join(pad(cell, width, right=column.right) for cell, width, column in parts if width).rstrip()


def _fit(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """The width of each column; 0 for one that is left out."""
    wide = [max(found, cells(column.head)) if found else 0 for column, found in zip(columns, natural, strict=True)]
    if width is None:
        return wide
    while True:
        widths = _shrunk(columns, wide, width)
        droppable = [number for number, column in enumerate(columns) if column.rank and wide[number]]
        if _total(widths) <= width or not droppable:
            return widths
        wide[max(droppable, key=lambda number: columns[number].rank)] = 0


def _shrunk(columns: Sequence[Column], wide: Sequence[int], width: int) -> list[int]:
    """Take cells from the widest of the columns that may be cut, until the line fits or nothing is left to take."""
    widths = list(wide)
    for _ in range(_total(widths) - width):
        cuttable = [number for number, column in enumerate(columns) if 0 < column.least < widths[number]]
        if not cuttable:
            break
        widths[max(cuttable, key=lambda number: widths[number])] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    shown_ = [width for width in widths if width]
    return sum(shown_) + len(GAP) * (len(shown_) - 1)
