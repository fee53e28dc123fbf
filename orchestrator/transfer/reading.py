"""Report the progress of reading or copying on this machine when it takes long."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.events import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event

AFTER_S = 2.0  # a shorter reading is no news
EVERY_S = 0.5


class Progress:
    """Emits `Reading` for one file, or for all files of a command together.

    Args:
        context: for its clock.
        emit: takes the events.
        doing: verifying, hashing, copying or reading.
        model, file: what is read; both "" for all files together.
        size_bytes: of what is read.
        passes: so many times it is read, one pass after the other, and each begins at 0; None: one that may begin
            again.
    """

    def __init__(
        self,
        context: Context,
        emit: Callable[[Event], None],
        doing: str,
        model: str,
        file: str,
        size_bytes: int,
        passes: int | None = None,
    ) -> None:
        self._clock, self._emit = context.monotonic, emit
        self._doing, self._model, self._file, self._size_bytes = doing, model, file, size_bytes
        self._passes = passes
        self._before = self._done = 0
        self._began = self._last = self._clock()
        self._is_told = False

    def __call__(self, done_bytes: int) -> None:
        """Take how many bytes were read so far, of one pass."""
        if self._passes is not None:
            if done_bytes < self._done:
                self._before += self._done
            self._done = done_bytes
            done_bytes = (self._before + done_bytes) // self._passes
        now = self._clock()
        if now - self._began >= AFTER_S and now - self._last >= EVERY_S and done_bytes < self._size_bytes:
            self._last, self._is_told = now, True
            self._tell(done_bytes)

    def end(self) -> None:
        """It was read, or will not be."""
        if self._is_told:
            self._is_told = False
            self._tell(self._size_bytes)

    def _tell(self, done_bytes: int) -> None:
        self._emit(Reading(self._model, self._file, self._doing, done_bytes, self._size_bytes))


@contextmanager
def told(
    context: Context,
    emit: Callable[[Event], None],
    doing: str,
    model: str,
    file: str,
    size_bytes: int | None,
    passes: int | None = None,
) -> Iterator[Context]:
    """The context with which to read one file, so that what takes long is told; a size of None: it cannot be.

    The other arguments are those of `Progress`.
    """
    if not size_bytes:
        yield context
        return
    progress = Progress(context, emit, doing, model, file, size_bytes, passes)
    try:
        yield dataclasses.replace(context, reading=progress)
    finally:
        progress.end()


class Part(NamedTuple):
    """One file of several that are read."""

    model: str
    file: str
    size_bytes: int


class Several:
    """Tells how far the reading of many files is: all of them, and the one that is read at this moment.

    Args:
        context: the context with which to read.
        emit: takes the events.
        doing: as of `Progress`.
        size_bytes: of all files together.
    """

    def __init__(self, context: Context, emit: Callable[[Event], None], doing: str, size_bytes: int) -> None:
        self._context, self._emit, self._doing = context, emit, doing
        self._size_bytes, self._before = size_bytes, 0
        self._all = Progress(context, emit, doing, "", "", size_bytes)

    @contextmanager
    def batch(self, parts: Sequence[Part]) -> Iterator[Context]:
        """The context with which one program reads these files, one after the other."""
        if not parts:
            yield self._context
            return
        ends = list(accumulate(part.size_bytes for part in parts))
        at, current = 0, self._of(parts[0])

        def reading(done_bytes: int) -> None:
            nonlocal at, current
            if self._size_bytes > max(part.size_bytes for part in parts):  # else one bar tells it all
                self._all(self._before + done_bytes)
            number = min(bisect_right(ends, done_bytes), len(parts) - 1)
            if number != at:
                current.end()
                at, current = number, self._of(parts[number])
            current(done_bytes - (ends[at] - parts[at].size_bytes))

        try:
            yield dataclasses.replace(self._context, reading=reading)
        finally:
            current.end()
            self._before += ends[-1]

    def _of(self, part: Part) -> Progress:
        return Progress(self._context, self._emit, self._doing, *part)

    def end(self) -> None:
        """All was read, or nothing more will be."""
        self._all.end()
