"""What a sync would do, and why; unsealed files are read, nothing is changed, no socket opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.backends import select
from orchestrator.engine import disk_space, doubled, weak_pins
from orchestrator.engine.run import group
from orchestrator.engine.scan import (
    FileState,
    RecordIndex,
    State,
    blob_size,
    leads_below,
    leads_into,
    scan,
    warn_of_size,
)
from orchestrator.errors import NoBackendError, OrchError, PlacementError, TransferError
from orchestrator.placement import link
from orchestrator.programs import find_backends, install_hint
from orchestrator.sources.route import Routes
from orchestrator.store import blobs
from orchestrator.store.store import refuse_unwritable
from orchestrator.transfer import adopt
from orchestrator.urls import host_of
from orchestrator.workspace import no_collection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.events import Summary
    from orchestrator.model import Artifact, Role, Source, Unresolved, Wanted
    from orchestrator.programs import Program
    from orchestrator.store.below import BelowStores
    from orchestrator.transfer.adopt import Find
    from orchestrator.transfer.run_context import RunContext


@no_collection()
def plan(run: RunContext, wanted: Sequence[Wanted], unresolved: Sequence[Unresolved] = ()) -> Summary:
    """Say of every file what `sync` would do, and whether bytes and inodes fit.

    Returns:
        The summary: `placed` and `fetched` are what would be; exit code 0 if it can be done, else what sync
        would end with.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, wanted, run.emit)
    run.counts.bytes_to_fetch = 0
    run.counts.begin(wanted, unresolved, run.emit)
    todo = []
    index = RecordIndex(run.store)
    for each in scan(run.store, wanted):
        file_state = doubled.marked(run, each, index) if each.present else each
        if file_state.true_size is not None:
            warn_of_size(file_state.wanted, file_state.true_size, run.emit)
        if file_state.present:
            run.counts.present += 1
            w = file_state.wanted
            run.emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
        else:
            todo.append(file_state)
    planner = _Planner(run)
    for artifact, same in group(todo):
        planner.foresee(artifact, same)
    if planner.for_peers:
        _tell_peers(run)
    if todo:
        _room(run, todo, planner)
    return run.counts.summary(run.context.monotonic() - began)


