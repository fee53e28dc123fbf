"""The interface of a backend: a module with seven names that translates between orch and one program."""

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
    HIDDEN_HEADERS = "hidden-headers"  # takes secrets and signed URLs by stdin or a file: they are never in argv
    BEARER = "bearer"  # takes a token, and shows it to no host that redirects name
    PROXY = "proxy"
    SOCKS = "socks"
    CA = "ca"
    APPENDS = "appends"  # never writes over bytes of its file: it can be hashed while it grows
    IN_ORDER = "in-order"  # fills a sparse file in order: the good prefix ends at the first hole
    FOLLOWS = "follows"  # follows redirects, and cannot be told not to: it is only given URLs that orch has asked
    RATE = "rate"  # keeps a limit of bandwidth
    CHUNKED = "chunked"  # understands a body in chunks (RFC 9112 7.1)


@dataclass(frozen=True, slots=True)
class Want:
    """One file of a job.

    Attributes:
        sources: its URLs, best first.
        path: where to write it; absolute, and named by us.
        length: in bytes; None where nobody knows it.
        have: the size in bytes of the file at `path` when the job starts; 0 where there is none.
    """

    sources: tuple[str, ...]
    path: str
    length: int | None
    have: int


@dataclass(frozen=True, slots=True)
class Job:
    """What a backend translates into a command: one file, or several of one host for a backend with BUNDLE.

    Attributes:
        wants: the files.
        folder: the partial's folder: absolute, private to this job, and HOME of the program.
        connections: how many to open in all.
        per_host: how many to each of several hosts; None: as `connections`.
        piece_bytes: the length of a piece, for a program that has pieces.
        in_order: download the pieces in order, so that the file can be hashed while it grows.
        timeout_s: after so many seconds of silence on a connection the program may give up.
        ca: path of a PEM bundle; None: the program's own.
        proxy: its URL; None for a direct connection.
        user_agent: the header to send; None: the program's own.
        bearer: the token of the sources' host, for a backend with BEARER.
        cookies: the Cookie header for the sources' host, which redirects to it have set; only curl takes it.
        ipv4_only: an IPv6 address of the host does not answer; do not wait for it.
        resolved: `host:port:address[,address]` for the sources' hosts, as orch has judged them: a program that takes
            them connects nowhere else, whatever the name means by then.
        bare: get the whole file by one request without a Range, because the server answers ranges wrongly, or nothing
            proves that two answers are of one version.
        rate: how many bytes a second it may take in all; None: as many as come.
        part: only these bytes of the one source, into a new file; only curl takes it.
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
    cookies: str = field(default="", repr=False)
    ipv4_only: bool = False
    resolved: tuple[str, ...] = ()
    bare: bool = False
    rate: int | None = None
    part: Range | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run.

    Attributes:
        argv: its first word is the backend's NAME.
        stdin: what it gets there.
        files: (name below the job's folder, content), written before it starts with mode 0600, removed afterwards.
        env: its environment, with PATH, HOME=<the job's folder> and LC_ALL=C, and nothing else.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a program ended.

    Attributes:
        code: its exit code; negative for a signal.
        stdout, stderr: the last kilobytes of each.
        ended: who ended it: `itself`, or we: it received nothing for too long (`stalled`), wrote more than the file's
            length (`overrun`; `oversized` where the kernel stopped it), ran too long (`timeout`), filled the disk
            (`full`), a stop was asked for (`stopped`), another source is faster (`slow`), the signed URL expires soon
            (`expiring`), it reconnects again and again without receiving a byte (`hammering`), it goes on at once with
            another share of what it may take (`yielded`), or another orch took its folder over (`lost`).
        seconds: how long it ran.
        written_bytes: what it wrote of its file and its state.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    ended: Literal[
        "itself",
        "stalled",
        "overrun",
        "oversized",
        "timeout",
        "full",
        "stopped",
        "slow",
        "expiring",
        "hammering",
        "yielded",
        "lost",
    ] = "itself"
    seconds: float = 0.0
    written_bytes: int = 0


class Backend(Protocol):
    """The seven names of a backend. It is pure: it never runs, sleeps, prints, hashes, renames or retries."""

    @property
    def NAME(self) -> str:  # noqa: N802 - modules spell their constants in upper case
        """The program's name, as found on PATH."""

    @property
    def TRAITS(self) -> frozenset[Trait]:  # noqa: N802
        """What the program can do."""

    @property
    def SIDECAR(self) -> str | None:  # noqa: N802
        """The suffix of the program's state file beside a partial; None where it keeps none."""

    def command(self, job: Job) -> Command:
        """Translate a job into a command of the program."""

    def diagnose(self, job: Job, exit: Exit) -> Fault | None:  # noqa: A002
        """Translate the program's end into a fault; None where it claims success (which is no proof)."""

    def missing(self, sidecar: bytes | None, length: int, have: int) -> tuple[Range, ...]:
        """The byte ranges that are missing from a partial that this program left.

        Args:
            sidecar: the content of its state file; None where there is none.
            length: of the whole file, in bytes.
            have: of the partial, in bytes.
        """

    def sidecar(self, job: Job, missing: tuple[Range, ...]) -> bytes | None:
        """Write a state file that makes the program download just `missing`; None: cut the file at its first hole."""
