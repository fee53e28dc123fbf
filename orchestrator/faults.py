"""PURE: why an attempt failed, and what may help: the table of faults and their remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Kind(str, Enum):
    """What went wrong in one attempt; the values are the words for `fault` in JSON."""

    NETWORK = "network"
    STALLED = "stalled"
    BUSY = "busy"
    EXPIRED = "expired"
    MISSING = "missing"
    REFUSED = "refused"
    CORRUPT = "corrupt"
    TLS = "tls"
    UNRESUMABLE = "unresumable"
    BROKEN = "broken"
    DISK = "disk"


class Remedy(Enum):
    """What may help after a fault."""

    AGAIN = "the same source later, after every source not yet tried"
    RESOLVE = "ask the origin for a new URL, keep the partial"
    SOURCE = "this source is out, for every backend"
    PAIR = "this source by this backend is out; the source once a second backend was refused too"
    AFRESH = "another source first, and once none is left from the first byte, once"
    BACKEND = "this backend is out, for every source"
    STOP = "nothing here can help"


REMEDIES: dict[Kind, Remedy] = {
    Kind.NETWORK: Remedy.AGAIN,
    Kind.STALLED: Remedy.AGAIN,
    Kind.BUSY: Remedy.AGAIN,
    Kind.EXPIRED: Remedy.RESOLVE,
    Kind.MISSING: Remedy.SOURCE,
    Kind.CORRUPT: Remedy.SOURCE,
    Kind.TLS: Remedy.SOURCE,
    Kind.REFUSED: Remedy.PAIR,
    Kind.UNRESUMABLE: Remedy.AFRESH,
    Kind.BROKEN: Remedy.BACKEND,
    Kind.DISK: Remedy.STOP,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one attempt failed.

    `status` is the server's HTTP status, if there was one; `retry_after_s` the seconds that it asks to wait, and
    `retry_at_s` the same as a date in seconds since the epoch. `refused_connection`: nothing listens at the address.
    `unresolved`: the host's name has no address, which is no program's fault. `slow`: nothing failed, but a faster
    source is known. `hint` says what to type where the bytes that came tell more than the kind. `mendable`: only some
    pieces are wrong, and the others are kept. `errno` is the system's number of a disk fault, if it is known.
    `redirects` are redirects that the program met and did not follow: the number of the file in its job, and where to
    (empty: it does not say). `yielded`: nothing failed, it was ended to go on at once with another share of the
    bandwidth or of a host's connections.
    """

    kind: Kind
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    refused_connection: bool = False
    unresolved: bool = False
    retry_at_s: float | None = None
    slow: bool = False
    hint: str = ""
    mendable: bool = False
    errno: int = 0
    redirects: tuple[tuple[int, str], ...] = field(default=(), repr=False)  # signed URLs: in no message
    yielded: bool = False

    @property
    def remedy(self) -> Remedy:
        """The remedy for this fault: its kind's, except that a source of one bad piece may be asked again at last."""
        return Remedy.AFRESH if self.mendable and self.kind is Kind.CORRUPT else REMEDIES[self.kind]

    @property
    def is_instant(self) -> bool:
        """Whether it was known at once: such a source may be asked again soon."""
        return self.refused_connection or self.unresolved

    @property
    def is_unreachable(self) -> bool:
        """Whether it may be the whole host's fault: no address, nobody listens, or silence."""
        return self.is_instant or (self.kind is Kind.STALLED and not self.slow and self.status is None)


def from_status(status: int, retry_after_s: float | None = None) -> Fault:
    """Translate an HTTP status of 400 or more into a fault (RFC 9110; what hubs do is in docs/architecture.md).

    400 counts as REFUSED: some hubs answer it to a GET without a Range of a very large file, so another program helps.
    """
    text = f"server answered {status}"
    match status:
        case 404 | 410:
            return Fault(Kind.MISSING, text, status)
        case 416:
            return Fault(Kind.UNRESUMABLE, text, status)
        case 408 | 425 | 429 | 502 | 503 | 504:
            return Fault(Kind.BUSY, text, status, retry_after_s)
        case _ if 400 <= status < 500:
            return Fault(Kind.REFUSED, text, status)
        case _:
            return Fault(Kind.NETWORK, text, status)
