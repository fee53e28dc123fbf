"""aria2c: many connections to many sources; its control file can be read and written by us."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.backends import aria2_control, shared
from orchestrator.backends.base import Command, Trait
from orchestrator.faults import Fault, Kind, from_status

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit, Job, Want
    from orchestrator.model import Range

NAME = "aria2c"
_TRANSFER_TRAITS = (
    Trait.HTTP,
    Trait.FTP,
    Trait.CHUNKED,
    Trait.RESUME,
    Trait.SEGMENTS,
    Trait.MIRRORS,
    Trait.BUNDLE,
    Trait.APPENDS,
    Trait.IN_ORDER,
    Trait.FOLLOWS,
)
TRAITS = frozenset((*_TRANSFER_TRAITS, Trait.RATE, Trait.HIDDEN_HEADERS, Trait.PROXY, Trait.CA))
SIDECAR = ".aria2"

_NO_PROXY = "http://127.0.0.1:1"  # tcpmux: only root could listen there
_LEAST_PIECE = 1 << 20  # --piece-length below 1M is exit 28

_FAULTS = {
    2: (Kind.STALLED, "connection timed out"),
    5: (Kind.STALLED, "too slow"),
    7: (Kind.NETWORK, "interrupted from outside"),
    6: (Kind.NETWORK, "network problem"),
    9: (Kind.DISK, "no space left on device"),
    13: (Kind.UNRESUMABLE, "server gives no length to resume by, or a shorter one"),
    15: (Kind.DISK, "cannot open the file"),
    16: (Kind.DISK, "cannot create the file"),
    17: (Kind.DISK, "input or output error"),
    18: (Kind.DISK, "cannot create the folder"),
    19: (Kind.NETWORK, "name resolution failed"),
    21: (Kind.NETWORK, "FTP command failed"),
    22: (Kind.NETWORK, "bad HTTP answer"),
    29: (Kind.BUSY, "server overloaded"),
    32: (Kind.CORRUPT, "checksum error"),
}
_USAGE_ERRORS = (28,)  # an option that it does not take


def command(job: Job) -> Command:
    """Translate a job: its URLs go by stdin, so that none is in argv."""
    want, many = job.wants[0], len(job.wants) > 1
    single = many or job.bare
    is_exact = not single and (
        (job.connections > 1 and want.length is not None) or job.rate is not None or want.have > 0
    )
    conf, files = _conf(job)
    argv = (
        NAME,
        *conf,
        "--no-netrc=true",  # --no-conf does not cover ~/.netrc
        "--input-file=-" if many or want.length is None or job.bare else "--metalink-file=-",
        f"--dir={want.path.rpartition('/')[0] or '/'}",  # in argv and not on stdin, where a name would need quoting
        "--stderr=true",  # else errors go to stdout
        # --quiet would hide the errors too; a notice names the target of a redirect.
        f"--console-log-level={'error' if many else 'notice'}",
        "--enable-color=false",  # colours come even without a terminal
        "--show-console-readout=false",
        "--summary-interval=0",
        "--download-result=hide",
        "--continue=true",
        "--allow-overwrite=false",
        "--auto-file-renaming=false",  # never `name.1`
        "--allow-piece-length-change=true",  # else exit 10 after a hand-over with other pieces
        f"--piece-length={_piece_bytes(job)}",
        *(("--stream-piece-selector=inorder",) if job.in_order else ()),  # the growing file can be hashed
        *((f"--max-concurrent-downloads={job.connections}",) if many else ()),
        f"--split={1 if single else job.connections}",
        f"--max-connection-per-server={1 if single else min(job.per_host or job.connections, 16)}",  # more is exit 28
        "--min-split-size=1M",  # the default of 20M would idle most connections
        # Each request then asks for one piece exactly, and the next one goes out before its answer has ended. Without
        # it a request asks for all that follows, and each piece ends with a hang-up: what lies in the kernel by then
        # was sent for nothing, a tenth to all of the file. 1 GiB on 16 connections of 16 MiB/s: 4.15 instead of 4.70 s
        # nearby, 4.6 instead of 5.0 s at 150 ms. One connection asks once for all. Of many small files each would be
        # sent twice: measured with aria2 1.36.
        *(("--enable-http-pipelining=true",) if is_exact else ()),
        "--file-allocation=none",  # sparse: the first hole tells the truth
        "--disk-cache=0",
        "--auto-save-interval=1",
        "--max-tries=1",  # we repeat
        "--retry-wait=0",
        "--connect-timeout=10",
        f"--timeout={job.timeout_s}",
        *((f"--max-overall-download-limit={job.rate}",) if job.rate is not None else ()),
        "--follow-torrent=false",  # a file of that type would be obeyed, not kept
        "--follow-metalink=false",
        "--check-certificate=true",
        *(("--disable-ipv6=true",) if job.ipv4_only else ()),
        *((f"--ca-certificate={job.ca}",) if job.ca is not None else ()),
        *((f"--user-agent={job.user_agent}",) if job.user_agent is not None else ()),
    )
    stdin = _input_file(job.wants) if many else _single_input(want, None if job.bare else want.length)
    return Command(argv, stdin, files, {"SSL_CERT_FILE": job.ca} if job.ca is not None else {})


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """Translate the exit code and the text of its error; of several errors aria2c gives the last one's code."""
    fault = shared.ended(exit)
    if fault is not None or exit.code == 0:
        return fault
    if len(job.wants) > 1:
        return _diagnose_bundle(exit)
    if targets := re.findall(r"\[NOTICE\] CUID#\d+ - Redirecting to (\S+)", exit.stderr):
        return shared.redirected((0, targets[-1]))
    error = _error_text(exit)
    status = re.search(r"status=(\d{3})", error)
    match exit.code:
        case 3:
            return from_status(404)
        case 24:
            return from_status(401)
        case 22 | 29 if status is not None:
            return from_status(int(status[1]))
        case 23:
            return shared.redirected((0, ""))
        case 1:
            return _diagnose_exit_1(error)
        case 8:
            return _diagnose_exit_8(job, error)
    known = _FAULTS.get(exit.code)
    return shared.broken(exit, error) if known is None else Fault(*known, unresolved=exit.code == 19)


