"""The programs that judge digests: sha256sum is the reference and the default, a faster one must show it can."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.base import Command, Exit
from orchestrator.errors import NoBackendError
from orchestrator.process import run

if TYPE_CHECKING:
    from orchestrator.world import World

LARGE_BYTES = 64 << 20  # below this a faster judge gains less than its self-test costs
_SAMPLE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """How one program is asked about one file by a sums file, and the word that it says when all is well.

    The word is asked for besides exit 0: uutils' sha256sum 0.0.17 exits 0 on a wrong digest with --status,
    rhash 1.4.3 on an empty list.
    """

    name: str
    flags: tuple[str, ...]
    stdin: str
    word: str

    def command(self, sums: str) -> Command:
        """Ask about the files of a sums file."""
        return Command((self.name, *self.flags, sums))

    def is_good(self, exit_: Exit) -> bool:
        """Whether the program ended by itself, with 0, and said that the file is right."""
        return exit_.ended == "itself" and exit_.code == 0 and self.word in exit_.stdout

    def is_mismatch(self, exit_: Exit) -> bool:
        """Whether it said that the file is wrong (to be confirmed by the reference)."""
        return exit_.ended == "itself" and exit_.code == 1


SHA256SUM = Kind("sha256sum", ("--check", "--strict"), "-", ": OK")
RHASH = Kind("rhash", ("--sha256", "--check"), "/dev/stdin", "Everything OK")
KINDS = (SHA256SUM, RHASH)


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge on this machine: `path` of its program, empty where it is not installed."""

    kind: Kind
    path: str


def installed(world: World) -> tuple[Judge, ...]:
    """The judges of this machine; ORCH_SHA256SUM names another sha256sum."""
    search = world.environ.get("PATH") or os.defpath
    found = []
    for kind in KINDS:
        name = world.environ.get("ORCH_SHA256SUM", "") if kind is SHA256SUM else ""
        found.append(Judge(kind, shutil.which(name or kind.name, path=search) or ""))
    return tuple(found)


def reference(world: World) -> Judge:
    """The sha256sum of this machine.

    Raises:
        NoBackendError: there is none.
    """
    judge = installed(world)[0]
    if not judge.path:
        named = world.environ.get("ORCH_SHA256SUM", "sha256sum")
        raise NoBackendError(f"no {named} found on PATH", "apt-get install coreutils  (or unset ORCH_SHA256SUM)")
    return judge


def best_for_large(world: World) -> Judge:
    """The fastest judge that passes this run's self-test; the reference where no other does.

    Raises:
        NoBackendError: there is no sha256sum.
    """
    first = reference(world)
    return next((j for j in reversed(installed(world)[1:]) if j.path and not weakness(world, j)), first)


def weakness(world: World, judge: Judge) -> str:
    """Test a judge: right bytes are good; flipped, missing, malformed and empty are not. Empty where it passes."""
    if not judge.path:
        return "not installed"
    right = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    with tempfile.TemporaryDirectory(prefix="orch-judge-") as folder:
        for name, content in (("right", b"hello world"), ("flipped", b"hello xorld")):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        cases = {
            "right": (True, f"{right}  {folder}/right\n"),
            "flipped": (False, f"{right}  {folder}/flipped\n"),
            "missing": (False, f"{right}  {folder}/nowhere\n"),
            "malformed": (False, "nonsense\n"),
            "empty": (False, ""),
        }
        for case, (good, sums) in cases.items():
            with open(f"{folder}/sums", "w", encoding="utf-8") as file:
                file.write(sums)
            exit_ = run(judge.kind.command(f"{folder}/sums"), judge.path, stop=world.stop, limit_s=10)
            if judge.kind.is_good(exit_) is not good:
                return f"{judge.kind.name} failed the self-test: {case}"
    return ""


def measure(world: World, judge: Judge) -> float:
    """Measure a judge over 32 MiB of zeros in memory: bytes per second."""
    with tempfile.TemporaryDirectory(prefix="orch-judge-") as folder:
        with open(f"{folder}/sample", "wb") as file:
            file.truncate(_SAMPLE_BYTES)
        with open(f"{folder}/sums", "w", encoding="utf-8") as file:
            file.write(f"{'0' * 64}  {folder}/sample\n")
        began = time.monotonic()
        run(judge.kind.command(f"{folder}/sums"), judge.path, stop=world.stop, limit_s=60)
        return _SAMPLE_BYTES / (time.monotonic() - began)
