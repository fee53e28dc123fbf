"""The threads of one run: N pieces of work at a time, largest first; a full disk or a stop ends them all."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from orchestrator.backends import select
from orchestrator.engine import disk_space
from orchestrator.engine.bugs import foreseen
from orchestrator.engine.inspect import Due, Inspection, UnreadableError
from orchestrator.engine.install import Installer, InstallItem, repair_sharers
from orchestrator.engine.parking import Parking
from orchestrator.engine.scan import RecordIndex, State
from orchestrator.errors import BugError, OrchError, Stopped, StoreError, TransferError
from orchestrator.events import Noticed
from orchestrator.limits import files_at_once
from orchestrator.placement.link import JudgedFolders
from orchestrator.sources.host_health import HostsUnavailableError
from orchestrator.sources.route import Routes, proxies_of
from orchestrator.store import blobs, partials, records
from orchestrator.summary import interrupted
from orchestrator.transfer.adopt import SMALL_BYTES, adopt
from orchestrator.transfer.batch import BatchItem, fetch_batch
from orchestrator.transfer.copy_up import bring_up, prove
from orchestrator.transfer.download import Receipt, fetch
from orchestrator.transfer.explain import explain_failure
from orchestrator.transfer.retry import Await, GiveUp, Try, final_fault, next_step
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.backends.base import Backend
    from orchestrator.engine.scan import FileState
    from orchestrator.model import Artifact, Place
    from orchestrator.sources.route import Route
    from orchestrator.store.records import Sharer
    from orchestrator.transfer.run_context import RunContext

    Prepare = Callable[[Artifact, list[FileState]], tuple[RunContext, Artifact]]


STOP_S = 2.0  # whoever asked for a stop waits no longer than three seconds, and a resolver may be silent for longer
DISK_S = 10.0  # where the disk ends the run nobody waits at the keyboard


class Scheduler:
    """The threads of one run: each takes the next piece of work, starts its programs and waits for them."""

    def __init__(self, run: RunContext, groups: list[tuple[Artifact, list[FileState]]], prepare: Prepare) -> None:
        """Take the work; `prepare` gets a run ready to fetch what was to come from a store below, and did not."""
        self._prepare = prepare
        self._batcher = Batcher(run, disk_space.with_partials(run.store), partials.batch_remains(run.store))
        alone, batches = self._batcher.pack(BatchTask(artifact, same) for artifact, same in groups)
        # Largest first; batches once the large files have started, beside whose end there is room for them.
        large = [task for task in alone if (task.artifact.size or 0) > SMALL_BYTES]
        self._queue: deque[BatchTask | Batch] = deque((*large, *batches, *alone[len(large) :]))
        self._workers = min(files_at_once(run.options.jobs), len(groups))  # a batch may leave over work for all
        self._run = run
        self._turn = threading.Condition()
        self._open = 0  # batches under way: each may leave something over
        self._now: dict[threading.Event, BatchTask | Batch] = {}  # what each thread is at, by the event of its end
        self._records = RecordIndex(run.store)
        self._judged_folders = JudgedFolders()
        self._installer = Installer(run, self._records, [each for _, same in groups for each in same])
        self._end: OrchError | None = None
        self._parking: Parking[BatchTask | Batch] | None = Parking(run) if run.known is not None else None

    def work(self) -> None:
        """Run until the queue is empty, the disk is full or a stop was asked for; book what was not reached.

        An exception that comes to this thread, such as KeyboardInterrupt, passes once no child runs any more.
        """
        workers: list[threading.Event] = []  # no threads: an interrupted `join` takes its thread for ended (3.11)
        try:
            try:
                self._start(workers)
                self._await(workers)
            except BaseException:
                self._run.context.stop.set()
                self._await(workers)
                raise
        finally:
            self._leave(workers)
            if self._parking is not None:
                self._parking.close()
        for left in (*self._queue, *(self._parking.all() if self._parking is not None else ())):
            self._fail(left, self._end or interrupted())

    def _start(self, workers: list[threading.Event]) -> None:
        """Start as many threads as there may be, which is fewer than were asked for under some limits."""
        for number in range(self._workers):
            ended = threading.Event()
            thread = threading.Thread(target=self._worker, args=(ended,), name=f"orch-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not workers:
                    self._end = foreseen(self._run.context, self._run.store.path, error)
                return
            workers.append(ended)

    def _await(self, workers: list[threading.Event]) -> None:
        """Wait for all threads; after a stop for a moment only."""
        stop, asked_s = self._run.context.stop, None
        for ended in workers:
            while not ended.wait(0.1):
                if stop.is_set():
                    asked_s = asked_s or time.monotonic()
                    if time.monotonic() - asked_s > (STOP_S if self._end is None else DISK_S):
                        return

    def _leave(self, workers: list[threading.Event]) -> None:
        """Leave threads that do not come back, without their children: what they were at was interrupted."""
        if all(ended.is_set() for ended in workers):
            return
        from orchestrator.process import kill_all

        kill_all(self._run.context.stop)
        for ended in workers:
            ended.wait(0.1)
        for ended, work in list(self._now.items()):
            if not ended.is_set():
                self._fail(work, self._end or interrupted())

    def _worker(self, ended: threading.Event) -> None:
        try:
            self._work_on(ended)
        finally:
            ended.set()

    def _work_on(self, ended: threading.Event) -> None:
        while (work := self._next(ended)) is not None:
            try:
                if isinstance(work, BatchTask):
                    self._one(work)
                else:
                    self._many(work)
            except Stopped as stop:
                name = work.artifact.name if isinstance(work, BatchTask) else ""
                self._fail(work, self._end or interrupted(name, stop.vain_bytes))
            except HostsUnavailableError as error:
                self._park(work, error.hosts, fallback=error.fallback, is_all=not error.fallback)
            except Exception as error:
                told = self._foreseen(work, error)
                self._fail(work, told)
                if isinstance(told, StoreError) and not told.of_one_file:
                    self._stop_all(told)
            finally:
                self._now.pop(ended, None)

    def _next(self, ended: threading.Event) -> BatchTask | Batch | None:
        """The next piece of work; None once there is none and nobody may bring any more."""
        with self._turn:
            while self._end is None and not self._run.context.stop.is_set():
                self._revive()
                self._tell_closed()
                if self._queue:
                    work = self._now[ended] = self._queue.popleft()
                    self._open += isinstance(work, Batch)
                    return work
                if not self._open and not self._parking:
                    return None
                if not self._now:
                    self._give_up()
                self._turn.wait(0.2)  # a stop does not wake us
        return None

    # Hosts that are down, or busy.

    def _park(
        self, work: BatchTask | Batch, hosts: Iterable[str], *, fallback: bool = False, is_all: bool = False
    ) -> None:
        """Keep work aside until one of `hosts` may be asked again."""
        assert self._parking is not None, "hosts are closed in a run that knows of them"
        first = _tasks(work)[0]
        with self._turn:
            self._parking.park(work, hosts, [s.url for s in first.artifact.sources], fallback=fallback, is_all=is_all)

    def _revive(self) -> None:
        """Queue the work that waited for hosts of which one may be asked now."""
        for parked in self._parking.revive() if self._parking else ():
            work, waited_s = parked.work, self._run.context.monotonic() - parked.since_s
            tasks = _tasks(work)
            for task in tasks:
                task.item.parked_s += waited_s if parked.is_for_busy else 0.0
                task.item.wait_s = 0.0
            is_closed = isinstance(work, Batch) and self._batcher.is_closed(work.tasks[0].host)
            self._queue.extend(tasks if is_closed else [work])  # it was another of their hosts
            self._turn.notify_all()

    def _tell_closed(self) -> None:
        """Tell of each host that is newly closed how many files wait for it."""
        if self._parking is None:
            return
        health = self._parking.health
        for host in health.newly_closed():
            works = (*self._queue, *list(self._now.values()), *self._parking.all())
            waiting, others = self._batcher.count(host, works, self._parking.all(host))
            told = [f"{waiting} {'file waits' if waiting == 1 else 'files wait'}"] if waiting else []
            told += [f"{others} {'has' if others == 1 else 'have'} other sources"] if others else []
            if told:
                self._run.emit(Noticed(f"{health.reason(host)}: {', '.join(told)}"))

    def _give_up(self) -> None:
        """Fail together what waits for hosts that were waited for long enough, since nothing else is left to do."""
        given_up = self._parking.give_up() if self._parking else []
        if given_up:
            self._turn.notify_all()
        for parked in given_up:
            tasks = _tasks(parked.work)
            for task in tasks:
                gone = self._batcher.gone(task, parked.hosts, is_all=parked.is_all)
                if parked.fallback or not gone:
                    self._queue.append(task)
                else:
                    error = explain_failure(
                        self._run,
                        task.artifact,
                        task.item.attempts,
                        final_fault(task.item.attempts),
                        self._batcher.proxies(gone),
                        gone,
                    )
                    self._fail(task, error)

    def _stop_all(self, error: OrchError) -> None:
        self._end = self._end or error
        self._run.context.stop.set()

    def _fail(self, work: BatchTask | Batch, error: OrchError) -> None:
        for task in _tasks(work):
            for file_state in task.file_states:
                self._installer.fail(file_state.wanted, error)

    def _foreseen(self, work: BatchTask | Batch, error: Exception) -> OrchError:
        tasks = _tasks(work)
        places = [place.path for task in tasks for s in task.file_states for place in s.wanted.places]
        return foreseen(self._run.context, self._run.store.path, error, places)

    def _many(self, batch: Batch) -> None:
        more: list[BatchTask | Batch] = []
        try:
            left = batch.tasks if self._batcher.is_closed(batch.tasks[0].host) else self._run_batch(batch)
            alone, batches, closed = (left, [], []) if batch.is_below else self._batcher.again(left)
            more += [*batches, *alone]
            for work, hosts in closed:
                self._park(work, hosts)
        except Exception as error:
            told = self._foreseen(batch, error)
            if not isinstance(told, BugError) and not (isinstance(told, StoreError) and told.of_one_file):
                raise
            # One of them is to blame: each alone, it is the only one that fails.
            self._run.emit(Noticed(f"{len(batch.tasks)} files are downloaded one by one: {told.message}; {told.hint}"))
            more += [task for task in batch.tasks if not self._is_told(task)]
        finally:
            with self._turn:
                self._queue.extend(more)
                self._open -= 1
                self._turn.notify_all()

    def _is_told(self, task: BatchTask) -> bool:
        """Whether somebody has said what became of all that a task is for."""
        return all(self._run.counts.is_booked(file_state.wanted) for file_state in task.file_states)

    def _run_batch(self, batch: Batch) -> list[BatchTask]:
        """Fetch and install the files of a batch, as far as one run of its program brings them.

        Returns:
            What must be tried another way.

        Raises:
            OrchError, Stopped: for all of it.
        """
        run, receipt = self._run, Receipt()
        if batch.backend is not None:
            items = [task.item for task in batch.tasks]
            try:
                fetch_batch(run, batch.backend, self._batcher.way(batch), items, receipt)
            finally:
                run.counts.moved(receipt.bytes_fetched, receipt.bytes_reused)
        elif batch.is_below:
            self._bring_up(batch, receipt)
        is_stored = batch.backend is None and not batch.is_below
        ready = [task for task in batch.tasks if is_stored or task.item.came]
        self._installer.add([item for task in ready for item in _clear_items(batch, task, receipt.seconds)])
        left = []
        for task in batch.tasks:
            if task.item.error is not None:
                self._fail(task, task.item.error)
            elif not is_stored and not task.item.came:
                left.append(task)
        return left

    def _bring_up(self, batch: Batch, receipt: Receipt) -> None:
        """Have the files of a batch from the stores below: as they are there, or copied up."""
        run, copied = self._run, []
        assert run.below is not None
        for task in batch.tasks:
            task.below = _served(run, task.artifact, places_of(task.artifact))
            task.item.came = "here" if task.below else ""
            if not task.below:
                copied.append(task)
        try:
            came = bring_up(run, run.below, [task.artifact for task in copied], receipt)
        finally:
            run.counts.moved(0, receipt.bytes_reused)
        for task in copied:
            task.item.came = "here" if task.artifact.key in came else ""

    def _one(self, task: BatchTask) -> None:
        """Do all that one digest needs: read what stands at its places, have its blob, install it."""
        run, receipt = self._run, Receipt(attempts=task.item.attempts, parked_s=task.item.parked_s)
        task.item.parked_s = 0.0
        if not run.options.offline and not (run.below is not None and run.below.find(task.artifact.sha256)):
            adopt(run, task.artifact)
        inspection = Inspection(
            run, self._records, task.artifact, task.file_states, judged_folders=self._judged_folders
        )
        try:
            items = _acquire(inspection, receipt, self._prepare)
        finally:
            run.counts.moved(receipt.bytes_fetched, receipt.bytes_reused + inspection.reused_bytes)
        self._installer.add(items)


def _clear_items(batch: Batch, task: BatchTask, seconds: float) -> list[InstallItem]:
    """What is to be installed of a task at whose places nothing stands."""
    items = [
        InstallItem(file_state.wanted, task.item.artifact.sha256, [Due(place) for place in file_state.wanted.places])
        for file_state in task.file_states
    ]
    if batch.backend is not None and task.item.came == "wire":
        items[0].how, items[0].backend, items[0].source = "fetched", batch.backend.NAME, task.item.url
    for item in items:
        item.seconds, item.below = seconds, task.below
    return items


def places_of(artifact: Artifact) -> list[Place]:
    """All places of an artifact; none where a file of it is to be in the store itself."""
    all_have = all(wanted.places for wanted in artifact.wanted)
    return [place for wanted in artifact.wanted for place in wanted.places] if all_have else []


def _served(run: RunContext, artifact: Artifact, places: Sequence[Place]) -> str:
    """The file of a store below of which these places can be made, proven; "" where the first store needs a copy."""
    assert run.below is not None
    while (blob := run.below.straight(artifact.sha256, places)) is not None:
        if prove(run, run.below, artifact, blob):
            return blob.path
    return ""


def _acquire(inspection: Inspection, receipt: Receipt, prepare: Prepare) -> list[InstallItem]:
    """Read what stands at the places of one digest, and make sure of its blob where one is needed.

    Raises:
        StoreError, Stopped: the run's end; all other errors are those of the items.
    """
    run, key = inspection.run, inspection.artifact.key
    items = [InstallItem(file_state.wanted, "", *inspection.dues(file_state)) for file_state in inspection.file_states]
    for item in items:
        item.replaces = any(due.old for due in item.dues)
    needing = [item for item in items if item.dues or not (item.error or item.wanted.places)]
    mending = records.to_repair(run.store, key)
    if needing or inspection.was_quarantined or mending:
        try:
            if not _is_served_below(inspection, needing, mending) and not inspection.has_blob():
                _fetch(inspection, receipt, prepare)
                if receipt.backend and needing:
                    needing[0].how, needing[0].backend, needing[0].source = "fetched", receipt.backend, receipt.source
                    needing[0].also = receipt.also
        except OrchError as failure:
            if isinstance(failure, StoreError) and not isinstance(failure, UnreadableError):
                raise
            for item in needing:
                item.error, item.dues = item.error or failure, ()
            return items
        repair_sharers(run, inspection, mending)
    for item in items:
        item.sha256, item.seconds = inspection.artifact.sha256, receipt.seconds
    return items


def _is_served_below(inspection: Inspection, needing: list[InstallItem], mending: list[Sharer]) -> bool:
    """Whether all places can be made of a file of a store below, where it is: that is noted in the items then."""
    run, artifact = inspection.run, inspection.artifact
    if run.below is None or mending or inspection.was_quarantined or not all(item.dues for item in needing):
        return False
    if blobs.blob_state(run.store, artifact.sha256, artifact.size) != "absent":
        return False
    path = _served(run, artifact, [due.place for item in needing for due in item.dues])
    for item in needing:
        item.below = path
    return bool(path)


def _fetch(inspection: Inspection, receipt: Receipt, prepare: Prepare) -> None:
    """Have one digest in the store: from a store below, else from a source.

    Raises:
        OrchError, Stopped: as `transfer.download.fetch`.
    """
    artifact, run = inspection.artifact, inspection.run
    if run.below is not None and bring_up(run, run.below, (artifact,), receipt):
        return
    if run.options.offline:
        what = f"{artifact.name}: not in the store, and --offline is set"
        raise TransferError(what, "run again without --offline", "missing", code="offline")
    run, artifact = prepare(artifact, list(inspection.file_states))
    fetch(run, artifact, receipt)
    inspection.artifact = msgspec.structs.replace(artifact, sha256=receipt.sha256)


MOST_FILES = 512  # some at a time, so that one batch's check and commit run beside another's download
WORTH_ANOTHER = 8  # so many leftovers of one host make a batch again


@dataclass(slots=True)
class BatchTask:
    """One digest to be installed, all who want it, and what a batch has tried already."""

    artifact: Artifact
    file_states: list[FileState]
    item: BatchItem = field(init=False)
    host: str = ""
    backend: Backend | None = None  # of its batch
    asked: int = 0  # how many of its sources batches have asked
    below: str = ""  # its bytes in a store below, where places are made of those

    def __post_init__(self) -> None:
        self.item = BatchItem(self.artifact)


@dataclass(slots=True)
class Batch:
    """Tasks done together; without a backend their bytes are in the store already, or in one below (`is_below`)."""

    tasks: list[BatchTask]
    backend: Backend | None = None
    is_below: bool = False


class Batcher:
    """Says which tasks may go together: nothing of theirs stands anywhere, so nothing must be judged first."""

    def __init__(self, run: RunContext, begun: set[str], remains: Iterable[str]) -> None:
        self._run, self._begun, self._remains = run, begun, set(remains)
        self._routes = Routes(run.context.environ, run.hosts)
        self._usable = [name for name, program in run.programs.items() if program.usable]
        self._backends: dict[str, tuple[Backend, ...]] = {}

    def pack(self, tasks: Iterable[BatchTask]) -> tuple[list[BatchTask], list[Batch]]:
        """Tell apart what goes alone and what goes together; the order is kept."""
        alone: list[BatchTask] = []
        stored: list[BatchTask] = []
        aimed: list[BatchTask] = []
        lower: list[BatchTask] = []
        below = self._run.below
        for task in tasks:
            artifact = task.artifact
            state = blobs.blob_state(self._run.store, artifact.sha256, artifact.size) if _is_clear(task) else "unclear"
            if state == "sealed":
                stored.append(task)
            elif below is not None and below.find(artifact.sha256):
                (lower if state == "absent" and self._may_batch(artifact) else alone).append(task)
            elif state == "absent" and self._may_batch(artifact) and self._aim(task):
                aimed.append(task)
            else:
                alone.append(task)
        together, batches = self._by_host(aimed, 2)
        here = [*(Batch(part) for part in _parts(stored)), *(Batch(part, is_below=True) for part in _parts(lower))]
        return alone + together, here + batches

    def again(
        self, left: Iterable[BatchTask]
    ) -> tuple[list[BatchTask], list[Batch], list[tuple[BatchTask | Batch, set[str]]]]:
        """What a batch left over: many of one next host make a batch again, the rest goes alone.

        The last of the result is what waits for hosts that are closed, which stand beside it.

        Where all hosts were asked, and what ended the last batch was the host's fault, its files are one matter: they
        go together again, after one wait. The last of their tries each makes alone.
        """
        alone: list[BatchTask] = []
        aimed: list[BatchTask] = []
        closed: dict[frozenset[str], list[BatchTask]] = {}
        for task in left:
            if self._aim(task):
                aimed.append(task)
            elif hosts := self._closed(task):
                closed.setdefault(frozenset(hosts), []).append(task)
            else:
                (aimed if self._repeat(task) else alone).append(task)
        lonely, batches = self._by_host(aimed, WORTH_ANOTHER)
        waiting: list[tuple[BatchTask | Batch, set[str]]] = []
        for all_closed, tasks in closed.items():
            few, many = self._by_host(tasks, WORTH_ANOTHER)
            waiting += [(task, set(all_closed)) for task in few]
            waiting += [(batch, set(all_closed)) for batch in many]
        return alone + lonely, batches, waiting

    def is_closed(self, host: str) -> bool:
        """Whether a host is not to be asked now."""
        return self._run.known is not None and self._run.known.health.is_closed(host)

    def count(
        self, host: str, works: Iterable[BatchTask | Batch], parked: Iterable[BatchTask | Batch]
    ) -> tuple[int, int]:
        """How many files wait for `host`, or will, and how many have another source; `parked` wait by now."""
        waiting = {id(task) for work in parked for task in _tasks(work)}
        others: set[int] = set()
        for task in (task for work in works for task in _tasks(work)):
            hosts = {host_of(source.url) for source in task.artifact.sources}
            if host in hosts and id(task) not in waiting:
                (waiting if all(self.is_closed(each) for each in hosts) else others).add(id(task))
        return len(waiting), len(others)

    def gone(self, task: BatchTask, hosts: frozenset[str], *, is_all: bool) -> dict[str, str]:
        """The hosts that a task waited for in vain, by the URLs of its sources; none where it may have another source.

        A source that is at none of them has redirected to one, or failed before; `is_all`: that is known of all.
        """
        tried = {attempt.source for attempt in task.item.attempts}
        if task.item.closed_host in hosts:
            tried.add(task.item.url)
        found = {}
        for source in task.artifact.sources:
            host = host_of(source.url)
            if host not in hosts and source.url not in tried and not is_all:
                return {}
            found[source.url] = host
        return {url: host if host in hosts else min(hosts) for url, host in found.items()}

    def proxies(self, urls: Iterable[str]) -> tuple[str, ...]:
        """The proxies that lead to URLs, without their credentials."""
        return proxies_of(map(self._routes.to, urls))

    def _closed(self, task: BatchTask) -> set[str]:
        """The hosts that a task must wait for: that of its batch, and those of its other sources if all are closed."""
        item = task.item
        host = item.closed_host or task.host
        if not self.is_closed(host) or (item.attempts and not item.host_failed and not item.closed_host):
            return set()
        if item.host_failed and isinstance(self._step(task), GiveUp):
            return set()  # what is left of its budget is its own download's
        hosts = {host_of(source.url) for source in task.artifact.sources}
        return {host, *(each for each in hosts if self.is_closed(each))}

    def _step(self, task: BatchTask) -> Try | Await | GiveUp:
        """What policy wants next of the sources and programs that batches have asked; the last try is not theirs."""
        run, health = self._run, self._run.known.health if self._run.known is not None else None
        programs = {source.url: self._programs(source.url) for source in task.artifact.sources[: task.asked]}
        wait_s = run.options.wait_for_sources_s
        # Without chance: they wait together, once.
        return next_step(
            {url: tuple(backend.NAME for backend in some) for url, some in programs.items()},
            task.item.attempts,
            retries=run.retries - 1,
            closed=[url for url in programs if self.is_closed(host_of(url))],
            is_patient=health is not None and health.is_waited_for(task.item.closed_host or task.host, wait_s),
        )

    def way(self, batch: Batch) -> Route:
        """How this machine gets to the host that a batch comes from."""
        return self._routes.to(batch.tasks[0].item.url)

    def _by_host(self, tasks: list[BatchTask], least: int) -> tuple[list[BatchTask], list[Batch]]:
        alone: list[BatchTask] = []
        batches: list[Batch] = []
        by_host: dict[tuple[str, str], list[BatchTask]] = {}
        for task in tasks:
            by_host.setdefault((task.host, task.backend.NAME if task.backend else ""), []).append(task)
        for those in by_host.values():
            if len(those) >= least or any(task.artifact.key in self._remains for task in those):
                batches += [Batch(part, those[0].backend) for part in _parts(those)]
            else:
                alone += those
        return alone, batches

    def _may_batch(self, artifact: Artifact) -> bool:
        size = artifact.size
        known = size is not None and size <= SMALL_BYTES and not artifact.is_unpinned
        return known and artifact.key not in self._begun

    def _aim(self, task: BatchTask) -> bool:
        """Take the next source in order that no batch has asked yet, if a program here can."""
        sources = task.artifact.sources
        while task.asked < len(sources) and self.is_closed(host_of(sources[task.asked].url)):
            task.asked += 1  # its own download may still ask it
        if task.asked >= len(sources):
            return False
        source = sources[task.asked]
        programs = self._programs(source.url)
        if not programs:
            return False
        task.asked += 1
        self._send(task, source.url, programs[0])
        return True

    def _repeat(self, task: BatchTask) -> bool:
        """Take the source and program that policy wants next of those that batches have asked, while it wants any."""
        if not task.item.host_failed or not self._run.retries:
            return False
        step = self._step(task)
        if not isinstance(step, Try):
            return False
        backend = next(backend for backend in self._programs(step.source) if step.backend == backend.NAME)
        self._send(task, step.source, backend, step.wait_s)
        return True

    def _programs(self, url: str) -> tuple[Backend, ...]:
        """The programs that may fetch a batch from a URL's host, best first."""
        host = host_of(url)
        if host not in self._backends:
            way = self._routes.to(url)
            line = replace(way.requirements, hides="token") if way.bearer is not None else way.requirements
            found: list[Backend] = []
            while backend := select.for_bundle([n for n in self._usable if n not in {b.NAME for b in found}], line):
                found.append(backend)
            self._backends[host] = tuple(found)
        return self._backends[host]

    def _send(self, task: BatchTask, url: str, backend: Backend, wait_s: float = 0.0) -> None:
        task.host, task.backend, task.item.url, task.item.wait_s = host_of(url), backend, url, wait_s


def _tasks(work: BatchTask | Batch) -> list[BatchTask]:
    return work.tasks if isinstance(work, Batch) else [work]


def _is_clear(task: BatchTask) -> bool:
    """Whether nothing stands at any place."""
    return all(state is State.ABSENT for file_state in task.file_states for _, state in file_state.states)


def _parts(tasks: list[BatchTask]) -> Iterator[list[BatchTask]]:
    """Split into parts of much the same size."""
    count = -(-len(tasks) // MOST_FILES)
    for number in range(count):
        yield tasks[number * len(tasks) // count : (number + 1) * len(tasks) // count]