def missing(sidecar: bytes | None, length: int, have: int) -> tuple[Range, ...]:
    """Read the control file; without one every byte of a shorter file counts as missing."""
    if sidecar is None:
        return () if have == length else shared.whole(length)
    holes = aria2_control.read(sidecar, length)
    return shared.whole(length) if holes is None else shared.merge((*holes, *shared.tail(length, have)))


def sidecar(job: Job, missing: tuple[Range, ...]) -> bytes | None:
    """Write a control file that asks for these ranges, enlarged to what aria2c can fetch rightly (`control.write`)."""
    length = shared.single_want(job).length
    assert length is not None, "a control file tells the length"
    return aria2_control.write(length, _piece_bytes(job), missing)


def _diagnose_bundle(exit: Exit) -> Fault | None:  # noqa: A002
    """The fault that ended a whole batch; None: its files tell. The exit code is that of any one file."""
    if " errNum=28 " in exit.stderr:
        return Fault(Kind.DISK, "no space left on device")
    if " status=429" in exit.stderr:
        return from_status(429)  # the host's word, for all that are left
    known = _FAULTS.get(exit.code)
    if known is not None and known[0] is Kind.DISK:
        return Fault(*known)
    return (
        shared.broken(exit, _error_text(exit))
        if exit.code in _USAGE_ERRORS or exit.code < 0 or exit.code > 32
        else None
    )


def _error_text(exit: Exit) -> str:  # noqa: A002
    """The text of the last error that has the exit's own code; the root cause is printed last."""
    errors = re.findall(r"errorCode=(\d+) (.*)", exit.stderr)
    return next((text for code, text in reversed(errors) if int(code) == exit.code), "")


