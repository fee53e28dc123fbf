"""One run: what stands, what is to be done, does it fit, who may do it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import Records, Standing, State, standings, warn_of_size
from orchestrator.engine.summary import Options, Tally, interrupted
from orchestrator.errors import OrchError, Stopped
from orchestrator.model import Artifact
from orchestrator.store import Store, blobs, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import World
    from orchestrator.engine.scheduler import Crew
    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Source, Unresolved, Wanted
    from orchestrator.sources.knowledge import Knowledge
    from orchestrator.transfer.context import Finding, Kit


def sync(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    hosts: Mapping[str, Host] | None = None,
    options: Options | None = None,
    unresolved: Sequence[Unresolved] = (),
    findings: dict[str, Finding] | None = None,
) -> Summary:
    """Make it so: every file verified and in its places; `unresolved` models are told and left.

    One file's failure never stops the others, except the disk's. Errors are in the summary, not raised.
    `findings` takes, by the key of each file that was fetched, what its bytes are.

    Returns:
        The summary; its exit code follows the contract's precedence.
    """
    began = world.monotonic()
    store = Store(store_path, world.state, world.stop)
    wanted = weak_pins.known(store, wanted, emit if findings is None else None)
    tally = Tally(wanted)
    tally.refuse(unresolved, emit)
    todo: list[Standing] = []
    try:
        for standing in standings(store, wanted):
            w = standing.wanted
            if not standing.present:
                todo.append(standing)
                continue
            if standing.true_size is not None:
                warn_of_size(w, standing.true_size, emit)
            tally.present += 1
            emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
    except Stopped:
        for w in (*(standing.wanted for standing in todo), *wanted[tally.present + len(todo) :]):
            emit(tally.fail(w, interrupted()))
        todo = []
    if todo:
        put_right(world, store, todo, emit, hosts or {}, options or Options(), tally, findings)
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def put_right(
    world: World,
    store: Store,
    todo: list[Standing],
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    tally: Tally,
    findings: dict[str, Finding] | None = None,
) -> None:
    """Work through what is not present, while nobody takes anything out of the store."""
    from orchestrator.engine.bugs import foreseen
    from orchestrator.store import locks, records

    with ExitStack() as stack:
        try:
            open_store(store.path, store.state)
            stack.enter_context(locks.adding(world, store, lambda why: emit(events.Noticed(why))))
            for manifest in {standing.wanted.manifest for standing in todo}:
                if damaged := records.record(store, world.hostname, manifest, {}, world.stop):
                    emit(events.Noticed(damaged))
            crew = _prepare(world, store, todo, emit, hosts, options, tally, findings)
        except Stopped:
            _fail_all(todo, interrupted(), emit, tally)
            return
        except Exception as error:
            _fail_others(world, store, todo, foreseen(world, store.path, error), emit, tally)
            return
        with world.stop.deferred():
            crew.work()
            _mark(world, store, [standing.wanted for standing in todo if standing.wanted.marks], emit, tally)


def _fail_all(todo: list[Standing], error: OrchError, emit: Callable[[Event], None], tally: Tally) -> None:
    for standing in todo:
        emit(tally.fail(standing.wanted, error))


def _fail_others(
    world: World,
    store: Store,
    todo: list[Standing],
    error: OrchError,
    emit: Callable[[Event], None],
    tally: Tally,
) -> None:
    """Where nothing can be done, tell so of the files that are not right as they stand."""
    from orchestrator.engine.install import prove_unwritten

    _fail_all(prove_unwritten(world, store, todo, Records(store), emit, tally), error, emit, tally)


def _prepare(
    world: World,
    store: Store,
    todo: list[Standing],
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    tally: Tally,
    findings: dict[str, Finding] | None,
) -> Crew:
    """Get ready what only a run with work needs.

    Raises:
        OrchError, Stopped.
    """
    from orchestrator.engine import disk_space
    from orchestrator.engine.scheduler import Crew
    from orchestrator.store import partials

    groups = group(todo)
    begun = disk_space.with_partials(store)
    bundled = partials.batch_remains(store)
    fetching = [a for a, same in groups if _lacks(store, a, same)]
    disk_space.check_room(disk_space.needs(store, todo, {a.key for a in fetching}))
    kit = _equip(world, store, emit, hosts, options, fetching)
    emit(events.Planned(len(tally.wanted), len(fetching), sum(a.size or 0 for a in fetching)))
    return Crew(replace(kit, findings=findings), groups, begun, bundled, options, tally)


def _lacks(store: Store, artifact: Artifact, same: Sequence[Standing]) -> bool:
    """Whether the store has no blob to be believed."""
    wrong = (store.blob(artifact.key), State.WRONG)
    sealed = blobs.blob_state(store, artifact.sha256, artifact.size) == "sealed"
    return not sealed or any(wrong in standing.states for standing in same)


def _mark(world: World, store: Store, marked: Sequence[Wanted], emit: Callable[[Event], None], tally: Tally) -> None:
    """Write what a layout wants once all files of a model are in place."""
    if not marked:
        return
    from orchestrator.engine.bugs import foreseen
    from orchestrator.placement import link
    from orchestrator.store import marks

    failed = {f.model for f in tally.failed}
    for w in marked:
        if w.model in failed:
            continue
        try:
            for wish in marks.of(store, w):
                how = link.write_extra_file(store, world.hostname, w.manifest, wish)
                if how in ("made", "back"):
                    emit(events.Placed(w.model, w.file, wish.path, marks.LINK))
                if how == "back":
                    emit(events.Noticed(f"{wish.path}: somebody had moved it; it says `{wish.text[:80]}` again"))
                elif how == "other":
                    emit(events.Noticed(f"{wish.path}: left as it is; it does not say `{wish.text[:80]}`"))
        except Exception as error:
            tally.take_back()
            emit(tally.fail(w, foreseen(world, store.path, error, [wish.path for wish in w.marks])))


def _ask(world: World, fetching: Sequence[Artifact], hosts: Mapping[str, Host]) -> Knowledge:
    """Find out which of the run's sources answer, and how fast."""
    from orchestrator.sources.knowledge import Knowledge

    known = Knowledge(world)
    known.ask(fetching, hosts)
    return known


