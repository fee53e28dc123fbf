"""One run: what stands, what is to be done, does it fit, who may do it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import FileState, State, scan, warn_of_size
from orchestrator.errors import OrchError, Stopped
from orchestrator.model import Artifact
from orchestrator.store import blobs, open_store
from orchestrator.summary import interrupted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.engine.scheduler import Scheduler
    from orchestrator.events import Summary
    from orchestrator.model import Host, Source, Unresolved, Wanted
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.transfer.run_context import RunContext


def sync(run: RunContext, wanted: Sequence[Wanted], unresolved: Sequence[Unresolved] = ()) -> Summary:
    """Make it so: every file verified and in its places; `unresolved` models are told and left.

    One file's failure never stops the others, except the disk's. Errors are in the summary, not raised.

    Returns:
        The summary; its exit code follows the contract's precedence.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, wanted, run.emit if run.findings is None else None)
    counts = run.counts
    counts.begin(wanted, unresolved, run.emit)
    todo: list[FileState] = []
    try:
        for file_state in scan(run.store, wanted):
            w = file_state.wanted
            if not file_state.present:
                todo.append(file_state)
                continue
            if file_state.true_size is not None:
                warn_of_size(w, file_state.true_size, run.emit)
            counts.present += 1
            run.emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
    except Stopped:
        for w in (*(file_state.wanted for file_state in todo), *wanted[counts.present + len(todo) :]):
            run.fail(w, interrupted())
        todo = []
    if todo:
        execute(run, todo)
    return counts.summary(run.context.monotonic() - began, stopped=run.context.stop.code)


def execute(run: RunContext, todo: list[FileState]) -> None:
    """Work through what is not present, while nobody takes anything out of the store."""
    from orchestrator.engine.bugs import foreseen
    from orchestrator.store import locks, records

    context, store = run.context, run.store
    with ExitStack() as stack:
        try:
            open_store(store.path, store.state, shared=store.shared)
            stack.enter_context(locks.shared(context, store, lambda why: run.emit(events.Noticed(why))))
            for manifest in {file_state.wanted.manifest for file_state in todo}:
                if damaged := records.record(store, context.hostname, manifest, {}, context.stop):
                    run.emit(events.Noticed(damaged))
            scheduler = _plan_work(run, todo)
        except Stopped:
            _fail_all(run, todo, interrupted())
            return
        except Exception as error:
            _fail_others(run, todo, foreseen(context, store.path, error))
            return
        with context.stop.deferred():
            scheduler.work()
            _write_extra_files(run, [file_state.wanted for file_state in todo if file_state.wanted.extra_files])


def _fail_all(run: RunContext, todo: list[FileState], error: OrchError) -> None:
    for file_state in todo:
        run.fail(file_state.wanted, error)


def _fail_others(run: RunContext, todo: list[FileState], error: OrchError) -> None:
    """Where nothing can be done, tell so of the files that are not right as they stand."""
    from orchestrator.engine.inspect import prove_unwritten

    _fail_all(run, prove_unwritten(run, todo), error)


def _plan_work(run: RunContext, todo: list[FileState]) -> Scheduler:
    """Get ready what only a run with work needs.

    Raises:
        OrchError, Stopped.
    """
    from orchestrator.engine import disk_space
    from orchestrator.engine.scheduler import Scheduler

    groups = group(todo)
    fetching = [artifact for artifact, same in groups if _needs_download(run, artifact, same)]
    disk_space.check_room(disk_space.needs(run.store, todo, {artifact.key for artifact in fetching}))
    run = prepare(run, fetching)
    run.emit(events.Planned(len(run.counts.wanted), len(fetching), sum(a.size or 0 for a in fetching)))
    return Scheduler(run, groups)


def _needs_download(run: RunContext, artifact: Artifact, same: Sequence[FileState]) -> bool:
    """Whether the store has no blob to be believed."""
    wrong = (run.store.blob(artifact.key), State.WRONG)
    sealed = blobs.blob_state(run.store, artifact.sha256, artifact.size) == "sealed"
    return not sealed or any(wrong in file_state.states for file_state in same)


