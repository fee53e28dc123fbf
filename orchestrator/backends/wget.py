"""wget: one connection, found everywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.backends import shared
from orchestrator.backends.base import Command, Trait
from orchestrator.faults import Fault, Kind, from_status

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit, Job

NAME = "wget"
_TRANSFER_TRAITS = (Trait.HTTP, Trait.FTP, Trait.CHUNKED, Trait.RESUME, Trait.APPENDS)
TRAITS = frozenset((*_TRANSFER_TRAITS, Trait.RATE, Trait.HIDDEN_HEADERS, Trait.PROXY, Trait.CA))
SIDECAR: str | None = None
missing = shared.missing_tail
sidecar = shared.no_sidecar

_REFUSED = "connection refused"
_UNRESOLVED = "name resolution failed"
_LOST_IN_TLS = "connection lost in the TLS handshake"
_TEXTS = (  # exit code, words on stderr, what they mean; the first that fits
    (1, "Unsupported scheme", Kind.REFUSED, "unsupported scheme"),
    (1, "No such file or directory", Kind.DISK, "cannot create the file"),
    (1, "Read-only file system", Kind.DISK, "file system is read-only"),
    (1, "Permission denied", Kind.DISK, "cannot create the file"),
    (3, "No space left", Kind.DISK, "no space left on device"),
    (3, "", Kind.DISK, "cannot write the file"),
    (4, "Connection refused", Kind.NETWORK, _REFUSED),
    (4, "unable to resolve host", Kind.NETWORK, _UNRESOLVED),
    (4, "Proxy tunneling failed", Kind.NETWORK, "proxy gave no tunnel"),
    (4, "Error in the pull function", Kind.NETWORK, _LOST_IN_TLS),
    (4, "non-properly terminated", Kind.NETWORK, _LOST_IN_TLS),
    (4, "Unable to establish SSL connection", Kind.TLS, "TLS handshake failed"),
    (4, "timed out", Kind.STALLED, "connection timed out"),
    (4, "", Kind.NETWORK, "connection lost"),  # a cut, a stall and a bent range say nothing
    (5, "", Kind.TLS, "certificate is not trusted"),
    (6, "", Kind.REFUSED, "login refused"),
    (7, "", Kind.NETWORK, "protocol error"),
    (8, "No such file", Kind.MISSING, "server has no such file"),
    (8, "No such directory", Kind.MISSING, "server has no such file"),
)


def command(job: Job) -> Command:
    """Translate a job: the URL goes by stdin, the proxy by a configuration file."""
    want = shared.single_want(job)
    argv = (
        NAME,
        f"--config={job.folder}/wgetrc",  # ours alone: neither /etc/wgetrc nor ~/.wgetrc is opened
        "--no-netrc",
        "--no-hsts",
        "--no-cookies",
        "--no-verbose",  # --quiet would hide the errors too
        "--server-response",  # the only way to see the status and Retry-After
        "--tries=1",  # we repeat
        # `--start-pos=0` sends no Range, and some hubs answer a bare GET of a very large file with 400.
        *(("--continue",) if want.have > 0 else () if job.bare else ("--header=Range: bytes=0-",)),
        *(("--inet4-only",) if job.ipv4_only else ()),
        f"--output-document={want.path}",
        "--connect-timeout=10",
        "--dns-timeout=10",
        f"--read-timeout={job.timeout_s}",
        *((f"--limit-rate={job.rate}",) if job.rate is not None else ()),
        "--max-redirect=0",
        "--check-certificate",
        *((f"--ca-certificate={job.ca}",) if job.ca is not None else ()),
        *((f"--user-agent={job.user_agent}",) if job.user_agent is not None else ()),
        "--input-file=-",
    )
    return Command(argv, f"{want.sources[0]}\n".encode(), (("wgetrc", _rc(job.proxy)),))


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002, ARG001
    """Translate the exit code and the server's answer on stderr."""
    fault = shared.ended(exit)
    if fault is not None:
        return fault
    stderr = exit.stderr
    statuses = re.findall(r"^  HTTP/\S+ (\d{3})|ERROR (\d{3}): ", stderr, re.MULTILINE)
    status = int("".join(statuses[-1])) if statuses else 0
    # With exit 0 too: after a 416 wget does nothing and prints no error.
    if status >= 400 and exit.code in (0, 4, 6, 8):
        after = re.findall(r"^  Retry-After: *(.*?)\s*$", stderr, re.MULTILINE | re.IGNORECASE)
        return shared.busy_until(from_status(status), after[-1] if after else "")
    if exit.code == 8 and "redirections exceeded" in stderr:
        targets = re.findall(r"^  Location: *(\S.*?)\s*$", stderr, re.MULTILINE | re.IGNORECASE)
        return shared.redirected((0, targets[-1] if targets else ""))
    if exit.code == 0:
        return None
    for code, words, kind, message in _TEXTS:
        if exit.code == code and words in stderr:
            return Fault(kind, message, refused_connection=message == _REFUSED, unresolved=message == _UNRESOLVED)
    return shared.broken(exit)


def _rc(proxy: str | None) -> bytes:
    if proxy is None:
        return b"use_proxy = off\n"
    return "".join(
        f"{line}\n"
        for line in (
            "use_proxy = on",
            f"http_proxy = {proxy}",
            f"https_proxy = {proxy}",
            f"ftp_proxy = {proxy}",
        )
    ).encode()
