"""Which redirects are followed, and the addresses from which nothing is downloaded, in all notations.

Every redirect is judged here: one that orch's own client meets, and one that a program met and did not follow.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind
from orchestrator.urls import UrlError, joined

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 10
# The services that give a cloud machine its credentials: the first is that of most clouds; ECS, EKS, Tencent; AWS and
# Google by IPv6; Alibaba; Azure; Oracle's first generation.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    )
)
# Only a proxy's resolver knows these where it is in the cloud and we are not.
_METADATA_NAMES = frozenset(("metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"))
_EMBEDDING = tuple(ipaddress.ip_network(net) for net in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48"))
_ISATAP = 0x5EFE  # RFC 5214: an interface identifier of 0000:5efe or 0200:5efe and an IPv4 address


class ForbiddenError(Exception):
    """An address that nothing is fetched from; the message is a phrase for people."""


def refuse(addresses: Iterable[str], *, redirected: bool, from_here: bool) -> None:
    """Refuse a host for its addresses: for a single bad one, because nobody knows which of them a program takes.

    Args:
        addresses: the host's addresses, as text.
        redirected: whether a redirect named the host. A manifest may name a machine on the same cable by its
            link-local address, or a server on this machine; what a server says may not.
        from_here: whether the URL that redirected is on this machine.

    Raises:
        ForbiddenError: nothing is fetched from there.
    """
    for text in addresses:
        if "%" in text and redirected:
            raise ForbiddenError(f"redirected to a link-local or metadata address ({text})")
        with suppress(ValueError):
            address = ipaddress.ip_address(text.partition("%")[0])
            for each in _readings(address):
                if each in _METADATA:
                    words = "redirected to a link-local or metadata address" if redirected else "a metadata address"
                    raise ForbiddenError(
                        f"{words} ({each}){'' if redirected else ': nothing is downloaded from there'}"
                    )
                if redirected and each.is_link_local:
                    raise ForbiddenError(f"redirected to a link-local or metadata address ({each})")
                if redirected and not from_here and _is_this_machine(each):
                    raise ForbiddenError(f"redirected to an address of this machine ({each})")


def refuse_name(host: str, *, redirected: bool, from_here: bool) -> None:
    """Refuse a host by what its name spells, without a lookup: all that can be judged where a proxy connects.

    Raises:
        ForbiddenError: nothing is fetched from there.
    """
    name = host.strip("[]").lower()
    if "%" in name:
        refuse((name,), redirected=True, from_here=from_here)
    name = name.rstrip(".")
    if name in _METADATA_NAMES:
        raise ForbiddenError(f"{'redirected to ' if redirected else ''}a cloud's metadata service ({name})")
    refuse(_spelled(name), redirected=redirected, from_here=from_here)


def _spelled(name: str) -> tuple[str, ...]:
    """The address that a name stands for without a lookup."""
    return ("127.0.0.1",) if name == "localhost" or name.endswith(".localhost") else numeric(name)  # RFC 6761


def numeric(host: str) -> tuple[str, ...]:
    """The address that a host spells, in any of the ways of inet_aton(3): decimal, hexadecimal, octal, shortened."""
    try:
        infos = socket.getaddrinfo(host.rstrip("."), 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


def is_here(addresses: Iterable[str]) -> bool:
    """Whether all of a host's addresses are this machine's loopback ones."""
    found = [ipaddress.ip_address(text.partition("%")[0]) for text in addresses]
    return bool(found) and all(any(map(_is_this_machine, _readings(address))) for address in found)


def follow(url: str, location: str) -> str | Fault:
    """The URL that a redirect leads to, or the fault for which it is not followed; its addresses are not judged yet."""
    try:
        new = joined(url, location)
    except UrlError:
        return Fault(Kind.REFUSED, "redirected to something that is not a URL")
    scheme, host = new.partition(":")[0].lower(), host_name(new)
    if scheme not in ("http", "https"):
        return Fault(Kind.REFUSED, f"redirected to another scheme ({scheme})")
    if url.startswith("https:") and scheme == "http":
        return Fault(Kind.REFUSED, f"redirected from https to http ({host})")
    return new


def check_program_url(url: str, source: str, *, proxied: bool, stop: threading.Event | None = None) -> tuple[str, ...]:
    """Judge the URL that a program is about to be given, by the addresses that its host has now.

    Args:
        url: where the program will connect; it follows no redirect from there.
        source: the URL of the manifest, which redirected to `url` where they differ.
        proxied: whether a proxy makes the connection.
        stop: ends the lookup.

    Returns:
        The addresses of its host: none behind a proxy, or where the name was not resolved.

    Raises:
        ForbiddenError: nothing is fetched from there.
        Stopped: `stop` was set meanwhile.
    """
    redirected = url != source
    host = host_name(url)
    refuse_name(
        host, redirected=redirected, from_here=not redirected or begins_here(source, proxied=proxied, stop=stop)
    )
    if proxied:
        return ()
    addresses = lookup(host, stop)
    from_here = not redirected or begins_here(source, proxied=False, stop=stop)
    refuse(addresses, redirected=redirected, from_here=from_here)
    return addresses


def begins_here(source: str, *, proxied: bool, stop: threading.Event | None = None) -> bool:
    """Whether the URL that redirects began at is on this machine; behind a proxy its name alone tells."""
    host = host_name(source)
    return is_here(_spelled(host) if proxied else lookup(host, stop))


def host_name(url: str) -> str:
    """The host of a URL, without brackets and port."""
    return host_and_port(url)[0]


def host_and_port(url: str) -> tuple[str, str]:
    """The host of a URL without brackets, and its port: what it says, else its scheme's."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        host, _, after = authority[1:].partition("]")
        port = after.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    return host, port or ("443" if scheme == "https" else "80")


def lookup(host: str, stop: threading.Event | None = None, timeout_s: float = 10.0) -> tuple[str, ...]:
    """The addresses of a host, as text; none where it has none, cannot be a name, or is not resolved in time.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    if found := numeric(host):
        return found
    from orchestrator.sources.connect import resolve

    try:
        return tuple(dict.fromkeys(str(address[0]) for _, address in resolve(host, 0, timeout_s, stop)))
    except (OSError, UnicodeError):
        return ()


def _is_this_machine(address: Ip) -> bool:
    return address.is_loopback or address.is_unspecified


def _readings(address: Ip) -> Iterator[Ip]:
    """An address, and the IPv4 addresses that it has inside: to a router on the way they may be the same host."""
    yield address
    if not isinstance(address, ipaddress.IPv6Address) or address.is_loopback or address.is_unspecified:
        return
    number = int(address)
    low = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if any(address in network for network in _EMBEDDING) or (number >> 32) & 0xFDFFFFFF == _ISATAP:
        yield low
    yield from filter(None, (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())))
