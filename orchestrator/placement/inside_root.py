"""Places that a symlink leads out of their root."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator import manifest as manifests
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.manifest import Manifest
    from orchestrator.model import Wanted


def leading_out(loaded: Sequence[Manifest], wanted: Sequence[Wanted], texts: Mapping[str, str]) -> tuple[Problem, ...]:
    """Find the places that a symlink takes out of their root; one lstat a folder."""
    known: dict[str, str] = {"/": "/"}
    inside: dict[str, set[str]] = {m.file: set() for m in loaded}  # folders that were looked at, and are

    def real(folder: str) -> str:
        if folder not in known:
            parent, name = os.path.split(folder)
            path = os.path.join(real(parent), name)
            known[folder] = os.path.realpath(path) if os.path.islink(path) else path
        return known[folder]

    named_below = {m.file: tuple(f"{top.rstrip('/')}/" for top in (m.root, *m.allow_absolute)) for m in loaded}
    allowed = {m.file: [real(folder) for folder in (m.root, *m.allow_absolute)] for m in loaded}
    problems = []
    for w in wanted:
        good = inside[w.manifest]
        for place in w.places:
            named = place.path.rpartition("/")[0]
            if named in good or not place.path.startswith(named_below[w.manifest]):  # a framework's cache
                continue
            folder = real(named or "/")
            if any(folder == top or folder.startswith(top.rstrip("/") + "/") for top in allowed[w.manifest]):
                good.add(named)
            else:
                path = f"models > {w.model} > to"
                line = manifests.locate(texts[w.manifest], w.manifest, path)
                problems.append(Problem(w.manifest, line, path, f"a symlink leads out of root: to {folder}"))
    return tuple(problems)
