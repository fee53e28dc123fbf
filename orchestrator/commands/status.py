"""What is in place, by stat alone: no installed file is opened, hashed or changed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.engine import disk_space, weak_pins
from orchestrator.engine.scan import State, obstacle, scan, warn_of_size
from orchestrator.errors import DigestError, PlacementError, StoreError, TransferError
from orchestrator.text import size_text
from orchestrator.transfer.adopt import resume_hint
from orchestrator.workspace import store_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.context import Context
    from orchestrator.engine.scan import FileState
    from orchestrator.errors import OrchError
    from orchestrator.events import Summary
    from orchestrator.model import Unresolved, Wanted
    from orchestrator.store import Store
    from orchestrator.store.quarantine import QuarantineEntry
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.workspace import Workspace


GRAVEST_FIRST = (
    State.MODIFIED,
    State.WRONG,
    State.FOREIGN,
    State.OBSTRUCTED,
    State.UNKNOWN,
    State.LINKED,
    State.OUTDATED,
    State.UNVERIFIED,
    State.ABSENT,
)
_DOWNLOADED = ("absent", "outdated")  # the faults of files that sync downloads


def status(
    run: RunContext,
    wanted: Sequence[Wanted],
    unresolved: Sequence[Unresolved] = (),
    *,
    whole: Workspace | None = None,
) -> Summary:
    """Judge every place by one stat each.

    Args:
        whole: all that the manifests want, where no model was chosen: what orch placed for models that left them is
            told then. It changes no exit code.

    Returns:
        The summary: 0 all in place, 5 something absent, outdated or not verified yet, 6 something was changed since
        it was verified, 7 a file that orch did not make, 1 several of these.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, wanted)
    run.counts.begin(wanted, unresolved, run.emit)
    begun: disk_space.Begun | None = None
    refused = RefusedDownloads(run.store)
    for file_state in scan(run.store, wanted):
        if file_state.present:
            tell(run, file_state)
            continue
        begun = begun or disk_space.Begun(run.store)
        w = file_state.wanted
        tell(run, file_state, begun.resumable_bytes(w.key, w.sources), refused)
    if whole is not None:
        _tell_left_places(run, whole)
    return run.counts.summary(run.context.monotonic() - began)


class RefusedDownloads:
    """What sources sent that has not the checksum that was expected, by the notes in quarantine; they are read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[str, QuarantineEntry] | None = None  # by the digest that was expected

    def explained(self, wanted: Wanted, error: OrchError) -> OrchError:
        """A file's error; where it is to be downloaded, and that was refused before, with what helps against that."""
        if error.fault not in _DOWNLOADED:
            return error
        if self._found is None:
            from orchestrator.store import quarantine

            self._found = {}
            with suppress(StoreError):
                entries = quarantine.entries(self._store)
                self._found = {each.expected: each for each in entries if each.kind == quarantine.WIRE}
        entry = self._found.get(wanted.sha256) if wanted.sha256 else None
        if entry is None:
            return error
        from orchestrator.formats.wrong_file import expected_file  # what no other status needs
        from orchestrator.transfer.explain import pinned_in
        from orchestrator.verify.check import diagnose_file

        name = f"{wanted.model}/{wanted.file}" if wanted.file else wanted.model
        what = diagnose_file(entry.path, expected_file(wanted))
        sent = what.words or f"a file with the sha256 {entry.found}"
        said = f"compare the checksum{pinned_in(wanted)} with the publisher's, then run `orch sync`"
        hint = f"{name}: a source sent {sent}; {what.hint or said}"
        return TransferError(error.message, hint, error.fault, code="checksum-mismatch")


def tell(run: RunContext, file_state: FileState, have_bytes: int = 0, refused: RefusedDownloads | None = None) -> None:
    """Count one file, and say whether it is in place or what is wrong with it.

    `have_bytes` are here of a download that did not end; `refused` knows those that were refused.
    """
    w = file_state.wanted
    if file_state.true_size is not None:
        warn_of_size(w, file_state.true_size, run.emit)
    if file_state.present:
        run.counts.present += 1
        run.emit(events.Finished(w.model, w.file, "present", size_bytes=size_of(file_state) or 0))
    else:
        error = error_of(file_state)
        have_bytes = min(have_bytes, w.size or have_bytes) if error.fault in _DOWNLOADED else 0
        if have_bytes:
            of = "" if w.size is None else f" of {size_text(w.size)}"
            said = f"{error.message}; sync resumes, {size_text(have_bytes)}{of} are here"
            error = TransferError(said, error.hint, error.fault)
        if refused is not None:
            error = refused.explained(w, error)
        run.fail(w, error, have_bytes)


