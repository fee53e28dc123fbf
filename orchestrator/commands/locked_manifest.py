"""A manifest together with its lock file: read both, compare, select models, rewrite either."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from orchestrator import files
from orchestrator.errors import HeldError
from orchestrator.events import Changed
from orchestrator.manifest import lock_path
from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel, fingerprint, read, write
from orchestrator.workspace import chooser, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.manifest import Manifest, Model
    from orchestrator.workspace import Reader


T = TypeVar("T")
TRIES = 5  # attempts to write before somebody else changes the file, where it cannot be locked


class LockedManifest(msgspec.Struct, frozen=True):
    """One manifest without its lock's values, and the lock file: its path, its text ("" if missing) and its content.

    `reader` read it, and reads it again before it is written.
    """

    manifest: Manifest
    path: str
    text: str
    lock: Lock
    reader: Reader

    def known(self, model: Model) -> LockedModel | None:
        """Return the lock's entry of a model, whether or not it still fits; None if there is none."""
        return self.lock.models.get(model.name)


def open_locked(manifest: Manifest, reader: Reader) -> LockedManifest:
    """Read the lock file beside a manifest; without one, the lock is empty.

    Raises:
        ManifestError: the lock file cannot be used, and must not be overwritten.
        SignatureError: it lacks the signature that is required.
    """
    path = lock_path(manifest.file)
    text = reader.text(path) if os.path.lexists(path) else ""
    return LockedManifest(manifest, path, text, read(text, path) if text else Lock({}), reader)


def is_needed(model: Model) -> bool:
    """Whether a model needs a lock: it is a repository, a file of it has no sha256, or its publisher signed it."""
    signed = model.signature is not None
    return signed or model.repo is not None or any(not file.sha256 for file in model.files)


def fits(model: Model, known: LockedModel | None) -> bool:
    """Whether a lock entry was made for the model as it is now, and has all that the model needs."""
    if known is None or known.fingerprint != fingerprint(model):
        return False
    return model.repo is not None or all(file.sha256 or file.name in known.files for file in model.files)


def select(all_locked: Sequence[LockedManifest], only: Sequence[str]) -> dict[tuple[str, str], Model]:
    """Select models by `--only`; without any word, all.

    Returns:
        The models by (manifest's path, model's name).

    Raises:
        ManifestError: no manifest has a name or tag.
    """
    models = {(locked.manifest.file, m.name): m for locked in all_locked for m in locked.manifest.models}
    if not only:
        return models
    is_meant = chooser(only, {m.name for m in models.values()}, {tag for m in models.values() for tag in m.tags})
    return {key: m for key, m in models.items() if is_meant(m.name, m.tags)}


def changes(old: Mapping[str, LockedModel], new: Mapping[str, LockedModel]) -> Iterator[Changed]:
    """Compare two locks: an event for each changed file or commit, and for each model that was added or removed."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            yield Changed(name, "", _whole(before), _whole(after))
            continue
        if before.commit != after.commit:
            yield Changed(name, "", before.commit, after.commit)
        for path in sorted(before.files.keys() | after.files.keys()):
            was, now = _said(before.files.get(path)), _said(after.files.get(path))
            if was != now:
                yield Changed(name, path, was, now)


def written_text(path: str) -> str:
    """Read a manifest; "" where there is none.

    Raises:
        ManifestError: it is unreadable, or not UTF-8.
    """
    return read_text(path) if os.path.lexists(path) else ""


def rewrite(context: Context, path: str, change: Callable[[str], tuple[str, T]]) -> T:
    """Replace the text of a manifest, which need not exist, nor its folder.

    Several orch may do this at once: each locks the folder from reading to renaming; for file systems without locks
    the file is read once more before it is replaced.

    Args:
        context: the working folder and the request to stop.
        path: the manifest, absolute.
        change: makes of its text ("" where there is none) the new one, and what is returned.

    Raises:
        ManifestError: it is unreadable, or as of `change`.
        PlacementError, StoreError: it cannot be written.
        HeldError: somebody else changed it again and again.
    """
    try:
        if os.path.isdir(context.cwd) and not os.path.lexists(path):  # a working folder that was removed stays so
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with files.locked(os.path.dirname(os.path.realpath(path)), context.stop):
            for _ in range(TRIES):
                text = written_text(path)
                new, made = change(text)
                if text == written_text(path):
                    files.write_atomic(path, new.encode())
                    return made
    except OSError as error:
        raise files.write_error(error, path) from error
    raise HeldError(f"{path}: another program is writing to it", "run the command again")


def save(locked: LockedManifest, models: Mapping[str, LockedModel]) -> bool:
    """Write a lock file atomically, if that changes it.

    Only the models that this run changed are changed: what another orch has written since stays.

    Args:
        locked: the manifest and its lock as they were read.
        models: all models of the new lock, by name.

    Returns:
        Whether it was written.

    Raises:
        ManifestError: the lock file has become unreadable meanwhile.
        PlacementError, StoreError: it cannot be written.
    """
    if write(Lock(dict(models))) == locked.text or not (models or locked.text):
        return False
    try:
        with files.locked(os.path.dirname(os.path.realpath(locked.path))):
            now = open_locked(locked.manifest, locked.reader)
            whole = dict(now.lock.models)
            for name in locked.lock.models.keys() | models.keys():
                if models.get(name) == locked.lock.models.get(name):
                    continue
                if name in models:
                    whole[name] = models[name]
                else:
                    whole.pop(name, None)
            text = write(Lock(whole))
            if text == now.text:
                return False
            files.write_atomic(locked.path, text.encode())
    except OSError as error:
        raise files.write_error(error, locked.path) from error
    return True


def _said(file: LockedFile | None) -> str:
    return f"{file.sha256} {file.size}" if file is not None else ""


def _whole(model: LockedModel | None) -> str:
    if model is None:
        return ""
    count = f"{len(model.files)} file{'s' if len(model.files) != 1 else ''}"
    return f"{model.commit[:12]}, {count}" if model.commit else count
