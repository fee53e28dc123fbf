"""The checksum tools: sha256sum is the reference and the default; for large files a faster one that passes a self-test.

GNU sha256sum without OpenSSL, as in Debian and Ubuntu, reads 0.5 GB/s, where OpenSSL reads 1.3 to 1.5: hashlib, which
every Python has, in a process of its own, so that it takes nothing from ours. The word of any tool but the reference
counts where it says "right" only; what it calls wrong is read again.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.base import Command, Exit
from orchestrator.context import which
from orchestrator.errors import NoBackendError
from orchestrator.executables import Executables
from orchestrator.files import reason
from orchestrator.process import run_program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context

STALL_S = 30.0  # a tool that reads nothing for so many seconds is ended
LARGE_BYTES = 64 << 20  # for smaller files a faster tool gains less than its self-test costs
_SAMPLE_BYTES = 32 << 20
# Behind a download a tool reads a pipe. hashlib asks for 1 MiB at a time; openssl and rhash ask for 8 KiB, and wake who
# feeds them each time: of 1 GiB as fast as the disk cache gives it, both together took 0.8 s of processor time with
# hashlib, 1.5 to 2.0 s with the others. A measure on a file does not show this.
_HASHLIB_ADVANTAGE = 2.0
_TEST_S = 10.0
_NOT_STARTED = (126, 127)
_RATE = "sha256 bytes/s"  # what is remembered of a tool


@dataclass(frozen=True, slots=True)
class ToolKind:
    """How one checksum tool is run: on a sums file, or, where it has no `word`, on one file whose digest it prints.

    `stdin` is its name for standard input in a sums file; `word` is what it prints when a file is right. That word is
    required besides exit 0: uutils' sha256sum 0.0.17 exits 0 on a wrong digest with --status, rhash 1.4.3 on an empty
    list.
    """

    name: str
    flags: tuple[str, ...]
    stdin: str = ""
    word: str = ""

    def command(self, sums: str, file: str = "") -> Command:
        """The command that checks the files of a sums file; or, without a word, `file` (empty: its stdin)."""
        operand = (sums,) if self.word else (file,) if file else ()
        return Command((self.name, *self.flags, *operand))

    def is_good(self, exit_: Exit, sha256: str) -> bool:
        """Whether the tool ended by itself, with exit 0, and printed that the file is right, or `sha256` itself."""
        if exit_.ended != "itself" or exit_.code != 0:
            return False
        return self.word in exit_.stdout if self.word else sha256 != "" and _printed(exit_) == sha256

    def is_mismatch(self, exit_: Exit, sha256: str) -> bool:
        """Whether the tool said that the file is wrong: then it is read again."""
        if self.word:
            return exit_.ended == "itself" and exit_.code == 1
        return exit_.ended == "itself" and exit_.code == 0 and _printed(exit_) not in ("", sha256)


def _printed(exit_: Exit) -> str:
    """The digest that a tool printed as its first word; empty where that is none."""
    first = exit_.stdout.split(maxsplit=1)[:1]
    return next((word for word in first if len(word) == 64), "")


_HASHLIB = """\
import hashlib, sys
with open(sys.argv[1] if sys.argv[1:] else 0, "rb", buffering=0) as file:
    hasher, buffer = hashlib.sha256(), bytearray(1 << 20)
    while count := file.readinto(buffer):
        hasher.update(memoryview(buffer)[:count])
