"""What ends our work: exceptions with an exit code, a message and what to type next."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec


class ExitCode(IntEnum):
    """The contract's exit codes; scripts and cron jobs rely on them."""

    OK = 0
    SEVERAL = 1
    USAGE = 2
    MANIFEST = 3
    NO_BACKEND = 4
    TRANSFER = 5
    DIGEST = 6
    PLACEMENT = 7
    STORE = 8
    WORK = 10
    BUG = 70
    HELD = 75
    INTERRUPTED = 130
    TERMINATED = 143


class OrchError(Exception):
    """Root of all errors that people are meant to read.

    `message` is a lower-case phrase without a period; `hint` is what to type next; `fault` the contract's word
    for it in a failed file's JSON.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.SEVERAL
    usual_fault: ClassVar[str] = "broken"

    def __init__(self, message: str, hint: str = "", fault: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fault = fault or self.usual_fault


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One thing wrong in a manifest: where (file, line from 1, key path) and what."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (f"{where} {self.path}".strip(), self.message) if part)


class ManifestError(OrchError):
    """A manifest, site file or name that cannot be used; all problems at once."""

    exit_code = ExitCode.MANIFEST

    def __init__(self, problems: tuple[Problem, ...], hint: str = "") -> None:
        super().__init__("\n".join(str(p) for p in problems), hint)
        self.problems = problems


class NoBackendError(OrchError):
    """No usable program for what is wanted."""

    exit_code = ExitCode.NO_BACKEND


class TransferError(OrchError):
    """Every source and backend was tried."""

    exit_code = ExitCode.TRANSFER
    usual_fault = "network"


class DigestError(OrchError):
    """A source gave wrong bytes and none gave the right ones."""

    exit_code = ExitCode.DIGEST
    usual_fault = "corrupt"


class PlacementError(OrchError):
    """A file could not be put at its place."""

    exit_code = ExitCode.PLACEMENT
    usual_fault = "placement"


class StoreError(OrchError):
    """The disk is full, read-only or not to be trusted.

    `of_one_file` is true where other files may fare better: an unreadable block, a name that is too long.
    """

    exit_code = ExitCode.STORE
    usual_fault = "disk"

    def __init__(self, message: str, hint: str = "", fault: str = "", *, of_one_file: bool = False) -> None:
        super().__init__(message, hint, fault)
        self.of_one_file = of_one_file


class HeldError(OrchError):
    """Another orch is fetching this now."""

    exit_code = ExitCode.HELD
    usual_fault = "lease"


class BugError(OrchError):
    """An error that nobody foresaw: of one file, or of a whole command."""

    exit_code = ExitCode.BUG
    usual_fault = "bug"


class Stopped(BaseException):
    """A stop was asked for, by a signal or by the caller; what was fetched so far is kept.

    It is no Exception and no OSError: like KeyboardInterrupt, it must pass each handler that mends failures.
    """
