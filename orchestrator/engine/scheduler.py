"""The threads of one run: N pieces of work at a time, largest first; the disk's end or a stop ends them all."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from orchestrator.engine.batches import SMALL_BYTES, Packer, Parcel, Task, settle
from orchestrator.engine.bugs import foreseen
from orchestrator.engine.install import Settling
from orchestrator.engine.run import interrupted
from orchestrator.engine.scan import Records
from orchestrator.errors import BugError, OrchError, Stopped, StoreError, TransferError
from orchestrator.events import Noticed
from orchestrator.limits import files_at_once
from orchestrator.transfer.adopt import adopt
from orchestrator.transfer.download import Receipt, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.engine.options import Options
    from orchestrator.engine.scan import Standing
    from orchestrator.engine.summary import Tally
    from orchestrator.model import Artifact
    from orchestrator.transfer.context import Kit

STOP_S = 2.0  # whoever asked for a stop waits no longer than three seconds, and a resolver may be silent for longer
DISK_S = 10.0  # where the disk ends the run nobody waits at the keyboard


class Crew:
    """The threads of one run: each takes the next piece of work, starts its programs and waits for them."""

    def __init__(
        self,
        kit: Kit,
        groups: list[tuple[Artifact, list[Standing]]],
        begun: set[str],
        bundled: Iterable[str],
        options: Options,
        tally: Tally,
    ) -> None:
        self._options, self._tally = options, tally
        self._packer = Packer(kit, begun, bundled)
        alone, parcels = self._packer.pack(Task(artifact, same) for artifact, same in groups)
        # Largest first; bundles once the large files have started, beside whose end there is room for them.
        large = [task for task in alone if (task.artifact.size or 0) > SMALL_BYTES]
        self._queue: deque[Task | Parcel] = deque((*large, *parcels, *alone[len(large) :]))
        self._workers = min(files_at_once(options.jobs), len(groups))  # a bundle may leave over work for all
        self._kit = kit
        self._turn = threading.Condition()
        self._open = 0  # parcels under way: each may leave something over
        self._now: dict[threading.Event, Task | Parcel] = {}  # what each thread is at, by the event of its end
        self._records = Records(kit.store)
        self._end: OrchError | None = None

    def work(self) -> None:
        """Run until the queue is empty, the disk is full or a stop was asked for; book what was not reached.

        An exception that comes to this thread, such as KeyboardInterrupt, passes once no child runs any more.
        """
        crew: list[threading.Event] = []  # not threads: a `join` that is interrupted takes its thread for ended (3.11)
        try:
            try:
                self._start(crew)
                self._await(crew)
            except BaseException:
                self._kit.world.stop.set()
                self._await(crew)
                raise
        finally:
            self._leave(crew)
        for left in self._queue:
            self._fail(left, self._end or interrupted())

    def _start(self, crew: list[threading.Event]) -> None:
        """Start as many threads as there may be, which is fewer than were asked for under some limits."""
        for number in range(self._workers):
            ended = threading.Event()
            thread = threading.Thread(target=self._worker, args=(ended,), name=f"orch-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not crew:
                    self._end = foreseen(self._kit.world, self._kit.store.path, error)
                return
            crew.append(ended)

    def _await(self, crew: list[threading.Event]) -> None:
        """Wait for all threads; after a stop for a moment only."""
        stop, asked_s = self._kit.world.stop, None
        for ended in crew:
            while not ended.wait(0.1):
                if stop.is_set():
                    asked_s = asked_s or time.monotonic()
                    if time.monotonic() - asked_s > (STOP_S if self._end is None else DISK_S):
                        return

    def _leave(self, crew: list[threading.Event]) -> None:
        """Leave threads that do not come back, without their children: what they were at was interrupted."""
        if all(ended.is_set() for ended in crew):
            return
        from orchestrator.process import kill_all

        kill_all(self._kit.world.stop)
        for ended in crew:
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
                if isinstance(work, Task):
                    self._one(work)
                else:
                    self._many(work)
            except Stopped:
                self._fail(work, self._end or interrupted())
            except Exception as error:
                told = self._foreseen(work, error)
                self._fail(work, told)
                if isinstance(told, StoreError) and not told.of_one_file:
                    self._stop_all(told)
            finally:
                self._now.pop(ended, None)

    def _next(self, ended: threading.Event) -> Task | Parcel | None:
        """The next piece of work; None once there is none and nobody may bring any more."""
        with self._turn:
            while self._end is None and not self._kit.world.stop.is_set():
                if self._queue:
                    work = self._now[ended] = self._queue.popleft()
                    self._open += isinstance(work, Parcel)
                    return work
                if not self._open:
                    return None
                self._turn.wait(0.2)  # a stop does not wake us
        return None

    def _stop_all(self, error: OrchError) -> None:
        self._end = self._end or error
        self._kit.world.stop.set()

    def _fail(self, work: Task | Parcel, error: OrchError) -> None:
        for task in work.tasks if isinstance(work, Parcel) else [work]:
            if task.claim():
                for standing in task.standings:
                    self._kit.emit(self._tally.fail(standing.wanted, error))

    def _foreseen(self, work: Task | Parcel, error: Exception) -> OrchError:
        tasks = work.tasks if isinstance(work, Parcel) else [work]
        places = [place.path for task in tasks for s in task.standings for place in s.wanted.places]
        return foreseen(self._kit.world, self._kit.store.path, error, places)

    def _many(self, parcel: Parcel) -> None:
        more: list[Task | Parcel] = []
        try:
            alone, parcels = self._packer.again(settle(self._kit, self._packer, parcel, self._tally))
            more += [*parcels, *alone]
        except Exception as error:
            told = self._foreseen(parcel, error)
            if not isinstance(told, BugError) and not (isinstance(told, StoreError) and told.of_one_file):
                raise
            # One of them is to blame: each alone, it is the only one that fails.
            self._kit.emit(Noticed(f"{len(parcel.tasks)} files go one by one: {told.message}; {told.hint}"))
            more += [task for task in parcel.tasks if not task.is_told]
        finally:
            with self._turn:
                self._queue.extend(more)
                self._open -= 1
                self._turn.notify_all()

    def _one(self, task: Task) -> None:
        receipt = Receipt(attempts=task.load.attempts)
        if not self._options.offline:
            adopt(self._kit, task.artifact)
        work = Settling(self._kit, self._records, task.artifact, task.standings, force=self._options.force)
        get = _refuse_offline if self._options.offline else fetch
        try:
            results = work.run(get, receipt)
        finally:
            self._tally.moved(receipt.bytes_fetched, receipt.bytes_reused)
        if not task.claim():  # too late: it was told as interrupted
            return
        for wanted, result in results:
            if isinstance(result, OrchError):
                self._kit.emit(self._tally.fail(wanted, result))
            else:
                self._tally.count(result)


def _refuse_offline(kit: Kit, artifact: Artifact, receipt: Receipt) -> None:  # noqa: ARG001 - stands in for fetch
    raise TransferError(
        f"{artifact.name}: not in the store, and --offline forbids to fetch it", "leave out --offline", "missing"
    )
