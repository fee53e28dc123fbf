"""Find the downloaders on this machine: where they are, which version, and whether they run at all."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends import BACKENDS, by_name
from orchestrator.backends.base import Command, Exit
from orchestrator.context import which
from orchestrator.errors import NoBackendError
from orchestrator.events import Noticed
from orchestrator.files import reason
from orchestrator.limits import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.context import Context
    from orchestrator.events import Event

# The oldest versions that document the flags we pass (curl: %{exitcode}; aria2: --stream-piece-selector;
# rsync: --append-verify).
OLDEST = {"aria2c": (1, 30), "axel": (2, 16), "curl": (7, 75), "wget": (1, 16), "rsync": (3, 0)}
INSTALL = {
    "apt-get": "apt-get install aria2",
    "dnf": "dnf install aria2",
    "apk": "apk add aria2",
    "pacman": "pacman -S aria2",
    "zypper": "zypper install aria2",
    "brew": "brew install aria2",
}


@dataclass(frozen=True, slots=True)
class Program:
    """One program: `problem` says why it cannot be used, "" if it can; `embedded`: it is the Python package's."""

    name: str
    path: str = ""
    version: str = ""
    embedded: bool = False
    problem: str = ""

    @property
    def usable(self) -> bool:
        """Whether it is installed and runs."""
        return bool(self.path) and not self.problem


def find(context: Context, names: Iterable[str]) -> dict[str, Program]:
    """Find each program on PATH, else in the usual folders (cron's PATH is short), and ask it for its version.

    Returns:
        A Program for each name, also for one that is not installed.
    """
    wanted = list(names)  # asked side by side: one after the other takes 0.1 s of every sync
    return dict(zip(wanted, side_by_side(lambda name: _examine(context, name), wanted, "orch-ask"), strict=True))


def _examine(context: Context, name: str) -> Program:
    path, embedded = _locate(context, name)
    if not path:
        return Program(name, problem="not installed")
    exit_ = _ask(context, name, path)
    number = re.search(r"(\d+)\.(\d+)(?:\.\d+)*", exit_.stdout or exit_.stderr)
    if exit_.code != 0 or not number:
        return Program(name, path, embedded=embedded, problem=f"`{path} --version` {_ending(exit_)}")
    version = number[0]
    oldest = OLDEST.get(name, (0, 0))
    if (int(number[1]), int(number[2])) < oldest:
        return Program(name, path, version, embedded, f"too old: {version}, needs {oldest[0]}.{oldest[1]}")
    return Program(name, path, version, embedded)


def _ask(context: Context, name: str, path: str) -> Exit:
    """Run `--version`; a program that was killed is asked once more, since that says nothing about the program."""
    from orchestrator.process import run_program

    exit_ = Exit(126)
    for _ in range(2):
        try:
            exit_ = run_program(Command((name, "--version")), path, stop=context.stop, limit_s=10, watch=lambda _: None)
        except OSError as error:
            exit_ = Exit(126, stderr=f"cannot be started: {reason(error)}")
        if exit_.ended == "stopped" or (exit_.ended == "itself" and exit_.code >= 0):
            break
    return exit_


def _ending(exit_: Exit) -> str:
    if exit_.ended == "timeout":
        return "gave no answer"
    if exit_.code < 0:
        return f"was killed (signal {-exit_.code})"
    return exit_.stderr if exit_.code == 126 and exit_.stderr else f"failed ({exit_.code})"


def _locate(context: Context, name: str) -> tuple[str, bool]:
    folders = (
        *context.environ.get("PATH", os.defpath).split(os.pathsep),
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        *(f"{base}/bin" for key in ("CONDA_PREFIX", "VIRTUAL_ENV") if (base := context.environ.get(key))),
        f"{sys.prefix}/bin",
        "/opt/conda/bin",
        "/opt/homebrew/bin",
    )
    if context.environ.get("ORCH_PROGRAMS"):  # look in these folders only: for tests, and for strict setups
        folders = tuple(context.environ["ORCH_PROGRAMS"].split(os.pathsep))
    for folder in dict.fromkeys(folders):
        path = which(name, folder)
        if path and not (name == "aria2c" and _is_wrapper(path)):
            return path, False
    return (_embedded_aria2c(), True) if name == "aria2c" else ("", False)


def _is_wrapper(path: str) -> bool:
    """Whether this aria2c is the embedded package's Python script, which would not pass signals on to the program."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and b"aria2c import" in head


def _embedded_aria2c() -> str:
    """The path of the static aria2c of the extra `embedded`; "" if that is not installed."""
    try:
        from aria2c import ARIA2C
    except ImportError:
        return ""
    return str(ARIA2C) if os.access(ARIA2C, os.X_OK) else ""


def _is_here(manager: str) -> bool:
    return bool(which(manager, os.environ.get("PATH") or os.defpath))


def install_hint(urls: Iterable[str] = ()) -> str:
    """Return the command that installs the best downloader on this system, for these URLs if any are given."""
    schemes = {url.partition(":")[0] for url in urls}
    if schemes and schemes <= {"rsync", "file"}:
        lines = [line.replace("aria2", "rsync") for manager, line in INSTALL.items() if _is_here(manager)]
        return lines[0] if lines else "install rsync"
    for manager, line in INSTALL.items():
        if _is_here(manager):
            return f"{line}  (or: pip install 'orch-weights[embedded]')"
    return "pip install 'orch-weights[embedded]'"


def find_backends(context: Context, only: str | None, emit: Callable[[Event], None]) -> dict[str, Program]:
    """Find the program of each backend, or only that of the backend called `only`.

    A program that cannot be used is reported by `emit`.

    Raises:
        NoBackendError: no program can be used, or no backend is called `only`.
    """
    if only is not None and by_name(only) is None:
        names = ", ".join(backend.NAME for backend in BACKENDS)
        raise NoBackendError(f"no backend is called {only}", f"one of: {names}")
    programs = find(context, [only] if only else [backend.NAME for backend in BACKENDS])
    for program in programs.values():
        if program.path and program.problem:
            emit(Noticed(f"{program.name} is left out: {program.problem}"))
    if not any(program.usable for program in programs.values()):
        problems = ", ".join(f"{p.name} ({p.problem})" for p in programs.values())
        raise NoBackendError(f"no usable downloader: {problems}", install_hint())
    return programs
