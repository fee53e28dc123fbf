"""What a run has downloaded so far, how fast it is now, and how long it still takes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from orchestrator import events

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


class _Transfer:
    """One program's files: `done` of `size` bytes are here; `landed` bytes came in this run."""

    def __init__(self) -> None:
        self.done = self.landed = 0
        self.size: int | None = None
        self.rate = _Rate()
        self.is_running = True


class Totals:
    """Sums up a run from its events; `now` of each call is a monotonic clock in seconds.

    Attributes:
        size_bytes: of all that is to be downloaded; 0 where nobody knows.
        to_fetch: how many files that is.
        ended: how many of them ended, well or not.
    """

    def __init__(self) -> None:
        self.size_bytes = self.to_fetch = self.ended = 0
        self._transfers: dict[tuple[str, str], _Transfer] = {}
        self._landed = 0
        self._rate = _Rate()

    @property
    def done_bytes(self) -> int:
        """The bytes that are here, those of earlier runs included."""
        done = sum(transfer.done for transfer in self._transfers.values())
        return min(done, self.size_bytes) if self.size_bytes else done

    @property
    def rate(self) -> float:
        """Bytes a second, of all programs together, over the last seconds."""
        return self._rate.value()

    def add(self, event: Event, now: float) -> None:
        """Take one event."""
        match event:
            case events.Planned(_, to_fetch, size):
                self.to_fetch, self.size_bytes = to_fetch, size
            case events.Started():
                transfer = self._transfers.setdefault((event.model, event.file), _Transfer())
                # A new attempt: the rate of the last one says nothing of this one's.
                transfer.done, transfer.size, transfer.rate = event.have_bytes, event.size_bytes, _Rate()
                transfer.is_running = True
                transfer.rate.mark(now, transfer.landed)
                self._rate.mark(now, self._landed)
            case events.Progressed():
                self._move(event, now)
            case events.Finished() | events.GaveUp():
                if isinstance(event, events.GaveUp) or event.how != "present":
                    self.ended += 1
                if (transfer_ := self._transfers.get((event.model, event.file))) is not None:
                    transfer_.is_running = False
            case _:
                pass

    def _move(self, event: events.Progressed, now: float) -> None:
        transfer = self._transfers.get((event.model, event.file))
        if transfer is None:
            return
        gained = max(0, event.done_bytes - transfer.done)
        transfer.done, transfer.size = event.done_bytes, event.size_bytes
        transfer.landed += gained
        self._landed += gained
        transfer.rate.mark(now, transfer.landed)
        self._rate.mark(now, self._landed)

    def left_s(self) -> float | None:
        """The seconds until all is here: all that is left at the rate of all, but no less than the slowest file needs.

        None where nobody can say.
        """
        rate = self._rate.value()
        if not self.size_bytes or rate <= 0:
            return None
        longest = max(0, self.size_bytes - self.done_bytes) / rate
        for transfer in self._transfers.values():
            own = transfer.rate.value()
            if transfer.is_running and transfer.size is not None and own > 0:
                longest = max(longest, (transfer.size - transfer.done) / own)
        return longest
