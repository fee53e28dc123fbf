"""The artifacts of one run, N at a time, largest first; the disk's end or a signal stops them all."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from orchestrator import events
from orchestrator.errors import ExitCode, OrchError, StoreError, TransferError
from orchestrator.model import Artifact
from orchestrator.runs import preflight
from orchestrator.runs.standing import Records, Standing, standings
from orchestrator.runs.tally import Tally
from orchestrator.store import Store, blobs, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Source, Wanted
    from orchestrator.sources.known import Knowledge
    from orchestrator.transfer.kit import Kit
    from orchestrator.transfer.loop import Receipt
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
) -> Summary:
    """Make it so: every file verified and in its places.

    One file's failure never stops the others, except the disk's. Errors are in the summary, not raised.

    Returns:
        The summary; its exit code follows the contract's precedence.
    """
    began = world.monotonic()
    tally = Tally(wanted)
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
    """Work through what is not present."""
    groups = group(todo)
    try:
        open_store(store.path, store.state)
        preflight.check_room(preflight.needs(store, todo))
        fetching = [a for a, _ in groups if blobs.blob_state(store, a.sha256, a.size) != "sealed"]
        kit = _equip(world, store, emit, hosts, options, [a.size or 0 for a in fetching])
    except OrchError as error:
        for standing in todo:
            emit(tally.fail(standing.wanted, error))
        return
    emit(events.Planned(len(tally.wanted), len(fetching), sum(a.size or 0 for a in fetching)))
    if not options.offline:
        kit = replace(kit, known=_ask(world, fetching, hosts))
    _Crew(kit, groups, options, tally).work()


def _ask(world: World, fetching: Sequence[Artifact], hosts: Mapping[str, Host]) -> Knowledge:
    """Find out which of the run's sources answer, and how fast."""
    from orchestrator.sources.known import Knowledge

    known = Knowledge(world)
    known.ask(fetching, hosts)
    return known


class _Crew:
    """The threads of one run: each takes the next largest artifact, starts its programs and waits for them."""

    def __init__(self, kit: Kit, groups: list[tuple[Artifact, list[Standing]]], options: Options, tally: Tally) -> None:
        self._kit, self._options, self._tally = kit, options, tally
        self._queue = deque(groups)
        self._records = Records(kit.store)
        self._end: OrchError | None = None

    def work(self) -> None:
        """Run until the queue is empty, the disk is full or a stop was asked for; book what was not reached."""
        crew = [
            threading.Thread(target=self._worker, name=f"orch-{n}", daemon=True)
            for n in range(min(self._options.jobs, len(self._queue)))
        ]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        for _, left in self._queue:
            self._fail_all(left, self._end or _interrupted())
        if isinstance(self._end, BugError):
            raise self._end.cause

    def _worker(self) -> None:
        while self._end is None and not self._kit.world.stop.is_set():
            try:
                artifact, standing = self._queue.popleft()
            except IndexError:
                return
            try:
                self._one(artifact, standing)
            except InterruptedError:
                self._fail_all(standing, self._end or _interrupted())
            except OrchError as error:
                self._fail_all(standing, error)
                if isinstance(error, StoreError):
                    self._stop_all(error)
            except Exception as error:
                self._fail_all(standing, BugError(error))
                self._stop_all(BugError(error))

    def _stop_all(self, error: OrchError) -> None:
        self._end = self._end or error
        self._kit.world.stop.set()

    def _fail_all(self, group_standings: list[Standing], error: OrchError) -> None:
        for standing in group_standings:
            self._kit.emit(self._tally.fail(standing.wanted, error))

    def _one(self, artifact: Artifact, group_standings: list[Standing]) -> None:
        from orchestrator.runs.settle import Settling
        from orchestrator.transfer.loop import Receipt, fetch

        receipt = Receipt()
        work = Settling(self._kit, self._records, artifact, group_standings, force=self._options.force)
        get = _refuse_offline if self._options.offline else fetch
        try:
            results = work.run(get, receipt)
        finally:
            self._tally.moved(receipt.bytes_fetched, receipt.bytes_reused)
        for wanted, result in results:
            if isinstance(result, OrchError):
                self._kit.emit(self._tally.fail(wanted, result))
            else:
                self._tally.count(result)


class BugError(OrchError):
    """An error nobody foresaw: carried to the main thread and raised there with its traceback."""

    exit_code = ExitCode.BUG

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a bug in orch: {cause!r}", "please report it with the traceback")
        self.cause = cause


def _interrupted() -> OrchError:
    return TransferError("interrupted; what was fetched is kept", "run `orch sync` again: it goes on from there")


def _refuse_offline(kit: Kit, artifact: Artifact, receipt: Receipt) -> None:  # noqa: ARG001 - stands in for fetch
    raise TransferError(
        f"{artifact.name}: not in the store, and --offline forbids to fetch it", "leave out --offline", "missing"
    )


def _equip(
    world: World,
    store: Store,
    emit: Callable[[Event], None],
    hosts: Mapping[str, Host],
    options: Options,
    sizes: list[int],
) -> Kit:
    """Find programs and judge, where anything has to be fetched; `sizes` are those of what is not in the store.

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
    if options.offline or not sizes:
        return kit
    from orchestrator import judges
    from orchestrator.programs import find_backends
    from orchestrator.transfer.budget import Budget

    large = max(sizes) >= judges.LARGE_BYTES
    return replace(
        kit,
        programs=find_backends(world, options.backend, emit),
        judge=judges.best_for_large(world) if large else judges.reference(world),
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
            groups.append((Artifact(sha256, w.size, w.sources, (w,)), same))
            continue
        sources: dict[str, Source] = {s.url: s for standing in reversed(same) for s in standing.wanted.sources}
        ordered = dict.fromkeys(s.url for standing in same for s in standing.wanted.sources)
        size = next((s.wanted.size for s in same if s.wanted.size is not None), None)
        artifact = Artifact(sha256, size, tuple(sources[url] for url in ordered), tuple(s.wanted for s in same))
        groups.append((artifact, same))
    groups.sort(key=lambda entry: -(entry[0].size or 0))
    return groups
