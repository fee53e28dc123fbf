"""How to reach a URL from this machine: its proxy, CA bundle, token, and the `hosts:` settings of its host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.backends.select import Requirements
from orchestrator.model import Host
from orchestrator.sources.auth import host_entry, token_for
from orchestrator.sources.proxy import ca_bundle, proxy_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from http.client import HTTPConnection


USER_AGENT = "orch"


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach one host.

    Attributes:
        requirements: what a program must be able to do for it.
        proxy: its URL; None for a direct connection.
        ca: path of a PEM bundle.
        user_agent: the header to send.
        connections: the most that the host allows; None where it sets no limit.
        bearer: the token of this host; it is sent to no other one.
    """

    requirements: Requirements
    proxy: str | None
    ca: str
    user_agent: str
    connections: int | None
    bearer: str | None = field(default=None, repr=False)


def proxies_of(routes: Iterable[Route]) -> tuple[str, ...]:
    """The proxies of some routes, without their credentials."""
    return tuple(sorted({route.proxy.rpartition("@")[2] for route in routes if route.proxy}))


class Routes:
    """The routes of one run, found once a host; `hosts` are the `hosts:` of the manifests and the site file."""

    def __init__(self, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> None:
        self._environ, self._hosts = environ, hosts
        self._known: dict[str, Route] = {}

    def to(self, url: str) -> Route:
        """Find the route to `url`."""
        host = url[: url.find("/", url.find("://") + 3)]
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = route_to(url, self._environ, self._hosts)
        return found


def route_to(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> Route:
    """Find the route to `url`; `hosts` are looked up by name with the port, then by name."""
    scheme = url.partition("://")[0]
    named = host_entry(url, hosts) or Host()
    proxy = proxy_for(url, environ)
    private_ca = scheme == "https" and named.ca is not None
    requirements = Requirements(scheme, (proxy or "").partition("://")[0], private_ca)
    agent = named.user_agent or USER_AGENT
    bearer = token_for(url, environ, hosts) if scheme in ("http", "https") else None
    return Route(requirements, proxy, ca_bundle(environ, named.ca), agent, named.connections, bearer)


def plain_connection(url: str, ca: str, timeout_s: float) -> HTTPConnection:
    """A connection of Python's own client to the host of a URL, which goes through no proxy and follows no redirect.

    What `connect.client` needs takes longer to import and to make than a question to a host that is near.

    Args:
        url: http or https.
        ca: the CA bundle for https.
        timeout_s: for each step.
    """
    from http.client import HTTPConnection, HTTPSConnection

    from orchestrator.sources.connect import trust
    from orchestrator.sources.redirects import host_and_port

    host, port = host_and_port(url)
    if url.startswith("http:"):
        return HTTPConnection(host, int(port), timeout=timeout_s)
    return HTTPSConnection(host, int(port), timeout=timeout_s, context=trust(ca))


# Debian, RHEL and Fedora, Alpine and openSUSE: the first that exists.
