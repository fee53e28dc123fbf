"""New models for a manifest: drafted from a URL, a repository or a list, and put in if the whole still holds."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from itertools import chain, count
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from orchestrator import files, urls
from orchestrator import manifest as manifests
from orchestrator.commands.verify import TOLD, refusal
from orchestrator.errors import HeldError, ManifestError, Problem
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import with_layouts
from orchestrator.manifest.edit import NEW, Draft, insert
from orchestrator.manifest.repos import HUBS, RepoError, parse
from orchestrator.manifest.yaml_reader import load
from orchestrator.text import NAME_BYTES
from orchestrator.urls import UrlError
from orchestrator.workspace import hint_for, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.commands.import_list import ListedFile
    from orchestrator.context import Context
    from orchestrator.manifest import Model

TO = "models/"
TRIES = 5  # to have the file unchanged from reading to writing, where nothing can be locked


class EntryDefaults(msgspec.Struct, frozen=True):
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
            found["to"] = _one(_kept(self.to, below))
        if self.tags:
            found["tags"] = list(self.tags)
        return found


def stem(name: str) -> str:
    """What to call a model whose file has this name."""
    return _name(posixpath.splitext(posixpath.basename(name).removesuffix(".gz"))[0] or name)


def of(
    what: str,
    entry_defaults: EntryDefaults,
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
        default = parse(what).name.rpartition("/")[2] if is_repo else stem(urls.last_name(urls.normal(what)))
    except (UrlError, RepoError) as problem:
        hint = urls.instead(str(problem)) or "give a URL, or hf:ORG/NAME"
        raise ManifestError((Problem("", 0, "", f"{urls.masked(what)}: {problem}"),), hint) from None
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
    return Draft(name or default, {**entry, **entry_defaults.keys()})


def from_list(
    listed: Sequence[ListedFile], source: str, base: str, entry_defaults: EntryDefaults, together: str = ""
) -> list[Draft]:
    """A model a file of a list, or all as files of one that is called `together`; `base` is where the files are.

    Raises:
        ManifestError: nobody says where a file is, or two would have one name.
    """
    nowhere = [(0, f"it does not say where {entry.name} is") for entry in listed if not _urls(entry, base)]
    if nowhere:
        raise refusal(source, nowhere, "say where these files are: --base URL")
    said = f"from {os.path.basename(source.rstrip('/'))}"
    if together:
        parts = [{"path": entry.name, **_source(entry, base)} for entry in listed]
        return [Draft(together, {"files": parts, **entry_defaults.keys()}, said)]
    stems = Counter(stem(entry.name) for entry in listed)
    names: set[str] = set()
    drafts = []
    for entry in listed:
        name = stem(entry.name)
        if stems[name] > 1:
            name = _name(entry.name.replace("/", "-"))
        name = next(n for n in chain((name,), (f"{name}-{number}" for number in count(2))) if n not in names)
        names.add(name)
        below = entry.name if "/" in entry.name else ""
        drafts.append(Draft(name, {**_source(entry, base), **entry_defaults.keys(below)}, said, below))
    return drafts


def _urls(entry: ListedFile, base: str) -> tuple[str, ...]:
    """Where it is, best first; the last one is the manifest's `url`, the others are tried before it."""
    return (*entry.urls, f"{base.rstrip('/')}/{quote(entry.name)}") if base else entry.urls


def _source(entry: ListedFile, base: str) -> dict[str, object]:
    *mirrors, url = _urls(entry, base)
    found: dict[str, object] = {"url": url}
    if mirrors:
        found["mirrors"] = mirrors
    pins = {"sha256": entry.digests["sha256"]} if "sha256" in entry.digests else entry.digests
    found.update(pins)
    if entry.size is not None:
        found["size"] = entry.size
    return found


def put_into(context: Context, path: str, drafts: Sequence[Draft]) -> tuple[Model, ...]:
    """Put models into the manifest at `path` (absolute), or into a new one there; nothing else in it changes.

    Models that would have no place get `to: models/`. Several orch may do so at once: each has the file for itself
    from reading to renaming; where the file system has no locks, it is read once more just before.

    Returns:
        The new models, as they were read back.

    Raises:
        ManifestError: the manifest does not parse, has one of the names, or would not parse with the new ones.
        PlacementError, StoreError: it cannot be written.
        HeldError: somebody else writes into it all the time.
    """
    try:
        with files.locked(os.path.dirname(os.path.realpath(path)), context.stop):
            for _ in range(TRIES):
                text = read_text(path) if os.path.lexists(path) else ""
                whole, added = _with(context, path, text or NEW, drafts)
                if text == (read_text(path) if os.path.lexists(path) else ""):
                    files.write_atomic(path, whole.encode())
                    return added
    except OSError as error:
        raise files.write_error(error, path) from error
    raise HeldError(f"{path}: somebody else writes into it", "run the same command again")


