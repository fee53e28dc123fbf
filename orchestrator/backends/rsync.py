"""rsync: one connection to a daemon, or a copy of a local file; it repairs the prefix that it resumes from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.backends import shared
from orchestrator.backends.base import Command, Trait
from orchestrator.faults import Fault, Kind

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit, Job, Want

NAME = "rsync"
# No PROXY: RSYNC_PROXY takes no TLS and no SOCKS, and few proxies let anyone through to port 873.
TRAITS = frozenset((Trait.RSYNC, Trait.FILE, Trait.RESUME, Trait.RATE))
SIDECAR: str | None = None
missing = shared.missing_tail
sidecar = shared.no_sidecar

_FAULTS = {
    2: (Kind.REFUSED, "server speaks another protocol"),
    4: (Kind.REFUSED, "server does not do what was asked"),
    5: (Kind.REFUSED, "not an rsync server"),
    10: (Kind.NETWORK, "connection lost"),
    11: (Kind.NETWORK, "source cannot be read"),  # an error of our own disk names our folder
    12: (Kind.NETWORK, "connection lost"),
    19: (Kind.NETWORK, "interrupted from outside"),
    20: (Kind.NETWORK, "interrupted from outside"),
    23: (Kind.REFUSED, "not transferred"),
    24: (Kind.MISSING, "the file vanished at the source"),
    30: (Kind.STALLED, "connection timed out"),
    35: (Kind.STALLED, "connection timed out"),
}
_TEXTS = (  # exit code, words on stderr, what they mean; the first that fits
    (5, "@ERROR: Unknown module", Kind.MISSING, "server has no such module"),
    (5, "@ERROR: max connections", Kind.BUSY, "server has too many connections"),
    (10, "Connection refused", Kind.NETWORK, "connection refused"),
    (10, "getaddrinfo", Kind.NETWORK, "name resolution failed"),
    (10, "timed out", Kind.STALLED, "connection timed out"),
    (23, "No such file or directory", Kind.MISSING, "source has no such file"),
    (23, "Not a directory", Kind.MISSING, "source has no such file"),
    (23, "Permission denied", Kind.REFUSED, "source may not be read"),
    (23, "failed verification", Kind.NETWORK, "the file changed at the source on its way"),
    (23, "Input/output error", Kind.NETWORK, "source cannot be read"),
)
_WILD = re.compile(r"[*?\[\]]")


def command(job: Job) -> Command:
    """Translate a job: the source is in argv, because rsync takes it nowhere else (it never has a secret)."""
    want = shared.single_want(job)
    scheme, source = _source(want.sources[0])
    argv = (
        NAME,
        "--no-motd",
        "--8-bit-output",  # else our own folder's name comes back in octal
        "--out-format=%l",  # the source's length, printed once a file is begun; not at exit 0 over a folder
        "--inplace",  # leaves a true prefix after INT, TERM and KILL; other modes delete or hide what was received
        "--append-verify",  # plain --append exits 0 over a wrong prefix; this one repairs it
        "--copy-links",  # a link at the source would be left out, with exit 0
        "--chmod=F600",  # a source's 0444 could not be resumed; nor is a copy for others to read
        *_length_limits(want.length),
        f"--timeout={job.timeout_s}",
        *((f"--bwlimit={job.rate >> 10}",) if job.rate is not None else ()),  # in KiB; a daemon obeys it as it sends
        *(("--contimeout=10",) if scheme == "rsync" else ()),  # a usage error without a daemon
        source,
        want.path,
    )
    return Command(argv)


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """Translate the exit code and the text; an error that names our folder is one of our disk."""
    fault = shared.ended(exit)
    if fault is not None:
        return fault
    want, stderr = shared.single_want(job), exit.stderr
    if exit.code == 0:
        return _diagnose_success(want, exit.stdout)
    ours = re.search(re.escape(f'"{want.path.rpartition("/")[0]}') + r'.*?"[^:]*: (.*) \(\d+\)$', stderr, re.MULTILINE)
    if ours is not None:
        return Fault(Kind.DISK, shared.phrase(ours[1]))
    for code, words, kind, message in _TEXTS:
        if exit.code == code and words in stderr:
            return Fault(kind, message, refused_connection=message == "connection refused")
    if exit.code not in _FAULTS:
        return shared.broken(exit, _first_error(stderr))
    kind, message = _FAULTS[exit.code]
    refusal = re.search(r"@ERROR: (.*)", stderr)
    return Fault(kind, shared.phrase(refusal[1]) if refusal else message)


def _source(url: str) -> tuple[str, str]:
    """The scheme, and the source as rsync takes it: decoded, and with wildcards escaped for a daemon.

    Where a wildcard matched two files, rsync would make a folder at our file's path.
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    name = unquote(path, errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")  # no file has this name
    if scheme == "file":
        return scheme, f"/{name}"
    literal = _WILD.sub(r"\\\g<0>", name)
    return scheme, f"rsync://{host}{slash}{literal}"


def _length_limits(length: int | None) -> tuple[str, ...]:
    """Options by which rsync ignores a source of another length, before it transfers a byte."""
    return () if length is None else (f"--min-size={length}", f"--max-size={length}")


def _diagnose_success(want: Want, stdout: str) -> Fault | None:
    """The fault of an exit 0 that transferred no file; None where it transferred one, or may have had nothing to do."""
    if "skipping " in stdout:
        return Fault(Kind.MISSING, "source is not a file")
    if want.length is None or re.search(r"^\d+$", stdout, re.MULTILINE):
        return None
    return Fault(Kind.CORRUPT, "source has a file of another length")


def _first_error(stderr: str) -> str:
    """The first line of the errors; the last one only repeats the exit code in words."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[0].removeprefix("rsync: ") if lines else ""
