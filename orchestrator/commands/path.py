"""`orch path`: where a model is installed: its file, or the folder of its files as `from_pretrained` takes it."""

from __future__ import annotations

import os
import shlex
from posixpath import commonpath, dirname, normpath
from typing import TYPE_CHECKING

from orchestrator.errors import ManifestError, Problem, TransferError
from orchestrator.workspace import open_workspace, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context
    from orchestrator.events import Summary
    from orchestrator.model import Wanted
    from orchestrator.workspace import Workspace


def model_path(context: Context, space: Workspace, name: str) -> str:
    """The path of a model: of its file where it is one; of the folder of its files where it is several or a repository.

    Raises:
        ManifestError: no model has this name, or it needs `orch lock` first.
    """
    files = files_of(space, name)
    if len(files) == 1 and not _is_repository(space, files[0]):
        return file_path(context, space, files[0])
    if not all(wanted.places for wanted in files):
        problem = Problem(files[0].manifest, 0, f"models > {name}", "several files, and no folder that has all of them")
        raise ManifestError(
            (problem,), f"`orch path --all {name}` prints the path of each; `to: FOLDER/` puts them into one folder"
        )
    folders = {_folder(file_path(context, space, wanted), wanted) for wanted in files}
    return folders.pop() if len(folders) == 1 else commonpath(sorted(folders))


def files_of(space: Workspace, name: str, file: str | None = None) -> Sequence[Wanted]:
    """The files of a model, or the one of this name.

    Raises:
        ManifestError: no model has this name, it needs `orch lock` first, or it has no such file.
    """
    found = [w for w in space.wanted if w.model == name]
    for model in space.unresolved:
        if model.model == name:
            raise ManifestError((Problem(model.manifest, 0, "", model.message),), model.hint)
    if not found:
        raise unknown_name(name, {w.model for w in space.wanted})
    found = [w for w in found if w.manifest == found[0].manifest]
    if file is None:
        return found
    chosen = [w for w in found if w.file == file] or [w for w in found if os.path.basename(w.file) == file]
    if not chosen:
        import difflib

        names = [w.file for w in found]
        near = difflib.get_close_matches(file, names, 1)
        hint = f"did you mean `--file {near[0]}`?" if near else f"`orch path --all {name}` prints its files"
        raise ManifestError((Problem("", 0, "", f"{name} has no file called `{file}`"),), hint)
    return chosen[:1]


def in_order(context: Context, name: str, manifests: Sequence[str], error: ManifestError) -> ManifestError:
    """The error for a name and manifests that cannot be used; where a manifest stands in the name's place, that one."""
    if not name.endswith((".yaml", ".yml")) or not os.path.isfile(os.path.join(context.cwd, name)):
        return error
    try:
        models = [m.name for m in open_workspace(context, [name], resolve=False).manifests[0].models]
    except ManifestError:
        return error
    meant = next((word for word in manifests if word in models), models[0] if len(models) == 1 else "")
    hint = f"`orch path {shlex.quote(meant or 'NAME')} {shlex.quote(name)}`"
    hint += "" if meant else f"; `orch list {shlex.quote(name)}` shows the names"
    problem = Problem("", 0, "", f"{name} is a manifest: the name of a model comes first", code="unknown-name")
    return ManifestError((problem,), hint)


def file_path(context: Context, space: Workspace, wanted: Wanted) -> str:
    """The first place of a file, by the name that its framework knows it by; the blob where it has no place."""
    from orchestrator.store import Store

    if not wanted.places:
        store = Store(space.store, context.state)
        return store.alias(wanted.pins[0]) if not wanted.sha256 and wanted.pins else store.blob(wanted.sha256)
    first = wanted.places[0].path
    names = (p.path for p in wanted.places if p.target and normpath(f"{dirname(p.path)}/{p.target}") == first)
    return next(names, first)


def refuse_missing(context: Context, space: Workspace, files: Sequence[Wanted]) -> None:
    """Check by the metadata of the files that all of them are in place.

    Raises:
        OrchError: of the first that is not, as `orch status` says it: with exit code 5, 6 or 7.
    """
    from orchestrator.commands.status import error_of, missing

    for state in missing(context, space, files):
        error = error_of(state)
        if isinstance(error, TransferError) and error.fault == "absent":
            manifest = os.path.relpath(state.wanted.manifest, context.cwd)
            raise TransferError(error.message, f"run `orch sync {manifest}`", "absent")
        raise error


def summary(context: Context, space: Workspace, files: Sequence[Wanted]) -> Summary:
    """How many of the files are in place, and what is wrong with the others."""
    from orchestrator.commands.status import error_of, missing
    from orchestrator.summary import Counts

    counts = Counts(wanted=files, manifest=files[0].manifest, store=space.store)
    for state in missing(context, space, files):
        counts.fail(state.wanted, error_of(state))
    counts.present = len(files) - len(counts.failed)
    return counts.summary(0.0)


def _is_repository(space: Workspace, wanted: Wanted) -> bool:
    """Whether the model of a lone file is a repository."""
    models = (m for manifest in space.manifests if manifest.file == wanted.manifest for m in manifest.models)
    return any(model.name == wanted.model and model.repo is not None for model in models)


def _folder(path: str, wanted: Wanted) -> str:
    """The folder that a model's file has its name in: `/m` of `/m/onnx/a.bin`, where the file is `onnx/a.bin`."""
    if wanted.places[0].unpack:
        return path
    return path.removesuffix(f"/{wanted.file}") if path.endswith(f"/{wanted.file}") else dirname(path)
