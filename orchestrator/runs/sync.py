"""One run: what stands, what is to be done, does it fit, who may do it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from orchestrator import events
from orchestrator.errors import OrchError
from orchestrator.model import Artifact
from orchestrator.runs.standing import Standing, standings
from orchestrator.runs.tally import Tally
from orchestrator.store import Store, blobs, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Source, Unresolved, Wanted
    from orchestrator.sources.known import Knowledge
    from orchestrator.transfer.kit import Kit
    from orchestrator.world import World


class Options(msgspec.Struct, frozen=True):
    """What a run may do; the contract's defaults. `backend` None: the best; `stall_s` silence that ends a program."""

    backend: str | None = None
    jobs: int = 4
    connections: int = 16
    retries: int = 5
    stall_s: float = 30.0
    offline: bool = False
    wait: bool = True
    force: bool = False


def sync(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    hosts: Mapping[str, Host] | None = None,
    options: Options | None = None,
    unresolved: Sequence[Unresolved] = (),
) -> Summary:
    """Make it so: every file verified and in its places; `unresolved` models are told and left.

    One file's failure never stops the others, except the disk's. Errors are in the summary, not raised.

    Returns:
        The summary; its exit code follows the contract's precedence.
    """
    began = world.monotonic()
    tally = Tally(wanted)
    tally.refuse(unresolved, emit)
    store = Store(store_path, world.state)
    todo: list[Standing] = []
    for standing in standings(store, wanted):
        if standing.present:
            w = standing.wanted
            tally.present += 1
            emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
        else:
            todo.append(standing)
    if todo:
        _do(world, store, todo, emit, hosts or {}, options or Options(), tally)
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def _do(
    world: World,
    store: Store,
    todo: list[Standing],
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    tally: Tally,
) -> None:
    """Work through what is not present: with what only that needs."""
    from orchestrator.runs import preflight
    from orchestrator.runs.crew import Crew
    from orchestrator.store import bundles

    groups = group(todo)
    begun = preflight.with_partials(store)
    bundled = bundles.remains(store)
    try:
        open_store(store.path, store.state)
        preflight.check_room(preflight.needs(store, todo))
        fetching = [a for a, _ in groups if blobs.blob_state(store, a.sha256, a.size) != "sealed"]
        kit = _equip(world, store, emit, hosts, options, fetching)
    except OrchError as error:
        for standing in todo:
            emit(tally.fail(standing.wanted, error))
        return
    emit(events.Planned(len(tally.wanted), len(fetching), sum(a.size or 0 for a in fetching)))
    Crew(kit, groups, begun, bundled, options, tally).work()
    _mark(world, store, [standing.wanted for standing in todo if standing.wanted.marks], emit, tally)


def _mark(world: World, store: Store, marked: Sequence[Wanted], emit: Callable[[Event], None], tally: Tally) -> None:
    """Write what a layout wants once all files of a model are in place."""
    if not marked:
        return
    from orchestrator.placement import mark

    failed = {f.model for f in tally.failed}
    for w in marked:
        if w.model in failed:
            continue
        try:
            for wish in w.marks:
                how = mark.write(store, world.hostname, w.manifest, wish)
                if how == "made":
                    emit(events.Placed(w.model, w.file, wish.path, mark.LINK))
                elif how == "other":
                    emit(events.Noticed(f"{wish.path}: left as it is; it does not say `{wish.text[:80]}`"))
        except OrchError as error:
            tally.take_back()
            emit(tally.fail(w, error))


def _ask(world: World, fetching: Sequence[Artifact], hosts: Mapping[str, Host]) -> Knowledge:
    """Find out which of the run's sources answer, and how fast."""
    from orchestrator.sources.known import Knowledge

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
    from orchestrator.transfer.kit import Kit

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
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    from orchestrator import judges
    from orchestrator.programs import find_backends
    from orchestrator.transfer.budget import Budget

    sizes = [artifact.size or 0 for artifact in fetching]
    choose = judges.best_for_large if max(sizes) >= judges.LARGE_BYTES else judges.reference
    with ThreadPoolExecutor(3, "orch-ask") as pool:  # what is waited for, none of which needs another
        judge, known = pool.submit(choose, world), pool.submit(_ask, world, fetching, hosts)
        pool.submit(import_module, "orchestrator.sources.look")  # its HTTP client takes 55 ms, and waits well too
        programs = find_backends(world, options.backend, emit)
        return replace(
            kit,
            programs=programs,
            judge=judge.result(),
            known=known.result(),
            budget=Budget(options.connections, options.jobs, sizes),
        )


def group(todo: Sequence[Standing]) -> list[tuple[Artifact, list[Standing]]]:
    """One artifact a digest, largest first; its sources are those of all who want it, in order."""
    by_digest: dict[str, list[Standing]] = {}
    for standing in todo:
        by_digest.setdefault(standing.wanted.sha256, []).append(standing)
    groups = []
    for sha256, same in by_digest.items():
        if len(same) == 1:  # nearly all: its sources are in order, and each there once
            w = same[0].wanted
            groups.append((Artifact(sha256, w.size, w.sources, (w,), w.pins, w.pieces), same))
            continue
        sources: dict[str, Source] = {s.url: s for standing in reversed(same) for s in standing.wanted.sources}
        ordered = dict.fromkeys(s.url for standing in same for s in standing.wanted.sources)
        size = next((s.wanted.size for s in same if s.wanted.size is not None), None)
        pins = tuple(dict.fromkeys(pin for standing in same for pin in standing.wanted.pins))
        pieces = next((s.wanted.pieces for s in same if s.wanted.pieces), "")
        wanted = tuple(s.wanted for s in same)
        artifact = Artifact(sha256, size, tuple(sources[url] for url in ordered), wanted, pins, pieces)
        groups.append((artifact, same))
    groups.sort(key=lambda entry: -(entry[0].size or 0))
    return groups
