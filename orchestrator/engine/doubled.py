"""Places that are a second copy of the store's bytes, where `adopt: move` wants none: find them, make them links."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from orchestrator.engine.scan import ADOPTED, blob_size
from orchestrator.errors import PlacementError
from orchestrator.events import Noticed
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.store import blobs, records
from orchestrator.verify import check

if TYPE_CHECKING:
    from orchestrator.engine.scan import FileState, RecordIndex
    from orchestrator.model import Wanted
    from orchestrator.transfer.run_context import RunContext


def marked(run: RunContext, file_state: FileState, index: RecordIndex) -> FileState:
    """A file that is present, with its places that are a second copy, by their status and the records alone."""
    wanted = file_state.wanted
    if run.store.read_only or not is_moved(run, wanted):
        return file_state
    found = tuple(place.path for place in wanted.places if _is_doubled(run, wanted, place, index))
    return msgspec.structs.replace(file_state, doubled=found) if found else file_state


def is_moved(run: RunContext, wanted: Wanted) -> bool:
    """Whether a right file of the user that stands at a place is to become the store's, with no second copy."""
    return (run.options.adopt or wanted.adopt) == "move"


def may_be_link(place: Place, status: os.stat_result) -> bool:
    """Whether a place may be a hard link, and the file there be the store's: this user's, with no other name."""
    if place.private or place.unpack or place.target or place.link not in (Link.AUTO, Link.HARD):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1


def _is_doubled(run: RunContext, wanted: Wanted, place: Place, index: RecordIndex) -> bool:
    try:
        status = os.lstat(place.path)
    except OSError:
        return False
    blob = blobs.status(run.store, wanted.sha256)
    if blob is None or blob.st_dev != status.st_dev or not may_be_link(place, status):
        return False
    # A run that was killed in between has written down that it is to be a hard link.
    return any(made["link"] in (ADOPTED, Link.HARD.value) for _, made in index.of(place.path))


def make_link(run: RunContext, wanted: Wanted, path: str) -> None:
    """Make a place whose bytes are right a hard link to the store, whose bytes are read first; or tell why it stays.

    Raises:
        StoreError: the disk failed.
        NoBackendError, Stopped: as `check.check`.
    """
    store, sha256, over = run.store, wanted.sha256, link.stamp(path)
    with run.reading("verifying", wanted.model, wanted.file, blob_size(store, sha256)) as context:
        verdict = check.check(context, [(sha256, store.blob(sha256))])[0]
    if not verdict.is_good:
        run.emit(Noticed(f"{path}: stays a second copy: the store's is bad (`orch verify --repair`)"))
        return

    def write_down(how: str) -> None:
        made = records.seen(path, sha256, Link.HARD.value, how)
        records.record(store, run.context.hostname, wanted.manifest, {path: made}, run.context.stop)

    write_down("found")  # before, so that a kill leaves it ours
    try:
        link.put(run.context, store, sha256, Place(path, Link.HARD), over)
    except PlacementError as error:
        run.emit(Noticed(f"{path}: stays a second copy: {error.message}"))
        return
    write_down("hard")
    run.emit(Noticed(f"{path}: the second copy is removed; the place is a hard link now"))
