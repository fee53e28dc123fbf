"""PURE: the exit codes, and the exceptions that lead to them, each with a message and a hint."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec


class ExitCode(IntEnum):
    """The exit codes of all commands; scripts and cron jobs rely on them."""

    OK = 0
    SEVERAL = 1
    USAGE = 2
    MANIFEST = 3
    NO_BACKEND = 4
    TRANSFER = 5
    DIGEST = 6
    PLACEMENT = 7
    STORE = 8
    TIME = 9
    WORK = 10
    BUG = 70
    HELD = 75
    INTERRUPTED = 130
    TERMINATED = 143


class OrchError(Exception):
    """Base of all errors that people are meant to read.

    `message` is a lower-case phrase without a period; `hint` says what to type next; `fault` is the word for it in
    the JSON of a failed file.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.SEVERAL
    usual_fault: ClassVar[str] = "broken"

    def __init__(self, message: str, hint: str = "", fault: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fault = fault or self.usual_fault


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One thing that is wrong in a file: `line` counts from 1 (0: the whole file), `path` is the key path."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (f"{where} {self.path}".strip(), self.message) if part)


class ManifestError(OrchError):
    """A manifest, a site file or a name cannot be used; it has all problems at once."""

    exit_code = ExitCode.MANIFEST

    def __init__(self, problems: tuple[Problem, ...], hint: str = "") -> None:
        super().__init__("\n".join(str(p) for p in problems), hint)
        self.problems = problems


class NoBackendError(OrchError):
    """No downloader on this machine can do what is wanted."""

    exit_code = ExitCode.NO_BACKEND


class TransferError(OrchError):
    """A download failed although every source and backend was tried."""

    exit_code = ExitCode.TRANSFER
    usual_fault = "network"


class DigestError(OrchError):
    """A source gave wrong bytes, and no source gave the right ones."""

    exit_code = ExitCode.DIGEST
    usual_fault = "corrupt"


class PlacementError(OrchError):
    """A file could not be installed at its place."""

    exit_code = ExitCode.PLACEMENT
    usual_fault = "placement"


class StoreError(OrchError):
    """The store's disk is full, read-only or failing.

    `of_one_file` is true where the fault concerns only this file (an unreadable block, a name that is too long), so
    that the others are still tried.
    """

    exit_code = ExitCode.STORE
    usual_fault = "disk"

    def __init__(self, message: str, hint: str = "", fault: str = "", *, of_one_file: bool = False) -> None:
        super().__init__(message, hint, fault)
        self.of_one_file = of_one_file


class HeldError(OrchError):
    """Another orch is downloading this file now."""

    exit_code = ExitCode.HELD
    usual_fault = "lease"


class BugError(OrchError):
    """An unexpected exception, a bug, ended one file or a whole command."""

    exit_code = ExitCode.BUG
    usual_fault = "bug"


class Stopped(BaseException):
    """A stop was asked for, by a signal or by the caller; the bytes downloaded so far are kept.

    It is a BaseException, like KeyboardInterrupt, so that no handler takes it for a failure and tries again.
    """
