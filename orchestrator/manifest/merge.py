"""A manifest's models with what its lock knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.manifest import paths
from orchestrator.manifest.paths import PathError
from orchestrator.manifest.pins import NO_PIN
from orchestrator.manifest.values import File
from orchestrator.model import Place, Unresolved
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel
    from orchestrator.manifest.problem_list import Found, Key
    from orchestrator.manifest.values import Model

NOT_RESOLVED = "not resolved yet: run `orch lock`"


def merged(
    manifest: str, models: tuple[Model, ...], lock: Lock | None, found: Found
) -> tuple[tuple[Model, ...], tuple[Unresolved, ...]]:
    """`models` with every file pinned, and those of which that cannot be said; what is wrong is added to `found`.

    Without a lock whatever needs one is wrong. With one, a model that it does not know, or that has changed since,
    is unresolved, and the others are not held up. A model whose files all have their sha256 needs no lock, which
    then only tells sizes and pieces, if it still fits.
    """
    if lock is None and not any(model.repo or not _is_pinned(model) for model in models):
        return models, ()
    from orchestrator.manifest.lockfile import fingerprint

    made: list[Model] = []
    unresolved: list[Unresolved] = []
    for model in models:
        known = lock.models.get(model.name) if lock else None
        needs = model.repo is not None or any(not f.sha256 and not f.pins for f in model.files)
        if known is None and not needs:
            made.append(model)
        elif known is None and lock is None:
            _refuse(model, found)
        elif known is None:
            unresolved.append(_unresolved(manifest, model, "the lock does not have it"))
        elif known.fingerprint == fingerprint(model):
            made.append(_filled(manifest, model, known, unresolved))
        elif needs or not _is_pinned(model):
            unresolved.append(_unresolved(manifest, model, "changed since it was locked"))
        else:
            made.append(model)
    bad = {entry.model for entry in unresolved}
    return tuple(model for model in made if model.name not in bad), tuple(unresolved)


def _is_pinned(model: Model) -> bool:
    for file in model.files:  # noqa: SIM110 - asked of each file, and a generator takes twice as long
        if not file.sha256:
            return False
    return True


def _refuse(model: Model, found: Found) -> None:
    at: Key = ("models", model.name)
    if model.repo is not None:
        found.append(((*at, "repo"), NOT_RESOLVED))
        return
    for number, file in enumerate(model.files):
        if not file.sha256 and not file.pins:
            where: Key = (*at, "files", number) if model.many else at
            found.append(((*where, "sha256"), NOT_RESOLVED) if file.sums else (where, NO_PIN))


def _filled(manifest: str, model: Model, known: LockedModel, unresolved: list[Unresolved]) -> Model:
    """`model` with the lock's digests, sizes and pieces; for a repository, with its files."""
    try:
        if model.repo is not None:
            files = tuple(_of_repo(model, known.commit, path, entry) for path, entry in known.files.items())
            return replace(model, files=files, commit=known.commit)
        return replace(model, files=tuple(_with(file, known.files.get(file.name)) for file in model.files))
    except (PathError, UrlError) as problem:
        unresolved.append(_unresolved(manifest, model, f"the lock cannot be used: {problem}"))
        return model


def _unresolved(manifest: str, model: Model, why: str) -> Unresolved:
    return Unresolved(manifest, model.name, f"{model.name}: {why}", f"run `orch lock {manifest}`", model.tags)


def _with(file: File, entry: LockedFile | None) -> File:
    if entry is None or (file.sha256 and file.sha256 != entry.sha256):
        if file.sha256 or file.pins:
            return file
        raise PathError(f"it does not have {file.name}")
    size = file.size if file.size is not None else entry.size
    return replace(file, sha256=entry.sha256, size=size, git=entry.git, pieces=entry.pieces)


def _of_repo(model: Model, commit: str, path: str, entry: LockedFile) -> File:
    from orchestrator.manifest.repos import file_url

    assert model.repo is not None
    path = paths.relative(path)
    places = tuple(Place(paths.fit(f"{folder}/{path}"), model.link) for folder in model.folders)
    url = file_url(model.repo, commit, path)
    return File(path, url, (), entry.sha256, entry.size, places, git=entry.git, pieces=entry.pieces)
