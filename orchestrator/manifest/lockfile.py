"""Read and write a lock file (`team.lock.json`), and add to a manifest's models what it pins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest import paths
from orchestrator.manifest.paths import PathError
from orchestrator.manifest.values import File, Model
from orchestrator.model import Place, Unresolved
from orchestrator.text import shown
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from orchestrator.manifest.values import Key, Problems


VERSION = 1
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
GitSha1 = Annotated[str, Meta(pattern=r"^([0-9a-f]{40})?$(?!\n)")]
Commit = Annotated[str, Meta(pattern=r"^[\w.-]*$(?!\n)")]
_SHORT = 300  # characters; a fingerprint up to here stays readable, a longer one is hashed


class LockedFile(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the lock pins of one file.

    `size` in bytes; `source` says where the digest came from ("manifest", "hub API" ...); `git` is the sha1 of a
    small file's git blob on a hub; `etag` is what a hub's client calls the file where that is neither digest;
    `pieces` are the hashes of its pieces, and `sha1_pieces` those of its torrent's, as `verify.pieces` writes them.
    """

    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    source: str = msgspec.field(default="", name="from")
    git: GitSha1 = ""
    etag: str = ""
    pieces: str = ""
    sha1_pieces: str = ""


class LockedModel(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the lock pins of one model: `fingerprint` as `fingerprint()` gave it, `commit` of a hub's repository.

    `license` is what the repository declared when it was resolved, for `orch report`; it decides nothing.
    """

    fingerprint: str
    files: dict[str, LockedFile]
    commit: Commit = ""
    license: str = ""


class _Versioned(msgspec.Struct, frozen=True):
    """The one field that a lock of any version has."""

    version: int


class Lock(msgspec.Struct, frozen=True):
    """A whole lock file; `models` by name."""

    models: dict[str, LockedModel]
    version: int = VERSION


def read(text: str, file: str) -> Lock:
    """Read a lock from its text; `file` is its path, for the error.

    Raises:
        ManifestError: the text is damaged, has merge-conflict markers, or was written by a newer orch.
    """
    try:
        lock = msgspec.json.decode(text, type=Lock)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as problem:
        raise _unusable(text, file, shown(str(problem))) from None
    if lock.version != VERSION:
        raise _unusable(text, file, "")
    return lock


def _unusable(text: str, file: str, why: str) -> ManifestError:
    """The error for a text that is no lock that this orch reads, with what to type."""
    name = file.rpartition("/")[2]
    if any(line.startswith("<<<<<<<") for line in text.splitlines()):
        line = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("<<<<<<<"))
        hint = (
            f"take one side, `git checkout --theirs {name}` (or --ours), then run `orch lock`: it adds what is missing"
        )
        return ManifestError((Problem(file, line, "", "merge-conflict markers", code="lock-file"),), hint)
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        message = f"a lock file of version {version}; this orch reads version {VERSION}"
        return ManifestError(
            (Problem(file, 0, "version", message, code="lock-file"),), "update orch: a newer one wrote this lock file"
        )
    hint = f"restore it: `git checkout {name}`; without it, `orch lock` trusts what the sources have now"
    return ManifestError((Problem(file, 0, "", f"not a lock file: {why}", code="lock-file"),), hint)


def write(lock: Lock) -> str:
    """Write a lock as JSON, sorted and one file a line, so that a change of one file is a change of one line."""
    lines = ["{", f'"version": {lock.version},', '"models": {']
    for number, (name, model) in enumerate(sorted(lock.models.items())):
        lines.append(f"{_json(name)}: {{")
        lines.append(f' "fingerprint": {_json(model.fingerprint)},')
        if model.commit:
            lines.append(f' "commit": {_json(model.commit)},')
        if model.license:
            lines.append(f' "license": {_json(model.license)},')
        lines.append(' "files": {')
        files = sorted(model.files.items())
        lines += [
            f"  {_json(path)}: {_json(entry)}{',' if place < len(files) - 1 else ''}"
            for place, (path, entry) in enumerate(files)
        ]
        lines.append(f" }}}}{',' if number < len(lock.models) - 1 else ''}")
    return "\n".join([*lines, "}", "}", ""])


def fingerprint(model: Model) -> str:
    """Return what a model is resolved from, as text: a lock entry with another fingerprint is outdated.

    That is repository, revision and patterns, or names, URLs and pins of the files; a long text by its sha256.
    Tags, places, mirrors and the order of the files do not count.
    """
    if model.repo is not None:
        repo = model.repo
        words = [f"{repo.hub}:{repo.name}@{repo.revision}"]
        words += [f"+{p}" for p in sorted(model.include)] + [f"-{p}" for p in sorted(model.exclude)]
    else:
        words = []
        for file in sorted(model.files, key=lambda file: file.name):
            words += [file.name, file.url, file.sha256, file.sums, *(f"{pin.kind}:{pin.hex}" for pin in file.pins)]
    if model.signature is not None:
        words.append(f"signed:{':'.join(model.signature.words)}")
    text = " ".join(word for word in words if word)
    if len(text) <= _SHORT:
        return text
    import hashlib  # imported here: few fingerprints are long

    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


NO_PIN = "no checksum: run `orch lock` to record one, or add `sha256:`"
NOT_RESOLVED = "not resolved yet: run `orch lock`"


def merged(
    manifest: str, models: tuple[Model, ...], lock: Lock | None, problems: Problems
) -> tuple[tuple[Model, ...], tuple[Unresolved, ...]]:
    """Add to models what their lock pins.

    Without a lock, a model that needs one is a problem. With a lock, a model that is not in it, or that has changed
    since, is unresolved; the others are not held up. A model whose files all have a sha256 needs no lock; a lock
    entry that still fits only adds sizes and pieces.

    Args:
        manifest: the manifest's absolute path.
        models: the models as the manifest has them.
        lock: its lock, or None.
        problems: each model that needs a lock, where there is none, is added here.

    Returns:
        The models whose every file is pinned, and the unresolved ones.
    """
    if lock is None and not any(model.repo or not _is_pinned(model) for model in models):
        return models, ()

    pinned: list[Model] = []
    unresolved: list[Unresolved] = []
    for model in models:
        known = lock.models.get(model.name) if lock else None
        needs = model.repo is not None or any(not f.sha256 and not f.pins for f in model.files)
        if known is None and not needs:
            pinned.append(model)
        elif known is None and lock is None:
            _refuse(model, problems)
        elif known is None:
            unresolved.append(_unresolved(manifest, model, "not in the lock file"))
        elif known.fingerprint == fingerprint(model):
            pinned.append(_filled(manifest, model, known, unresolved))
        elif needs or not _is_pinned(model):
            unresolved.append(_unresolved(manifest, model, "changed since it was locked"))
        else:
            pinned.append(model)
    bad = {entry.model for entry in unresolved}
    return tuple(model for model in pinned if model.name not in bad), tuple(unresolved)


def _is_pinned(model: Model) -> bool:
    for file in model.files:  # noqa: SIM110 - a generator takes twice as long, and this runs for each file
        if not file.sha256:
            return False
    return True


def _refuse(model: Model, problems: Problems) -> None:
    at: Key = ("models", model.name)
    if model.repo is not None:
        problems.append(((*at, "repo"), NOT_RESOLVED))
        return
    for number, file in enumerate(model.files):
        if not file.sha256 and not file.pins:
            where: Key = (*at, "files", number) if model.many else at
            problems.append(((*where, "sha256"), NOT_RESOLVED) if file.sums else (where, NO_PIN))


def _filled(manifest: str, model: Model, known: LockedModel, unresolved: list[Unresolved]) -> Model:
    """Return `model` with the lock's digests, sizes and pieces; for a repository, with its files.

    Where the lock's paths or URLs cannot be used, the model is added to `unresolved`.
    """
    try:
        if model.repo is not None:
            files = tuple(_of_repo(model, known.commit, path, entry) for path, entry in known.files.items())
            return replace(model, files=files, commit=known.commit)
        return replace(model, files=tuple(_with(file, known.files.get(file.name)) for file in model.files))
    except (PathError, UrlError) as problem:
        unresolved.append(_unresolved(manifest, model, f"the lock file cannot be used: {problem}"))
        return model


def _unresolved(manifest: str, model: Model, why: str) -> Unresolved:
    return Unresolved(manifest, model.name, f"{model.name}: {why}", f"run `orch lock {manifest}`", model.tags)


def _with(file: File, entry: LockedFile | None) -> File:
    if entry is None or (file.sha256 and file.sha256 != entry.sha256):
        if file.sha256 or file.pins:
            return file
        raise PathError(f"{file.name} is not in it")
    size = file.size if file.size is not None else entry.size
    return replace(
        file, sha256=entry.sha256, size=size, git=entry.git, pieces=entry.pieces, sha1_pieces=entry.sha1_pieces
    )


def _of_repo(model: Model, commit: str, path: str, entry: LockedFile) -> File:
    from orchestrator.manifest.repos import file_url

    assert model.repo is not None
    path = paths.relative(path)
    places = tuple(Place(paths.check_length(f"{folder}/{path}"), model.link) for folder in model.folders)
    url = file_url(model.repo, commit, path)
    pieces, sha1_pieces = entry.pieces, entry.sha1_pieces
    return File(path, url, (), entry.sha256, entry.size, places, git=entry.git, pieces=pieces, sha1_pieces=sha1_pieces)