class _Planner:
    """Foresees one artifact after the other."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        store = run.store
        self._records = RecordIndex(store)
        self._judged_folders = link.JudgedFolders()
        self._programs: dict[str, Program] | None = None
        self._begun = disk_space.Begun(store)
        self._no_blobs = not os.path.isdir(store.blob("").rstrip("/"))  # a new store: none need be looked for
        self._routes = Routes(run.context.environ, run.hosts)
        self._offer: Find | None = None
        self._chosen: dict[tuple[str, bool, Role], tuple[select.Choice, str]] = {}
        self.lacking: set[str] = set()  # digests without a sealed blob: looked at once
        self.copied: set[str] = set()  # those of them that come from a store below
        self.for_peers = False  # whether sync would ask the peers for a file
        self._below: BelowStores | None = None
        if store.below:
            from orchestrator.store import below

            self._below = below.BelowStores(store, lambda line: run.emit(events.Noticed(line)))

    def foresee(self, artifact: Artifact, same: list[FileState]) -> None:
        """Emit what would happen to each file that wants this digest."""
        have = "absent"
        if not self._no_blobs:
            have = blobs.blob_state(self._run.store, artifact.sha256, artifact.size)
        if have != "sealed":
            self.lacking.add(artifact.key)
        if have == "broken":
            blob = self._run.store.blob(artifact.sha256)
            have = "sealed" if self._right(artifact.wanted[0], blob) else "absent"
        fetched, why = False, "the store has its bytes"
        if have == "absent" and self._below is not None and (lower := self._below.find(artifact.sha256)):
            from orchestrator.engine.scheduler import places_of  # here and below: what few plans need, 25 ms in all

            have, why = "below", f"from the store below {lower[0].store}"
            if self._below.straight(artifact.sha256, places_of(artifact)) is not None:
                self.lacking.discard(artifact.key)
            else:
                self.copied.add(artifact.key)
        true_size = blob_size(self._run.store, artifact.sha256) if have == "sealed" else None
        self._offer = self._offered(artifact)
        for file_state in same:
            copied = False
            try:
                action = self._judge(file_state)
                if action == "adopt" and not all(place.unpack for place in file_state.wanted.places):
                    copied = have == "absent" and not doubled.is_moved(self._run, file_state.wanted)
                    have = "sealed"
                if action == "place" and have == "absent" and not fetched:
                    self._fetch(artifact, file_state.wanted)
                    fetched = True
                    continue
            except OrchError as error:
                self._run.fail(file_state.wanted, error)
                continue
            w = file_state.wanted
            if true_size is not None and file_state.true_size is None and w.size not in (None, true_size):
                warn_of_size(w, true_size, self._run.emit)
            self._run.counts.placed += 1
            reason = "the existing file has the right bytes" if action == "adopt" else why
            reason += "; the store takes a copy" if copied else ""
            reason = "a second copy, which becomes a hard link" if file_state.doubled else reason
            reason = "downloaded once for several places" if action == "place" and fetched else reason
            self._run.emit(events.Foreseen(w.model, w.file, action, w.size, why=reason))

    def _offered(self, artifact: Artifact) -> Find | None:
        """An unfinished download beside a place that sync would go on with."""
        find = None if self._run.options.offline else adopt.offered(self._run.store, artifact)
        return None if find is None or adopt.user(find) else find

    def _judge(self, file_state: FileState) -> str:
        """place or adopt.

        Raises:
            PlacementError: a stranger with other bytes stands at a place.
        """
        w, action = file_state.wanted, "adopt"
        links = {place.path: place for place in w.places}
        for path, state in file_state.states:
            if state is State.SEALED:
                continue
            absent, place = state is State.ABSENT, links.get(path)
            if place is not None:
                link.judge_folder(self._run.store, place, self._judged_folders, absent=absent)
            if absent:  # first, because it is the state of nearly all that is to be done
                action = "place"
            elif state in (State.OBSTRUCTED, State.UNKNOWN):
                raise _told(path, state, w.size)
            elif state is State.OUTDATED or (self._offer and self._offer.path == path):
                action = "place"
            elif place is not None and place.unpack:
                if self._records.is_our_tree(path):
                    action = "place"
                elif state is State.FOREIGN or not self._is_tree(w, path):
                    if not self._run.options.force:
                        raise _told(path, State.FOREIGN, w.size)
                    action = "place"
            elif not self._right(w, path):
                self._may_go(w, path)
                action = "place"
        return action

    def _is_tree(self, wanted: Wanted, path: str) -> bool:
        """Whether a folder has all files of an archive, by reading them."""
        from orchestrator.engine.inspect import read_tree

        return read_tree(self._run, wanted, path) is not None

    def _may_go(self, wanted: Wanted, path: str) -> None:
        """See that a file with wrong bytes is ours, or may be replaced.

        Raises:
            PlacementError: it is somebody else's.
        """
        from orchestrator.engine.inspect import is_pointer_to
        from orchestrator.formats import wrong_file
        from orchestrator.verify import check

        islink = os.path.islink(path)
        ours = (
            leads_into(self._run.store, os.readlink(path)) or leads_below(self._run.store, os.readlink(path))
            if islink
            else self._records.is_ours(path, os.lstat(path), wanted.sha256) or is_pointer_to(path, wanted)
        )
        if not self._run.options.force and not ours:
            what = f"a link to {os.readlink(path)}" if islink else "a file"
            why = check.diagnose_file(path, wrong_file.expected_file(wanted)).after
            why += self._records.taken_for(path, wanted.manifest)
            hint = f"move it away, or replace it: `orch sync --force`{adopt.resume_hint(path, wanted.size)}"
            raise PlacementError(
                f"{path}: {what} that orch did not make is in the way, with other bytes{why}", hint, "foreign"
            )

    def _right(self, wanted: Wanted, path: str) -> bool:
        """Read a file.

        Raises:
            PlacementError, StoreError: it cannot be read.
        """
        size = os.stat(path).st_size if os.path.isfile(path) else None
        with self._run.reading("verifying", wanted.model, wanted.file, size) as context:
            verdict = weak_pins.prove(context, wanted, path)
        if verdict.error is not None and os.path.exists(path):
            from orchestrator.commands.verify import unread_error

            raise unread_error(self._run.store, path, verdict.error)
        return verdict.is_good

    def _fetch(self, artifact: Artifact, wanted: Wanted) -> None:
        """Foresee a fetch: the first source that a program here can serve.

        Raises:
            NoBackendError, TransferError.
        """
        if self._run.store.read_only:
            from orchestrator.engine.read_only import nowhere_to_write

            raise nowhere_to_write(wanted)
        if self._run.options.offline:
            raise TransferError(
                f"{artifact.name}: not in the store", "run again without --offline", "missing", code="offline"
            )
        if self._programs is None:
            self._programs = find_backends(self._run.context, self._run.options.backend, self._run.emit)
        for source in artifact.sources:
            best, why = self._choose(source, artifact.size)
            if not best.obstacle:
                size, counts = artifact.size, self._run.counts
                have = self._begun.resumable_bytes(artifact.key, artifact.sources)
                if self._offer is not None:
                    have = max(have, self._offer.good_bytes)
                if size is not None:
                    have = min(have, size)
                counts.bytes_to_fetch = (counts.bytes_to_fetch or 0) + max(0, (size or 0) - have)
                counts.fetched += 1
                self.for_peers |= bool(artifact.sha256 and self._run.peers)
                name = best.backend.NAME
                self._run.emit(events.Foreseen(wanted.model, wanted.file, "fetch", size, source.url, name, why, have))
                return
        hint = install_hint(source.url for source in artifact.sources)
        raise NoBackendError(f"{artifact.name}: no downloader on this machine supports its sources", hint)

    def _choose(self, source: Source, size: int | None) -> tuple[select.Choice, str]:
        """The best backend for a source, and why it is asked: the same for all files of its kind and host."""
        kind = host_of(source.url), select.is_small(size), source.role
        chosen = self._chosen.get(kind)
        if chosen is None:
            usable = [name for name, program in (self._programs or {}).items() if program.usable]
            best = select.rank(usable, size, self._routes.to(source.url).requirements)[0]
            chosen = self._chosen[kind] = best, f"{source.role.value}; {best.why}"
        return chosen


def _told(path: str, state: State, size: int | None) -> OrchError:
    """The state of one place as `status` tells it."""
    from orchestrator.commands.status import told

    return told(path, state, size)


def _tell_peers(run: RunContext) -> None:
    """Say which peers sync would ask before all other sources, as the site file names them, and which it would not."""
    from orchestrator.sources.peers import Peer, askable
    from orchestrator.sources.srv import PREFIX

    asked, refused = askable([Peer(name) for name in run.peers if not name.startswith(PREFIX)], run.context, run.hosts)
    names = [peer.base for peer in asked] + [name for name in run.peers if name.startswith(PREFIX)]
    if names:
        run.emit(events.Noticed(f"sync asks these peers first: {', '.join(names)}"))
    for why in refused:
        run.emit(events.Noticed(why))


def _room(run: RunContext, todo: list[FileState], planner: _Planner) -> None:
    """Measure the room; where it is too small, what would have been done counts as failed."""
    counts = run.counts
    asked = disk_space.needs(run.store, todo, planner.lacking, planner.copied)
    for need in asked:
        run.emit(events.Measured(need.folder, need.size_bytes, need.free()[0], need.unsized))
    try:
        if not run.store.read_only:
            refuse_unwritable(run.store.path)
        disk_space.check_room(asked)
    except OrchError as error:
        failed = {(f.model, f.file) for f in counts.failed}
        counts.placed = counts.fetched = 0
        for file_state in todo:
            if (file_state.wanted.model, file_state.wanted.file) not in failed:
                run.fail(file_state.wanted, error)
