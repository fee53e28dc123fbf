"""`orch lock --check`: compare lock files with their manifests and with what hubs, lists and sources have now."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.commands.lock import FIRST, version
from orchestrator.commands.locked_manifest import fits, is_needed, open_locked, select
from orchestrator.errors import OrchError, Stopped
from orchestrator.events import Finished, GaveUp, Noticed, Summary
from orchestrator.faults import Fault
from orchestrator.hubs.resolve import LIST, listed
from orchestrator.manifest.lockfile import fingerprint
from orchestrator.summary import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.commands.locked_manifest import LockedManifest
    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.manifest import Model
    from orchestrator.manifest.lockfile import LockedModel
    from orchestrator.workspace import Workspace

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_drift(context: Context, space: Workspace, emit: Callable[[Event], None], only: Sequence[str] = ()) -> Summary:
    """Compare the lock files of some manifests with what is there now; nothing is changed.

    A server that does not answer is reported, and counts as no drift.

    Args:
        context: the environment, the clock and the request to stop.
        space: the manifests, opened without `resolve`.
        emit: gets an event for each model.
        only: names of models, or `tag:TAG`, to check; if empty, all.

    Returns:
        The summary, with exit code 3 if anything drifted.

    Raises:
        ManifestError: a lock file cannot be read, or no manifest has a name of `only`.
    """
    began = context.monotonic()
    all_locked = [open_locked(manifest, space.reader) for manifest in space.manifests]
    selected = select(all_locked, only)
    failed: list[GaveUp] = []
    present, stopped = 0, False
    for locked in all_locked:
        for model in locked.manifest.models:
            if (locked.manifest.file, model.name) not in selected:
                continue
            if stopped := context.stop.is_set():
                break
            drifted = list(_of_model(context, space, emit, locked, model))
            failed += drifted
            if not drifted:
                present += 1
                emit(Finished(model.name, "", "present"))
        names = {model.name for model in locked.manifest.models}
        for name in sorted(locked.lock.models.keys() - names) if not only else ():
            failed.append(_drifted(name, "", "in the lock file and no longer in the manifest", "run `orch lock`"))
    for event in failed:
        emit(event)
    code = (context.stop.code if stopped else None) or fold(event.exit_code for event in failed)
    seconds = context.monotonic() - began
    return Summary(
        code == 0, code, len(selected), present + len(failed), present, failed=tuple(failed), seconds=seconds
    )


def _of_model(
    context: Context, space: Workspace, emit: Callable[[Event], None], locked: LockedManifest, model: Model
) -> Iterator[GaveUp]:
    known = locked.known(model)
    if known is None:
        if is_needed(model):
            yield _drifted(model.name, "", "not in the lock file", "run `orch lock`")
        return
    if known.fingerprint != fingerprint(model) or not fits(model, known):
        yield _drifted(model.name, "", "changed since it was locked", "run `orch lock`")
        return
    try:
        yield from _of_source(context, space, model, known)
    except Stopped:
        return
    except OrchError as error:
        emit(Noticed(f"{model.name}: its source cannot be checked now: {error.message}"))


def _of_source(context: Context, space: Workspace, model: Model, known: LockedModel) -> Iterator[GaveUp]:
    """What a model's hub, list or sources have now that differs from the lock.

    Raises:
        OrchError: a server does not answer.
    """
    update = f"if that is right: `orch lock --update {model.name}`"
    if model.repo is not None:
        if not _COMMIT.fullmatch(model.repo.revision):
            commit = listed(context, model, space.hosts).commit
            if commit != known.commit:
                message = f"`{model.repo.revision or 'its default branch'}` moved: {known.commit} -> {commit}"
                yield _drifted(model.name, "", message, update)
        return
    if any(file.sums for file in model.files):
        for file in listed(context, model, space.hosts).model.files:
            entry = known.files.get(file.name)
            if entry is not None and entry.source == LIST and file.sha256 != entry.sha256:
                message = f"the publisher's list says {file.sha256[:12]} now, the lock file {entry.sha256[:12]}"
                yield _drifted(model.name, file.name, message, update)
    for file in model.files:
        entry = known.files.get(file.name)
        if entry is None or not entry.source.startswith(FIRST):
            continue
        answer = version(context, file, space.hosts)
        if isinstance(answer, Fault):
            raise OrchError(answer.message)
        etag, length = answer
        if length not in (None, entry.size) or (etag and entry.etag and etag != entry.etag):
            message = f"its source has another file now ({length} bytes, ETag {etag or 'unknown'})"
            yield _drifted(model.name, file.name, message, update)


def _drifted(model: str, file: str, message: str, hint: str) -> GaveUp:
    name = f"{model}/{file}" if file else model
    return GaveUp(model, file, (), "outdated", 3, f"{name}: {message}", hint, code="not-locked")
