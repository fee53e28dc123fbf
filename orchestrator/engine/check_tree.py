"""A tree of ours that something wrote into: what is right is sealed again, else it is to be unpacked anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.engine.scan import State
from orchestrator.events import Mismatched, Noticed
from orchestrator.files import place_error
from orchestrator.store import quarantine, seal, tree_records
from orchestrator.verify import check

if TYPE_CHECKING:
    from orchestrator.model import Wanted
    from orchestrator.transfer.context import Kit


def judge(kit: Kit, wanted: Wanted, folder: str) -> State:
    """Hash the files of a tree whose seals are broken: wrong ones go to quarantine.

    Returns:
        SEALED if all was right, ABSENT if the tree must be made anew.

    Raises:
        StoreError, Stopped, OSError.
    """
    listing = tree_records.read(kit.store, wanted.sha256)
    state = State.SEALED if listing else State.ABSENT
    old = tree_records.standing_in(kit.store, folder)
    for name in tree_records.broken(kit.store, folder, listing):
        path, (_, sha256) = f"{folder}/{name}", listing[name]
        linked = tree_records.is_behind_link(folder, name)
        if not os.path.lexists(path):
            kit.emit(Noticed(f"{path} is missing: the archive is unpacked again"))
            state = State.ABSENT
        elif tree_records.is_whole(kit.store, folder, name, old) or not os.path.isfile(path):
            state = State.ABSENT  # an earlier archive's, which the new one replaces; or nothing that can be read
        elif (verdict := check.check(kit.world, [(sha256, path)])[0]).error is not None:
            raise place_error(verdict.error, path)
        elif verdict.is_good:
            if linked:
                seal.remember(kit.store, path, sha256)
            else:
                seal.attest(kit.store, path, sha256, read_only=True)
                kit.emit(Noticed(f"{path}: bytes are right, sealed again"))
        else:
            found, where = verdict.sha256, ""
            if not linked:  # what a link leads to is not ours, whoever made the link
                about = {"expected": sha256, "source": f"written into: {path}", "model": wanted.model, "place": path}
                where = quarantine.banish(kit.store, path, found, about, kind=quarantine.DISPLACED)
            kit.emit(Mismatched(wanted.model, wanted.file, path, sha256, found, where))
            state = State.ABSENT
    return state
