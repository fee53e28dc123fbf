"""How this machine reaches a source: the host's settings, its proxy, its CA bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.backends.select import Line
from orchestrator.model import Host
from orchestrator.sources.auth import host_entry, token_for
from orchestrator.sources.proxy import ca_bundle, proxy_for

if TYPE_CHECKING:
    from collections.abc import Mapping

USER_AGENT = "orch"


@dataclass(frozen=True, slots=True)
class Reach:
    """One source's way: `proxy` URL or None, `ca` PEM file, the host's `connections` cap or None.

    `bearer` is the token that this host, and no other one, is shown.
    """

    line: Line
    proxy: str | None
    ca: str
    user_agent: str
    connections: int | None
    bearer: str | None = field(default=None, repr=False)


class Ways:
    """The ways of one run, found once a host: `hosts` are what manifests and the site file say of them."""

    def __init__(self, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> None:
        self._environ, self._hosts = environ, hosts
        self._known: dict[str, Reach] = {}

    def to(self, url: str) -> Reach:
        """Find the way to `url`."""
        host = url[: url.find("/", url.find("://") + 3)]
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = reach(url, self._environ, self._hosts)
        return found


def reach(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> Reach:
    """Find the way to `url`; `hosts` are looked up by name with port, then by name."""
    scheme = url.partition("://")[0]
    named = host_entry(url, hosts) or Host()
    proxy = proxy_for(url, environ)
    private_ca = scheme == "https" and named.ca is not None
    line = Line(scheme, (proxy or "").partition("://")[0], private_ca)
    agent = named.user_agent or USER_AGENT
    bearer = token_for(url, environ, hosts) if scheme in ("http", "https") else None
    return Reach(line, proxy, ca_bundle(environ, named.ca), agent, named.connections, bearer)
