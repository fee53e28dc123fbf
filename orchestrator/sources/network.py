"""How a host is reached: the proxy for a URL, the CA bundle, the addresses that are never asked."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

# Debian, RHEL and Fedora, Alpine and openSUSE: the first that exists.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
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
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # 30 ms

    if proxy_bypass_environment(parts.netloc, {"no": value("no_proxy")}):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


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


def forbidden_address(host: str) -> str | None:
    """Give the address when `host` (a name or any spelling of an address) is link-local or a metadata service.

    Only redirects are judged by it: `http://2852039166/` and `0xA9FEA9FE` are 169.254.169.254 as well.
    """
    try:
        infos = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # no such name, or one that cannot be
        return None
    for info in infos:
        address = ipaddress.ip_address(str(info[4][0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local or mapped in _METADATA:
            return str(mapped)
    return None
