"""The terminal: whether colours are wanted, how wide it is, and rows at its end that are drawn again and again."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# ECMA-48: EL and ED, from the cursor to the end of the line, and of the screen. From the upper left corner tmux would
# take ED for `clear`, and keep what was there in its history: so there is a blank before.
_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"
ERASE_ROWS = f"\r {_ERASE_BELOW}\r"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"  # DECAWM of the VT510 manual: what is too wide is cut, not wrapped
_NO_BREAK = "\x1f"  # stands for a blank at which a line is not wrapped; no text that is told has one
_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def wants_colour(choice: str, environ: Mapping[str, str], out: TextIO) -> bool:
    """Whether to write colours: by --color, then NO_COLOR (no-color.org), then FORCE_COLOR, then where `out` goes.

    A variable that is empty counts as not set. A terminal that calls itself `dumb` gets none.
    """
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (out.isatty() and environ.get("TERM") != "dumb")


def painted(text: str, style: str | None, *, colour: bool) -> str:
    """Give a text a style (`red`, `bold green`, ...), where there are colours."""
    if not (colour and style and text):
        return text
    return f"\x1b[{';'.join(_SGR[word] for word in style.split())}m{text}\x1b[0m"


def style_of(line: str) -> str | None:
    """The style of a line that people read, by its first word."""
    return {"error": "red", "failed": "red", "warning": "yellow", "hint": "cyan"}.get(line.partition(":")[0])


def wrap(text: str, width: int) -> str:
    """Wrap at blanks; paths, URLs and commands stay whole, so that they can be copied."""
    from textwrap import fill  # only what tells something needs it

    def whole(command: re.Match[str]) -> str:
        return command[0].replace(" ", _NO_BREAK) if len(command[0]) <= width else command[0]

    words, begin, command = text.partition("\n  $ ")
    words = re.sub("`[^`]*`", whole, words)
    lines = (fill(line, width, break_long_words=False, break_on_hyphens=False) for line in words.splitlines())
    return "\n".join(lines).replace(_NO_BREAK, " ") + begin + command


def can_show(text: str, out: TextIO) -> bool:
    """Whether the encoding of a terminal has these characters."""
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def size(out: TextIO) -> tuple[int, int]:
    """The columns and rows of a terminal; 80 and 24 where it does not say."""
    with suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(out.fileno())
        return columns or 80, rows or 24
    return 80, 24


def width(out: TextIO) -> int | None:
    """The columns of the terminal that `out` is; None where it is none, so that nothing need be cut."""
    return size(out)[0] if out.isatty() else None


class Screen:
    """Rows at the end of a terminal's text, which are drawn anew in place; lines are printed above them.

    Between two drawings the cursor stands at the beginning of the first row, so that erasing begins there: after a
    change of the width, by which most terminals wrap the rows that were drawn, and others cut them, nobody could say
    how far up that is. Rows that arrive just after such a change are cut by the terminal and take one line each. The
    cursor is never hidden: a process that is killed cannot show it again. Each drawing is one write, which does not
    flicker.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_drawn = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal, as they are now."""
        return size(self._out)

    def draw(self, rows: Sequence[str]) -> None:
        """Draw rows, none wider than the terminal, instead of those that are there; of too many the last are left out.

        Raises:
            OSError, ValueError: the terminal is gone.
        """
        self._write("", rows)

    def print(self, text: str, rows: Sequence[str] = ()) -> None:
        """Print a text with its line end above the rows, which are drawn again.

        Raises:
            OSError, ValueError: the terminal is gone.
        """
        self._write(f"{text}\n", rows)

    def _write(self, text: str, rows: Sequence[str]) -> None:
        shown = rows[: self.size[1] - 1]  # with the cursor's line as many as fit, or the terminal would scroll
        erase = ERASE_ROWS if self._is_drawn and (text or not shown) else "\r" if shown else ""
        up = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
        lines = f"{_ERASE_LINE}\n".join(shown)
        drawn = f"{_NO_WRAP}{lines}{_ERASE_BELOW}{_WRAP}{up}\r" if shown else ""
        self._is_drawn = bool(shown)
        if erase or text or drawn:
            self._out.write(erase + text + drawn)
            self._out.flush()
