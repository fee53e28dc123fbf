"""A run whose stores are all only read, as in an image: files are installed from them, nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.engine import disk_space
from orchestrator.engine.bugs import foreseen
from orchestrator.engine.inspect import prove_unwritten
from orchestrator.engine.scan import State
from orchestrator.errors import OrchError, PlacementError, Stopped, StoreError
from orchestrator.events import Finished, Placed
from orchestrator.model import Link
from orchestrator.placement import allow, link
from orchestrator.store.below import placing
from orchestrator.summary import interrupted
from orchestrator.transfer.copy_up import prove

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.model import Place, Wanted
    from orchestrator.store.below import BelowBlob
    from orchestrator.transfer.run_context import RunContext

TO_WRITE = "name a store to write: --store DIR, or as the first of the list: `store: [DIR, {below: ...}]`"


def nowhere_to_write(wanted: Wanted) -> StoreError:
    """Return the error of a file that none of the stores has, where there is none to write."""
    name = "/".join(filter(None, (wanted.model, wanted.file)))
    return StoreError(f"{name}: it is in none of the read-only stores, and there is no store to write", TO_WRITE)


def serve(run: RunContext, todo: Sequence[FileState]) -> None:
    """Make the places of what the stores have, and tell of the rest why it cannot be had."""
    left = prove_unwritten(run, todo)
    try:
        disk_space.check_room(disk_space.needs(run.store, left, set()))
        while left:
            _serve(run, left[0])
            left = left[1:]
    except (Stopped, OrchError) as error:
        for file_state in left:
            run.fail(file_state.wanted, interrupted() if isinstance(error, Stopped) else error)


def _serve(run: RunContext, file_state: FileState) -> None:
    """Make the places of one file.

    Raises:
        Stopped: a stop was asked for.
    """
    wanted, made = file_state.wanted, []
    places = {place.path: place for place in wanted.places}
    try:
        blob = _find(run, wanted)
        if blob is None:
            raise nowhere_to_write(wanted)
        if wanted.allow:
            allow.check(blob.path, wanted, run.context.stop)
        store = placing(run.store, {wanted.sha256: blob.path})
        for path, state in file_state.states:
            if state is State.SEALED:
                continue
            if path not in places or places[path].unpack:
                raise StoreError(f"{path}: keeping the replaced file needs a store that can be written", TO_WRITE)
            if state not in (State.ABSENT, State.OUTDATED):
                raise PlacementError(
                    f"{path}: a file with other bytes is in the way, and there is no store that could keep it",
                    f"move it away (`ls -l {path}`), or {TO_WRITE}",
                    "foreign",
                )
            over = link.stamp(path) if state is State.OUTDATED else None
            how = link.put(run.context, store, wanted.sha256, _as_allowed(places[path], blob), over)
            made.append((path, how))
    except Stopped:
        raise
    except Exception as error:
        run.fail(wanted, foreseen(run.context, run.store.path, error, list(places)))
        return
    if run.counts.book(wanted, "placed"):
        for path, how in made:
            run.emit(Placed(wanted.model, wanted.file, path, how))
        run.emit(Finished(wanted.model, wanted.file, "placed", size_bytes=blob.status.st_size))


def _find(run: RunContext, wanted: Wanted) -> BelowBlob | None:
    """The first file below with the right bytes: by its seal where that is to be believed, else it is read."""
    assert run.below is not None
    for blob in run.below.find(wanted.sha256):
        if prove(run, run.below, wanted, blob):
            return blob
    return None


def _as_allowed(place: Place, blob: BelowBlob) -> Place:
    """The place, made as a checked copy where others may write the store.

    Raises:
        PlacementError: it must not be a copy.
    """
    if blob.is_trusted or place.target or place.link is Link.COPY:
        return place
    if place.link is Link.AUTO:
        return replace(place, link=Link.COPY)
    who = f"{blob.store} can be written by others, so a {place.link.value} place could be changed"
    raise PlacementError(f"{place.path}: {who}", "use `link: auto`: it makes a checked copy")
