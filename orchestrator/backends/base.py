"""What a backend is: a module with seven names that only translates."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.faults import Fault
    from orchestrator.model import Range


class Trait(Enum):
    """Something that a backend can do."""

    HTTP = "http"
    FTP = "ftp"
    RSYNC = "rsync"
    FILE = "file"
    RESUME = "resume"
    SEGMENTS = "segments"
    MIRRORS = "mirrors"
    BUNDLE = "bundle"
    HIDDEN_HEADERS = "hidden-headers"  # takes secrets by stdin or a file, signed URLs too: nothing of them in argv
    BEARER = "bearer"  # shows a token to the host that it is for, and to no host that this one redirects to
    PROXY = "proxy"
    SOCKS = "socks"
    CA = "ca"
    APPENDS = "appends"  # never writes over bytes that are there: what was read of its file stays true
    IN_ORDER = "in-order"  # grows a file in order, sparse: its first hole is the end of the good prefix
    CHUNKED = "chunked"  # understands a body in chunks (RFC 9112 7.1)


@dataclass(frozen=True, slots=True)
class Want:
    """One file of a job: where it may come from, where it goes, how long it is, how much may be there.

    `sources` are URLs, best first; `path` is absolute and named by us; `length` is None where nobody knows it;
    `have` is the size of the file at `path` when the job starts (0 where there is none).
    """

    sources: tuple[str, ...]
    path: str
    length: int | None
    have: int


@dataclass(frozen=True, slots=True)
class Job:
    """What a backend is asked to translate.

    `connections` is for all hosts together, `per_host` for each of several (None: as `connections`).
    `folder` is the partial's folder, private to this job, absolute (and HOME of the child); `timeout_s` is the
    silence on a connection after which the program may give up; `ca` a PEM bundle; `proxy` a proxy URL for this
    job's sources or None for a direct line; `bearer` the token of its sources' host, for a backend with BEARER.
    `in_order` asks for pieces in order, so that the file can be hashed while it grows. `ipv4_only`: an IPv6 address of
    the host does not answer, and the program must not wait for it. `bare` asks for the whole file in one answer, by a
    request without a Range: the server answers ranges wrongly, or nothing proves that two answers are of one version.
    """

    wants: tuple[Want, ...]
    folder: str
    connections: int = 16
    per_host: int | None = None
    piece_bytes: int = 1 << 20
    in_order: bool = True
    timeout_s: int = 30
    ca: str | None = None
    proxy: str | None = None
    user_agent: str | None = None
    bearer: str | None = field(default=None, repr=False)
    ipv4_only: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: argv (argv[0] is the backend's NAME), its stdin, files to write first, variables.

    `files` are (name below the job's folder, content), written 0600 and removed after the end.
    The child's environment is these variables, PATH, HOME=<the job's folder> and LC_ALL=C; nothing else.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended.

    `code` is its exit code, negative for a signal; `stdout` and `stderr` are the last kilobytes of each;
    `ended` says who ended it: itself, our stall rule, our overrun rule (it wrote more than the file's length),
    our time limit, a disk that is full, a request to stop, a faster source, a signed URL about to end,
    or our patience with one that begins again and again (`hammering`).
    `written_bytes` counts what it wrote of its file and its state.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    ended: Literal["itself", "stalled", "overrun", "timeout", "full", "stopped", "slow", "expiring", "hammering"] = (
        "itself"
    )
    seconds: float = 0.0
    written_bytes: int = 0


class Backend(Protocol):
    """The seven names. A backend never runs, sleeps, prints, hashes, renames or retries."""

    @property
    def NAME(self) -> str:  # noqa: N802 - modules spell their constants in upper case
        """The program's name, as found on PATH."""

    @property
    def TRAITS(self) -> frozenset[Trait]:  # noqa: N802
        """What the program can do."""

    @property
    def SIDECAR(self) -> str | None:  # noqa: N802
        """Suffix of the program's state file beside a partial, or None."""

    def command(self, job: Job) -> Command:
        """Translate a job for the program."""

    def diagnose(self, job: Job, exit: Exit) -> Fault | None:  # noqa: A002
        """Translate the program's end into a fault; None where it claims success (which proves nothing)."""

    def missing(self, sidecar: bytes | None, length: int, have: int) -> tuple[Range, ...]:
        """Say which byte ranges of a partial that this program left are not there."""

    def sidecar(self, job: Job, missing: tuple[Range, ...]) -> bytes | None:
        """Write the state that makes the program fetch just `missing`; None: cut the file to its first hole."""
