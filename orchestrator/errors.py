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
    SIGNATURE = 11
    BUG = 70
    HELD = 75
    INTERRUPTED = 130
    TERMINATED = 143


# What each code means, as `orch --help` prints it; 125 as of env(1) and timeout(1).
EXIT_CODES: dict[int, str] = {
    ExitCode.OK: "success: everything is in place",
    ExitCode.SEVERAL: "several kinds of failure",
    ExitCode.USAGE: "wrong options or arguments",
    ExitCode.MANIFEST: "a manifest, lock file or site file is wrong, or a name is unknown; lock --check: drift",
    ExitCode.NO_BACKEND: "no usable downloader",
    ExitCode.TRANSFER: "a download failed; status, verify, path: a file is missing, outdated or not verified yet",
    ExitCode.DIGEST: "wrong checksum; status: a file was changed since it was verified",
    ExitCode.PLACEMENT: "an existing file is in the way, or a folder cannot be written",
    ExitCode.STORE: "the store's disk is full, read-only or failing, or output was lost",
    ExitCode.TIME: "--max-time was reached; the next run resumes",
    ExitCode.WORK: "with --exit-code: plan has work to do, sync changed something",
    ExitCode.SIGNATURE: "a required signature is missing or not valid",
    ExitCode.BUG: "a bug in orch; the hint names the file with its traceback",
    ExitCode.HELD: "another orch holds the files, and --no-wait or --lock-wait ended the wait",
    125: "orch run: the command was not started",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.TERMINATED: "ended by SIGTERM or SIGHUP",
}

# The codes of `orch explain`, by the faults of failed files. Other codes are those that an error is made with.
CODES = {
    "network": "network",
    "stalled": "stalled",
    "busy": "rate-limited",
    "expired": "signed-url-expired",
    "missing": "not-found",
    "refused": "access-denied",
    "corrupt": "checksum-mismatch",
    "tls": "certificate",
    "unresumable": "not-resumable",
    "broken": "downloader-failed",
    "disk": "disk",
    "lease": "in-use",
    "placement": "cannot-install",
    "absent": "absent",
    "outdated": "outdated",
    "unverified": "unverified",
    "seal": "changed",
    "foreign": "existing-file",
    "interrupted": "interrupted",
    "bug": "bug",
}


class OrchError(Exception):
    """Base of all errors that people are meant to read.

    `message` is a lower-case phrase without a period; `hint` says what to type next; `fault` is the word for it in
    the JSON of a failed file. `shared` says it without the file's name, where many files fail for one reason. `code`
    names the explanation that `orch explain` has for it.
    """

    exit_code: ExitCode = ExitCode.SEVERAL
    usual_fault: ClassVar[str] = "broken"
    usual_code: ClassVar[str] = ""
    shared: str = ""

    def __init__(self, message: str, hint: str = "", fault: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fault = fault or self.usual_fault
        self.code = code or CODES.get(fault) or self.usual_code or CODES[self.usual_fault]


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One problem in a file: `line` counts from 1 (0: the whole file), `path` is the key path.

    `code` is the argument for `orch explain`, "" if there is none. `excerpt` is the line of the file with its
    secrets masked, "" if it is not shown. `column` and `end_column` count characters from 1; the marked part ends
    before `end_column`; both are 0 if nothing is marked.
    """

    file: str
    line: int
    path: str
    message: str
    excerpt: str = ""
    column: int = 0
    end_column: int = 0
    code: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (f"{where} {self.path}".strip(), self.message) if part)


class ManifestError(OrchError):
    """A manifest, a site file or a name cannot be used; it has all problems at once."""

    exit_code = ExitCode.MANIFEST

    def __init__(self, problems: tuple[Problem, ...], hint: str = "") -> None:
        super().__init__("\n".join(str(p) for p in problems), hint)
        codes = {problem.code for problem in problems}
        self.code = codes.pop() if len(codes) == 1 else "manifest"
        self.problems = problems


class ConsentError(OrchError):
    """A manifest asks for what only the site file may allow, and that was seen when it was to be done."""

    exit_code = ExitCode.MANIFEST
    usual_fault = "refused"
    usual_code = "not-allowed"


class SignatureError(OrchError):
    """A manifest or its lock file lacks a valid signature where one is required, or none can be made."""

    exit_code = ExitCode.SIGNATURE
    usual_fault = "refused"
    usual_code = "signature"


class NoBackendError(OrchError):
    """No downloader on this machine can do what is wanted."""

    exit_code = ExitCode.NO_BACKEND
    usual_code = "no-downloader"


class TransferError(OrchError):
    """A download failed although every source and backend was tried.

    `shared` is the reason without the file's name, where other files of the same hosts fail for the same one.
    """

    exit_code = ExitCode.TRANSFER
    usual_fault = "network"

    def __init__(self, message: str, hint: str = "", fault: str = "", *, shared: str = "", code: str = "") -> None:
        super().__init__(message, hint, fault, code=code)
        self.shared = shared


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

    def __init__(
        self, message: str, hint: str = "", fault: str = "", *, of_one_file: bool = False, code: str = ""
    ) -> None:
        super().__init__(message, hint, fault, code=code)
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
    `vain_bytes` are here of a file whose sources support no ranges: the next run cannot go on with them.
    """

    vain_bytes: int = 0
