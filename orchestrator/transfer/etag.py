"""Bytes that no digest names are known by their version: what one source calls it by its ETag."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from orchestrator.faults import Fault, Kind
from orchestrator.model import Pin
from orchestrator.store import aliases, blobs
from orchestrator.transfer.context import Finding
from orchestrator.transfer.revalidate import changed, glance, is_proof
from orchestrator.verify import check

if TYPE_CHECKING:
    from orchestrator.transfer.state import Effort


def still_as_begun(effort: Effort) -> Fault | None:
    """For whole files that no digest judges: whether the source says of them what it said when they were begun.

    A source that could not be asked then is believed now; one that does not answer now is not.
    """
    givers = effort.holding.partial.info.sources
    if len(givers) != 1:
        return Fault(Kind.UNRESUMABLE, "nobody knows where these bytes came from")
    seen = glance(effort, givers[0], strict=givers[0] in effort.looks)
    return seen if isinstance(seen, Fault) or seen is None else changed(effort, givers[0], seen)


def names(effort: Effort) -> tuple[Pin, ...]:
    """What the bytes of an effort are known by from now on: its pins, or the version that its source gave."""
    if not effort.artifact.is_blind:
        return effort.artifact.pins
    info = effort.holding.partial.info
    told = (url for url in info.sources[:1] if url not in effort.fickle and is_proof(info.etags.get(url, "")))
    return tuple(_name(url, info.etags[url]) for url in told)


def here_already(effort: Effort) -> str:
    """The sha256 of the version that the first source has now, where its bytes are in the store; else empty."""
    store, url = effort.kit.store, effort.artifact.sources[0].url
    seen = effort.met[url] = glance(effort, url)  # the first attempt need not look again
    if seen is None or isinstance(seen, Fault) or not is_proof(seen.etag):
        return ""
    sha256 = aliases.find(store, [_name(url, seen.etag)])
    if not sha256 or blobs.blob_state(store, sha256, seen.length) != "sealed":
        return ""
    if effort.kit.findings is not None:
        found = check.digests(store.blob(sha256), pieces=True, stop=effort.kit.world.stop)
        effort.kit.findings[effort.artifact.key] = Finding(found, url, seen.etag)
    return sha256


def _name(url: str, etag: str) -> Pin:
    return Pin("version", hashlib.sha256(f"{url}\n{etag}".encode()).hexdigest())
