"""curl: one connection to a file; it never appends a wrong byte, and reports its errors best of all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.backends import shared
from orchestrator.backends.base import Command, Trait
from orchestrator.faults import Fault, Kind, from_status

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit, Job, Want

NAME = "curl"
_TRANSFER_TRAITS = (Trait.HTTP, Trait.FTP, Trait.CHUNKED, Trait.RESUME, Trait.BUNDLE, Trait.APPENDS)
TRAITS = frozenset(
    (*_TRANSFER_TRAITS, Trait.RATE, Trait.HIDDEN_HEADERS, Trait.BEARER, Trait.PROXY, Trait.SOCKS, Trait.CA)
)
SIDECAR: str | None = None
missing = shared.missing_tail
sidecar = shared.no_sidecar

_MOVED = 47  # it met a redirect
_KINDS = {
    **dict.fromkeys((5, 6, 7, 8, 12, 16, 18, 30, 52, 55, 56, 92, 95, 96, 97), Kind.NETWORK),
    28: Kind.STALLED,
    **dict.fromkeys((1, 9, _MOVED, 67), Kind.REFUSED),
    78: Kind.MISSING,
    **dict.fromkeys((31, 33, 36), Kind.UNRESUMABLE),
    23: Kind.DISK,
    **dict.fromkeys((35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98), Kind.TLS),
}
_HOST_KINDS = (Kind.NETWORK, Kind.STALLED, Kind.TLS)  # where these ended every transfer, the host is the cause

# Tabs, because a Retry-After may be a date and an error message has blanks; `urlnum` counts over all blocks.
_REPORT = "%{exitcode}\\t%{http_code}\\t%header{retry-after}\\t%{errormsg}\\t%{urlnum}\\t%{redirect_url}\\n"
_PARALLEL = ("--parallel", "--parallel-immediate", "--no-progress-meter")  # `silent` leaves -Z its table of progress
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\t": "\\t", "\n": "\\n", "\r": "\\r", "\v": "\\v"})


def command(job: Job) -> Command:
    """Translate a job: everything goes by stdin, so that neither a URL nor a proxy is in argv."""
    argv = (
        NAME,
        "--disable",  # ~/.curlrc; works only as the first
        *((*_PARALLEL, "--parallel-max", str(job.connections)) if len(job.wants) > 1 else ()),
        "--config",
        "-",
    )
    # `next` resets all options: every block has them all.
    flags = _flags(job)
    return Command(argv, "next\n".join(_block(want, flags, job) for want in job.wants).encode(errors="surrogateescape"))


def diagnose(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """Translate the exit code and the line that `write-out` printed."""
    fault = shared.ended(exit)
    if fault is not None:
        return fault
    if len(job.wants) > 1:
        return _diagnose_bundle(job, exit)
    status, wait, target, message = _report(exit)
    if exit.code == _MOVED and target:
        return shared.redirected((0, target))
    # --fail is 22, or 56 over HTTP/2 since 8.7; a 416 without Content-Range is 0, and nothing fetched.
    if status >= 400 and exit.code in (0, 22, 56) and job.wants[0].sources[0].startswith("http"):
        return shared.busy_until(from_status(status), wait)
    if exit.code == 0:
        return Fault(Kind.REFUSED, f"server answered {status}", status) if 300 <= status < 400 else None
    if exit.code == 35 and re.search("reset by peer|SYSCALL|unexpected eof", message):
        return Fault(Kind.NETWORK, "connection lost in the TLS handshake")
    known = _KINDS.get(exit.code)
    if known is None:
        return shared.broken(exit, message)
    return _of_host(known, exit.code, message)


def _diagnose_bundle(job: Job, exit: Exit) -> Fault | None:  # noqa: A002
    """The fault that ended a whole batch, or its redirects; None: its files tell. The exit code is that of any one."""
    if exit.code == 0:
        return None
    lines = [fields for line in exit.stdout.split("\n") if (fields := _fields(line))]
    codes = [int(code) for code, *_ in lines] or [exit.code]
    if 23 in codes:
        return Fault(Kind.DISK, "cannot write the output")
    moved = [(int(number), target) for code, *_, number, target in lines if int(code) == _MOVED and target]
    if moved and len({number for *_, number, _ in lines}) == len(lines) and max(moved)[0] < len(job.wants):
        return shared.redirected(*moved)
    if busy := [(int(status), wait) for _, status, wait, *_ in lines if status == "429" or (status == "503" and wait)]:
        return shared.busy_until(from_status(busy[-1][0]), busy[-1][1])  # the host's word, for all that are left
    if all(code in _KINDS for code in codes) and (kind := _KINDS[codes[-1]]) in _HOST_KINDS:
        return _of_host(kind, codes[-1], _report(exit)[3])
    return shared.broken(exit) if all(code not in _KINDS and code not in (0, 22) for code in codes) else None


def _of_host(kind: Kind, code: int, message: str) -> Fault:
    words = shared.phrase(message) or f"exit {code}"
    return Fault(kind, words, refused_connection=code == 7, unresolved=code in (5, 6))


def _report(exit: Exit) -> tuple[int, str, str, str]:  # noqa: A002
    """The HTTP status (0: none), Retry-After, target of a redirect and message, from the report or else from stderr."""
    fields = _fields(shared.last_line(exit.stdout))
    if fields is None:  # an older curl, or one that was killed
        line = re.search(r"curl: \(\d+\) (.*)", exit.stderr)
        fields = ("", "0", "", line[1] if line else "", "", "")
    _, status, wait, message, _, target = fields
    named = re.search(r"returned error: (\d{3})", message)  # a proxy's answer to CONNECT stands only there
    return int(status) or int(named[1] if named else 0), wait, target, message


def _fields(line: str) -> tuple[str, str, str, str, str, str] | None:
    """The fields of a line of the report; None where it is another line."""
    code, status, wait, message, number, target = (*line.split("\t"), *6 * ("",))[:6]
    if not (code.isdecimal() and status.isdecimal()):
        return None
    return code, status, wait, message, number, target if number.isdecimal() else ""


def _block(want: Want, flags: str, job: Job) -> str:
    # `continue-at = 0` sends no Range, and some hubs answer a bare GET of a very large file with 400.
    # Of an empty file there is no range: that would be 416.
    begin = 'range = "0-"\n' if want.length != 0 and not job.bare else ""
    begin = 'continue-at = "-"\n' if want.have > 0 else begin
    begin = f'range = "{job.part.start}-{job.part.end - 1}"\n' if job.part is not None else begin
    return f"url = {_quote(want.sources[0])}\noutput = {_quote(want.path)}\n{begin}{flags}"


def _flags(job: Job) -> str:
    config = (
        "silent",
        "show-error",
        "fail",
        # With both a redirect is exit 47, which names its target; without them its page would be written into the file.
        "location",
        "max-redirs = 0",
        'proto = "=http,https,ftp"',
        *(f"resolve = {_quote(entry)}" for entry in job.resolved),
        *(("ipv4",) if job.ipv4_only else ()),
        "globoff",  # brackets and braces in a URL are themselves
        "connect-timeout = 10",
        "speed-limit = 1",
        f"speed-time = {job.timeout_s}",
        *((f"limit-rate = {job.rate}",) if job.rate is not None else ()),  # of several files: to each
        f"proxy = {_quote(job.proxy)}" if job.proxy is not None else 'noproxy = "*"',
        *((f"cacert = {_quote(job.ca)}",) if job.ca is not None else ()),
        *((f"user-agent = {_quote(job.user_agent)}",) if job.user_agent is not None else ()),
        *((f"oauth2-bearer = {_quote(job.bearer)}",) if job.bearer is not None else ()),
        *((f"cookie = {_quote(job.cookies)}",) if job.cookies else ()),
        f'write-out = "{_REPORT}"',
    )
    return "".join(f"{line}\n" for line in config)


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
