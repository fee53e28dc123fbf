"""rsync: one connection to a daemon, or a copy of a local file; it mends what it goes on from."""

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
TRAITS = frozenset((Trait.RSYNC, Trait.FILE, Trait.RESUME))
SIDECAR: str | None = None
missing = shared.appended
sidecar = shared.cut

_FAULTS = {
    2: (Kind.REFUSED, "server speaks another protocol"),
    4: (Kind.REFUSED, "server does not do what was asked"),
    5: (Kind.REFUSED, "not an rsync server"),
    10: (Kind.NETWORK, "connection lost"),
    11: (Kind.NETWORK, "source cannot be read"),  # ours would have named our folder
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
    """Translate a job: the source stands in argv, for rsync takes it nowhere else (no secret is ever in it)."""
    want = shared.only(job)
    scheme, source = _source(want.sources[0])
    argv = (
        NAME,
        "--no-motd",
        "--8-bit-output",  # else our own folder's name comes back in octal
        "--out-format=%l",  # the source's length, once a file is begun: exit 0 over a folder or nothing says none
        "--inplace",  # a true prefix after INT, TERM and KILL; other ways delete the work or hide it
        "--append-verify",  # plain --append exits 0 over a wrong prefix; this one mends it
        "--copy-links",  # a link at the source would be left out, with exit 0
        "--chmod=F600",  # a source's 0444 could not be resumed; nor is a copy for others to read
        *_just(want.length),
        f"--timeout={job.timeout_s}",
        *(("--contimeout=10",) if scheme == "rsync" else ()),  # a usage error without a daemon
        source,
        want.path,
    )
    return Command(argv)


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """Translate the exit code and the text; a text that names our own folder is about our own disk."""
    fault = shared.ended(exit)
    if fault is not None:
        return fault
    want, said = shared.only(job), exit.stderr
    if exit.code == 0:
        return _untouched(want, exit.stdout)
    ours = re.search(re.escape(f'"{want.path.rpartition("/")[0]}') + r'.*?"[^:]*: (.*) \(\d+\)$', said, re.MULTILINE)
    if ours is not None:
        return Fault(Kind.DISK, shared.phrase(ours[1]))
    for code, words, kind, message in _TEXTS:
        if exit.code == code and words in said:
            return Fault(kind, message, refused_connection=message == "connection refused")
    if exit.code not in _FAULTS:
        return shared.broken(exit, _cause(said))
    kind, message = _FAULTS[exit.code]
    refusal = re.search(r"@ERROR: (.*)", said)
    return Fault(kind, shared.phrase(refusal[1]) if refusal else message)


def _source(url: str) -> tuple[str, str]:
    """The scheme, and the source as rsync wants it: not percent-encoded, and for a daemon with no wildcard in it.

    A wildcard that fits two files would make a folder of our file.
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    name = unquote(path, errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")  # no file is called so
    if scheme == "file":
        return scheme, f"/{name}"
    literal = _WILD.sub(r"\\\g<0>", name)
    return scheme, f"rsync://{host}{slash}{literal}"


def _just(length: int | None) -> tuple[str, ...]:
    """Touch no file of another length: known before its first byte moves."""
    return () if length is None else (f"--min-size={length}", f"--max-size={length}")


def _untouched(want: Want, stdout: str) -> Fault | None:
    """Why it succeeded and began no file; None where it began one, or may have had nothing to add."""
    if "skipping " in stdout:
        return Fault(Kind.MISSING, "source is not a file")
    if want.length is None or re.search(r"^\d+$", stdout, re.MULTILINE):
        return None
    return Fault(Kind.CORRUPT, "source has a file of another length")


def _cause(said: str) -> str:
    """The first line: the last one only repeats the exit code in words."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[0].removeprefix("rsync: ") if lines else ""
