"""Install verified files: what the manifest allows, the record, the places, the report; for one file or many.

A model of which a place holds an earlier version switches whole: none of its places changes before all its files are
in the store; then they are exchanged in one go, and a failure leaves the whole earlier version standing.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.engine.bugs import foreseen
from orchestrator.engine.scan import replaced_models, warn_of_size
from orchestrator.errors import OrchError, PlacementError, Stopped, StoreError
from orchestrator.events import Finished, Noticed, Placed, Replaced
from orchestrator.files import place_error
from orchestrator.folders import Folders
from orchestrator.model import Link, Place
from orchestrator.placement import allow, link
from orchestrator.store import quarantine, records
from orchestrator.store.below import placing
from orchestrator.summary import INTERRUPTED, interrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.engine.inspect import Due, Inspection
    from orchestrator.engine.scan import FileState, RecordIndex
    from orchestrator.model import Wanted
    from orchestrator.store import Store
    from orchestrator.store.records import Sharer
    from orchestrator.transfer.run_context import RunContext


@dataclass(slots=True)
class InstallItem:
    """One file whose bytes are in the store, and the places that must be made of it.

    `error` says why one of its places cannot be made, or all of them; `how` is placed, or fetched with the `backend`
    and `source` that brought it in `seconds`, and from `also`. `replaces`: one of its places holds an earlier version.
    `made` says of each place how it was made, or why it was not. `below` is the path of its bytes in a store below, of
    which its places are made; "" where they are made of the first store's.
    """

    wanted: Wanted
    sha256: str
    dues: Sequence[Due] = ()
    error: OrchError | None = None
    how: str = "placed"
    replaces: bool = False
    backend: str = ""
    source: str = ""
    seconds: float = 0.0
    also: tuple[str, ...] = ()
    made: list[tuple[Due, str | PlacementError]] = field(default_factory=list)
    below: str = ""

    def path(self, store: Store) -> str:
        """Where its bytes are."""
        return self.below or store.blob(self.sha256)


@dataclass(slots=True)
class _ModelSwitch:
    """A model that is replaced: which of its files are awaited, which are ready, and why it cannot be, if so."""

    order: dict[int, int]  # of its files, by their ids: that in which they are renamed
    waiting: set[int]  # ids of the files that have not come yet
    replaces: bool  # a place is known to hold an earlier version; else that must be read first
    ready: list[InstallItem] = field(default_factory=list)
    failure: tuple[Wanted, OrchError] | None = None


class Installer:
    """Installs files as they come; those of a model that is replaced when all of them have come.

    One for a run: its threads bring what they have to `add`, or what they have not to `fail`.
    """

    def __init__(self, run: RunContext, index: RecordIndex, todo: Sequence[FileState]) -> None:
        self._run, self._lock = run, threading.Lock()
        models, known = replaced_models(index, todo)
        sure = {(wanted.manifest, wanted.model) for wanted, _ in known}
        self._switches = {
            key: _ModelSwitch(order, set(order), key in sure)
            for key, file_states in models.items()
            if (order := {id(each.wanted): number for number, each in enumerate(file_states)})
        }
        _tell_versions(run, known)

    def add(self, items: Sequence[InstallItem]) -> None:
        """Install files whose bytes are in the store, or tell why they are not; or keep them for their model's switch.

        Raises:
            StoreError, Stopped: as `install_files`; nothing is told of those that were not kept.
        """
        held = [item for item in items if self._switch_of(item.wanted) is not None]
        if len(held) < len(items):
            install_files(self._run, [item for item in items if self._switch_of(item.wanted) is None])
        for item in held:
            if item.error is not None and not item.dues:
                _report(self._run, item)
            self._take(item.wanted, item, item.error)

    def fail(self, wanted: Wanted, error: OrchError) -> None:
        """Tell that a file could not be had; its model, where that is replaced, stays as it is."""
        self._run.fail(wanted, error)
        if self._switch_of(wanted) is not None:
            self._take(wanted, None, error)

    def _switch_of(self, wanted: Wanted) -> _ModelSwitch | None:
        return self._switches.get((wanted.manifest, wanted.model)) if self._switches else None

    def _take(self, wanted: Wanted, item: InstallItem | None, error: OrchError | None) -> None:
        """Note what became of one file of a model; the last one makes the switch."""
        switch = self._switches[wanted.manifest, wanted.model]
        with self._lock:
            if id(wanted) not in switch.waiting:
                return  # told as interrupted meanwhile
            switch.waiting.remove(id(wanted))
            if item is not None:
                switch.replaces |= item.replaces
                switch.ready.append(item)
            if error is not None and switch.failure is None:
                switch.failure = (wanted, error)
            if switch.waiting:
                return
        self._make(switch)

    def _make(self, switch: _ModelSwitch) -> None:
        """Install a model of which all files have come, or have failed."""
        switch.ready.sort(key=lambda item: switch.order[id(item.wanted)])
        try:
            if not switch.replaces:
                install_files(self._run, switch.ready)
            elif switch.failure is None:
                install_files(self._run, switch.ready, together=True)
            else:
                _hold_back(switch.ready, *switch.failure)
                install_files(self._run, switch.ready)
        except Stopped:
            self._fail_ready(switch, interrupted())
            raise
        except Exception as error:
            places = [due.place.path for item in switch.ready for due in item.dues]
            told = foreseen(self._run.context, self._run.store.path, error, places)
            self._fail_ready(switch, told)
            if isinstance(told, StoreError) and not told.of_one_file:
                raise

    def _fail_ready(self, switch: _ModelSwitch, error: OrchError) -> None:
        for item in switch.ready:
            self._run.fail(item.wanted, error)


def _tell_versions(run: RunContext, known: Sequence[tuple[Wanted, str]]) -> None:
    """Say which models are about to be replaced, before they are."""
    by_model: dict[tuple[str, str], list[tuple[Wanted, str]]] = {}
    for wanted, old in known:
        by_model.setdefault((wanted.manifest, wanted.model), []).append((wanted, old))
    for (_, model), files in by_model.items():
        wanted, old = files[0]
        others = len(files) - 1
        name = f"{wanted.file} " if others else ""
        more = f" and {others} more file{'s' * (others > 1)}" if others else ""
        run.emit(Noticed(f"{model}: {name}{old[:8]} -> {wanted.sha256[:8]}{more}"))


def _hold_back(items: Sequence[InstallItem], wanted: Wanted, cause: OrchError) -> None:
    """Let the earlier version of a model stand where one of its files, `wanted`, could not be had or placed."""
    name = wanted.file or wanted.model
    for item in items:
        if item.error is None and item.dues:
            if cause.fault == INTERRUPTED:
                item.error, item.dues = interrupted(), ()
                continue
            message = f"{item.wanted.model}/{item.wanted.file}" if item.wanted.file else item.wanted.model
            message += (
                f": not installed: the previous version of {item.wanted.model} stays until all its files are there"
            )
            item.error = copy(cause)  # for its fault and exit code
            item.error.message = f"{message}; {name} is not"
            item.error.hint = f"see the error of {name}, then run the command again"
        item.dues = ()


def install_files(run: RunContext, items: Sequence[InstallItem], *, together: bool = False) -> None:
    """Put files at their places, then tell and count what became of each; a record is written once a manifest.

    With `together` all places change in one go, or none does.

    Raises:
        StoreError: the store's disk said no; Stopped: a stop was asked for. Nothing is told of any of them then.
    """
    for item in items:
        if item.dues and (refused := _refused(run, item)):
            item.error, item.dues = refused, ()
    if together:
        _hold_back_all(items)
    ready = [item for item in items if item.dues]
    _record(run, ready)
    _put(run, ready, together=together)
    if together:
        _hold_back_all(items)
    _finish_records(run, ready)
    for item in items:
        _report(run, item)


def _hold_back_all(items: Sequence[InstallItem]) -> None:
    """Where one of these files has failed, hold back the others."""
    failed = next((item for item in items if item.error is not None), None)
    if failed is not None and failed.error is not None:
        _hold_back(items, failed.wanted, failed.error)


def _refused(run: RunContext, item: InstallItem) -> PlacementError | None:
    """Why a file is of no format that its manifest allows."""
    if not item.wanted.allow:
        return None
    try:
        allow.check(item.path(run.store), item.wanted, run.context.stop)
    except PlacementError as error:
        return error
    return None


def _record(run: RunContext, items: Iterable[InstallItem]) -> None:
    """Record all places before they are made, so that a kill leaves none that nobody knows."""
    written: dict[str, dict[str, records.PlaceRecord]] = {}
    for item in items:
        for due in item.dues:
            if not due.place.target:  # a layout's symlink is known by what it points to
                entry = records.PlaceRecord(sha256=item.sha256, link=due.place.link.value)
                written.setdefault(item.wanted.manifest, {})[due.place.path] = entry
    for manifest, entries in written.items():
        if told := records.record(run.store, run.context.hostname, manifest, entries, run.context.stop):
            run.emit(Noticed(told))


def _put(run: RunContext, items: Sequence[InstallItem], *, together: bool) -> None:
    """Make all places; what is displaced has a second name in quarantine before it loses its own."""
    kept: dict[str, str] = {}
    folders = Folders(run.store.trusted)
    for item in items:
        for due in item.dues:
            try:
                if due.displaced and not due.place.unpack and due.place.path not in kept:
                    kept[due.place.path] = _secure(run, folders, item, due)
            except PlacementError as error:
                item.error, item.dues = error, ()
                break
    failed = together and any(item.error is not None for item in items)
    dues = [(item, due) for item in items for due in item.dues if not failed]
    make = link.switch_all if together else link.put_all
    elsewhere = {item.sha256: item.below for item, _ in dues if item.below}
    size = sum(item.wanted.size or 0 for item, _ in dues)
    model, file = (dues[0][0].wanted.model, dues[0][0].wanted.file) if dues else ("", "")
    # Where they are no links, they are copied and then verified.
    with run.reading("copying", model, file, size, passes=2) as context:
        results = make(
            context,
            placing(run.store, elsewhere) if elsewhere else run.store,
            [(item.sha256, due.place) for item, due in dues],
            {due.place.path: due.over for _, due in dues if due.over is not None},
            force=run.options.force,
            tell=lambda line: run.emit(Noticed(line)),
        )
    stands = set()
    for (item, due), how in zip(dues, results, strict=True):
        if not how:
            continue  # another one of these failed, and none has changed
        item.made.append((due, how))
        if isinstance(how, PlacementError):
            item.error = item.error or how
        else:
            stands.add(due.place.path)
    for path, second in kept.items():
        if path not in stands:  # what stood there still does
            quarantine.release(second)
            continue
        back = f"orch quarantine restore {os.path.basename(second)} --store {run.store.path} --to PATH"
        run.emit(Noticed(f"{path}: the file that was there is kept in {second}; to restore it: `{back}`"))


def _secure(run: RunContext, folders: Folders, item: InstallItem, due: Due) -> str:
    """Give what is displaced a second name in quarantine. Raises as `quarantine.secure`; and PlacementError."""
    path = due.place.path
    about = {"model": item.wanted.model, "expected": item.sha256, "why": due.displaced, "place": path}
    try:
        folder, name = folders.in_folder(path)
    except OSError as error:
        raise place_error(error, path) from error
    return quarantine.secure(run.store, folder.at(name), due.found or "unread", about)


def _finish_records(run: RunContext, items: Iterable[InstallItem]) -> None:
    """Add to the records what stands at the places now."""
    stands: dict[str, dict[str, records.PlaceRecord]] = {}
    for item in items:
        for due, how in item.made:
            if isinstance(how, str) and not due.place.target:
                entry = records.PlaceRecord(sha256=item.sha256, link=due.place.link.value, how=how)
                stands.setdefault(item.wanted.manifest, {})[due.place.path] = entry
    for manifest, made in stands.items():
        records.finish(run.store, run.context.hostname, manifest, made, run.context.stop)


def _report(run: RunContext, item: InstallItem) -> None:
    """Tell what became of one file, and count it; nothing where it was told as interrupted meanwhile."""
    wanted = item.wanted
    if not run.counts.book(wanted, item.how if item.error is None else "failed"):
        return
    for due, how in item.made:
        if isinstance(how, str):
            run.emit(Placed(wanted.model, wanted.file, due.place.path, how))
            if due.old not in ("", item.sha256):
                run.emit(Replaced(wanted.model, wanted.file, due.place.path, due.old, item.sha256))
    if item.error is not None:
        run.emit(run.counts.fail(wanted, item.error))
        return
    size = wanted.size or 0
    if item.dues or not wanted.places:
        size = os.stat(item.path(run.store)).st_size
        is_new = len(item.dues) == len(wanted.places)  # what stands at one of its places has told it already
        if item.how == "placed" and is_new and wanted.size not in (None, size):
            warn_of_size(wanted, size, run.emit)
    elif wanted.size is None and not wanted.places[0].unpack:
        with suppress(OSError):
            size = os.stat(wanted.places[0].path).st_size
    run.emit(Finished(wanted.model, wanted.file, item.how, item.backend, item.source, size, item.seconds, item.also))


def repair_sharers(run: RunContext, inspection: Inspection, before: Sequence[Sharer]) -> None:
    """Make again the places of any manifest that shared a wrong inode that was taken away, now or in a killed run."""
    artifact = inspection.artifact
    mine = {path for file_state in inspection.file_states for path, _ in file_state.states}
    for sharer in dict.fromkeys((*before, *records.to_repair(run.store, artifact.key))):
        over = link.stamp(sharer.path)
        if sharer.path in mine or (over is not None and over[:2] != (sharer.dev, sharer.inode)):
            continue
        try:
            how = link.put(run.context, run.store, artifact.sha256, Place(sharer.path, _as_link(sharer.link)), over)
        except PlacementError as error:
            run.emit(Noticed(f"{sharer.path}: it had the same wrong bytes, and cannot be replaced: {error.message}"))
            continue
        run.emit(Noticed(f"{sharer.path}: replaced too ({how}): it had the same wrong bytes{_wanted_by(run, sharer)}"))
    records.end_repair(run.store, artifact.key)


def _wanted_by(run: RunContext, sharer: Sharer) -> str:
    """Which manifest a place is of, to be added to a message; "" where its record cannot be read any more."""
    manifest = next((each.manifest for each in records.records(run.store) if each.file == sharer.record), "")
    return f"; its manifest is {manifest}" if manifest else ""


def _as_link(made: str) -> Link:
    return Link(made) if made in {mode.value for mode in Link} else Link.AUTO
