"""PURE: mirrors that serve any file under its sha256, whatever the file is called: URLs and sources of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.faults import Kind
from orchestrator.model import Role, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.model import Artifact, Wanted


def url_by_digest(base: str, sha256: str) -> str:
    """The URL of the file with this digest on a mirror: `<base>/sha256/<hex>`, or below a base that ends in `sha256/`.

    So a web server whose root is the `blobs` folder of a store is such a mirror.
    """
    return f"{base.rstrip('/').removesuffix('/sha256')}/sha256/{sha256}"


def url_of_relay(base: str, sha256: str) -> str:
    """The URL of an unfinished file at a peer; with `.json` behind it, of what is said of it (`store/relay.py`)."""
    return f"{base.rstrip('/').removesuffix('/sha256')}/relay/{sha256}"


def with_mirrors(wanted: Iterable[Wanted], bases: Sequence[str]) -> tuple[Wanted, ...]:
    """Put the mirrors at `bases` before all other sources of each file whose sha256 is known."""
    if not bases:
        return tuple(wanted)
    return tuple(
        replace(w, sources=(*(Source(url_by_digest(base, w.sha256), Role.DIGEST) for base in bases), *w.sources))
        if w.sha256
        else w
        for w in wanted
    )


def is_plain_absence(artifact: Artifact, url: str, kind: Kind) -> bool:
    """Whether a fault says no more than that a mirror by digest, which need not have all files, lacks this one."""
    by_digest = (Role.DIGEST, Role.PEER)
    return kind is Kind.MISSING and any(s.url == url and s.role in by_digest for s in artifact.sources)