print(hasher.hexdigest())
"""
SHA256SUM = ToolKind("sha256sum", ("--check", "--strict"), "-", ": OK")
HASHLIB = ToolKind("hashlib", ("-I", "-S", "-c", _HASHLIB))
OPENSSL = ToolKind("openssl", ("dgst", "-sha256", "-r"))
RHASH = ToolKind("rhash", ("--sha256", "--check"), "/dev/stdin", "Everything OK")
KINDS = (SHA256SUM, HASHLIB, OPENSSL, RHASH)


@dataclass(frozen=True, slots=True)
class ChecksumTool:
    """A checksum tool on this machine; `path` is empty where it is not installed, and of hashlib that of Python."""

    kind: ToolKind
    path: str


def installed(context: Context) -> tuple[ChecksumTool, ...]:
    """The checksum tools of this machine; ORCH_SHA256SUM names another sha256sum."""
    found = []
    for kind in KINDS:
        name = context.environ.get("ORCH_SHA256SUM", "") if kind is SHA256SUM else ""
        path = sys.executable if kind is HASHLIB else context.which(name or kind.name)
        found.append(ChecksumTool(kind, path))
    return tuple(found)


def ask(
    context: Context,
    tool: ChecksumTool,
    sums: bytes,
    *,
    file: str = "",
    content: int | None = None,
    stall_s: float = STALL_S,
    stdout_bytes: int = 64 * 1024,
) -> Exit:
    """Run a tool on the files that `sums` lists; once more if it died or hung.

    Args:
        sums: the content of a sums file.
        file: the one file that it lists, for a tool that reads no sums file.
        content: a descriptor whose bytes the tool gets as its stdin; it stays open.
        stall_s: how many seconds the tool may read nothing: its reads tell a slow disk from a program that hangs.
        stdout_bytes: how much of its output to keep.

    Raises:
        OSError: this machine has no descriptor, process or memory to spare.
    """
    sums_fd = _in_memory(sums)
    by_stdin = content is None and tool.kind is SHA256SUM
    command = tool.kind.command("-" if by_stdin else f"/dev/fd/{sums_fd}", file)
    stdin_fd = sums_fd if by_stdin else content
    try:
        exit_ = Exit(126)
        for _ in range(2):
            os.lseek(sums_fd, 0, os.SEEK_SET)
            if content is not None:
                os.lseek(content, 0, os.SEEK_SET)
            exit_ = run_program(
                command,
                tool.path,
                stop=context.stop,
                watch=context.reading,
                stall_s=stall_s,
                reads=True,
                keep_fd=None if by_stdin else sums_fd,
                stdin=None if stdin_fd is None else os.fdopen(os.dup(stdin_fd), "rb"),
                stdout_bytes=stdout_bytes,
            )
            died = exit_.ended == "stalled" or exit_.code < 0 or exit_.code in _NOT_STARTED
            if exit_.ended == "stopped" or not died:
                break
        return exit_
    finally:
        os.close(sums_fd)


def reference(context: Context) -> ChecksumTool:
    """The sha256sum of this machine.

    Raises:
        NoBackendError: there is none.
    """
    tool = installed(context)[0]
    if not tool.path:
        name = context.environ.get("ORCH_SHA256SUM", "sha256sum")
        raise NoBackendError(f"no {name} found on PATH", _missing_hint(context, name))
    return tool


def _missing_hint(context: Context, name: str) -> str:
    """What helps where a tool is not found: most often PATH is wrong, as it may be in cron or in a unit."""
    system = next((folder for folder in ("/usr/bin", "/bin") if which(name, folder)), "")
    if system:
        now, right = context.environ.get("PATH", ""), "PATH=/usr/local/bin:/usr/bin:/bin"
        return f"it is in {system}, and PATH is `{now}`: set {right} (in cron: in the crontab)"
    return "apt-get install coreutils  (or unset ORCH_SHA256SUM)"


def best_for_large(context: Context) -> ChecksumTool:
    """The fastest tool that passes its self-test now, hashlib before one that is not twice as fast.

    The reference where no other passes.

    Raises:
        NoBackendError: there is no sha256sum.
    """
    default = reference(context)
    rates = _rates(context, [default, *(tool for tool in installed(context)[1:] if tool.path)])
    fastest = sorted(rates, key=lambda tool: -rates[tool] * (_HASHLIB_ADVANTAGE if tool.kind is HASHLIB else 1))
    return next((tool for tool in fastest if tool is default or not weakness(context, tool)), default)


def _rates(context: Context, here: Sequence[ChecksumTool]) -> dict[ChecksumTool, float]:
    """The bytes a second of some tools, measured once a machine and program."""
    known, rates, new = Executables(context.state), {}, {}
    for tool in here:
        rate = known.get(tool.path, _RATE)
        if not isinstance(rate, float):
            rate = new[tool.path] = measure(context, tool)
        rates[tool] = rate
    if new:
        known.add(_RATE, new)
    return rates


def weakness(context: Context, tool: ChecksumTool) -> str:
    """Test a tool: it must accept right bytes, and reject flipped and missing ones.

    One that reads a sums file must reject a malformed and an empty list too. All files are in memory: a full or
    read-only disk does not matter, and nothing is left behind.

    Returns:
        Why the tool is unusable; empty where it passes.
    """
    if not tool.path:
        return "not installed"
    right = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    line, nowhere = f"{right}  {tool.kind.stdin}\n", "/nonexistent/orch"
    cases = {
        "right": (True, line, "", b"hello world"),
        "flipped": (False, line, "", b"hello xorld"),
        "missing": (False, f"{right}  {nowhere}\n", nowhere, b""),
    }
    if tool.kind.word:
        cases |= {"malformed": (False, "nonsense\n", "", b""), "empty": (False, "", "", b"")}
    try:
        for case, (good, sums, file, content) in cases.items():
            sample = _in_memory(content)
            try:
                exit_ = ask(context, tool, sums.encode(), file=file, content=sample, stall_s=_TEST_S)
            finally:
                os.close(sample)
            if tool.kind.is_good(exit_, right) is not good:
                return f"{tool.kind.name} failed the self-test: {case}"
    except OSError as error:
        return f"{tool.kind.name} cannot be tested: {reason(error)}"
    return ""


def measure(context: Context, tool: ChecksumTool) -> float:
    """Measure a tool on 32 MiB of zeros in memory: its bytes a second without its start; 0 where that fails.

    The better of two runs counts: what it gives is remembered, and the machine may be busy with a download now.
    """
    with suppress(OSError):
        whole_s = _least_s(context, tool, _SAMPLE_BYTES)
        if whole_s < math.inf:
            return _SAMPLE_BYTES / max(whole_s - _least_s(context, tool, 0), whole_s / 10)
    return 0.0


def _least_s(context: Context, tool: ChecksumTool, size: int) -> float:
    """The seconds of a tool's whole process for so many bytes, the least of two; infinite where it does not end."""
    sums = f"{'0' * 64}  {tool.kind.stdin}\n".encode()
    sample, took_s = _in_memory(b""), math.inf
    try:
        os.ftruncate(sample, size)
        for _ in range(2):
            began = time.monotonic()
            if ask(context, tool, sums, content=sample, stall_s=_TEST_S).ended != "itself":
                return math.inf
            took_s = min(took_s, time.monotonic() - began)
    finally:
        os.close(sample)
    return took_s


def _in_memory(content: bytes) -> int:
    """Make a file in memory (memfd_create(2)) with this content; its descriptor."""
    fd = os.memfd_create("orch-tool")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd
