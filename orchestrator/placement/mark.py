"""Marks: small files that a framework wants beside its weights, made in one step and never over another's."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError

if TYPE_CHECKING:
    from orchestrator.model import Mark


def write(mark: Mark) -> bool:
    """Write `mark` where nothing stands; false where something does.

    Raises:
        PlacementError: the folder cannot be written.
    """
    if os.path.lexists(mark.path):
        return False
    folder = os.path.dirname(mark.path)
    temporary = f"{folder}/.orch-{secrets.token_hex(6)}"
    try:
        os.makedirs(folder, exist_ok=True)
        try:
            with open(temporary, "x", encoding="utf-8", newline="") as file:
                file.write(mark.text)
            os.link(temporary, mark.path)  # unlike a rename this never replaces what came meanwhile
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        where = f"look at it: `ls -ld {folder}`"
        raise PlacementError(f"cannot write {mark.path}: {error.strerror or error}", where) from error
    return True
