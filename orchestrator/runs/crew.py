"""The threads of one run: N pieces of work at a time, largest first; the disk's end or a signal stops them all."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from orchestrator.errors import ExitCode, OrchError, Stopped, StoreError, TransferError
from orchestrator.files import store_error
from orchestrator.limits import files_at_once, start
from orchestrator.runs.parcels import SMALL_BYTES, Packer, Parcel, Task, settle
from orchestrator.runs.settle import Settling
from orchestrator.runs.standing import Records
from orchestrator.transfer.adoption import adopt
from orchestrator.transfer.loop import Receipt, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.model import Artifact
    from orchestrator.runs.options import Options
    from orchestrator.runs.standing import Standing
    from orchestrator.runs.tally import Tally
    from orchestrator.transfer.kit import Kit


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
        self._records = Records(kit.store)
        self._end: OrchError | None = None

    def work(self) -> None:
        """Run until the queue is empty, the disk is full or a stop was asked for; book what was not reached."""
        crew = [threading.Thread(target=self._worker, name=f"orch-{n}", daemon=True) for n in range(self._workers)]
        try:
            started = start(crew)
        except OSError as error:
            started, self._end = 0, store_error(error, self._kit.store.path)
        for thread in crew[:started]:
            thread.join()
        for left in self._queue:
            self._fail(left, self._end or _interrupted())
        if isinstance(self._end, BugError):
            raise self._end.cause

    def _worker(self) -> None:
        while (work := self._next()) is not None:
            try:
                if isinstance(work, Task):
                    self._one(work)
                else:
                    self._many(work)
            except Stopped:
                self._fail(work, self._end or _interrupted())
            except OrchError as error:
                self._fail(work, error)
                if isinstance(error, StoreError):
                    self._stop_all(error)
            except Exception as error:
                self._fail(work, BugError(error))
                self._stop_all(BugError(error))

    def _next(self) -> Task | Parcel | None:
        """The next piece of work; None once there is none and nobody may bring any more."""
        with self._turn:
            while self._end is None and not self._kit.world.stop.is_set():
                if self._queue:
                    work = self._queue.popleft()
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
            for standing in task.standings:
                self._kit.emit(self._tally.fail(standing.wanted, error))

    def _many(self, parcel: Parcel) -> None:
        more: list[Task | Parcel] = []
        try:
            alone, parcels = self._packer.again(settle(self._kit, self._packer, parcel, self._tally))
            more += [*parcels, *alone]
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
    return TransferError("interrupted; what was fetched is kept", "run the same command again: it goes on from there")


def _refuse_offline(kit: Kit, artifact: Artifact, receipt: Receipt) -> None:  # noqa: ARG001 - stands in for fetch
    raise TransferError(
        f"{artifact.name}: not in the store, and --offline forbids to fetch it", "leave out --offline", "missing"
    )
