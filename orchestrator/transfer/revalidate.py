"""A look at a source in the middle of an effort: what it would serve, against what is wanted and what is here.

With a digest all of it is a help: length, ETag and encoding are hints, and the digest judges. Without one they are all
that tells one version of a file from another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped
from orchestrator.faults import Fault, Kind
from orchestrator.formats.wrong_file import expected_file
from orchestrator.model import Pin
from orchestrator.store import blobs
from orchestrator.transfer.context import FirstSeen
from orchestrator.verify import check

if TYPE_CHECKING:
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.transfer.state import Download


ONE_VERSION_HINT = (
    "name the digest of the file that is meant (`--sha256`, or `sha256:` in the manifest), "
    "or try again when it is not being replaced"
)


def revalidate(download: Download, source: str, *, strict: bool = False) -> SourceAnswer | Fault | None:
    """Ask the source what it would serve; None where it cannot be asked, or only a program can tell.

    A look that fails for reasons of our client says nothing of the source: unless `strict`, that is None as well, and
    a program decides. A silence is believed once a program has failed there too.

    Raises:
        Stopped: a stop was asked for.
    """
    if download.run.context.stop.is_set():
        raise Stopped("stopped; the partial is kept")
    if not source.startswith("http") or source in download.odd:
        return None
    from orchestrator.sources.http import ODD_ANSWER, ask_source, is_verdict

    way = download.route(source)
    if way.requirements.proxy.startswith("socks"):
        return None  # the HTTP client speaks none without an extra; curl does
    missing = download.on_disk.missing()
    at = missing[0].start if missing else 0
    seen = ask_source(
        source,
        proxy=way.proxy,
        ca=way.ca,
        user_agent=way.user_agent,
        bearer=way.bearer,
        at=at,
        stop=download.run.context.stop,
    )
    if not isinstance(seen, Fault):
        download.looks[source] = seen
        return seen
    if seen.message == ODD_ANSWER:
        download.odd.add(source)
    if not is_verdict(seen):
        tried = any(attempt.source == source for attempt in download.attempts)
        return seen if strict or (seen.kind is Kind.STALLED and tried) else None
    # A refused look condemns nothing: hubs refuse by program. The backend will hear it again. Where a token was
    # shown it is the token that is refused, and a program that has none would hear nothing better.
    refused = seen.kind is Kind.REFUSED and seen.status is not None and way.bearer is None
    return None if refused else seen


def compare(download: Download, source: str, seen: SourceAnswer, *, resumes: bool) -> Fault | None:
    """Hold what the source would serve against what is wanted and what is here; then remember it."""
    info, expected = download.on_disk.partial.info, download.artifact.size
    blind = download.artifact.is_unpinned
    if seen.encoding and blind:
        return Fault(Kind.CORRUPT, f"the server compresses the file on its way ({seen.encoding})")
    if seen.length is not None and expected is not None and seen.length != expected:
        fault = _other_length(download, source, seen)
        if fault is not None:
            return fault
    if (resumes or (blind and download.on_disk.partial.have)) and (fault := changed(download, source, seen)):
        if blind or (seen.length is not None and seen.length < download.on_disk.partial.have):
            return fault
        download.versions_differ = True  # or its hosts name one version differently: the digest will tell
    if resumes:
        if blind and not (download.is_proven(source, seen) and info.etags.get(source) == seen.etag):
            return Fault(Kind.UNRESUMABLE, "neither a digest nor an ETag tells whether it is still the same file")
        if not seen.ranges:
            return Fault(Kind.UNRESUMABLE, "the source does not honour ranges")
    if seen.etag:
        info.etags[source] = seen.etag
    if seen.modified:
        info.modified[source] = seen.modified
    info.length = seen.length if seen.length is not None else info.length
    return None


def _other_length(download: Download, source: str, seen: SourceAnswer) -> Fault | None:
    """What it means that a source has another length than `size:` says; None where the digest is to judge.

    `size:` is a help. Where each source that answers has the same other length, it is `size:` that is wrong.
    """
    from orchestrator.sources.http import identify_by_head, wrong_length

    artifact, stop = download.artifact, download.run.context.stop
    wanted, way = expected_file(artifact.wanted[0]), download.route(source)
    what = identify_by_head(seen, wanted, way, stop=stop)
    if not what and not artifact.is_unpinned and seen.length is not None and _all_say(download, source, seen.length):
        download.take_length(seen.length)
        return None
    words = wrong_length(seen, wanted, what)
    return Fault(Kind.CORRUPT, words.words, hint=words.hint)


def _all_say(download: Download, source: str, length: int) -> bool:
    for other in download.artifact.sources:
        if other.url == source:
            continue
        if not other.url.startswith("http"):
            return False  # it has its turn, and says it by what it gives
        seen = download.looks.get(other.url) or revalidate(download, other.url)
        if seen is not None and not isinstance(seen, Fault) and seen.length not in (None, length):
            return False
    return True


def is_proof(etag: str) -> bool:
    """Whether an ETag names the very bytes: a strong one (RFC 9110 8.8.1)."""
    return bool(etag) and not etag.startswith("W/")


def changed(download: Download, source: str, seen: SourceAnswer) -> Fault | None:
    """Why what the source would serve is not the version that the partial was begun with."""
    info, blind = download.on_disk.partial.info, download.artifact.is_unpinned
    hint = ONE_VERSION_HINT if blind else ""
    same_length = None in (info.length, seen.length) or info.length == seen.length
    was = info.modified.get(source, "")
    if not same_length:
        words = f"the file's length changed at the source: {seen.length} bytes"
        return Fault(Kind.UNRESUMABLE, words, hint=hint)
    if source not in download.fickle and seen.etag and info.etags.get(source, seen.etag) != seen.etag:
        if was and was == seen.modified:
            download.fickle.add(source)  # the date is the same: each of its hosts may have an ETag of its own
        words = "the file changed at the source since the partial was begun"
        return Fault(Kind.UNRESUMABLE, words, hint=hint)
    if blind and was != seen.modified and (was or source in info.etags):
        words = "the file changed at the source since the partial was begun (its date did)"
        return Fault(Kind.UNRESUMABLE, words, hint=hint)
    return None


def still_as_begun(download: Download) -> Fault | None:
    """For whole files that no digest judges: whether the source says of them what it said when they were begun.

    A source that could not be asked then is believed now; one that does not answer now is not.
    """
    givers = download.on_disk.partial.info.sources
    if len(givers) != 1:
        return Fault(Kind.UNRESUMABLE, "nobody knows where these bytes came from")
    seen = revalidate(download, givers[0], strict=givers[0] in download.looks)
    return seen if isinstance(seen, Fault) or seen is None else changed(download, givers[0], seen)


def names(download: Download) -> tuple[Pin, ...]:
    """What the bytes of an effort are known by from now on: its pins, or the version that its source gave."""
    if not download.artifact.is_unpinned:
        return download.artifact.pins
    info = download.on_disk.partial.info
    told = (url for url in info.sources[:1] if url not in download.fickle and is_proof(info.etags.get(url, "")))
    return tuple(_name(url, info.etags[url]) for url in told)


def here_already(download: Download) -> str:
    """The sha256 of the version that the first source has now, where its bytes are in the store; else empty."""
    store, url = download.run.store, download.artifact.sources[0].url
    seen = download.first_probe[url] = revalidate(download, url)  # the first attempt need not look again
    if seen is None or isinstance(seen, Fault) or not is_proof(seen.etag):
        return ""
    sha256 = blobs.find(store, [_name(url, seen.etag)])
    if not sha256 or blobs.blob_state(store, sha256, seen.length) != "sealed":
        return ""
    if download.run.findings is not None:
        found = check.digests(store.blob(sha256), pieces=True, stop=download.run.context.stop)
        download.run.findings[download.artifact.key] = FirstSeen(found, url, seen.etag)
    return sha256


def _name(url: str, etag: str) -> Pin:
    return Pin("version", hashlib.sha256(f"{url}\n{etag}".encode()).hexdigest())
