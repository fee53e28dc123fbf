"""Compare the answer of a source with the artifact and the partial.

With a digest all of it is a help: length, ETag and encoding are hints, and the digest judges. Without one they are all
that tells one version of a file from another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.faults import Fault, Kind
from orchestrator.formats.wrong_file import expected_file
from orchestrator.model import Pin
from orchestrator.store import blobs
from orchestrator.transfer.explain import size_line
from orchestrator.transfer.run_context import FirstSeen
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from orchestrator.model import Artifact
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.route import Route
    from orchestrator.store.partials import Info
    from orchestrator.transfer.answers import Reply
    from orchestrator.transfer.run_context import RunContext


ONE_VERSION_HINT = (
    "give the checksum of the file that is meant (`--sha256`, or `sha256:` in the manifest), "
    "or try again when the file is not being replaced"
)
_TIMES, _BESIDES_BYTES = 2, 1 << 30  # how far a source's length may be beyond a manifest's `size:`


class Change(NamedTuple):
    """Whether a source has another version than the one that was begun.

    `fault` says why; `is_fickle`: the ETag changed and the date did not, as where each of its hosts makes its own.
    """

    fault: Fault | None = None
    is_fickle: bool = False


def detect_change(artifact: Artifact, info: Info, url: str, answer: SourceAnswer, fickle: AbstractSet[str]) -> Change:
    """Say whether what the source would serve is the version that the partial was begun with.

    Args:
        artifact: what is wanted.
        info: what was noted of the partial.
        url: the source.
        answer: its answer now.
        fickle: the sources whose ETags are not compared.
    """
    unpinned = artifact.is_unpinned
    hint = ONE_VERSION_HINT if unpinned else ""
    was = info.modified.get(url, "")
    if None not in (info.length, answer.length) and info.length != answer.length:
        words = f"the file's length changed at the source: {answer.length} bytes"
        return Change(Fault(Kind.UNRESUMABLE, words, hint=hint))
    if url not in fickle and answer.etag and info.etags.get(url, answer.etag) != answer.etag:
        words = "the file changed at the source since the download began"
        is_fickle = bool(was) and was == answer.modified
        return Change(Fault(Kind.UNRESUMABLE, words, hint=hint), is_fickle)
    if unpinned and was != answer.modified and (was or url in info.etags):
        words = "the file changed at the source since the download began (its date changed)"
        return Change(Fault(Kind.UNRESUMABLE, words, hint=hint))
    return Change()


def judge_length(
    run: RunContext, artifact: Artifact, route: Route, answer: SourceAnswer, is_agreed: Callable[[], bool]
) -> Fault | None:
    """What it means that a source has another length than `size:` says; None where the digest is to decide.

    `size:` is a help. Where each source that answers has the same other length (`is_agreed`), it is `size:` that is
    wrong; but of a length far beyond it no byte is fetched, since whoever serves the file could name any.
    """
    from orchestrator.sources.http import identify_by_head, wrong_length

    wanted = expected_file(artifact.wanted[0])
    what = identify_by_head(answer, wanted, route, stop=run.context.stop)
    most = _TIMES * (artifact.size or 0) + _BESIDES_BYTES
    is_near = answer.length is not None and answer.length <= most
    words = wrong_length(answer, wanted, what)
    if what or artifact.is_unpinned or not is_agreed():
        return Fault(Kind.CORRUPT, words.words, hint=words.hint)
    if is_near:
        return None
    said = f"{size_line(artifact.wanted[0])} says `size: {artifact.size}`, the server says {answer.length}"
    return Fault(Kind.CORRUPT, words.words, hint=f"{said}: correct or drop `size:`")


def all_agree(artifact: Artifact, url: str, length: int, ask_again: Callable[[str], Reply]) -> bool:
    """Whether no other source of an artifact tells another length than `url` does."""
    for other in artifact.sources:
        if other.url == url:
            continue
        if not other.url.startswith("http"):
            return False  # it has its turn, and says it by what it gives
        answer = ask_again(other.url).answer
        if answer is not None and answer.length not in (None, length):
            return False
    return True


def is_proof(etag: str) -> bool:
    """Whether an ETag names the very bytes: a strong one (RFC 9110 8.8.1)."""
    return bool(etag) and not etag.startswith("W/")


def names_of(artifact: Artifact, info: Info, fickle: AbstractSet[str]) -> tuple[Pin, ...]:
    """What the bytes of a partial are known by from now on: the artifact's pins, or the version of its source."""
    if not artifact.is_unpinned:
        return artifact.pins
    told = (url for url in info.sources[:1] if url not in fickle and is_proof(info.etags.get(url, "")))
    return tuple(_version(url, info.etags[url]) for url in told)


def find_version(run: RunContext, artifact: Artifact, url: str, answer: SourceAnswer | None) -> str:
    """The sha256 of the version that a source has now, where its bytes are in the store; else empty."""
    if answer is None or not is_proof(answer.etag):
        return ""
    sha256 = blobs.find(run.store, [_version(url, answer.etag)])
    if not sha256 or blobs.blob_state(run.store, sha256, answer.length) != "sealed":
        return ""
    if run.findings is not None:
        found = check.digests(run.store.blob(sha256), pieces=True, stop=run.context.stop)
        run.findings[artifact.key] = FirstSeen(found, url, answer.etag)
    return sha256


def _version(url: str, etag: str) -> Pin:
    return Pin("version", hashlib.sha256(f"{url}\n{etag}".encode()).hexdigest())