def _equip(
    world: World,
    store: Store,
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    fetching: Sequence[Artifact],
) -> Kit:
    """Find programs and judge, where anything has to be fetched; `fetching` is what is not in the store.

    Raises:
        NoBackendError: none is usable, or the one asked for (--backend) is not; no sha256sum.
    """
    from orchestrator.transfer.context import Kit

    kit = Kit(
        world,
        store,
        emit,
        hosts=hosts,
        retries=options.retries,
        stall_s=options.stall_s,
        wait=options.wait,
    )
    if options.offline or not fetching:
        return kit
    from importlib import import_module

    from orchestrator.engine.background import Errand
    from orchestrator.programs import find_backends
    from orchestrator.transfer.connections import Budget
    from orchestrator.verify import tools

    sizes = [artifact.size or 0 for artifact in fetching]
    choose = tools.best_for_large if max(sizes) >= tools.LARGE_BYTES else tools.reference
    # What is waited for, none of which needs another.
    judge, known = Errand(choose, world), Errand(_ask, world, fetching, hosts)
    Errand(import_module, "orchestrator.sources.http")  # its HTTP client takes 55 ms, and waits well too
    programs = find_backends(world, options.backend, emit)
    return replace(
        kit,
        programs=programs,
        judge=judge.result(world.stop),
        known=known.result(world.stop),
        budget=Budget(options.connections, options.jobs, sizes),
    )


def group(todo: Sequence[Standing]) -> list[tuple[Artifact, list[Standing]]]:
    """One artifact a key, largest first; its sources and pins are those of all who want it, in order."""
    by_key: dict[str, list[Standing]] = {}
    for standing in todo:
        by_key.setdefault(standing.wanted.key, []).append(standing)
    groups = []
    for same in by_key.values():
        w = same[0].wanted
        if len(same) == 1:  # nearly all: its sources are in order, and each there once
            groups.append((Artifact(w.sha256, w.size, w.sources, (w,), w.pins, w.pieces), same))
            continue
        sources: dict[str, Source] = {s.url: s for standing in reversed(same) for s in standing.wanted.sources}
        ordered = dict.fromkeys(s.url for standing in same for s in standing.wanted.sources)
        size = next((s.wanted.size for s in same if s.wanted.size is not None), None)
        pins = tuple(dict.fromkeys(pin for standing in same for pin in standing.wanted.pins))
        pieces = next((s.wanted.pieces for s in same if s.wanted.pieces), "")
        wanted = tuple(s.wanted for s in same)
        artifact = Artifact(w.sha256, size, tuple(sources[url] for url in ordered), wanted, pins, pieces)
        groups.append((artifact, same))
    groups.sort(key=lambda entry: -(entry[0].size or 0))
    return groups
