"""Wrong bytes at a place or in a blob: out of the way with all that share them; what is good of them is kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator import nature, verify
from orchestrator.errors import HeldError
from orchestrator.events import Mismatched
from orchestrator.runs.standing import State
from orchestrator.store import blobs, partials, quarantine
from orchestrator.store.layout import disk
from orchestrator.transfer import mend
from orchestrator.transfer.holding import Holding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.model import Artifact, Wanted
    from orchestrator.runs.standing import Records, Standing
    from orchestrator.transfer.kit import Kit
    from orchestrator.transfer.mend import Damage


def condemn(
    kit: Kit, records: Records, artifact: Artifact, standings: Collection[Standing], wanted: Wanted, path: str
) -> list[tuple[str, str, str]]:
    """Take a wrong file away, together with every place and blob that is the same inode.

    It goes to quarantine; or, where its pieces are known and nothing here has the right bytes, only its bad pieces
    do, and the rest becomes a partial that asks for those.

    Returns:
        The places of any manifest that shared its inode: (record file, place, link).

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    sha256, real, blob = artifact.sha256, os.path.realpath(path), kit.store.blob(artifact.key)
    status = os.stat(real)
    needed = not _is_elsewhere(kit, artifact, standings, status)
    damage = mend.examine(real, artifact, kit.world.stop) if needed else None
    found = damage.found if damage else verify.digest(real, kit.world.stop)
    words = damage.words if damage else verify.look_into(real, nature.wish(wanted)).words
    shared = [
        (record, place, made["link"])
        for place, entries in records.all().items()
        for record, made in entries
        if made["sha256"] == sha256 and place != path and is_inode(place, status)
    ]
    about = {"expected": artifact.expected, "source": f"written into: {path}", "model": wanted.model}
    victim = blob if is_inode(blob, status) else real
    others = {path, real, *(place for _, place, _ in shared)} - {victim}
    folder = _donate(kit, artifact, victim, others, damage, about) if damage else ""
    folder = folder or quarantine.banish(kit.store, victim, found, about)
    _unlink(others)
    kit.emit(Mismatched(wanted.model, wanted.file, path, artifact.expected, found, folder, words))
    return shared


def _is_elsewhere(kit: Kit, artifact: Artifact, standings: Collection[Standing], status: os.stat_result) -> bool:
    """Whether the right bytes stand here in another inode: then nothing need be fetched."""
    blob, sha256 = kit.store.blob(artifact.key), artifact.sha256
    states = [state for standing in standings for state in standing.states]
    good = [path for standing in standings for path in standing.good]
    if (blob, State.WRONG) not in states and blobs.blob_state(kit.store, sha256, artifact.size) == "sealed":
        good.append(blob)
    return any(not is_inode(os.path.realpath(path), status) for path in good)


def _donate(
    kit: Kit, artifact: Artifact, victim: str, others: Collection[str], damage: Damage, about: Mapping[str, str]
) -> str:
    """Make a wrong file the partial of its digest, with its bad pieces missing.

    Returns:
        Where the bad pieces lie now; "" where the partial is another orch's, or has as much already.
    """
    store = kit.store
    try:
        partial = partials.acquire(store, artifact.key)
    except HeldError:
        return ""
    try:
        if Holding(partial, artifact.size).good_bytes() >= damage.pieces.size - damage.bad_bytes:
            return ""
        folder = mend.banish(store, victim, damage, about)
        _unlink(others)  # nobody may see it change, and it can be moved only if nobody else has it
        with disk(store.path):
            mend.ask_for(partial, damage, victim)
            if os.path.lexists(victim):
                os.unlink(victim)
        return folder
    finally:
        if partial.have:
            partial.close()
        else:
            partial.discard()


def _unlink(paths: Collection[str]) -> None:
    for path in paths:
        if os.path.lexists(path) and not os.path.islink(path):
            os.unlink(path)


def is_inode(path: str, status: os.stat_result) -> bool:
    """Whether `path` itself is that file."""
    try:
        other = os.lstat(path)
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
