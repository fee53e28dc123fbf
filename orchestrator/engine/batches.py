"""Small files that go together: from one host in one bundle, or, where the store has the bytes, just into place."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.backends import select
from orchestrator.engine.scan import State
from orchestrator.errors import PlacementError
from orchestrator.events import Finished, Placed
from orchestrator.placement import link
from orchestrator.sources.route import Ways
from orchestrator.sources.stats import host_of
from orchestrator.store import blobs, records
from orchestrator.transfer.batch import fetch_together
from orchestrator.transfer.batch_item import Load
from orchestrator.transfer.download import Receipt
from orchestrator.transfer.retry import Try, next_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.backends.base import Backend
    from orchestrator.engine.scan import Standing
    from orchestrator.engine.summary import Tally
    from orchestrator.model import Artifact, Place, Wanted
    from orchestrator.sources.route import Reach
    from orchestrator.transfer.context import Kit

SMALL_BYTES = 1 << 20  # above it a file is worth a process, and a look at what is kept of it
MOST_FILES = 512  # some at a time, so that one bundle's check and commit run beside another's download
WORTH_ANOTHER = 8  # so many leftovers of one host make a bundle again
_CLAIMS = threading.Lock()


@dataclass(slots=True)
class Task:
    """One digest to be made so, all who want it, and what a bundle has tried already."""

    artifact: Artifact
    standings: list[Standing]
    load: Load = field(init=False)
    host: str = ""
    backend: Backend | None = None  # of its bundle
    asked: int = 0  # how many of its sources bundles have asked
    is_told: bool = False  # what became of it was said, and counted

    def __post_init__(self) -> None:
        self.load = Load(self.artifact)

    def claim(self) -> bool:
        """Take it on oneself to say what became of it; false where another thread has done so."""
        with _CLAIMS:
            first, self.is_told = not self.is_told, True
            return first


@dataclass(slots=True)
class Parcel:
    """Tasks done together; without a backend their bytes are in the store already."""

    tasks: list[Task]
    backend: Backend | None = None


class Packer:
    """Says which tasks may go together: nothing of theirs stands anywhere, so nothing must be judged first."""

    def __init__(self, kit: Kit, begun: set[str], bundled: Iterable[str]) -> None:
        self._kit, self._begun, self._bundled = kit, begun, set(bundled)
        self._ways = Ways(kit.world.environ, kit.hosts)
        self._usable = [name for name, program in kit.programs.items() if program.usable]
        self._backends: dict[str, tuple[Backend, ...]] = {}

    def pack(self, tasks: Iterable[Task]) -> tuple[list[Task], list[Parcel]]:
        """Tell apart what goes alone and what goes together; the order is kept."""
        alone: list[Task] = []
        stored: list[Task] = []
        aimed: list[Task] = []
        for task in tasks:
            artifact = task.artifact
            state = blobs.blob_state(self._kit.store, artifact.sha256, artifact.size) if _is_clear(task) else "unclear"
            if state == "sealed":
                stored.append(task)
            elif state == "absent" and self._may_bundle(artifact) and self._aim(task):
                aimed.append(task)
            else:
                alone.append(task)
        together, parcels = self._by_host(aimed, 2)
        return alone + together, [Parcel(part) for part in _parts(stored)] + parcels

    def again(self, left: Iterable[Task]) -> tuple[list[Task], list[Parcel]]:
        """What a bundle left over: many of one next host make a bundle again, the rest goes alone.

        Where all hosts were asked, and what ended the last bundle was the host's fault, its files are one matter: they
        go together again, after one wait. The last of their tries each makes alone.
        """
        alone: list[Task] = []
        aimed: list[Task] = []
        for task in left:
            (aimed if self._aim(task) or self._repeat(task) else alone).append(task)
        lonely, parcels = self._by_host(aimed, WORTH_ANOTHER)
        return alone + lonely, parcels

    def way(self, parcel: Parcel) -> Reach:
        """How this machine gets to the host that a parcel comes from."""
        return self._ways.to(parcel.tasks[0].load.url)

    def _by_host(self, tasks: list[Task], least: int) -> tuple[list[Task], list[Parcel]]:
        alone: list[Task] = []
        parcels: list[Parcel] = []
        by_host: dict[tuple[str, str], list[Task]] = {}
        for task in tasks:
            by_host.setdefault((task.host, task.backend.NAME if task.backend else ""), []).append(task)
        for those in by_host.values():
            if len(those) >= least or any(task.artifact.key in self._bundled for task in those):
                parcels += [Parcel(part, those[0].backend) for part in _parts(those)]
            else:
                alone += those
        return alone, parcels

    def _may_bundle(self, artifact: Artifact) -> bool:
        size = artifact.size
        known = size is not None and size <= SMALL_BYTES and not artifact.is_blind
        return known and artifact.key not in self._begun

    def _aim(self, task: Task) -> bool:
        """Take the next source in order that no bundle has asked yet, if a program here can."""
        sources = task.artifact.sources
        if task.asked >= len(sources):
            return False
        source = sources[task.asked]
        programs = self._programs(source.url)
        if not programs:
            return False
        task.asked += 1
        self._send(task, source.url, programs[0])
        return True

    def _repeat(self, task: Task) -> bool:
        """Take the source and program that policy wants next of those that bundles have asked, while it wants any."""
        if not task.load.host_failed or not self._kit.retries:
            return False
        programs = {source.url: self._programs(source.url) for source in task.artifact.sources[: task.asked]}
        options = {url: tuple(backend.NAME for backend in some) for url, some in programs.items()}
        # Without chance: they wait together, once.
        step = next_step(options, task.load.attempts, retries=self._kit.retries - 1)
        if not isinstance(step, Try):
            return False
        backend = next(backend for backend in programs[step.source] if step.backend == backend.NAME)
        self._send(task, step.source, backend, step.wait_s)
        return True

    def _programs(self, url: str) -> tuple[Backend, ...]:
        """The programs that may fetch a bundle from a URL's host, best first."""
        host = host_of(url)
        if host not in self._backends:
            way = self._ways.to(url)
            line = replace(way.line, hides="token") if way.bearer is not None else way.line
            found: list[Backend] = []
            while backend := select.for_bundle([n for n in self._usable if n not in {b.NAME for b in found}], line):
                found.append(backend)
            self._backends[host] = tuple(found)
        return self._backends[host]

    def _send(self, task: Task, url: str, backend: Backend, wait_s: float = 0.0) -> None:
        task.host, task.backend, task.load.url, task.load.wait_s = host_of(url), backend, url, wait_s


