"""One run: what stands, what is to be done, does it fit, who may do it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import FileState, RecordIndex, State, scan, warn_of_size
from orchestrator.engine.summary import Counts, Options, interrupted
from orchestrator.errors import OrchError, Stopped
from orchestrator.model import Artifact
from orchestrator.store import Store, blobs, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.engine.scheduler import Scheduler
    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Source, Unresolved, Wanted
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.transfer.context import FirstSeen, RunContext


def sync(
    context: Context,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    hosts: Mapping[str, Host] | None = None,
    options: Options | None = None,
    unresolved: Sequence[Unresolved] = (),
    findings: dict[str, FirstSeen] | None = None,
) -> Summary:
    """Make it so: every file verified and in its places; `unresolved` models are told and left.

    One file's failure never stops the others, except the disk's. Errors are in the summary, not raised.
    `findings` takes, by the key of each file that was fetched, what its bytes are.

    Returns:
        The summary; its exit code follows the contract's precedence.
    """
    began = context.monotonic()
    store = Store(store_path, context.state, context.stop)
    wanted = weak_pins.with_known_sha256(store, wanted, emit if findings is None else None)
    counts = Counts(wanted)
    counts.refuse(unresolved, emit)
    todo: list[FileState] = []
    try:
        for file_state in scan(store, wanted):
            w = file_state.wanted
            if not file_state.present:
                todo.append(file_state)
                continue
            if file_state.true_size is not None:
                warn_of_size(w, file_state.true_size, emit)
            counts.present += 1
            emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
    except Stopped:
        for w in (*(file_state.wanted for file_state in todo), *wanted[counts.present + len(todo) :]):
            emit(counts.fail(w, interrupted()))
        todo = []
    if todo:
        execute(context, store, todo, emit, hosts or {}, options or Options(), counts, findings)
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def execute(
    context: Context,
    store: Store,
    todo: list[FileState],
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    counts: Counts,
    findings: dict[str, FirstSeen] | None = None,
) -> None:
    """Work through what is not present, while nobody takes anything out of the store."""
    from orchestrator.engine.bugs import foreseen
    from orchestrator.store import locks, records

    with ExitStack() as stack:
        try:
            open_store(store.path, store.state)
            stack.enter_context(locks.shared(context, store, lambda why: emit(events.Noticed(why))))
            for manifest in {file_state.wanted.manifest for file_state in todo}:
                if damaged := records.record(store, context.hostname, manifest, {}, context.stop):
                    emit(events.Noticed(damaged))
            scheduler = _prepare(context, store, todo, emit, hosts, options, counts, findings)
        except Stopped:
            _fail_all(todo, interrupted(), emit, counts)
            return
        except Exception as error:
            _fail_others(context, store, todo, foreseen(context, store.path, error), emit, counts)
            return
        with context.stop.deferred():
            scheduler.work()
            _mark(
                context,
                store,
                [file_state.wanted for file_state in todo if file_state.wanted.extra_files],
                emit,
                counts,
            )


def _fail_all(todo: list[FileState], error: OrchError, emit: Callable[[Event], None], counts: Counts) -> None:
    for file_state in todo:
        emit(counts.fail(file_state.wanted, error))


def _fail_others(
    context: Context,
    store: Store,
    todo: list[FileState],
    error: OrchError,
    emit: Callable[[Event], None],
    counts: Counts,
) -> None:
    """Where nothing can be done, tell so of the files that are not right as they stand."""
    from orchestrator.engine.install import prove_unwritten

    _fail_all(prove_unwritten(context, store, todo, RecordIndex(store), emit, counts), error, emit, counts)


def _prepare(
    context: Context,
    store: Store,
    todo: list[FileState],
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    counts: Counts,
    findings: dict[str, FirstSeen] | None,
) -> Scheduler:
    """Get ready what only a run with work needs.

    Raises:
        OrchError, Stopped.
    """
    from orchestrator.engine import disk_space
    from orchestrator.engine.scheduler import Scheduler
    from orchestrator.store import partials

    groups = group(todo)
    begun = disk_space.with_partials(store)
    bundled = partials.batch_remains(store)
    fetching = [a for a, same in groups if _needs_download(store, a, same)]
    disk_space.check_room(disk_space.needs(store, todo, {a.key for a in fetching}))
    run = _run_context(context, store, emit, hosts, options, fetching)
    emit(events.Planned(len(counts.wanted), len(fetching), sum(a.size or 0 for a in fetching)))
    return Scheduler(replace(run, findings=findings), groups, begun, bundled, options, counts)


def _needs_download(store: Store, artifact: Artifact, same: Sequence[FileState]) -> bool:
    """Whether the store has no blob to be believed."""
    wrong = (store.blob(artifact.key), State.WRONG)
    sealed = blobs.blob_state(store, artifact.sha256, artifact.size) == "sealed"
    return not sealed or any(wrong in file_state.states for file_state in same)


def _mark(
    context: Context, store: Store, marked: Sequence[Wanted], emit: Callable[[Event], None], counts: Counts
) -> None:
    """Write what a layout wants once all files of a model are in place."""
    if not marked:
        return
    from orchestrator.engine.bugs import foreseen
    from orchestrator.placement import link
    from orchestrator.store import extra_files

    failed = {f.model for f in counts.failed}
    for w in marked:
        if w.model in failed:
            continue
        try:
            for wish in extra_files.of(store, w):
                how = link.write_extra_file(store, context.hostname, w.manifest, wish)
                if how in ("made", "back"):
                    emit(events.Placed(w.model, w.file, wish.path, extra_files.LINK))
                if how == "back":
                    emit(events.Noticed(f"{wish.path}: somebody had moved it; it says `{wish.text[:80]}` again"))
                elif how == "other":
                    emit(events.Noticed(f"{wish.path}: left as it is; it does not say `{wish.text[:80]}`"))
        except Exception as error:
            counts.take_back()
            emit(counts.fail(w, foreseen(context, store.path, error, [wish.path for wish in w.extra_files])))


def _ask(context: Context, fetching: Sequence[Artifact], hosts: Mapping[str, Host]) -> SourceStats:
    """Find out which of the run's sources answer, and how fast."""
    from orchestrator.sources.knowledge import SourceStats

    known = SourceStats(context)
    known.ask(fetching, hosts)
    return known


def _run_context(
    context: Context,
    store: Store,
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    fetching: Sequence[Artifact],
) -> RunContext:
    """Find programs and judge, where anything has to be fetched; `fetching` is what is not in the store.

    Raises:
        NoBackendError: none is usable, or the one asked for (--backend) is not; no sha256sum.
    """
    from orchestrator.transfer.context import RunContext

    run = RunContext(
        context,
        store,
        emit,
        hosts=hosts,
        retries=options.retries,
        stall_s=options.stall_s,
        wait=options.wait,
    )
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
    judge, known = BackgroundCall(choose, context), BackgroundCall(_ask, context, fetching, hosts)
    BackgroundCall(import_module, "orchestrator.sources.http")  # its HTTP client takes 55 ms, and waits well too
    programs = find_backends(context, options.backend, emit)
    return replace(
        run,
        programs=programs,
        judge=judge.result(context.stop),
        known=known.result(context.stop),
        connection_limits=ConnectionLimits(options.connections, options.jobs, sizes),
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
