"""Variables as a shell reads them: sh and bash and zsh, fish, csh. Any text comes out as it went in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SHELLS = ("bash", "fish", "csh")
_PLAIN = re.compile(r"[A-Za-z0-9_+:,./-]+")
_BASH = str.maketrans({"'": "'\\''"})
_FISH = str.maketrans({"'": "\\'", "\\": "\\\\"})  # manual, Quotes
_CSH = str.maketrans({"'": "'\\''", "!": "\\!", "\n": "\\\n"})  # csh(1), Lexical structure: history works in quotes too


def of_user(shell: str) -> str:
    """Which of SHELLS the user's own (`$SHELL`) is: what is neither fish nor a csh reads bash's lines."""
    name = shell.rpartition("/")[2]
    if name in ("csh", "tcsh"):
        return "csh"
    return "fish" if name == "fish" else "bash"


def export(shell: str, name: str, value: str) -> str:
    """The line that sets and exports `name`.

    csh: a line break must be read from a file (`source`); its backticks make blanks of them.
    """
    if shell == "fish":
        return f"set -gx {name} {_quoted(value, _FISH)}"
    if shell == "csh":
        return f"setenv {name} {_quoted(value, _CSH)};"
    return f"export {name}={_quoted(value, _BASH)}"


def _quoted(value: str, also: Mapping[int, str]) -> str:
    """`value` between single quotes, where it needs them; `also` is what they do not keep."""
    return value if _PLAIN.fullmatch(value) else f"'{value.translate(also)}'"
