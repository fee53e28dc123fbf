"""How this machine reaches a source: the host's settings, its proxy, its CA bundle."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.backends.select import Requirements
from orchestrator.model import Host
from orchestrator.sources.auth import host_entry, token_for

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping


USER_AGENT = "orch"


@dataclass(frozen=True, slots=True)
class Route:
    """One source's way: `proxy` URL or None, `ca` PEM file, the host's `connections` cap or None.

    `bearer` is the token that this host, and no other one, is shown.
    """

    line: Requirements
    proxy: str | None
    ca: str
    user_agent: str
    connections: int | None
    bearer: str | None = field(default=None, repr=False)


class Routes:
    """The ways of one run, found once a host: `hosts` are what manifests and the site file say of them."""

    def __init__(self, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> None:
        self._environ, self._hosts = environ, hosts
        self._known: dict[str, Route] = {}

    def to(self, url: str) -> Route:
        """Find the way to `url`."""
        host = url[: url.find("/", url.find("://") + 3)]
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = route_to(url, self._environ, self._hosts)
        return found


def route_to(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> Route:
    """Find the way to `url`; `hosts` are looked up by name with port, then by name."""
    scheme = url.partition("://")[0]
    named = host_entry(url, hosts) or Host()
    proxy = proxy_for(url, environ)
    private_ca = scheme == "https" and named.ca is not None
    line = Requirements(scheme, (proxy or "").partition("://")[0], private_ca)
    agent = named.user_agent or USER_AGENT
    bearer = token_for(url, environ, hosts) if scheme in ("http", "https") else None
    return Route(line, proxy, ca_bundle(environ, named.ca), agent, named.connections, bearer)


# Debian, RHEL and Fedora, Alpine and openSUSE: the first that exists.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
_PORTS = {"http": 80, "https": 443, "ftp": 21}
# Cloud metadata services outside the link-local range.
_METADATA = frozenset(ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200"))


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Compute the proxy URL for `url` from the variables in either case, `no_proxy` included; None: direct.

    One answer for all programs, since they read six different subsets of these variables.
    """

    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    parts = urlsplit(url)
    if parts.scheme == "file":
        return None
    proxy = value(f"{parts.scheme}_proxy") or value("all_proxy")
    if not proxy:
        return None
    port = _PORTS.get(parts.scheme)
    with suppress(ValueError):  # no port that there is
        port = parts.port or port
    if _is_direct(parts.hostname or "", port, value("no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a `no_proxy` list names a host: all that curl, wget, aria2c, Go and Python read in such a list.

    Entries are parted by commas or blanks: `*`, a domain (with `.` or `*.` before it or not: its hosts and itself),
    an address (IPv6 in brackets or not), a network with a mask. Names and addresses may have a port.
    """
    name, address = host.rstrip("."), _address(host)
    for entry in no_proxy.lower().replace(",", " ").split():
        if entry == "*":
            return True
        if "/" in entry:
            network = _network(entry)
            if address is not None and network is not None and address in network:
                return True
            continue
        wanted, wanted_port = _with_port(entry)
        if wanted_port not in ("", str(port)):
            continue
        if address is not None:
            if _address(wanted) == address:
                return True
            continue
        domain = wanted.removeprefix("*").strip(".")
        if domain and (name == domain or name.endswith(f".{domain}")):
            return True
    return False


def _with_port(entry: str) -> tuple[str, str]:
    """Part `host:port`; an IPv6 address has a port only behind brackets."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") > 1:
        return entry, ""
    host, _, port = entry.partition(":")
    return host, port


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def ca_bundle(environ: Mapping[str, str], named: str | None = None) -> str:
    """Find the CA bundle (PEM file): the one named for the host, the environment's, the system's, certifi's."""
    candidates = (named, environ.get("SSL_CERT_FILE"), environ.get("REQUESTS_CA_BUNDLE"), *_BUNDLES)
    for path in candidates:
        if path and os.path.isfile(path):
            return path
    import certifi

    return certifi.where()


def answers_at(proxy: str, timeout_s: float = 2.0) -> str:
    """Why nobody listens where a proxy URL points; empty where somebody does."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(parts.scheme, 80)
        with socket.create_connection((parts.hostname or "", port), timeout_s):
            return ""
    except (OSError, ValueError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()


def forbidden_address(host: str, timeout_s: float = 10.0, stop: threading.Event | None = None) -> str | None:
    """Give the address when `host` (a name or any spelling of an address) is link-local or a metadata service.

    Only redirects are judged by it: `http://2852039166/` and `0xA9FEA9FE` are 169.254.169.254 as well.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    from orchestrator.sources.connect import resolve

    try:
        addresses = resolve(host.strip("[]"), 0, timeout_s, stop)
    except (OSError, UnicodeError):  # no such name, one that cannot be, or nobody who knows in time
        return None
    for _, told in addresses:
        address = ipaddress.ip_address(str(told[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local or mapped in _METADATA:
            return str(mapped)
    return None
