"""The programs that judge digests: sha256sum is the reference and the default, a faster one must show it can."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.base import Command, Exit
from orchestrator.errors import NoBackendError
from orchestrator.files import reason
from orchestrator.process import run_program

if TYPE_CHECKING:
    from orchestrator.context import Context

STALL_S = 30.0  # a judge that reads nothing for so long is ended
LARGE_BYTES = 64 << 20  # below this a faster judge gains less than its self-test costs
_SAMPLE_BYTES = 32 << 20
_TEST_S = 10.0
_NOT_STARTED = (126, 127)


@dataclass(frozen=True, slots=True)
class ToolKind:
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


SHA256SUM = ToolKind("sha256sum", ("--check", "--strict"), "-", ": OK")
RHASH = ToolKind("rhash", ("--sha256", "--check"), "/dev/stdin", "Everything OK")
KINDS = (SHA256SUM, RHASH)


@dataclass(frozen=True, slots=True)
class ChecksumTool:
    """A judge on this machine: `path` of its program, empty where it is not installed."""

    kind: ToolKind
    path: str


def installed(context: Context) -> tuple[ChecksumTool, ...]:
    """The judges of this machine; ORCH_SHA256SUM names another sha256sum."""
    found = []
    for kind in KINDS:
        name = context.environ.get("ORCH_SHA256SUM", "") if kind is SHA256SUM else ""
        found.append(ChecksumTool(kind, context.which(name or kind.name)))
    return tuple(found)


def ask(
    context: Context,
    judge: ChecksumTool,
    sums: bytes,
    *,
    content: int | None = None,
    stall_s: float = STALL_S,
    stdout_bytes: int = 64 * 1024,
) -> Exit:
    """Let a judge read the files that `sums` lists; a judge that died, or that stood still, is asked once more.

    `content` is a descriptor whose bytes it finds on its stdin; it stays open. `stall_s` is how long a judge may
    read nothing before it is ended: its reads are what tells a slow disk from a program that hangs.

    Raises:
        OSError: this machine has no descriptor, process or memory to spare.
    """
    listed = _in_memory(sums)
    by_stdin = content is None and judge.kind is SHA256SUM
    command = judge.kind.command("-" if by_stdin else f"/dev/fd/{listed}")
    given = listed if by_stdin else content
    try:
        exit_ = Exit(126)
        for _ in range(2):
            os.lseek(listed, 0, os.SEEK_SET)
            if content is not None:
                os.lseek(content, 0, os.SEEK_SET)
            exit_ = run_program(
                command,
                judge.path,
                stop=context.stop,
                watch=lambda _: None,
                stall_s=stall_s,
                reads=True,
                keep_fd=None if by_stdin else listed,
                stdin=None if given is None else os.fdopen(os.dup(given), "rb"),
                stdout_bytes=stdout_bytes,
            )
            died = exit_.ended == "stalled" or exit_.code < 0 or exit_.code in _NOT_STARTED
            if exit_.ended == "stopped" or not died:
                break
        return exit_
    finally:
        os.close(listed)


def reference(context: Context) -> ChecksumTool:
    """The sha256sum of this machine.

    Raises:
        NoBackendError: there is none.
    """
    judge = installed(context)[0]
    if not judge.path:
        named = context.environ.get("ORCH_SHA256SUM", "sha256sum")
        raise NoBackendError(f"no {named} found on PATH", "apt-get install coreutils  (or unset ORCH_SHA256SUM)")
    return judge


def best_for_large(context: Context) -> ChecksumTool:
    """The fastest judge that passes this run's self-test; the reference where no other does.

    Raises:
        NoBackendError: there is no sha256sum.
    """
    first = reference(context)
    return next((j for j in reversed(installed(context)[1:]) if j.path and not weakness(context, j)), first)


def weakness(context: Context, judge: ChecksumTool) -> str:
    """Test a judge: right bytes are good; flipped, missing, malformed and empty are not. Empty where it passes.

    All of it lies in memory: a full or read-only disk has no say in this, and nothing is left behind.
    """
    if not judge.path:
        return "not installed"
    right = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    named = f"{right}  {judge.kind.stdin}\n"
    cases = {
        "right": (True, named, b"hello world"),
        "flipped": (False, named, b"hello xorld"),
        "missing": (False, f"{right}  /nonexistent/orch\n", b""),
        "malformed": (False, "nonsense\n", b""),
        "empty": (False, "", b""),
    }
    try:
        for case, (good, sums, content) in cases.items():
            sample = _in_memory(content)
            try:
                exit_ = ask(context, judge, sums.encode(), content=sample, stall_s=_TEST_S)
            finally:
                os.close(sample)
            if judge.kind.is_good(exit_) is not good:
                return f"{judge.kind.name} failed the self-test: {case}"
    except OSError as error:
        return f"{judge.kind.name} cannot be tested: {reason(error)}"
    return ""


def measure(context: Context, judge: ChecksumTool) -> float:
    """Measure a judge over 32 MiB of zeros in memory: bytes per second; 0 where it cannot be measured."""
    with suppress(OSError):
        sample = _in_memory(b"")
        try:
            os.ftruncate(sample, _SAMPLE_BYTES)
            began = time.monotonic()
            ask(context, judge, f"{'0' * 64}  {judge.kind.stdin}\n".encode(), content=sample)
            return _SAMPLE_BYTES / (time.monotonic() - began)
        finally:
            os.close(sample)
    return 0.0


def _in_memory(content: bytes) -> int:
    """The descriptor of a file in memory."""
    fd = os.memfd_create("orch-judge")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd
