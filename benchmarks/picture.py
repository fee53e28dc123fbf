"""The picture for the README: how long orch takes beside the same work by hand, as bars in a plain SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Row

_WIDTH, _LEFT, _RIGHT = 840, 390, 70
_TOP, _STEP, _BAR, _FOOT = 44, 36, 16, 44
_TITLE = "orch's time / the time by hand: shorter is better"
_MOST = 2.0  # longer bars are cut: the figure beside them tells
# Colours with enough contrast on white and on black: a README is read on both.
_INK, _ORCH, _LINE, _MUST = "#78828e", "#2f81f7", "#8b949e", "#d9822b"


def draw(rows: Sequence[Row], when: str) -> str:
    """One bar a row that has a label; the line at 1 is the time by hand, the notch what orch must reach."""
    shown = [row for row in rows if row.label]
    most = min(_MOST, max([1.1, *(max(row.value, row.must or 0) for row in shown)]))
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    foot, one = _TOP + _STEP * len(shown), _LEFT + scale
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {foot + _FOOT}" width="{_WIDTH}"'
            ' role="img" font-family="system-ui, sans-serif" font-size="13">',
            f"<title>{_TITLE}</title>",
            _text(_LEFT, 18, _TITLE, weight="bold"),
            _path(f"M{one:.1f} {_TOP - 12}V{foot}", _LINE, dashes=' stroke-dasharray="4 3"'),
            *(part for number, row in enumerate(shown) for part in _bar(row, _TOP + _STEP * number, scale)),
            _text(one, foot + 16, "as long as by hand", anchor="middle"),
            _path(f"M12 {foot + 18}v{_BAR}", _MUST),
            _text(20, foot + 31, f"the most that orch may take; measured on {escape(when)}", size=11),
            "</svg>",
            "",
        ]
    )


def _bar(row: Row, top: int, scale: float) -> list[str]:
    middle, length = top + _BAR - 3, min(row.value, _MOST) * scale
    parts = [
        _text(_LEFT - 10, middle - 5, escape(row.label), anchor="end"),
        _text(_LEFT - 10, middle + 8, escape(f"by hand: {row.hand}"), anchor="end", size=10),
        f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{_ORCH}"/>',
        _text(_WIDTH - 8, middle, f"{row.value:.2f} x", anchor="end", weight="bold"),
    ]
    if row.must is not None:
        parts.append(_path(f"M{_LEFT + row.must * scale:.1f} {top - 3}v{_BAR + 6}", _MUST))
    return parts


def _path(shape: str, colour: str, *, dashes: str = "") -> str:
    return f'<path d="{shape}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}" font-weight="{weight}"'
        f' font-size="{size}">{words}</text>'
    )
