"""Facts about this machine's programs, kept in the local state as long as their files do not change."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import local_state
from orchestrator.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping


class Executables:
    """What was found out of this machine's programs, `executables.json`: as long as a program's file is the same.

    A version is asked for and a rate is measured once, not in each run. Losing the file costs a tenth of a second.

    Args:
        folder: that of the local state.
    """

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/executables.json"
        self._known: dict[str, dict[str, object]] = {}
        with (
            suppress(OSError, ValueError, TypeError, AttributeError, RecursionError),
            local_state.open_to_read(self._path) as file,
        ):
            known = json.loads(file.read(1 << 20))
            self._known = {str(program): dict(facts) for program, facts in known.items()}

    def get(self, program: str, fact: str) -> object:
        """A fact of the program at a path; None where it is not known of the file that is there now."""
        facts = self._known.get(program, {})
        return facts.get(fact) if facts.get("file") == _identity(program) else None

    def add(self, fact: str, found: Mapping[str, object]) -> None:
        """Remember a fact of several programs, by path; a disk that cannot be written is ignored."""
        for program, value in found.items():
            identity = _identity(program)
            facts = self._known.setdefault(program, {})
            if facts.get("file") != identity:
                facts.clear()
            facts.update({"file": identity, fact: value})
        kept = {program: facts for program, facts in self._known.items() if facts.get("file") == _identity(program)}
        with suppress(OSError):
            local_state.make_folder(os.path.dirname(self._path))
            write_atomic(self._path, json.dumps(kept).encode(), mode=0o600)


def _identity(path: str) -> list[int]:
    """What tells one program's file from another at the same path; empty where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
