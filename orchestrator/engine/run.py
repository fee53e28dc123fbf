"""One run: scan the places, plan the work, check the disk space, choose the programs."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import MAY_BE_RIGHT, FileState, RecordIndex, State, scan, warn_of_size
from orchestrator.errors import ConsentError, OrchError, Stopped
from orchestrator.model import Artifact
from orchestrator.store import blobs, open_store
from orchestrator.summary import interrupted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from orchestrator.engine.background import BackgroundCall
    from orchestrator.engine.scheduler import Scheduler
    from orchestrator.events import Summary
    from orchestrator.model import Source, Unresolved, Wanted
    from orchestrator.programs import Program
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.store import Store
    from orchestrator.transfer.run_context import RunContext


# States of a place that is read before anything is downloaded for it.
_IS_READ = MAY_BE_RIGHT | {State.MODIFIED}
# States of a place that may have all bytes that are wanted, or nearly all: so few are left that no sample is worth it.
_MAY_BE_HERE = _IS_READ | {State.WRONG}


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
    index = RecordIndex(run.store)
    try:
        for each in scan(run.store, wanted):
            file_state, w = each, each.wanted
            if each.present and (run.options.adopt or w.adopt) == "move":
                from orchestrator.engine import doubled

                file_state = doubled.marked(run, each, index)
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
    if store.below:
        from orchestrator.store.below import BelowStores

        run = replace(run, below=BelowStores(store, lambda line: run.emit(events.Noticed(line))))
    if store.read_only:
        from orchestrator.engine.read_only import serve

        serve(run, todo)
        return
    with ExitStack() as stack:
        try:
            open_store(store.path, store.state, shared=store.shared)
            stack.enter_context(
                locks.shared(context, store, lambda why: run.emit(events.Noticed(why)), wait_s=run.lock_wait_s)
            )
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
            for manifest in {file_state.wanted.manifest for file_state in todo}:
                with suppress(OrchError, Stopped):  # the disk is full: what is recorded counts where it is
                    records.fold(store, manifest)


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
    from orchestrator.engine.private_sources import without_private

    groups, fetching, copied, here, to_read = [], [], [], set(), []
    for artifact, same in group(todo):
        if not _needs_download(run, artifact, same):
            groups.append((artifact, same))
        elif run.below is not None and run.below.find(artifact.sha256):
            from orchestrator.engine.scheduler import places_of

            groups.append((artifact, same))
            if run.below.straight(artifact.sha256, places_of(artifact)) is None:
                copied.append(artifact)
        elif allowed := without_private(run, artifact, same):
            groups.append((allowed, same))
            fetching.append(allowed)
            states = {state for file_state in same for _, state in file_state.states}
            if not _MAY_BE_HERE.isdisjoint(states):
                here.add(artifact.key)
            if not _IS_READ.isdisjoint(states):
                to_read.append(allowed.size or 0)
    programs = known = None
    if fetching and not run.options.offline:  # programs and sources answer while we import the rest
        programs = _programs(run)
        known = None if run.peers else _begin_asking(run, fetching, here)

    from orchestrator.engine import disk_space
    from orchestrator.engine.scheduler import Scheduler

    lacking = {artifact.key for artifact in (*fetching, *copied)}
    disk_space.check_room(disk_space.needs(run.store, todo, lacking, {artifact.key for artifact in copied}))
    if run.peers and fetching and not run.options.offline:
        run, fetching = _with_peers(run, fetching)
        found = {artifact.key: artifact for artifact in fetching}
        groups = [(found.get(artifact.key, artifact), same) for artifact, same in groups]
    run = prepare(run, fetching, here, programs, known)
    size = sum(artifact.size or 0 for artifact in fetching)
    run.emit(events.Planned(len(run.counts.wanted), len(fetching), size, len(to_read), sum(to_read)))
    return Scheduler(run, groups, _LatePreparation(run))


class _LatePreparation:
    """Prepares a run for what was to come from a store below, and did not: once, for the first such file."""

    def __init__(self, run: RunContext) -> None:
        self._run, self._lock = run, Lock()

    def __call__(self, artifact: Artifact, same: list[FileState]) -> tuple[RunContext, Artifact]:
        """Give the run with which to fetch an artifact, and the artifact with the sources that may be asked.

        Raises:
            OrchError, Stopped: as `prepare`; or no source may be used, which was told already.
        """
        from orchestrator.engine.private_sources import without_private

        if self._run.below is None:
            return self._run, artifact
        with self._lock:
            allowed = without_private(self._run, artifact, same)
            if allowed is None:
                raise ConsentError(f"{artifact.name}: no source may be used")
            if self._run.limits is None:
                self._run = prepare(self._run, [allowed])
            return self._run, allowed


def _with_peers(run: RunContext, fetching: list[Artifact]) -> tuple[RunContext, list[Artifact]]:
    """What is to be fetched, with the site file's peers that have it as its first sources; the run knows the peers."""
    from orchestrator.sources import peers

    began = monotonic()
    named, failed = peers.located(run.context, run.peers)
    asked, refused = peers.askable(named, run.context, run.hosts)
    for why in (*failed, *refused):
        run.emit(events.Noticed(why))
    found = peers.with_peers(run.context, asked, run.hosts, fetching, peers.TIMEOUT_S - (monotonic() - began))
    return replace(run, relays=tuple(peer.base for peer in asked)), found


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
            for extra in extra_files.of(store, w):
                how = link.write_extra_file(store, context.hostname, w.manifest, extra)
                if how in ("made", "back"):
                    run.counts.changed = True
                    run.emit(events.Placed(w.model, w.file, extra.path, extra_files.LINK))
                if how == "back":
                    run.emit(
                        events.Noticed(
                            f"{extra.path}: it was changed by another program; it says `{extra.text[:80]}` again"
                        )
                    )
                elif how == "other":
                    run.emit(events.Noticed(f"{extra.path}: left unchanged; it does not say `{extra.text[:80]}`"))
        except Exception as error:
            run.counts.take_back(w)
            run.fail(w, foreseen(context, store.path, error, [extra.path for extra in w.extra_files]))