def _diagnose_exit_1(error: str) -> Fault:
    """Translate exit 1, which stands for all errors without a code of their own: only the text tells."""
    if "SSL/TLS handshake failure" in error:
        # These three mean that the server closed the connection; the certificate is not the cause.
        if re.search("pull function|reset by peer|SSL I/O error", error):
            return Fault(Kind.NETWORK, "connection lost in the TLS handshake")
        return Fault(Kind.TLS, shared.phrase(error.partition(": ")[2]) or "TLS handshake failed")
    if "total length mismatch" in error:
        return Fault(Kind.CORRUPT, "server has a file of another length")
    if re.search("Failed to read from the segment file|Unsupported ctrl file|bitfield length mismatch", error):
        return Fault(Kind.UNRESUMABLE, "control file does not parse")
    if "Invalid checksum" in error:
        return Fault(Kind.CORRUPT, "piece has a wrong checksum")
    if error.startswith("Redirect to "):
        return shared.redirected((0, ""))
    refused = "Connection refused" in error
    return Fault(
        Kind.NETWORK,
        "connection refused" if refused else shared.phrase(error) or "network problem",
        None,
        None,
        refused,
    )


def _diagnose_exit_8(job: Job, error: str) -> Fault:
    """Translate exit 8: the server sent another range than was requested, or has a file of another length."""
    totals = re.search(r"Request: \S+/(\d+), Response: \S+/(\d+)", error)
    if totals is not None and totals[2] == "0":
        return Fault(Kind.NETWORK, "server gives no length")  # asking the source again tells what it has
    if totals is not None and totals[1] != totals[2]:
        return Fault(Kind.CORRUPT, "server has a file of another length")
    if shared.single_want(job).have == 0:
        # There is nothing to resume, so another start would not help; a program that sends no Range may be served.
        return Fault(Kind.REFUSED, "server does not serve ranges")
    return Fault(Kind.UNRESUMABLE, "server does not serve the range asked for")


def _piece_bytes(job: Job) -> int:
    return max(job.piece_bytes, _LEAST_PIECE)


def _conf(job: Job) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]:
    """Options that shut out ~/.aria2/aria2.conf; hosts and a proxy with credentials go into a file, not into argv.

    aria2c cannot be told not to follow redirects. Without a proxy of its own it gets one that does not exist, for all
    hosts but those of its sources: a redirect to another host ends there.
    """
    if job.proxy is None:
        hosts = shared.http_hosts(job)
        if not hosts:
            return ("--no-conf=true",), ()
        return _conf_file(job, f"all-proxy={_NO_PROXY}", f"no-proxy={','.join(hosts)}")
    if "@" not in job.proxy:
        return ("--no-conf=true", f"--all-proxy={job.proxy}"), ()
    return _conf_file(job, f"all-proxy={job.proxy}")


def _conf_file(job: Job, *lines: str) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]:
    content = "".join(f"{line}\n" for line in lines).encode()
    return (f"--conf-path={job.folder}/aria2.conf",), (("aria2.conf", content),)


def _input_file(wants: tuple[Want, ...]) -> bytes:
    """The input file for many files of one folder, a block for each."""
    return "".join(f"{chr(9).join(w.sources)}\n out={w.path.rpartition('/')[2]}\n" for w in wants).encode()


def _escape(text: str) -> str:
    """Escape text for XML; the standard library's function takes 30 ms to import."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _single_input(want: Want, length: int | None) -> bytes:
    """The input for one file: Metalink where the length is known, since the first request then has the Range that some
    hubs require; else an input file.
    """
    name = want.path.rpartition("/")[2]
    if length is None:
        return f"{chr(9).join(want.sources)}\n out={name}\n".encode()
    urls = "".join(f'<url priority="{priority}">{_escape(url)}</url>' for priority, url in enumerate(want.sources, 1))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink">'
        f'<file name="{_escape(name)}"><size>{length}</size>{urls}</file></metalink>\n'
    ).encode()
