"""Marks: small files that a framework wants beside its weights, made in one step and never over another's."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError
from orchestrator.store import places

if TYPE_CHECKING:
    from orchestrator.model import Mark
    from orchestrator.store import Store

LINK = "mark"  # what the record of places says of it
_LONGEST = 1 << 16


def write(store: Store, host: str, manifest: str, mark: Mark) -> str:
    """Write `mark` where nothing stands, or what we wrote for this very manifest: a repository has a newer commit.

    Returns:
        `made`, `there` (it said so already), or `other`: something else stands there, and stays.

    Raises:
        PlacementError: the folder cannot be written.
        StoreError: the store's disk said no.
    """
    had = _text(mark.path)
    if had == mark.text:
        return "there"
    if had is not None and places.of(store, manifest).get(mark.path) != _made(had):
        return "other"
    places.record(store, host, manifest, {mark.path: _made(mark.text)})
    folder = os.path.dirname(mark.path)
    temporary = f"{folder}/.orch-{secrets.token_hex(6)}"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            file.write(mark.text)
        try:
            # A link, unlike a rename, never replaces what came meanwhile.
            (os.link if had is None else os.rename)(temporary, mark.path)
        except FileExistsError:
            return "there" if _text(mark.path) == mark.text else "other"
    except OSError as error:
        where = f"look at it: `ls -ld {folder}`"
        raise PlacementError(f"cannot write {mark.path}: {error.strerror or error}", where) from error
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    return "made"


def _made(text: str) -> places.Made:
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "link": LINK}


def _text(path: str) -> str | None:
    """What stands there; None where nothing does, and something else where it is no small text."""
    if not os.path.lexists(path):
        return None
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read(_LONGEST)
    except OSError:
        return "\0"  # no mark says that
