"""The process's surroundings as one value: environment, working folder, clocks, jitter, the request to stop."""

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

NO_STATE = os.devnull  # a folder in which nothing can be made or read: without a home there is no local state


class Stop(threading.Event):
    """The request to stop; `code` is the exit code of the signal that asked (130, 143; 9: --max-time), or None.

    While `raises` is true, the signal's handler raises `Stopped` in the main thread, which then need not check.
    """

    def __init__(self) -> None:
        super().__init__()
        self.code: int | None = None
        self.raises = False

    def is_set(self) -> bool:
        """Whether a stop was asked for; true already when `code` is set, a moment before the event is."""
        return self.code is not None or super().is_set()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal interrupt the main thread at any point of this block.

        Raises:
            Stopped: a stop was asked for before or in this block.
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
        """Let no signal interrupt the main thread in this block, because its work must not be left half done.

        Raises:
            Stopped: at the end, if a signal came in this block and `then_raise` is true.
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


def _jitter() -> float:
    """Return a random number from 0 to 1, for waits."""
    import random  # imported here, as it imports hashes: only a wait needs it

    return random.random()


def _told(_: int) -> None:
    """Nobody is told how far a reading is."""


def _read(path: str) -> str:
    """Read another program's settings; "" where the file is missing or no text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def which(name: str, path: str) -> str:
    """Find an executable.

    Empty and relative entries of `path` are skipped: they would mean the working folder, where anybody may have put a
    program.

    Args:
        name: the program's name, or its path.
        path: folders as in $PATH; not used where `name` is a path.

    Returns:
        The executable's path, "" if there is none.
    """
    if "/" in name:
        candidates = [os.path.abspath(name)]
    else:
        candidates = [f"{folder}/{name}" for folder in path.split(os.pathsep) if folder.startswith("/")]
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), "")


@dataclass(frozen=True)
class Context:
    """The surroundings of a run, made once by the caller, and by tests with other values.

    No other module reads the environment or the wall clock. `monotonic` and `now` return seconds, `now` since the
    epoch; it jumps where somebody sets the clock. `jitter` returns a random number from 0 to 1. `read` returns the
    text of another program's settings file, "" where there is none. `reading` is told how many bytes of what is checked
    were read so far, again and again; for another file it is another one.
    """

    environ: Mapping[str, str]
    cwd: str
    stop: Stop = field(default_factory=Stop)
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = _jitter
    now: Callable[[], float] = time.time
    read: Callable[[str], str] = _read
    reading: Callable[[int], None] = _told

    @classmethod
    def real(cls) -> Context:
        """Make the context of this process, with its environment and working folder, even if that was removed."""
        try:
            here = os.getcwd()
        except OSError:
            # Take the path that it had: relative paths are reported as missing below it, and all else works.
            here = os.environ.get("PWD", "")
            if not os.path.isabs(here):
                here = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
        return cls(environ=os.environ, cwd=here)

    @property
    def home(self) -> str:
        """$HOME, else the home in the password database; "" where neither is an absolute path."""
        if os.path.isabs(home := self.environ.get("HOME", "")):
            return home
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return ""
        return home if os.path.isabs(home) else ""

    def base_folder(self, variable: str, below_home: str) -> str:
        """Return a base folder of the user.

        Args:
            variable: the environment variable that names it, such as XDG_CACHE_HOME. An empty or relative value is
                ignored, as the XDG Base Directory Specification demands.
            below_home: the path below the home to use instead, such as `.cache`.

        Returns:
            An absolute path; "" where no home is known.
        """
        if os.path.isabs(named := self.environ.get(variable, "")):
            return named
        return os.path.join(self.home, below_home) if self.home else ""

    def which(self, name: str) -> str:
        """Find an executable on this environment's PATH; "" if there is none."""
        return which(name, self.environ.get("PATH") or os.defpath)

    @property
    def hostname(self) -> str:
        """This host's name, as local state and records use it."""
        return os.uname().nodename or "localhost"

    @property
    def state(self) -> str:
        """The folder of the local state: $XDG_STATE_HOME/orch/<hostname>, never on a shared store."""
        return os.path.join(self.base_folder("XDG_STATE_HOME", ".local/state") or NO_STATE, "orch", self.hostname)

    def sleep(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until a stop is asked for; true if it was."""
        return self.stop.wait(seconds)
