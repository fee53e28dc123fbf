"""axel: many connections to one file; its state file, a list of segments, can be read and written by us."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.backends import shared
from orchestrator.backends.base import Command, Trait
from orchestrator.faults import Fault, Kind, from_status
from orchestrator.model import Range

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit, Job

NAME = "axel"
# No PROXY: axel asks a proxy for an https URL in the clear, path and query and all. No CA: it refuses hosts
# that others accept under the very same bundle. No RATE: with max_speed 2.17 sleeps for ever where the first bytes come
# fast (2 connections at 1 MiB/s with buffers of 8 or 64 KiB: not a byte after the first 590 KiB; measured).
TRAITS = frozenset((Trait.HTTP, Trait.FTP, Trait.RESUME, Trait.SEGMENTS, Trait.MIRRORS))
SIDECAR = ".st"

_HEAD = struct.Struct("=Hq")  # number of segments, bytes done; native byte order
_SEGMENT = struct.Struct("=qq")  # next byte to fetch, end (excluded)
_MOST_SEGMENTS = 64
_TEXTS = (
    ("Unsupported protocol", Kind.REFUSED, "unsupported scheme"),
    ("No state file", Kind.UNRESUMABLE, "no state file beside the partial"),
    ("SSL error: (null)", Kind.NETWORK, "connection lost in the TLS handshake"),
    ("Unable to connect", Kind.NETWORK, "unable to connect"),
    ("Connection gone", Kind.NETWORK, "connection lost"),
)
_LONGEST_VALUE = 100 - len("http_proxy = ")
_LEAST_SPLIT = 200 << 10  # axel itself leaves less than 100 KiB to one connection


def command(job: Job) -> Command:
    """Translate a job: the URLs are in argv, because axel takes them nowhere else."""
    want = shared.single_want(job)
    in_file, in_env = _proxy(job.proxy)
    argv = (
        NAME,
        "--quiet",
        f"--num-connections={1 if job.bare else job.connections}",  # a state file's own number wins
        f"--timeout={job.timeout_s}",
        "--max-redirect=0",
        *(("--no-proxy",) if job.proxy is None else ()),
        *(("--ipv4",) if job.ipv4_only else ()),
        *((f"--user-agent={job.user_agent}",) if job.user_agent is not None else ()),
        f"--output={want.path}",
        *want.sources,
    )
    env = {"SSL_CERT_FILE": job.ca} if job.ca is not None else {}  # there is no flag
    files = ((".axelrc", _rc(job, in_file)),)  # read because HOME is the job's folder
    return Command(argv, b"", files, {**env, **in_env})


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """Translate the exit code and the text. Exit 0 with a state file left is no success, which the caller checks."""
    fault = shared.ended(exit)
    if fault is not None or exit.code == 0:
        return fault
    stderr = exit.stderr
    if exit.code in (-11, -13):  # SIGSEGV where the server closes the connection, SIGPIPE where nobody listens
        refused = exit.code == -13
        return Fault(Kind.NETWORK, "connection refused" if refused else "connection lost", None, None, refused)
    if exit.code == 2:
        return Fault(Kind.NETWORK, "interrupted from outside")
    if exit.code != 1:
        return shared.broken(exit)
    if "Too many redirects" in stderr:
        return shared.redirected((0, ""))  # it names the target only where that has no host
    for words, kind, message in _TEXTS:
        if words in stderr:
            return Fault(kind, message)
    status = re.search(r"^ERROR ([45]\d\d): ", stderr, re.MULTILINE)
    if status is not None:
        return from_status(int(status[1]))
    error = re.search(r"SSL error: (.*)", stderr)
    if error is not None:
        return Fault(Kind.TLS, shared.phrase(error[1]))
    if stderr.strip():
        return shared.broken(exit)
    # It ends without a message where it cannot create the file, and on an empty state file.
    if shared.single_want(job).have > 0:
        return Fault(Kind.UNRESUMABLE, "state file does not parse")
    return Fault(Kind.DISK, "cannot create the file")


def missing(sidecar: bytes | None, length: int, have: int) -> tuple[Range, ...]:
    """Read the state file; without one nothing of a shorter file is proven."""
    if sidecar is None:
        return () if have == length else shared.whole(length)
    if len(sidecar) < _HEAD.size:
        return shared.whole(length)
    count, done = _HEAD.unpack_from(sidecar)
    if count == 0 or len(sidecar) != _HEAD.size + count * _SEGMENT.size:
        return shared.whole(length)
    segments = [Range(*pair) for pair in _SEGMENT.iter_unpack(sidecar[_HEAD.size :])]
    # axel keeps both numbers in step: where they disagree the state is of another file.
    if (
        any(not 0 <= start <= end <= length for start, end in segments)
        or done + sum(end - start for start, end in segments) != length
    ):
        return shared.whole(length)
    return shared.merge((*segments, *shared.tail(length, have)))


def sidecar(job: Job, missing: tuple[Range, ...]) -> bytes | None:
    """Write a state file whose segments are these ranges, the largest halved until each connection has one.

    axel opens one connection for each segment, whatever --num-connections says, so there are at most 64: the last one
    reaches from the 64th hole to the end of the last hole.
    """
    length = shared.single_want(job).length
    assert length is not None, "a state file tells the length"
    segments = list(missing[:_MOST_SEGMENTS]) or [Range(length, length)]  # no segment at all: axel refuses
    segments[-1] = Range(segments[-1].start, missing[-1].end if missing else length)
    while len(segments) < min(job.connections, _MOST_SEGMENTS):
        start, end = max(segments, key=lambda segment: segment.end - segment.start)
        if end - start < _LEAST_SPLIT:
            break
        at, middle = segments.index(Range(start, end)), (start + end) // 2
        segments[at : at + 1] = [Range(start, middle), Range(middle, end)]
    done = length - sum(end - start for start, end in segments)
    return _HEAD.pack(len(segments), done) + b"".join(_SEGMENT.pack(*segment) for segment in segments)


def _proxy(proxy: str | None) -> tuple[str, dict[str, str]]:
    """The proxy for axel: the value for its configuration file, and variables where that file cannot hold it.

    axel does not decode percent-encoded credentials; of a line it reads at most 100 bytes, and nothing behind a `#`:
    what is left would be taken for a host name.
    """
    if proxy is None:
        return "", {}
    scheme, _, rest = proxy.partition("://")
    login, at, place = rest.rpartition("@")
    plain = login if "/" in unquote(login) else unquote(login)  # axel would cut the host at the slash
    text = f"{scheme}://{plain}{at}{place}"
    if re.search(r"[#\s]", text) or len(text.encode()) > _LONGEST_VALUE:
        return "", {"http_proxy": text}
    return text, {}


def _rc(job: Job, proxy: str) -> bytes:
    """The configuration file; it sets again what /etc/axelrc, which axel always reads first, may have set."""
    lines = (
        *((f"http_proxy = {proxy}",) if proxy or job.proxy is None else ()),
        "no_proxy =",
        "save_state_interval = 1",  # default 10 s: what a kill would cost
        "reconnect_delay = 2",
        "buffer_size = 65536",
        f"connection_timeout = {job.timeout_s}",
        "max_speed = 0",
        "insecure = 0",
        "no_clobber = 0",
        "alternate_output = 0",
    )
    return "".join(f"{line}\n" for line in lines).encode()