def settle(kit: Kit, packer: Packer, parcel: Parcel, tally: Tally) -> list[Task]:
    """Do all that a parcel needs: fetch, place, tell.

    Returns:
        What must be tried another way.

    Raises:
        OrchError, Stopped: for all of it; nothing of it was told.
    """
    receipt = Receipt()
    loads = [task.load for task in parcel.tasks]
    if parcel.backend is not None:
        try:
            fetch_together(kit, parcel.backend, packer.way(parcel), loads, receipt)
        finally:
            tally.moved(receipt.bytes_fetched, receipt.bytes_reused)
        ready = [task for task in parcel.tasks if task.load.came]
    else:
        ready = parcel.tasks
    made = _place(kit, ready)
    for task in ready:
        _tell(kit, parcel, task, made, tally, receipt.seconds)
    left = []
    for task in parcel.tasks:
        if task.load.error is not None and task.claim():
            for standing in task.standings:
                kit.emit(tally.fail(standing.wanted, task.load.error))
        elif parcel.backend is not None and not task.load.came:
            left.append(task)
    return left


def _place(kit: Kit, tasks: Sequence[Task]) -> dict[str, str | PlacementError]:
    """Record all places, a write a manifest, then make them."""
    todo: list[tuple[str, Place]] = []
    refused: dict[str, str | PlacementError] = {}
    written: dict[str, dict[str, records.Made]] = {}
    for task in tasks:
        sha256 = task.load.artifact.sha256
        for standing in task.standings:
            if standing.wanted.allow and (error := _refused(kit, sha256, standing.wanted)):
                refused.update((place.path, error) for place in standing.wanted.places)
                continue
            record = written.setdefault(standing.wanted.manifest, {})
            for place in standing.wanted.places:
                if not place.target:
                    record[place.path] = {"sha256": sha256, "link": place.link.value}
                todo.append((sha256, place))
    for manifest, record in written.items():
        if record:
            records.record(kit.store, kit.world.hostname, manifest, record, kit.world.stop)
    made = link.put_all(kit.world, kit.store, todo)
    results = {place.path: how for (_, place), how in zip(todo, made, strict=True)}
    for manifest, record in written.items():
        stands = {path: how for path in record if isinstance(how := results[path], str)}
        records.finish(kit.store, kit.world.hostname, manifest, stands, kit.world.stop)
    return {**refused, **results}


def _refused(kit: Kit, sha256: str, wanted: Wanted) -> PlacementError | None:
    """Why a file is of no format that its manifest allows."""
    from orchestrator.placement import allow

    try:
        allow.check(kit.store.blob(sha256), wanted, kit.world.stop)
    except PlacementError as error:
        return error
    return None


def _tell(
    kit: Kit, parcel: Parcel, task: Task, made: dict[str, str | PlacementError], tally: Tally, seconds: float
) -> None:
    """Say of each file of a task what became of it, and count it."""
    if not task.claim():
        return
    fetched = task.load.came == "wire"
    for standing in task.standings:
        wanted, error = standing.wanted, None
        for place in wanted.places:
            how = made[place.path]
            if isinstance(how, PlacementError):
                error = error or how
            else:
                kit.emit(Placed(wanted.model, wanted.file, place.path, how))
        if error is not None:
            kit.emit(tally.fail(wanted, error))
        elif fetched and parcel.backend is not None:
            fetched = False
            tally.count("fetched")
            size, name = task.load.size, parcel.backend.NAME
            kit.emit(Finished(wanted.model, wanted.file, "fetched", name, task.load.url, size, seconds))
        else:
            tally.count("placed")
            kit.emit(Finished(wanted.model, wanted.file, "placed", size_bytes=wanted.size or 0, seconds=seconds))


def _is_clear(task: Task) -> bool:
    """Whether nothing stands at any place."""
    return all(state is State.ABSENT for standing in task.standings for _, state in standing.states)


def _parts(tasks: list[Task]) -> Iterator[list[Task]]:
    """Split into parts of much the same size."""
    count = -(-len(tasks) // MOST_FILES)
    for number in range(count):
        yield tasks[number * len(tasks) // count : (number + 1) * len(tasks) // count]
