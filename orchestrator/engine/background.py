"""A call in another thread, for which neither a stop nor the end of the process waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.errors import Stopped
from orchestrator.limits import files_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """One call, begun at once: in a thread of its own, or in ours where no thread or no open file is to spare."""

    def __init__(self, call: Callable[..., T], *words: Any) -> None:
        self._call, self._words = call, words
        self._done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        try:
            if files_at_once(2) < 2:
                raise RuntimeError("too few open files")
            threading.Thread(target=self._run, name="orch-ask", daemon=True).start()
        except RuntimeError:  # "can't start new thread"
            self._run()

    def _run(self) -> None:
        try:
            self._value.append(self._call(*self._words))
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self, stop: threading.Event) -> T:
        """Wait for what the call gives, or raises.

        Raises:
            Stopped: a stop was asked for meanwhile.
        """
        while not self._done.wait(0.1):
            if stop.is_set():
                raise Stopped("stopped while waiting for an answer")
        if self._error is not None:
            raise self._error
        return self._value[0]
