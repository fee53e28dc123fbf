"""Marks: small files that a framework wants beside its weights, made in one step and never over another's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from orchestrator.files import NewFile, place_error
from orchestrator.placement import link
from orchestrator.store import marks, records

if TYPE_CHECKING:
    from orchestrator.model import Mark
    from orchestrator.store import Store


def write(store: Store, host: str, manifest: str, mark: Mark) -> Literal["made", "there", "other", "back"]:
    """Write `mark` where nothing stands, or where what stands is `outdated`.

    Returns:
        `made`, `there` (it said so already), `other` (somebody else's, which stays), or `back`: somebody had moved
        what orch wrote, and it says again what the lock says.

    Raises:
        PlacementError: the folder cannot be written.
        StoreError: the store's disk said no.
    """
    had = marks.text(mark.path)
    word = marks.state(store, manifest, mark)
    if word in ("there", "other"):
        return word
    moved = had is not None and records.of(store, manifest).get(mark.path) != marks.made(had)
    records.record(store, host, manifest, {mark.path: marks.made(mark.text)})
    folder = os.path.dirname(mark.path)
    try:
        os.makedirs(folder, exist_ok=True)
        link.sweep(store, (folder,))
        with NewFile(folder) as new:
            new.write(mark.text.encode())
            os.fsync(new.fd)
            if had is not None and marks.text(mark.path) != had:
                return "other"  # it changed just now
            try:
                new.publish(mark.path, replace=had is not None)
            except FileExistsError:
                return "there" if marks.text(mark.path) == mark.text else "other"
    except OSError as error:
        raise place_error(error, mark.path) from error
    return "back" if moved else "made"
