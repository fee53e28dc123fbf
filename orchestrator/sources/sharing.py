"""Which files may be offered to everybody: those that each of their sources gives without a token.

Who asks a server of files, or is in a swarm, does not show who he is. A manifest's `share:` overrules this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.sources.auth import may_need_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import Host, Wanted


def why_private(wanted: Wanted, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> str:
    """Say why a file may not be given to everybody; "" where it may: none of its sources is a `file:` or has a token.

    `hosts` are the `hosts:` of the manifests and the site file.
    """
    if wanted.share is not None:
        return "" if wanted.share else "`share: false`"
    if any(source.scheme == "file" for source in wanted.sources):
        return "it comes from a file of this machine"
    tokens = (may_need_token(source.url, environ, hosts) for source in wanted.sources)
    return next((why for why in tokens if why), "")
