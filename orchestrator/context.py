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

NO_STATE = os.devnull  # below which nothing can be made nor read: what is remembered there is forgotten


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
class Context:
    """Made once by the caller; tests make another. No other room reads the environment or the clock."""

    environ: Mapping[str, str]
    cwd: str
    stop: Stop = field(default_factory=Stop)
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = _chance
    now: Callable[[], float] = time.time  # since the epoch; jumps where somebody sets the clock
    read: Callable[[str], str] = _read  # a path -> another program's settings, "" where there are none

    @classmethod
    def real(cls) -> Context:
        """The process's own environment and working directory, also where that was removed."""
        try:
            here = os.getcwd()
        except OSError:
            # Its path as it was: what is asked for below it is reported as missing there, and all else works.
            here = os.environ.get("PWD", "")
            if not os.path.isabs(here):
                here = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
        return cls(environ=os.environ, cwd=here)

    @property
    def home(self) -> str:
        """$HOME, else the password database's; empty where neither names an absolute path."""
        if os.path.isabs(home := self.environ.get("HOME", "")):
            return home
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return ""
        return home if os.path.isabs(home) else ""

    def base_folder(self, variable: str, below_home: str) -> str:
        """A base directory of the user: what `variable` (XDG_CACHE_HOME ...) says, else `below_home` in the home.

        A variable that is empty or relative is ignored, as the XDG Base Directory Specification demands. The answer
        is empty where no home is known.
        """
        if os.path.isabs(named := self.environ.get(variable, "")):
            return named
        return os.path.join(self.home, below_home) if self.home else ""

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
        return os.path.join(self.base_folder("XDG_STATE_HOME", ".local/state") or NO_STATE, "orch", self.hostname)

    def sleep(self, seconds: float) -> bool:
        """Sleep until `seconds` have passed or a stop was asked for; true when it was."""
        return self.stop.wait(seconds)
