"""The outside as one value: environment, home, clocks, chance, the request to stop."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Stop(threading.Event):
    """The request to stop; `code` is the exit code of the signal that asked (130, 143), or None.

    While `raises` is true, the signal's handler raises `Stopped` in the main thread, which need not ask then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.code: int | None = None
        self.raises = False

    def is_set(self) -> bool:
        """Whether a stop was asked for, also in the moment before the event itself is set."""
        return self.code is not None or super().is_set()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal interrupt the main thread wherever it is.

        Raises:
            Stopped: a stop was asked for, before or meanwhile.
        """
        self.raises = True
        try:
            if self.code is not None:
                raise Stopped("stopped")
            yield
        finally:
            self.raises = False

    @contextmanager
    def deferred(self, *, then_raise: bool = False) -> Iterator[None]:
        """Let no signal interrupt the main thread here: what it does must come to an end of its own.

        Raises:
            Stopped: one came meanwhile, and `then_raise` is true.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self.raises = self.raises, False
        try:
            yield
        finally:
            self.raises = before
        if then_raise and before and self.code is not None:
            raise Stopped("stopped")


def _chance() -> float:
    """Give a number from 0 to 1, for waits."""
    import random  # which brings hashes with it: only for whoever waits

    return random.random()


def _read(path: str) -> str:
    """Read another program's settings, as far as they are there and are text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True)
class World:
    """Made once by the caller; tests make another. No other room reads the environment or the clock."""

    environ: Mapping[str, str]
    cwd: str
    stop: Stop = field(default_factory=Stop)
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = _chance
    now: Callable[[], float] = time.time  # since the epoch; jumps where somebody sets the clock
    read: Callable[[str], str] = _read  # a path -> another program's settings, "" where there are none

    @classmethod
    def real(cls) -> World:
        """The process's own environment and working directory; of a folder that was removed, where it was."""
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = os.environ.get("PWD", "")
            cwd = cwd if cwd.startswith("/") else "/nonexistent"
        return cls(environ=os.environ, cwd=cwd)

    @property
    def home(self) -> str:
        """$HOME, else the password database's."""
        return self.environ.get("HOME") or os.path.expanduser("~")

    @property
    def hostname(self) -> str:
        """This host's name, as local state and records carry it."""
        return os.uname().nodename or "localhost"

    @property
    def state(self) -> str:
        """Folder of the local state: $XDG_STATE_HOME/orch/<hostname>, never on a shared store."""
        base = self.environ.get("XDG_STATE_HOME") or os.path.join(self.home, ".local", "state")
        return os.path.join(base, "orch", self.hostname)

    def sleep(self, seconds: float) -> bool:
        """Sleep until `seconds` have passed or a stop was asked for; true when it was."""
        return self.stop.wait(seconds)
