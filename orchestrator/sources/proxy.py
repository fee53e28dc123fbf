"""The proxy and the CA bundle for a URL, by the environment's variables."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
_PORTS = {"http": 80, "https": 443, "ftp": 21}


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Compute the proxy URL for `url` from the variables in either case, `no_proxy` included; None: direct.

    Computed here for all programs, because they read six different subsets of these variables.
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
    with suppress(ValueError):  # the port is no number, or out of range
        port = parts.port or port
    if _is_direct(parts.hostname or "", port, value("no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a `no_proxy` list names a host: everything that curl, wget, aria2c, Go or Python accept in such a list.

    Entries are separated by commas or blanks: `*`; a domain (with or without a leading `.` or `*.`: it and its hosts);
    an address (IPv6 with or without brackets); a network with a mask. Names and addresses may have a port.
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
    """Split `host:port`; an IPv6 address has a port only behind brackets."""
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


def answers_at(address: str, timeout_s: float = 2.0) -> str:
    """Try to connect to a proxy, or the host of a URL: empty where it listens, else the reason that it does not."""
    import socket  # imported here: of the commands only doctor asks

    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port or {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(parts.scheme, 80)
        with socket.create_connection((parts.hostname or "", port), timeout_s):
            return ""
    except (OSError, ValueError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
