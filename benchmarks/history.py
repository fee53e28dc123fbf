"""One line a release: the figures that the releases before are compared with, in `benchmarks/HISTORY.md`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks.report import figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from benchmarks.bench import Row

# The head of each column, and the row that it takes: its scenario, what its figure is of, its unit. The first one
# counts where a scenario has several.
COLUMNS = (
    ("1 GiB near / wire", "P1", "the wire", "x"),
    ("1 GiB far / wire", "P2", "the wire", "x"),
    ("small files / by hand", "P3", "by hand", "x"),
    ("nothing to do / sha256sum", "P4", "by hand", "x"),
    ("sharded / wire", "P5", "the wire", "x"),
    ("sent after ten kills", "P6", "the file's size", "x"),
    ("bad mirrors, more", "P8", "more than without them", "s"),
    ("plan of 100,000", "P9", "", "s"),
    ("its memory", "P9", "of memory", "MB"),
    ("open wire / by hand", "P10", "by hand", "x"),
    ("https, open / by hand", "P10t", "by hand", "x"),
    ("slow disk / dd", "P13", "dd", "x"),
)
WORSE = 1.15  # more than noise, on a machine that is shared
_NONE = "—"
_HEAD = """\
# History

One line a release, by `python -m benchmarks --history` on a quiet machine. Each figure is a ratio, or seconds, as in
[RESULTS.md](RESULTS.md): lower is better. Lines of one machine can be compared, and of one speed: beside its name is
how fast its `sha256sum` reads.

"""


def add(path: Path, rows: Sequence[Row], facts: Mapping[str, str], when: datetime) -> tuple[str, ...]:
    """Append a line to the page, which is made where it is not there.

    Returns:
        What is worse than in the line before by more than noise, in words.
    """
    text = path.read_text() if path.exists() else _HEAD + _line(["orch", "date", "machine", *_heads()]) + _rule()
    before = [cell.strip() for cell in text.rstrip().rpartition("\n")[2].strip("|").split("|")]
    machine = ", ".join(facts[name] for name in ("cores", "sha256sum reads") if name in facts)
    cells = [_figure(rows, *what) for _, *what in COLUMNS]
    path.write_text(text + _line([facts.get("orch", ""), f"{when:%Y-%m-%d}", machine, *cells]))
    pairs = zip(_heads(), before[3:], cells, strict=False)
    return tuple(f"{head}: {now}, was {was}" for head, was, now in pairs if _is_worse(was, now))


def _heads() -> list[str]:
    return [head for head, *_ in COLUMNS]


def _figure(rows: Sequence[Row], scenario: str, of: str, unit: str) -> str:
    found = (row for row in rows if (row.scenario, row.of, row.unit) == (scenario, of, unit))
    row = next(found, None)
    return _NONE if row is None else figure(row.value, row.unit)


def _is_worse(was: str, now: str) -> bool:
    numbers = [re.match(r"\d+(\.\d+)?", cell) for cell in (was, now)]
    old, new = (float(number[0]) if number else None for number in numbers)
    return old is not None and new is not None and new > old * WORSE


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _rule() -> str:
    return "|---" * (3 + len(COLUMNS)) + "|\n"
