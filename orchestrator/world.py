"""The outside as one value: environment, home, clocks, chance, the request to stop."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Stop(threading.Event):
    """The request to stop; `code` is the exit code of the signal that asked (130, 143), or None."""

    def __init__(self) -> None:
        super().__init__()
        self.code: int | None = None


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


def which(name: str, path: str) -> str:
    """Find an executable in the absolute folders of `path` (as $PATH), or at `name` where that is a path itself.

    An entry that is empty or relative means the working folder, whose programs are whoever's who made that folder.

    Returns:
        Its path, empty where there is none.
    """
    if "/" in name:
        candidates = [os.path.abspath(name)]
    else:
        candidates = [f"{folder}/{name}" for folder in path.split(os.pathsep) if folder.startswith("/")]
    return next((found for found in candidates if os.path.isfile(found) and os.access(found, os.X_OK)), "")


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
        """The process's own environment and working directory."""
        return cls(environ=os.environ, cwd=os.getcwd())

    @property
    def home(self) -> str:
        """$HOME, else the password database's."""
        return self.environ.get("HOME") or os.path.expanduser("~")

    def which(self, name: str) -> str:
        """Find an executable on this environment's PATH: its path, empty where there is none."""
        return which(name, self.environ.get("PATH") or os.defpath)

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
