"""A sums file as wanted files: `<64 hex digits>  name` a line."""

from __future__ import annotations

import os
import re

from orchestrator.errors import ManifestError, Problem
from orchestrator.model import Place, Wanted
from orchestrator.workspace import read_text

_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")


def read_sums(path: str) -> tuple[Wanted, ...]:
    """Read a sums file (`<hex>  name` a line, names relative to it) as wanted files.

    Raises:
        ManifestError: a line that is none, or no line at all.
    """
    base = os.path.dirname(path)
    found, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(Problem(path, number, "", "expected `<64 hex digits>  name`"))
            continue
        name = match[3]
        if match[1]:
            name = name.replace("\\n", "\n").replace("\\\\", "\\")
        place = Place(os.path.join(base, name))
        found.append(Wanted(path, os.path.basename(path), name, match[2].lower(), None, (), (place,)))
    if problems or not found:
        raise ManifestError(tuple(problems) or (Problem(path, 0, "", "no digest in this file"),))
    return tuple(found)
