"""`team.lock.json`: what `orch lock` found out of what a manifest does not say; text to a `Lock` and back."""

# No `from __future__ import annotations` here: msgspec reads these annotations at run time.
from typing import Annotated

import msgspec
from msgspec import Meta

from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest.values import Model
from orchestrator.text import shown

VERSION = 1
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
GitSha1 = Annotated[str, Meta(pattern=r"^([0-9a-f]{40})?$(?!\n)")]
Commit = Annotated[str, Meta(pattern=r"^[\w.-]*$(?!\n)")]
_SHORT = 300  # characters of a fingerprint that people may read; longer ones are hashed


class LockedFile(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One file: `source` says where its digest came from; `git` is a hub's sha1 of a small file."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    source: str = msgspec.field(default="", name="from")
    git: GitSha1 = ""
    etag: str = ""
    pieces: str = ""


class LockedModel(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One model: `fingerprint` is what it was resolved from, `commit` that of a hub's repository."""

    fingerprint: str
    files: dict[str, LockedFile]
    commit: Commit = ""


class _Versioned(msgspec.Struct, frozen=True):
    """All that a lock of another version is sure to have."""

    version: int


class Lock(msgspec.Struct, frozen=True):
    """A whole lock file."""

    models: dict[str, LockedModel]
    version: int = VERSION


def read(text: str, file: str) -> Lock:
    """The lock that `text` is; `file` is its path, for the error.

    Raises:
        ManifestError: it is damaged, or of a newer orch.
    """
    try:
        lock = msgspec.json.decode(text, type=Lock)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as problem:
        raise _unusable(text, file, shown(str(problem))) from None
    if lock.version != VERSION:
        raise _unusable(text, file, "")
    return lock


def _unusable(text: str, file: str, why: str) -> ManifestError:
    """Why a text is no lock that this orch reads, and what to type."""
    name = file.rpartition("/")[2]
    if any(line.startswith("<<<<<<<") for line in text.splitlines()):
        line = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("<<<<<<<"))
        hint = (
            f"take one side, `git checkout --theirs {name}` (or --ours), then run `orch lock`: it adds what is missing"
        )
        return ManifestError((Problem(file, line, "", "it has merge-conflict markers"),), hint)
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        message = f"a lock of version {version}; this orch reads version {VERSION}"
        return ManifestError((Problem(file, 0, "version", message),), "update orch: a newer one wrote this lock")
    hint = f"`git checkout {name}` brings it back; without it, `orch lock` takes for right what the sources have now"
    return ManifestError((Problem(file, 0, "", f"not a lock file: {why}"),), hint)


def write(lock: Lock) -> str:
    """`lock` as text: sorted, a line a file, so that a change of one file is a change of one line."""
    lines = ["{", f'"version": {lock.version},', '"models": {']
    for number, (name, model) in enumerate(sorted(lock.models.items())):
        lines.append(f"{_json(name)}: {{")
        lines.append(f' "fingerprint": {_json(model.fingerprint)},')
        if model.commit:
            lines.append(f' "commit": {_json(model.commit)},')
        lines.append(' "files": {')
        files = sorted(model.files.items())
        lines += [
            f"  {_json(path)}: {_json(entry)}{',' if place < len(files) - 1 else ''}"
            for place, (path, entry) in enumerate(files)
        ]
        lines.append(f" }}}}{',' if number < len(lock.models) - 1 else ''}")
    return "\n".join([*lines, "}", "}", ""])


def fingerprint(model: Model) -> str:
    """What a model is resolved from: repository, revision, patterns, URLs, pins; a long one by its sha256.

    Comments, tags, places, mirrors and order do not count.
    """
    if model.repo is not None:
        repo = model.repo
        words = [f"{repo.hub}:{repo.name}@{repo.revision}"]
        words += [f"+{p}" for p in sorted(model.include)] + [f"-{p}" for p in sorted(model.exclude)]
    else:
        words = []
        for file in sorted(model.files, key=lambda file: file.name):
            words += [file.name, file.url, file.sha256, file.sums, *(f"{pin.kind}:{pin.hex}" for pin in file.pins)]
    text = " ".join(word for word in words if word)
    if len(text) <= _SHORT:
        return text
    import hashlib  # only for what is long

    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
