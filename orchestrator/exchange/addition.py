"""New models for a manifest: drafted from a URL, a repository or a list, and put in if the whole still holds."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from orchestrator import manifest as manifests
from orchestrator.errors import ManifestError, PlacementError, Problem
from orchestrator.exchange import written
from orchestrator.manifest import urls
from orchestrator.manifest.draft import Draft
from orchestrator.manifest.insert import NEW, insert
from orchestrator.manifest.repos import HUBS, RepoError, repository
from orchestrator.manifest.urls import UrlError
from orchestrator.manifest.walk import plain
from orchestrator.placement.base import LayoutError
from orchestrator.placement.catalogue import laid_out
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.exchange.lists import Listed
    from orchestrator.manifest import Model
    from orchestrator.world import World

TO = "models/"


class Manner(msgspec.Struct, frozen=True):
    """What new models have in common: their places, frameworks and tags, as the options say."""

    to: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def keys(self, below: str = "") -> dict[str, object]:
        """The keys that say so; a file with folders in its name keeps them `below` a place that is a folder."""
        found: dict[str, object] = {}
        if self.frameworks:
            found["for"] = _one(self.frameworks)
        if self.to:
            found["to"] = _one(tuple(to + below if below and to.endswith("/") else to for to in self.to))
        if self.tags:
            found["tags"] = list(self.tags)
        return found


def stem(name: str) -> str:
    """What to call a model whose file has this name."""
    return posixpath.splitext(posixpath.basename(name).removesuffix(".gz"))[0] or name


def of(
    what: str,
    manner: Manner,
    name: str = "",
    *,
    sha256: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Draft:
    """A model of a URL, or of a hub's repository: `hf:ORG/NAME` or `modelscope:ORG/NAME`, `@REVISION` behind it.

    Raises:
        ManifestError: it is neither, or what was said does not go with it.
    """
    is_repo = what.partition(":")[0] in HUBS
    try:
        default = repository(what).name.rpartition("/")[2] if is_repo else stem(urls.last_name(urls.normal(what)))
    except (UrlError, RepoError) as problem:
        told = f"{what}: {problem}" if is_repo else str(problem)  # a URL that is refused may hold a secret
        raise ManifestError((Problem("", 0, "", told),), "give a URL, or hf:ORG/NAME") from None
    if is_repo and sha256:
        why = Problem("", 0, "", "a repository has no sha256 of its own")
        raise ManifestError((why,), f"leave out --sha256; `{what}@COMMIT` pins it, and `orch lock` its files")
    if not is_repo and (include or exclude):
        raise ManifestError((Problem("", 0, "", "--include and --exclude belong to a repository"),), "leave them out")
    if is_repo:
        patterns = {"include": list(include), "exclude": list(exclude)}
        entry: dict[str, object] = {"repo": what, **{key: words for key, words in patterns.items() if words}}
    else:
        entry = {"url": what, **({"sha256": sha256} if sha256 else {})}
    return Draft(name or default, {**entry, **manner.keys()})


def from_list(listed: Sequence[Listed], source: str, base: str, manner: Manner, together: str = "") -> list[Draft]:
    """A model a file of a list, or all as files of one that is called `together`; `base` is where the files are.

    Raises:
        ManifestError: nobody says where a file is, or two would have one name.
    """
    nowhere = [entry.name for entry in listed if not _urls(entry, base)]
    lost = [Problem(source, 0, "", f"it does not say where {name} is") for name in nowhere]
    if lost:
        raise ManifestError(tuple(lost), "say where these files are: --base URL")
    said = f"from {os.path.basename(source.rstrip('/'))}"
    if together:
        files = [{"path": entry.name, **_source(entry, base)} for entry in listed]
        return [Draft(together, {"files": files, **manner.keys()}, said)]
    stems = [stem(entry.name) for entry in listed]
    drafts = []
    for entry in listed:
        name = stem(entry.name)
        if stems.count(name) > 1:
            name = entry.name.replace("/", "-")
        below = entry.name if "/" in entry.name else ""
        drafts.append(Draft(name, {**_source(entry, base), **manner.keys(below)}, said))
    return drafts


def _urls(entry: Listed, base: str) -> tuple[str, ...]:
    """Where it is, best first; the last one is the manifest's `url`, the others are tried before it."""
    return (*entry.urls, f"{base.rstrip('/')}/{quote(entry.name)}") if base else entry.urls


