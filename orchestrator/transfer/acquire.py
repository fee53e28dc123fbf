"""Take the right to write the bytes of one or several artifacts, or wait until another orch has downloaded them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator.errors import HeldError, Stopped
from orchestrator.events import Noticed
from orchestrator.store import blobs, partials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator.model import Artifact
    from orchestrator.transfer.run_context import RunContext

LOCK_POLL_S = 0.5

Folder = TypeVar("Folder", bound=partials.WriterFolder)


@dataclass(frozen=True, slots=True)
class Acquired(Generic[Folder]):
    """One round of `acquire`; artifacts go by their keys.

    `folder` is where the bytes of `mine` are to be written; whoever gets it closes or discards it, also where `mine` is
    empty. `stored` maps those whose blob is in the store by now to its sha256. `held` are those that another orch is
    fetching, where the run does not wait for it.
    """

    folder: Folder | None
    mine: tuple[str, ...] = ()
    stored: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, HeldError] = field(default_factory=dict)


def find_stored(run: RunContext, artifact: Artifact) -> str:
    """The sha256 of an artifact whose blob is in the store and sealed; else empty."""
    sha256 = artifact.sha256 or blobs.find(run.store, artifact.pins)
    return sha256 if blobs.blob_state(run.store, sha256, artifact.size) == "sealed" else ""


def acquire(
    run: RunContext,
    artifacts: Iterable[Artifact],
    take: Callable[[tuple[Artifact, ...]], tuple[Folder | None, Mapping[str, HeldError]]],
) -> Iterator[Acquired[Folder]]:
    """Take what nobody else is fetching; then, for what is left, wait and take again, until all is taken or stored.

    Args:
        run: the run; `run.lock_wait_s` says how long to wait for another orch.
        artifacts: what is wanted.
        take: takes a writer's folder for some of the artifacts; gives it (None: for none of them), and who holds the
            others, by key.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for while waiting.
    """
    waiting, told = {artifact.key: artifact for artifact in artifacts}, False
    end_s = run.context.monotonic() + run.lock_wait_s
    while waiting:
        stored = _stored_of(run, waiting.values())
        absent = tuple(artifact for key, artifact in waiting.items() if key not in stored)
        folder, held = take(absent) if absent else (None, {})
        mine = tuple(artifact for artifact in absent if artifact.key not in held)
        try:  # look again: who had them may have finished between the look and the taking
            stored.update(_stored_of(run, mine))
        except BaseException:
            if folder is not None:
                folder.close()
            raise
        waiting = {artifact.key: artifact for artifact in absent if artifact.key in held}
        refused = {key: held[key] for key in waiting} if run.context.monotonic() >= end_s else {}
        yield Acquired(folder, tuple(a.key for a in mine if a.key not in stored), stored, refused)
        if not waiting or refused:
            return
        if not told:
            key, artifact = next(iter(waiting.items()))
            more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            run.emit(Noticed(f"{artifact.name}{more}: waiting, {held[key].message}"))
            told = True
        if run.context.sleep(LOCK_POLL_S):
            raise Stopped("stopped while waiting for another orch")


def take_partial(
    run: RunContext, artifacts: tuple[Artifact, ...]
) -> tuple[partials.Partial | None, Mapping[str, HeldError]]:
    """Take the partial of the only one of `artifacts`."""
    (artifact,) = artifacts
    try:
        return partials.acquire(run.store, artifact.key), {}
    except HeldError as held:
        return None, {artifact.key: held}


def _stored_of(run: RunContext, artifacts: Iterable[Artifact]) -> dict[str, str]:
    return {artifact.key: sha256 for artifact in artifacts if (sha256 := find_stored(run, artifact))}
