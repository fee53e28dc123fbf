"""Write environment variables as commands for a shell: sh, bash and zsh; fish; csh. Any value is quoted rightly."""

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
    """The entry of SHELLS for a user's `$SHELL`: `bash` for all but fish, csh and tcsh."""
    name = shell.rpartition("/")[2]
    if name in ("csh", "tcsh"):
        return "csh"
    return "fish" if name == "fish" else "bash"


def export(shell: str, name: str, value: str) -> str:
    """The command that sets and exports a variable.

    In csh a value with a line break must be read with `source`: backticks turn line breaks into blanks.
    """
    if shell == "fish":
        return f"set -gx {name} {_quoted(value, _FISH)}"
    if shell == "csh":
        return f"setenv {name} {_quoted(value, _CSH)};"
    return f"export {name}={_quoted(value, _BASH)}"


def _quoted(value: str, also: Mapping[int, str]) -> str:
    """Put `value` in single quotes where it needs them; `also` escapes the characters that these do not protect."""
    return value if _PLAIN.fullmatch(value) else f"'{value.translate(also)}'"
