"""Wrong bytes at a place or in a blob: out of the way with all that share them; what is good of them is kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.engine.scan import State, is_inode
from orchestrator.errors import HeldError
from orchestrator.events import Mismatched, Noticed
from orchestrator.files import place_error, reason
from orchestrator.formats import wrong_file
from orchestrator.store import blobs, partials, quarantine, records, seal, tree_records
from orchestrator.store.records import Sharer
from orchestrator.store.store import disk
from orchestrator.transfer import repair
from orchestrator.transfer.partial import PartialState
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.engine.scan import FileState, RecordIndex
    from orchestrator.model import Artifact, Wanted
    from orchestrator.transfer.context import RunContext
    from orchestrator.transfer.repair import Damage


def quarantine_file(
    run: RunContext,
    known: RecordIndex,
    artifact: Artifact,
    file_states: Collection[FileState],
    wanted: Wanted,
    path: str,
) -> list[Sharer]:
    """Take a wrong file of ours away, together with every place and blob that is the same inode.

    It goes to quarantine; or, where its pieces are known and nothing here has the right bytes, only its bad pieces
    do, and the rest becomes a partial that asks for those. Of a link of ours the blob behind it is meant; no other
    link is followed. What goes is written down first, so that a kill loses none of the places.

    Returns:
        The places of any manifest that shared its inode.

    Raises:
        StoreError: the disk said no.
        OSError: the place cannot be read or changed.
        Stopped: a stop was asked for.
    """
    store, sha256 = run.store, artifact.sha256
    subject, blob = os.readlink(path) if os.path.islink(path) else path, store.blob(artifact.key)
    status = os.lstat(subject)
    needed = not _is_elsewhere(run, artifact, file_states, status)
    damage = repair.examine(subject, artifact, run.context.stop) if needed else None
    found = damage.found if damage else check.digest(subject, run.context.stop)
    words = damage.words if damage else check.diagnose_file(subject, wrong_file.expected_file(wanted)).words
    shared = _sharers(known, sha256, status)
    about = {
        "expected": artifact.expected,
        "source": f"written into: {path}",
        "model": wanted.model,
        "why": "it was changed since it was verified",
    }
    victim = blob if is_inode(blob, status) else subject
    others = {subject, *(each.path for each in shared)} - {victim}
    shared = [each for each in shared if each.path != path]
    if shared:
        records.begin_repair(store, artifact.key, shared, run.context.stop)
    folder = _donate(run, artifact, victim, others, status, damage, about) if damage else ""
    folder = folder or quarantine.move_in(store, victim, found, {**about, "place": path}, kind=quarantine.DISPLACED)
    _unlink(run, others, status)
    run.emit(Mismatched(wanted.model, wanted.file, path, artifact.expected, found, folder, words))
    return shared


def _sharers(known: RecordIndex, sha256: str, status: os.stat_result) -> list[Sharer]:
    """The places of all manifests that are this inode, and are recorded as such."""
    return [
        Sharer(record, place, made["link"], status.st_dev, status.st_ino)
        for place, entries in known.all().items()
        for record, made in entries
        if made["sha256"] == sha256 and made["link"] != records.ADOPTED
        if is_inode(place, status) and ("inode" not in made or records.is_inode(made, status, place))
    ]


def _is_elsewhere(
    run: RunContext, artifact: Artifact, file_states: Collection[FileState], status: os.stat_result
) -> bool:
    """Whether the right bytes stand here in another inode: then nothing need be fetched."""
    blob, sha256 = run.store.blob(artifact.key), artifact.sha256
    states = [state for file_state in file_states for state in file_state.states]
    good = [path for file_state in file_states for path in file_state.good]
    if (blob, State.WRONG) not in states and blobs.blob_state(run.store, sha256, artifact.size) == "sealed":
        good.append(blob)
    return any(os.path.isfile(path) and not is_inode(os.path.realpath(path), status) for path in good)


def _donate(
    run: RunContext,
    artifact: Artifact,
    victim: str,
    others: Collection[str],
    status: os.stat_result,
    damage: Damage,
    about: Mapping[str, str],
) -> str:
    """Make a wrong file the partial of its digest, with its bad pieces missing.

    Returns:
        Where the bad pieces lie now; "" where the partial is another orch's, or has as much already.
    """
    store = run.store
    try:
        partial = partials.acquire(store, artifact.key)
    except HeldError:
        return ""
    try:
        if PartialState(partial, artifact.size).good_bytes() >= damage.pieces.size - damage.bad_bytes:
            return ""
        bad = " ".join(f"{start}-{end}" for start, end in damage.bad)
        note = {**about, "bad": bad}
        folder = quarantine.keep_ranges(store, victim, damage.found, damage.bad, note, kind=quarantine.DISPLACED)
        _unlink(run, others, status)  # nobody may see it change, and it can be moved only if nobody else has it
        with disk(store.path):
            repair.request_pieces(partial, damage, victim)
            if os.path.lexists(victim):
                os.unlink(victim)
        return folder
    finally:
        partial.release()


def _unlink(run: RunContext, paths: Collection[str], status: os.stat_result) -> None:
    """Remove names of one inode; whatever else stands there by now stays, and what cannot be removed is told."""
    for path in paths:
        if is_inode(path, status):
            try:
                os.unlink(path)
            except OSError as error:
                run.emit(Noticed(f"{path}: it shares the wrong bytes and cannot be removed ({reason(error)})"))


def check_tree(run: RunContext, wanted: Wanted, folder: str) -> State:
    """Hash the files of a tree whose seals are broken: wrong ones go to quarantine.

    Returns:
        SEALED if all was right, ABSENT if the tree must be made anew.

    Raises:
        StoreError, Stopped, OSError.
    """
    listing = tree_records.read(run.store, wanted.sha256)
    state = State.SEALED if listing else State.ABSENT
    old = tree_records.standing_in(run.store, folder)
    for name in tree_records.broken(run.store, folder, listing):
        path, (_, sha256) = f"{folder}/{name}", listing[name]
        linked = tree_records.is_behind_link(folder, name)
        if not os.path.lexists(path):
            run.emit(Noticed(f"{path} is missing: the archive is unpacked again"))
            state = State.ABSENT
        elif tree_records.is_whole(run.store, folder, name, old) or not os.path.isfile(path):
            state = State.ABSENT  # an earlier archive's, which the new one replaces; or nothing that can be read
        elif (verdict := check.check(run.context, [(sha256, path)])[0]).error is not None:
            raise place_error(verdict.error, path)
        elif verdict.is_good:
            if linked:
                seal.remember(run.store, path, sha256)
            else:
                seal.attest(run.store, path, sha256, read_only=True)
                run.emit(Noticed(f"{path}: bytes are right, sealed again"))
        else:
            found, where = verdict.sha256, ""
            if not linked:  # what a link leads to is not ours, whoever made the link
                about = {"expected": sha256, "source": f"written into: {path}", "model": wanted.model, "place": path}
                where = quarantine.move_in(run.store, path, found, about, kind=quarantine.DISPLACED)
            run.emit(Mismatched(wanted.model, wanted.file, path, sha256, found, where))
            state = State.ABSENT
    return state