def _ask(run: RunContext, fetching: Sequence[Artifact], here: Collection[str]) -> SourceStats:
    """Find out which of the run's sources answer, and how fast; one of them that trips us up is no other's matter."""
    from orchestrator.engine.bugs import bug
    from orchestrator.sources.knowledge import SourceStats

    known = SourceStats(run.context)
    try:
        compared = [artifact for artifact in fetching if not _is_nearly_here(run.store, artifact)]
        known.ask(compared, run.hosts, here=here, is_limited=bool(run.rate_rules))
    except (OrchError, OSError):
        raise
    except Exception as error:
        told = bug(run.context, error)
        run.emit(events.Noticed(f"the sources were not compared: {told.message}; {told.hint}"))
    return known


def _begin_asking(run: RunContext, fetching: Sequence[Artifact], here: Collection[str]) -> BackgroundCall[SourceStats]:
    from importlib import import_module

    from orchestrator.engine.background import BackgroundCall
    from orchestrator.transfer.adopt import SMALL_BYTES

    sizes = [artifact.size or 0 for artifact in fetching]
    if max(sizes) > SMALL_BYTES or 0 in sizes:  # what goes in batches is asked for by its program alone
        BackgroundCall(import_module, "orchestrator.sources.http")  # it takes 30 ms to import, and waits well too
    return BackgroundCall(_ask, run, fetching, here)


def _is_nearly_here(store: Store, artifact: Artifact) -> bool:
    """Whether so little of a large file is missing that comparing its sources takes longer than its download."""
    from orchestrator.engine.disk_space import partial_bytes
    from orchestrator.sources.probe import LARGE_BYTES
    from orchestrator.transfer import adopt

    if artifact.size is None or artifact.size < LARGE_BYTES:
        return False
    offer = adopt.offered(store, artifact)
    have = max(partial_bytes(store, artifact.key), offer.good_bytes if offer is not None else 0)
    return artifact.size - have < LARGE_BYTES


def _programs(run: RunContext) -> BackgroundCall[dict[str, Program]]:
    from orchestrator.engine.background import BackgroundCall
    from orchestrator.programs import find_backends

    return BackgroundCall(find_backends, run.context, run.options.backend, run.emit)