def size_of(file_state: FileState) -> int | None:
    """The size of a file in bytes, which its installed copy knows where the manifest does not; None: nobody does."""
    wanted = file_state.wanted
    if wanted.size is not None:
        return wanted.size
    for path in file_state.good if wanted.places else [path for path, _ in file_state.states]:
        with suppress(OSError):
            status = os.stat(path)
            return status.st_size if stat.S_ISREG(status.st_mode) else None  # an archive is unpacked to a folder
    return None


def _tell_left_places(run: RunContext, space: Workspace) -> None:
    """Tell of each place of a model that left its manifest where our bytes still stand, whole."""
    from orchestrator.commands import left_places

    for left in left_places.find(run.store, run.context.hostname, space).places:
        if not left.stays:
            manifest = left.record.manifest
            hint = f"run `orch prune --places {manifest}`: it removes what is left of models that were taken out"
            run.emit(events.LeftBehind(manifest, left.path, left.made["sha256"], left.size_bytes, hint))


def missing(context: Context, space: Workspace, wanted: Sequence[Wanted]) -> Iterator[FileState]:
    """Check files by their metadata: the states of those that are not in place."""
    store = store_of(context, space)
    return (each for each in scan(store, weak_pins.with_known_sha256(store, wanted)) if not each.present)


def error_of(file_state: FileState) -> OrchError:
    """What is to be said of a file that is not in place: of the place that is worst off."""
    return told(*gravest(file_state), file_state.wanted.size)


def gravest(file_state: FileState) -> tuple[str, State]:
    """The place of a file that is not present that is worst off, and its state."""
    states = {state: path for path, state in reversed(file_state.states)}
    state = next(state for state in GRAVEST_FIRST if state in states)
    return states[state], plain(states[state], state)


def plain(path: str, state: State) -> State:
    """The state of a place as people see it: a link of ours to a blob that was dropped is absent."""
    return State.ABSENT if state is State.OUTDATED and not os.path.exists(path) else state


def told(path: str, state: State, size: int | None) -> OrchError:
    """One place's state as what is to be said of it."""
    match plain(path, state):
        case State.MODIFIED:
            hint = "run `orch sync`: it reads the file; wrong bytes go to quarantine, the right ones take their place"
            return DigestError(f"{path}: changed since it was verified", hint, "seal")
        case State.LINKED:
            return _link(path, size)
        case State.OUTDATED:
            return TransferError(f"{path}: has the previous version", "run `orch sync`: it replaces it", "outdated")
        case State.UNVERIFIED:
            hint = "run `orch sync`: it reads the file once"
            return TransferError(f"{path}: not verified on this machine yet", hint, "unverified")
        case State.UNKNOWN:
            return PlacementError(f"{path}: the disk cannot be read there", f"look at it: `ls -l {path}`")
        case State.ABSENT:
            return TransferError(f"{path}: absent", "run `orch sync`", "absent")
        case State.OBSTRUCTED if os.path.lexists(path):
            return obstacle(path)
    hint = "run `orch sync`: right bytes are adopted; else move the file away, or replace it: `orch sync --force`"
    hint += resume_hint(path, size)
    what = f"a link that orch did not make, to {os.readlink(path)}," if os.path.islink(path) else ""
    return PlacementError(f"{path}: {what or 'a file that orch did not make'} is there", hint, "foreign")


def _link(path: str, size: int | None) -> OrchError:
    """A symbolic link that orch did not make, by the status of what it leads to."""
    try:
        where, behind = os.readlink(path), os.stat(path).st_size
    except OSError:
        where, behind = os.readlink(path) if os.path.islink(path) else "nothing", -1
    hint = "run `orch sync`: right bytes behind it are adopted; `orch sync --force` replaces the link itself"
    store, is_blob, _ = where.rpartition("/blobs/sha256/")
    if is_blob and os.path.isfile(f"{store}/CACHEDIR.TAG"):  # ORCH_STORE is set for cron, say, and not here
        import shlex

        hint = f"it leads into the store {store}: `orch status --store {shlex.quote(store)}`"
    if behind >= 0 and size in (None, behind):
        return TransferError(f"{path}: a link to {where}, not verified on this machine yet", hint, "unverified")
    what = "a file of another size" if behind >= 0 else "where nothing is"
    return PlacementError(f"{path}: a link that orch did not make, to {where}, {what}", hint, "foreign")
