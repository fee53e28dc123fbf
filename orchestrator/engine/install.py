"""Install verified files: what the manifest allows, the record, the places, the report; for one file or many."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import OrchError, PlacementError
from orchestrator.events import Finished, Noticed, Placed, Replaced
from orchestrator.model import Link, Place
from orchestrator.placement import allow, link
from orchestrator.store import quarantine, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.engine.inspect import Due, Inspection
    from orchestrator.model import Wanted
    from orchestrator.store.records import Sharer
    from orchestrator.transfer.context import RunContext


@dataclass(slots=True)
class Item:
    """One file whose bytes are in the store, and the places that must be made of it.

    `error` says why one of its places cannot be made, or all of them; `how` is placed, or fetched with the `backend`
    and `source` that brought it in `seconds`. `made` says of each place how it was made, or why it was not.
    """

    wanted: Wanted
    sha256: str
    dues: Sequence[Due] = ()
    error: OrchError | None = None
    how: str = "placed"
    backend: str = ""
    source: str = ""
    seconds: float = 0.0
    made: list[tuple[Due, str | PlacementError]] = field(default_factory=list)


def install_files(run: RunContext, items: Sequence[Item]) -> None:
    """Put files at their places, then tell and count what became of each; a record is written once a manifest.

    Raises:
        StoreError: the store's disk said no; Stopped: a stop was asked for. Nothing is told of any of them then.
    """
    for item in items:
        if item.dues and (refused := _refused(run, item)):
            item.error, item.dues = refused, ()
    ready = [item for item in items if item.dues]
    _record(run, ready)
    _put(run, ready)
    _finish_records(run, ready)
    for item in items:
        _report(run, item)


def _refused(run: RunContext, item: Item) -> PlacementError | None:
    """Why a file is of no format that its manifest allows."""
    if not item.wanted.allow:
        return None
    try:
        allow.check(run.store.blob(item.sha256), item.wanted, run.context.stop)
    except PlacementError as error:
        return error
    return None


def _record(run: RunContext, items: Iterable[Item]) -> None:
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


def _put(run: RunContext, items: Sequence[Item]) -> None:
    """Make all places; what is displaced has a second name in quarantine before it loses its own."""
    dues = [(item, due) for item in items for due in item.dues]
    kept: dict[str, str] = {}
    for item, due in dues:
        if due.displaced and not due.place.unpack and due.place.path not in kept:
            about = {"model": item.wanted.model, "expected": item.sha256, "why": due.displaced}
            kept[due.place.path] = quarantine.secure(run.store, due.place.path, due.found or "unread", about)
    results = link.put_all(
        run.context,
        run.store,
        [(item.sha256, due.place) for item, due in dues],
        {due.place.path: due.over for _, due in dues if due.over is not None},
        force=run.options.force,
        tell=lambda line: run.emit(Noticed(line)),
    )
    stands = set()
    for (item, due), how in zip(dues, results, strict=True):
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
        run.emit(Noticed(f"{path}: what stood there is kept in {second}; to have it back: `{back}`"))


def _finish_records(run: RunContext, items: Iterable[Item]) -> None:
    """Add to the records what stands at the places now."""
    stands: dict[str, dict[str, str]] = {}
    for item in items:
        for due, how in item.made:
            if isinstance(how, str):
                stands.setdefault(item.wanted.manifest, {})[due.place.path] = how
    for manifest, made in stands.items():
        records.finish(run.store, run.context.hostname, manifest, made, run.context.stop)


def _report(run: RunContext, item: Item) -> None:
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
        size = os.stat(run.store.blob(item.sha256)).st_size
    run.emit(Finished(wanted.model, wanted.file, item.how, item.backend, item.source, size, item.seconds))


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
            run.emit(Noticed(f"{sharer.path}: it shared the wrong bytes, and cannot be made again: {error.message}"))
            continue
        whose = os.path.basename(sharer.record)
        run.emit(Noticed(f"{sharer.path}: put right too ({how}); it shared the wrong bytes ({whose})"))
    records.end_repair(run.store, artifact.key)


def _as_link(made: str) -> Link:
    return Link(made) if made in {mode.value for mode in Link} else Link.AUTO
