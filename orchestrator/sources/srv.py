"""Look up the peers that a DNS SRV record names (RFC 2782), by dnspython: `srv:_orch._tcp.example.org`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from orchestrator.context import Context

PREFIX = "srv:"
MOST_RECORDS = 64  # as many as the site file may name one by one
_RESOLV_CONF = "/etc/resolv.conf"


class Record(NamedTuple):
    """One host of an answer: lower priorities are asked first, and within one a host as often as its weight says."""

    host: str
    port: int
    priority: int
    weight: int


class LookupFailedError(Exception):
    """The name servers gave no record; the message is a phrase that says why, and what helps."""


def lookup(context: Context, name: str, limit_s: float) -> list[Record]:
    """Ask the name servers of /etc/resolv.conf for the SRV records of a name.

    The name is taken as it is: the search list of resolv.conf does not apply. /etc/hosts cannot have such records.

    Args:
        context: reads /etc/resolv.conf.
        name: such as `_orch._tcp.example.org`.
        limit_s: for all of it, all servers included.

    Raises:
        LookupFailedError: there is none, no server answered in time, or dnspython is not installed.
    """
    try:
        import dns.exception
        import dns.name
        import dns.resolver
    except ImportError:
        why = "that needs dnspython: pip install dnspython"
        raise LookupFailedError(why) from None
    try:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.read_resolv_conf(io.StringIO(context.read(_RESOLV_CONF)))
        resolver.nameservers = resolver.nameservers or ["127.0.0.1"]  # resolv.conf(5)
        resolver.timeout = limit_s / 2  # of one server: the second has its turn
        answer = resolver.resolve(dns.name.from_text(name), "SRV", lifetime=limit_s, search=False)
    except dns.resolver.NoResolverConfiguration:
        raise LookupFailedError(f"{_RESOLV_CONF} names no name server") from None
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        raise LookupFailedError(f"DNS has no SRV record of that name: `dig SRV {name}`") from None
    except dns.exception.Timeout:
        raise LookupFailedError(f"no name server of {_RESOLV_CONF} answered within {limit_s:.3g} s") from None
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise LookupFailedError(f"DNS: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    found = [
        Record(record.target.to_text(omit_final_dot=True).lower(), record.port, record.priority, record.weight)
        for record in answer
        if record.target != dns.name.root and record.port  # "." is a decided no (RFC 2782)
    ]
    return sorted(found, key=lambda record: (record.priority, -record.weight, record.host, record.port))[:MOST_RECORDS]