def _with(context: Context, path: str, text: str, drafts: Sequence[Draft]) -> tuple[str, tuple[Model, ...]]:
    """The manifest's text with the new models, and those as they are read back."""
    try:
        before = manifests.parse(text, path, context.home, resolve=False)
    except ManifestError as error:
        raise ManifestError(error.problems, hint_for(error.problems)) from None
    known = {model.name for model in before.models}
    names = [draft.name for draft in drafts]
    taken = [name for n, name in enumerate(names) if name in known or name in names[:n]]
    if taken:
        problems = tuple(Problem(path, 0, f"models > {name}", "a model is called so already") for name in taken)
        raise ManifestError(_few(problems), "give another name (--name), or remove the one that is there")
    to, frameworks = _default_places(text)
    whole = insert(text, [with_place(draft, to or (() if frameworks else (TO,)), tacit=bool(to)) for draft in drafts])
    try:
        after = manifests.parse(whole, path, context.home, resolve=False)
    except ManifestError as error:  # its lines are of a text that was not written
        problems = tuple(Problem(path, 0, problem.path, problem.message) for problem in error.problems)
        hint = next(filter(None, (urls.instead(problem.message) for problem in problems)), "")
        raise ManifestError(
            _few(problems), hint or "nothing was written; say it otherwise (`orch add --help`)"
        ) from None
    old, added = after.models[: len(known)], after.models[len(known) :]
    if old != before.models or [model.name for model in added] != names:
        raise ManifestError((Problem(path, 0, "", "the new models do not fit into this text"),), "add them by hand")
    _check_layouts(context, path, added)
    return whole, added


def to_paste(context: Context, drafts: Sequence[Draft], source: str) -> list[Draft]:
    """The drafts as lines that any manifest may take: what `put_into` would refuse is refused here too.

    Raises:
        ManifestError: a URL that holds a secret, a name that is none ...; told of `source`.
    """
    placed = [with_place(draft) for draft in drafts]
    text = insert(f'allow_absolute: ["/"]\n{NEW}', placed)
    try:
        manifests.parse(text, os.path.join(context.cwd, "lines.yaml"), context.home, resolve=False)
    except ManifestError as error:
        problems = tuple(Problem(source, 0, problem.path, problem.message) for problem in error.problems)
        raise ManifestError(_few(problems), "no manifest may have that; mend the list") from None
    return placed


def with_place(draft: Draft, to: Sequence[str] = (TO,), *, tacit: bool = False) -> Draft:
    """The draft with the places `to`, where it says none itself.

    `tacit`: the manifest's defaults give them, and they are written only where the file keeps folders below them.
    """
    if "to" in draft.entry or not to or ("for" in draft.entry and not tacit) or (tacit and not draft.path):
        return draft
    return msgspec.structs.replace(draft, entry={**draft.entry, "to": _one(_kept(to, draft.path))})


def _default_places(text: str) -> tuple[tuple[str, ...], bool]:
    """The places that a manifest's `defaults:` give, and whether they name a framework."""
    data = load(text)
    defaults = data.get("defaults") if isinstance(data, dict) else None
    if not isinstance(defaults, dict):
        return (), False
    to = defaults.get("to") or ()
    return (to,) if isinstance(to, str) else tuple(to), bool(defaults.get("for"))


def _kept(to: Sequence[str], below: str) -> tuple[str, ...]:
    """Places, of which the folders keep the path `below` (`models/a.bin` below `models/` is just that)."""
    return tuple(path + below.removeprefix(path) if below and path.endswith("/") else path for path in to)


def _name(text: str) -> str:
    """`text` as the name of a model: without outer blanks and first dashes, and no longer than a name may be."""
    short = text.encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    return short.strip().lstrip("-").strip() or "model"


def _few(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The first of many problems, and how many more there are."""
    more = len(problems) - TOLD
    rest = (Problem(problems[0].file, 0, "", f"and {more:,} more"),) if more > 0 else ()
    return (*problems[:TOLD], *rest)


def _check_layouts(context: Context, path: str, models: Sequence[Model]) -> None:
    for model in models:
        if model.layouts and model.files:
            try:
                with_layouts(context, model)
            except LayoutError as error:
                raise ManifestError((Problem(path, 0, f"models > {model.name} > for", str(error)),)) from None


def _one(words: tuple[str, ...]) -> object:
    return words[0] if len(words) == 1 else list(words)