def prepare(
    run: RunContext,
    fetching: Sequence[Artifact],
    here: Collection[str] = (),
    programs: BackgroundCall[dict[str, Program]] | None = None,
    known: BackgroundCall[SourceStats] | None = None,
) -> RunContext:
    """Find programs and judge, where anything has to be fetched.

    Args:
        run: the run.
        fetching: what is not in the store.
        here: the keys of what may be found on this machine all the same, whole or but for some bad pieces.
        programs: finds them already; None: they are looked for now.
        known: asks the sources already; None: they are asked now.

    Raises:
        NoBackendError: none is usable, or the one asked for (--backend) is not; no sha256sum.
    """
    options, context = run.options, run.context
    if options.offline or not fetching:
        return run
    from orchestrator.engine.background import BackgroundCall
    from orchestrator.sources.auth import withheld
    from orchestrator.transfer.connections import ConnectionLimits
    from orchestrator.transfer.machine import Machine
    from orchestrator.transfer.rate_limit import RateLimit
    from orchestrator.verify import tools

    for why in withheld((source.url for artifact in fetching for source in artifact.sources), run.hosts):
        run.emit(events.Noticed(why))
    sizes = [artifact.size or 0 for artifact in fetching]
    reference = tools.reference(context)
    is_large = max(sizes) >= tools.LARGE_BYTES
    best = (
        BackgroundCall(tools.best_for_large, context) if is_large else None
    )  # the first download does not wait for it
    asking = known or _begin_asking(run, fetching, here)
    machine = Machine(f"{context.state}/in-use")
    found = (programs or _programs(run)).result(context.stop)
    asked = asking.result(context.stop)
    for source, message in asked.unanswered():
        run.emit(events.Unanswered(source, message))
    return replace(
        run,
        programs=found,
        judge=lambda: best.result(context.stop) if best is not None else reference,
        known=asked,
        limits=ConnectionLimits(
            options.connections, options.jobs, sizes, machine, lambda why: run.emit(events.Noticed(why))
        ),
        rate_limit=RateLimit(context, run.rate_rules, min(options.jobs, len(fetching)), machine)
        if run.rate_rules
        else None,
    )


def group(todo: Sequence[FileState]) -> Iterator[tuple[Artifact, list[FileState]]]:
    """One artifact a key, largest first; its sources and pins are those of all who want it, in order."""
    by_key: dict[str, FileState | list[FileState]] = {}  # no list for the most that are alone: there may be a million
    for file_state in todo:
        known = by_key.setdefault(file_state.wanted.key, file_state)
        if isinstance(known, list):
            known.append(file_state)
        elif known is not file_state:
            by_key[file_state.wanted.key] = [known, file_state]
    groups = sorted(by_key.values(), key=_order)
    by_key.clear()
    for found in groups:
        same = found if isinstance(found, list) else [found]
        w = same[0].wanted
        if len(same) == 1:  # nearly all: its sources are in order, and each there once
            yield Artifact(w.sha256, w.size, w.sources, (w,), w.pins, w.pieces, w.sha1_pieces), same
            continue
        sources: dict[str, Source] = {s.url: s for file_state in reversed(same) for s in file_state.wanted.sources}
        ordered = dict.fromkeys(s.url for file_state in same for s in file_state.wanted.sources)
        pins = tuple(dict.fromkeys(pin for file_state in same for pin in file_state.wanted.pins))
        pieces = next((s.wanted.pieces for s in same if s.wanted.pieces), "")
        sha1_pieces = next((s.wanted.sha1_pieces for s in same if s.wanted.sha1_pieces), "")
        wanted = tuple(s.wanted for s in same)
        named = tuple(sources[url] for url in ordered)
        yield Artifact(w.sha256, _size(same), named, wanted, pins, pieces, sha1_pieces), same


def _order(same: FileState | list[FileState]) -> int:
    """The largest first."""
    size = _size(same) if isinstance(same, list) else same.wanted.size
    return -(size or 0)


def _size(same: list[FileState]) -> int | None:
    """The size that the first of some files with the same bytes names; None where none does."""
    return next((each.wanted.size for each in same if each.wanted.size is not None), None)
