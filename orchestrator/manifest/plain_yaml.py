"""Read the YAML of most manifests, a name and a plain value in a line, in half the time; `yaml_reader` reads others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

# The unquoted scalars that mean null.
NULLS = frozenset(("", "~", "null"))


class YamlError(Exception):
    """The text is not a manifest's YAML; `positions` finds where and why."""


_DEPTH = 8  # mappings in each other: a manifest has four at most
_NAME = r"[A-Za-z0-9_][\w./+@-]{0,200}"  # YAML lets a name in one line have 1,024 characters
_PIECE = r"[\w./~@%+=,&?;$-]+"
_VALUE = rf"(?=[\w./~]){_PIECE}(?::{_PIECE})*"  # no colon at its end: that would make it a name
_WORD = r"[A-Za-z0-9_][\w./+-]*"
_COMMENT = r"#[ -~]*"
# `name:`, `name: value` or `name: [word, word]`; else an empty line or a comment; else what is not read here.
_LINE = re.compile(
    rf"( *)({_NAME}):(?: +(?:({_VALUE})|\[({_WORD}(?:, {_WORD})*)\]))?(?: +{_COMMENT})?\n"
    rf"| *(?:{_COMMENT})?\n"
    r"|(.)",
    re.ASCII | re.DOTALL,
)
_Open: TypeAlias = "tuple[dict[str, Any], int, str]"


def read(text: str, model: Callable[[Any], object] | None = None) -> dict[str, Any] | None:
    """Read a text as `yaml_reader.load` does, scalars as text; None where a line is of another kind, or is wrong.

    Args:
        text: the YAML.
        model: as of `yaml_reader.load`.
    """
    # `here` is the innermost open mapping, and `name` waits for its value, if it has none on its line. `above` are the
    # open mappings around `here`, each with its column and with the name whose value is the one within.
    here: dict[str, Any] = {}
    column, name = 0, ""
    above: list[_Open] = []
    for line in _LINE.finditer(text):
        blanks, key, value, words, other = line.groups()
        if key is None:
            if other is not None:
                return None
            continue
        if len(blanks) != column:
            if len(blanks) > column:
                if not name or len(above) == _DEPTH:
                    return None
                above.append((here, column, name))
                here, column = {}, len(blanks)
            while len(blanks) < column:
                here, column = _close(above, here, model)
            if len(blanks) != column:
                return None
        if key in here:
            return None
        if value is not None:
            here[key] = None if value in NULLS else value
            name = ""
        elif words is not None:
            here[key] = [None if word in NULLS else word for word in words.split(", ")]
            name = ""
        else:
            here[key], name = None, key
    while above:
        here, column = _close(above, here, model)
    return here or None


def _close(
    above: list[_Open], here: dict[str, Any], model: Callable[[Any], object] | None
) -> tuple[dict[str, Any], int]:
    """Put the innermost mapping into the one around it, which is the innermost then; return that, and its column."""
    outer, column, name = above.pop()
    is_model = len(above) == 1 and above[0][2] == "models"
    outer[name] = model(here) if is_model and model is not None else here
    return outer, column
