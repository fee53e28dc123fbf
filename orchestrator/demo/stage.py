"""Where the demo plays: its words, the real commands under them, facts that must hold, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import orchestrator
from orchestrator.errors import OrchError, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.context import World

_READ_S = 1.5
_PATIENCE_S = 1.5
_KEPT = ("ORCH_PROGRAMS", "ORCH_SHA256SUM")


class DemoError(OrchError):
    """Something did not come out as it should."""


class Stage:
    """Says things on stdout and runs `orch` there; a stop goes to the command that runs, and ends the play."""

    def __init__(self, world: World) -> None:
        self._world, self._folder = world, Path()
        self._console = Console(highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line; unless told to stop.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._world.stop.is_set():
            raise Stopped("stopped")
        self._console.print(text, style=style)
        sys.stdout.flush()  # a command that follows writes to the same file

    def step(self, title: str, *why: str) -> None:
        """Begin a step: what happens, and why it matters. Who watches gets a moment to read the last one."""
        if self._console.is_terminal:
            self._world.sleep(_READ_S)
        self.say()
        self.say(title, "bold")
        for text in why:
            self.say(text)

    def command(self, line: str) -> None:
        """Show a command as it is typed."""
        self.say()
        self.say(f"$ {line}", "bold cyan")

    def move(self, folder: Path) -> None:
        """Go where the commands will run."""
        self._folder = folder
        self.command(f"cd {folder}")

    def run(self, *words: str) -> tuple[int, float]:
        """Run `orch` as a user would type it; its exit code and its wall time in seconds.

        Raises:
            Stopped: a stop was asked for.
        """
        self.command(f"orch {' '.join(words)}")
        began = self._world.monotonic()
        # A session of its own: Ctrl-C comes to us alone and we hand it on, so that it is never heard twice.
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, words of ours
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self._folder,
            env=dict(_environ(self._world.environ, self._folder)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,  # the story is one stream, so that a log of it is whole
            start_new_session=True,
        )
        try:
            code = child.wait()
        finally:
            _end(child)
        if self._world.stop.is_set():
            raise Stopped("stopped")
        return code, self._world.monotonic() - began

    def must(self, fact: str, holds: bool) -> None:
        """State a fact that was looked at.

        Raises:
            DemoError: it does not hold.
        """
        self.say(f"  {'ok' if holds else 'NO'}  {fact}", "green" if holds else "bold red")
        if not holds:
            raise DemoError(f"not as it should be: {fact}", "look at what is left: orch demo -v --folder NEW_FOLDER")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs; its own children go with it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)


def _environ(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """The user's environment without what would lead out of the demo's folder or past its servers."""
    for key, value in environ.items():
        if not key.lower().endswith("_proxy") and (key in _KEPT or not key.startswith("ORCH_")):
            yield key, value
    yield "ORCH_STORE", f"{folder}/store"
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        yield f"XDG_{name}_HOME", f"{folder}/home/{name.lower()}"
    yield "PYTHONUNBUFFERED", "1"  # answers on stdout and errors on stderr keep their order in a log
    house = Path(orchestrator.__file__).resolve().parents[1]
    if house.name not in ("site-packages", "dist-packages"):  # run from a tree: the commands are this tree's too
        yield "PYTHONPATH", f"{house}:{environ.get('PYTHONPATH', '')}".rstrip(":")
