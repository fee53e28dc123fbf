"""What a run has downloaded and read so far, how fast it is now, and how long it still takes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.render.sink import INTERRUPTED

if TYPE_CHECKING:
    from orchestrator.events import Event

WINDOW_S = 20.0  # the rate is that of the last so many seconds


class _Rate:
    """Bytes a second over the last `WINDOW_S`, of a count that only grows."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, count_bytes: int) -> None:
        while len(self._marks) > 1 and now - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()
        if self._marks and now <= self._marks[-1][0]:
            now = self._marks.pop()[0]
        self._marks.append((now, count_bytes))

    def value(self) -> float:
        if len(self._marks) < 2:
            return 0.0
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began)


class Transfer:
    """The files of one program, or one file that is read: `done` of `size` bytes are here.

    `landed` bytes of them came in this run, at `rate`; `event` tells what is done, and with which file.
    """

    def __init__(self, event: events.Started | events.Reading) -> None:
        self.event = event
        self.done = self.landed = 0
        self.size: int | None = None
        self.rate = _Rate()
        self.is_running = True
        self.was_planned = True

    def begin(self, event: events.Started, now: float) -> None:
        """Begin an attempt: the rate of the last one says nothing of this one's."""
        self.event, self.done, self.rate, self.is_running = event, event.have_bytes, _Rate(), True
        if event.size_bytes is not None:
            self.size = event.size_bytes
        self.rate.mark(now, self.landed)

    def move(self, done: int, size: int | None, now: float) -> int:
        """Take what is here now, and return how many bytes came."""
        gained = max(0, done - self.done)
        self.done, self.size = done, self.size if size is None else size
        self.landed += gained
        self.rate.mark(now, self.landed)
        return gained

    def left_s(self) -> float | None:
        """The seconds until all of it is here; None where nobody can say."""
        rate = self.rate.value()
        return max(0, self.size - self.done) / rate if self.size is not None and rate > 0 else None


class Totals:
    """Sums up a run from its events; `now` of each call is a monotonic clock in seconds.

    Attributes:
        to_fetch: how many files are to be downloaded.
        ended: how many files ended, well or not.
        transfers: the downloads, in the order of their beginning.
        readings: what is read or copied at this moment, and takes long.
    """

    def __init__(self) -> None:
        self.to_fetch = self.ended = 0
        self.transfers: dict[tuple[str, str], Transfer] = {}
        self.readings: dict[tuple[str, str], Transfer] = {}
        self._planned = self._grown = 0
        self._landed = 0
        self._rate = _Rate()

    @property
    def is_idle(self) -> bool:
        """Whether nothing was downloaded yet, and nothing is read."""
        return not (self.transfers or self.readings)

    @property
    def size_bytes(self) -> int:
        """The size of all that is to be downloaded, as far as it is known; 0 where nobody knows."""
        known = sum(transfer.size or 0 for transfer in self.transfers.values())
        return max(self._planned + self._grown, known)

    @property
    def done_bytes(self) -> int:
        """The bytes that are here, those of earlier runs included."""
        done = sum(transfer.done for transfer in self.transfers.values())
        size = self.size_bytes
        return min(done, size) if size else done

    @property
    def rate(self) -> float:
        """Bytes a second, of all programs together, over the last seconds."""
        return self._rate.value()

    @property
    def is_size_known(self) -> bool:
        """Whether the size of each file that runs is known: else there is no telling how long it takes."""
        return bool(self.size_bytes) and all(t.size is not None for t in self.transfers.values() if t.is_running)

    def add(self, event: Event, now: float) -> None:
        """Take one event."""
        match event:
            case events.Planned(to_fetch=to_fetch, bytes_to_fetch=size):
                self.to_fetch, self._planned = to_fetch, size
            case events.Started():
                key = (event.model, event.file)
                if (transfer := self.transfers.get(key)) is None:
                    transfer = self.transfers[key] = Transfer(event)
                    transfer.was_planned = event.size_bytes is not None
                self._grow(transfer, event.size_bytes)
                transfer.begin(event, now)
                self._rate.mark(now, self._landed)
            case events.Progressed():
                if (moved := self.transfers.get((event.model, event.file))) is not None:
                    self._grow(moved, event.size_bytes)
                    self._landed += moved.move(event.done_bytes, event.size_bytes, now)
                    self._rate.mark(now, self._landed)
            case events.Reading():
                self._read(event, now)
            case events.Verified() if (event.model, event.file) not in self.transfers:
                self._grown -= event.size_bytes  # it stood at its place, and need not be downloaded
            case events.Finished() | events.GaveUp():
                self._end(event)
            case _:
                pass

    def tick(self, now: float) -> None:
        """Let time pass: the rate of what brings nothing falls, although no event tells of it."""
        for transfer in (*self.transfers.values(), *self.readings.values()):
            if transfer.is_running:
                transfer.rate.mark(now, transfer.landed)
        self._rate.mark(now, self._landed)

    def _grow(self, transfer: Transfer, size: int | None) -> None:
        """Add a size that the plan did not know to that of all, once it is known."""
        if not transfer.was_planned and size is not None:
            self._grown += size - (transfer.size or 0)

    def _read(self, event: events.Reading, now: float) -> None:
        key = (event.model, event.file)
        if event.done_bytes >= event.size_bytes:
            self.readings.pop(key, None)
            return
        reading = self.readings.get(key)
        if reading is None or event.done_bytes < reading.done:
            reading = self.readings[key] = Transfer(event)
        reading.event = event
        reading.move(event.done_bytes, event.size_bytes, now)

    def _end(self, event: events.Finished | events.GaveUp) -> None:
        key = (event.model, event.file)
        is_cut = isinstance(event, events.GaveUp) and event.fault == INTERRUPTED  # a stop: the rest is still to come
        if not is_cut and (isinstance(event, events.GaveUp) or event.how != "present"):
            self.ended += 1
        self.readings.pop(key, None)
        if (transfer := self.transfers.get(key)) is None:
            return
        transfer.is_running = False
        if (
            isinstance(event, events.GaveUp) and not is_cut and transfer.size is not None
        ):  # its rest does not come any more
            self._grown -= max(0, transfer.size - transfer.done)
            transfer.size = transfer.done

    def left_s(self) -> float | None:
        """The seconds until all is here: all that is left at the rate of all, but no less than the slowest file needs.

        None where nobody can say.
        """
        rate = self._rate.value()
        if not self.is_size_known or rate <= 0:
            return None
        longest = max(0, self.size_bytes - self.done_bytes) / rate
        for transfer in self.transfers.values():
            if transfer.is_running and (own := transfer.left_s()) is not None:
                longest = max(longest, own)
        return longest
