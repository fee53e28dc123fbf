"""Functions that several backends use: byte ranges, programs that keep no state, how a program ended."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.faults import Fault, Kind
from orchestrator.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.backends.base import Exit, Job, Want


def single_want(job: Job) -> Want:
    """The only file of a job that has one."""
    assert len(job.wants) == 1, "a bundle was given to a backend that serves one file"
    return job.wants[0]


def whole(length: int) -> tuple[Range, ...]:
    """Every byte of a file of `length` bytes."""
    return (Range(0, length),) if length > 0 else ()


def tail(length: int, have: int) -> tuple[Range, ...]:
    """What is missing from a file that was only appended to: everything behind its size."""
    return (Range(have, length),) if have < length else ()


def missing_tail(sidecar: bytes | None, length: int, have: int) -> tuple[Range, ...]:  # noqa: ARG001
    """`missing` of a program that keeps no state because it only appends."""
    return tail(length, have)


def no_sidecar(job: Job, missing: tuple[Range, ...]) -> bytes | None:  # noqa: ARG001
    """`sidecar` of such a program: none, so that the file is cut at its first hole."""
    return None


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sort ranges, drop empty ones, join those that touch or overlap."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if merged and start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(end, merged[-1].end))
        else:
            merged.append(Range(start, end))
    return tuple(merged)


def subtract(ranges: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """The parts of `ranges` that are in none of `others`."""
    taken, left, first = merge(others), [], 0
    for start, end in merge(ranges):
        while first < len(taken) and taken[first].end <= start:
            first += 1
        rest = start
        for at in range(first, len(taken)):
            if taken[at].start >= end:
                break
            if rest < taken[at].start:
                left.append(Range(rest, taken[at].start))
            rest = taken[at].end
        if rest < end:
            left.append(Range(rest, end))
    return tuple(left)


def redirected(*redirects: tuple[int, str]) -> Fault:
    """The fault of a program that met redirects, which orch follows itself where they may be followed.

    Each is the number of the file in its job and where the redirect leads; empty where the program does not say.
    """
    return Fault(Kind.EXPIRED, "redirects anew", redirects=redirects)


def http_hosts(job: Job) -> tuple[str, ...]:
    """The hosts of a job's sources, without brackets and ports; none where one of them is no http or https URL."""
    urls = [url for want in job.wants for url in want.sources]
    if not all(url.startswith("http") for url in urls):
        return ()
    return tuple(dict.fromkeys(urlsplit(url).hostname or "" for url in urls))


_TOO_LARGE = -25  # SIGXFSZ
_TOO_LARGE_HINT = "raise the limit on file sizes: `ulimit -f unlimited`; a FAT32 disk takes none of 4 GiB: --store DIR"
# As they say it themselves: wget prints a server's words too, indented.
_NO_MEMORY = re.compile(
    r"bad_alloc|^(?:curl|wget|axel|rsync)\b.*(?:out of memory|memory exhausted|Cannot allocate memory)", re.M | re.I
)
_EXTERNAL_SIGNALS = (-1, -2, -9, -15)  # HUP, INT, KILL (the kernel out of memory, too), TERM


def ended(exit: Exit) -> Fault | None:  # noqa: A002
    """The fault of a program that did not end by itself; None where it did."""
    match exit.ended:
        case "stalled":
            return Fault(Kind.STALLED, "stalled")
        case "timeout":
            return Fault(Kind.STALLED, "ran out of time")
        case "slow":
            return Fault(Kind.STALLED, "slower than half of another source", slow=True)
        case "expiring":
            return Fault(Kind.EXPIRED, "the signed URL is about to end")
        case "yielded":
            return Fault(Kind.NETWORK, "ended to go on with another share", yielded=True)
        case "hammering":  # the server may refuse only this program
            return Fault(Kind.REFUSED, "began again and again, and brought no byte")
        case "full":
            return Fault(Kind.DISK, "the disk is full")
        case "oversized":
            return Fault(Kind.CORRUPT, "sent more than the file has")
        case _ if _NO_MEMORY.search(exit.stderr):  # a source may send headers without an end
            return Fault(Kind.REFUSED, "ran out of the memory that a download may take")
        case _ if exit.code == _TOO_LARGE or "File too large" in exit.stderr:  # EFBIG in words
            return Fault(Kind.DISK, "the file is larger than may be written here", hint=_TOO_LARGE_HINT)
        case "overrun":
            return Fault(Kind.CORRUPT, "wrote more than the file's length")
        case _ if exit.code in _EXTERNAL_SIGNALS:
            return Fault(Kind.NETWORK, f"killed from outside (signal {-exit.code})")
        case _:
            return None


def broken(exit: Exit, text: str = "") -> Fault:  # noqa: A002
    """The fault for an exit code that no table has, with what the program printed."""
    how = f"exit {exit.code}" if exit.code >= 0 else f"killed by signal {-exit.code}"
    text = phrase(text or last_line(exit.stderr))
    return Fault(Kind.BROKEN, f"{how}: {text}" if text else how)


def phrase(text: str) -> str:
    """Turn a program's sentence into a phrase for our messages: at most 200 characters, no full stop."""
    first = text[:1].lower() if text[1:2].islower() else text[:1]  # SSL and HTTP stay
    return (first + text[1:200]).strip().rstrip(".")


def last_line(text: str) -> str:
    """The last line of a text that is not blank."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def busy_until(fault: Fault, retry_after: str) -> Fault:
    """Add a Retry-After header (RFC 9110 10.2.3) to a BUSY fault: as seconds, or as the date that it gives."""
    if fault.kind is not Kind.BUSY or not retry_after:
        return fault
    if retry_after.isascii() and retry_after.isdigit():
        return replace(fault, retry_after_s=float(retry_after))
    from email.utils import parsedate_to_datetime  # 10 ms

    try:
        return replace(fault, retry_at_s=parsedate_to_datetime(retry_after).timestamp())
    except (ValueError, TypeError, OverflowError):
        return fault