def _source(entry: Listed, base: str) -> dict[str, object]:
    *mirrors, url = _urls(entry, base)
    found: dict[str, object] = {"url": url}
    if mirrors:
        found["mirrors"] = mirrors
    pins = {"sha256": entry.digests["sha256"]} if "sha256" in entry.digests else entry.digests
    found.update(pins)
    if entry.size is not None:
        found["size"] = entry.size
    return found


def put_into(world: World, path: str, drafts: Sequence[Draft]) -> tuple[Model, ...]:
    """Put models into the manifest at `path` (absolute), or into a new one there; nothing else in it changes.

    Models that would have no place get `to: models/`.

    Returns:
        The new models, as they were read back.

    Raises:
        ManifestError: the manifest does not parse, has one of the names, or would not parse with the new ones.
        PlacementError: it cannot be written.
    """
    is_new = not os.path.lexists(path)
    text = NEW if is_new else read_text(path)
    before = manifests.parse(text, path, world.home, resolve=False)
    known = {model.name for model in before.models}
    names = [draft.name for draft in drafts]
    taken = [name for n, name in enumerate(names) if name in known or name in names[:n]]
    if taken:
        problems = tuple(Problem(path, 0, f"models > {name}", "a model is called so already") for name in taken)
        raise ManifestError(problems, "give another name (--name), or remove the one that is there")
    whole = insert(text, drafts if _has_default_place(text) else list(map(with_place, drafts)))
    after = manifests.parse(whole, path, world.home, resolve=False)
    old, added = after.models[: len(known)], after.models[len(known) :]
    if old != before.models or [model.name for model in added] != names:
        raise ManifestError((Problem(path, 0, "", "the new models do not fit into this text"),), "add them by hand")
    _check_layouts(world, path, added)
    try:
        written.write(path, whole)
    except OSError as error:
        raise PlacementError(f"cannot write {path}: {error.strerror}", f"look at it: `ls -l {path}`") from error
    return added


def to_paste(world: World, drafts: Sequence[Draft], source: str) -> list[Draft]:
    """The drafts as lines that any manifest may take: what `put_into` would refuse is refused here too.

    Raises:
        ManifestError: a URL that holds a secret, a name that is none ...; told of `source`.
    """
    placed = [with_place(draft) for draft in drafts]
    text = insert(f'allow_absolute: ["/"]\n{NEW}', placed)
    try:
        manifests.parse(text, os.path.join(world.cwd, "lines.yaml"), world.home, resolve=False)
    except ManifestError as error:
        problems = tuple(Problem(source, 0, problem.path, problem.message) for problem in error.problems)
        raise ManifestError(problems, "no manifest may have that; mend the list") from None
    return placed


def with_place(draft: Draft) -> Draft:
    """The draft with `to: models/`, where it says no place itself."""
    if {"to", "for"} & set(draft.entry):
        return draft
    return msgspec.structs.replace(draft, entry={**draft.entry, "to": TO})


def _has_default_place(text: str) -> bool:
    data = plain(text)
    defaults = data.get("defaults") if isinstance(data, dict) else None
    return isinstance(defaults, dict) and bool(defaults.get("to") or defaults.get("for"))


def _check_layouts(world: World, path: str, models: Sequence[Model]) -> None:
    for model in models:
        if model.layouts and model.files:
            try:
                laid_out(world, model)
            except LayoutError as error:
                raise ManifestError((Problem(path, 0, f"models > {model.name} > for", str(error)),)) from None


def _one(words: tuple[str, ...]) -> object:
    return words[0] if len(words) == 1 else list(words)
