"""`orch remove`: take models out of a manifest and its lock file; their installed files stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator import manifest as manifests
from orchestrator.commands.locked_manifest import open_locked, rewrite, save
from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest.edit import remove as without
from orchestrator.workspace import Reader, hint_for, read_text, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context
    from orchestrator.manifest import Manifest


class Removed(NamedTuple):
    """A manifest out of which models were taken, and whether its lock file lost entries."""

    manifest: str
    models: tuple[str, ...]
    lock_changed: bool


def remove(context: Context, paths: Sequence[str], names: Sequence[str], *, dry_run: bool = False) -> list[Removed]:
    """Take models out of every one of some manifests that has them.

    Args:
        context: the environment and the request to stop.
        paths: the manifests, absolute.
        names: the models.
        dry_run: change nothing.

    Raises:
        ManifestError: a manifest does not parse, no manifest has one of the models, or one cannot be taken out.
        PlacementError, StoreError: a manifest cannot be written.
        HeldError: somebody else changed it again and again.
    """
    parsed = [_parse(context, path, read_text(path)) for path in dict.fromkeys(paths)]
    known = {model.name for manifest in parsed for model in manifest.models}
    for name in names:
        if name not in known:
            raise unknown_name(name, known)
    done = []
    for manifest in parsed:
        models = {model.name for model in manifest.models}
        if mine := tuple(dict.fromkeys(name for name in names if name in models)):
            if not dry_run:
                _take_out(context, manifest.file, mine)
            done.append(Removed(manifest.file, mine, _forget_lock(context, manifest, mine, dry_run=dry_run)))
    return done


def _take_out(context: Context, path: str, names: Sequence[str]) -> None:
    rewrite(context, path, lambda text: (_without(context, path, text, names), None))


def _without(context: Context, path: str, text: str, names: Sequence[str]) -> str:
    """The manifest's text without the models; it says of the others what it said.

    Raises:
        ManifestError: it would not.
    """
    before = _parse(context, path, text)
    left = without(text, names)
    try:
        after = _parse(context, path, left)
    except ManifestError:
        after = None
    if after is None or after.models != tuple(model for model in before.models if model.name not in names):
        raise ManifestError(
            (Problem(path, 0, "", f"{', '.join(names)} cannot be removed from this file automatically"),),
            "remove them with an editor",
        )
    return left


def _parse(context: Context, path: str, text: str) -> Manifest:
    try:
        return manifests.parse(text, path, context.home, resolve=False)
    except ManifestError as error:
        raise ManifestError(error.problems, hint_for(error.problems)) from None


def _forget_lock(context: Context, manifest: Manifest, names: Sequence[str], *, dry_run: bool) -> bool:
    """Take the models' entries out of the lock file; whether there are any."""
    locked = open_locked(manifest, Reader(context))
    left = {name: entry for name, entry in locked.lock.models.items() if name not in names}
    if len(left) == len(locked.lock.models):
        return False
    return dry_run or save(locked, left)