def _write_extra_files(run: RunContext, marked: Sequence[Wanted]) -> None:
    """Write what a layout wants once all files of a model are in place."""
    if not marked:
        return
    from orchestrator.engine.bugs import foreseen
    from orchestrator.placement import link
    from orchestrator.store import extra_files

    context, store = run.context, run.store
    failed = {f.model for f in run.counts.failed}
    for w in marked:
        if w.model in failed:
            continue
        try:
            for wish in extra_files.of(store, w):
                how = link.write_extra_file(store, context.hostname, w.manifest, wish)
                if how in ("made", "back"):
                    run.counts.changed = True
                    run.emit(events.Placed(w.model, w.file, wish.path, extra_files.LINK))
                if how == "back":
                    run.emit(events.Noticed(f"{wish.path}: somebody had moved it; it says `{wish.text[:80]}` again"))
                elif how == "other":
                    run.emit(events.Noticed(f"{wish.path}: left as it is; it does not say `{wish.text[:80]}`"))
        except Exception as error:
            run.counts.take_back(w)
            run.fail(w, foreseen(context, store.path, error, [wish.path for wish in w.extra_files]))


def _ask(context: Context, fetching: Sequence[Artifact], hosts: Mapping[str, Host]) -> SourceStats:
    """Find out which of the run's sources answer, and how fast."""
    from orchestrator.sources.knowledge import SourceStats

    known = SourceStats(context)
    known.ask(fetching, hosts)
    return known


def prepare(run: RunContext, fetching: Sequence[Artifact]) -> RunContext:
    """Find programs and judge, where anything has to be fetched; `fetching` is what is not in the store.

    Raises:
        NoBackendError: none is usable, or the one asked for (--backend) is not; no sha256sum.
    """
    options, context = run.options, run.context
    if options.offline or not fetching:
        return run
    from importlib import import_module

    from orchestrator.engine.background import BackgroundCall
    from orchestrator.programs import find_backends
    from orchestrator.transfer.connections import ConnectionLimits
    from orchestrator.verify import tools

    sizes = [artifact.size or 0 for artifact in fetching]
    choose = tools.best_for_large if max(sizes) >= tools.LARGE_BYTES else tools.reference
    # What is waited for, none of which needs another.
    judge, known = BackgroundCall(choose, context), BackgroundCall(_ask, context, fetching, run.hosts)
    BackgroundCall(import_module, "orchestrator.sources.http")  # its HTTP client takes 55 ms, and waits well too
    programs = find_backends(context, options.backend, run.emit)
    asked = known.result(context.stop)
    for source, message in asked.unanswered():
        run.emit(events.Unanswered(source, message))
    return replace(
        run,
        programs=programs,
        judge=judge.result(context.stop),
        known=asked,
        limits=ConnectionLimits(options.connections, options.jobs, sizes),
    )


def group(todo: Sequence[FileState]) -> list[tuple[Artifact, list[FileState]]]:
    """One artifact a key, largest first; its sources and pins are those of all who want it, in order."""
    by_key: dict[str, list[FileState]] = {}
    for file_state in todo:
        by_key.setdefault(file_state.wanted.key, []).append(file_state)
    groups = []
    for same in by_key.values():
        w = same[0].wanted
        if len(same) == 1:  # nearly all: its sources are in order, and each there once
            groups.append((Artifact(w.sha256, w.size, w.sources, (w,), w.pins, w.pieces), same))
            continue
        sources: dict[str, Source] = {s.url: s for file_state in reversed(same) for s in file_state.wanted.sources}
        ordered = dict.fromkeys(s.url for file_state in same for s in file_state.wanted.sources)
        size = next((s.wanted.size for s in same if s.wanted.size is not None), None)
        pins = tuple(dict.fromkeys(pin for file_state in same for pin in file_state.wanted.pins))
        pieces = next((s.wanted.pieces for s in same if s.wanted.pieces), "")
        wanted = tuple(s.wanted for s in same)
        artifact = Artifact(w.sha256, size, tuple(sources[url] for url in ordered), wanted, pins, pieces)
        groups.append((artifact, same))
    groups.sort(key=lambda entry: -(entry[0].size or 0))
    return groups
