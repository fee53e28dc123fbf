"""`orch add`: draft new models from a URL, a repository or a list, and write them into a manifest."""

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
TRIES = 5  # attempts to write before somebody else changes the file, where it cannot be locked


class EntryDefaults(msgspec.Struct, frozen=True):
    """What all new models of a command have in common, from its options: places, frameworks (`for:`) and tags."""

    to: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def keys(self, below: str = "") -> dict[str, object]:
        """Return the keys of a model; below a place that is a folder, its file keeps the path `below`, if given."""
        keys: dict[str, object] = {}
        if self.frameworks:
            keys["for"] = _one(self.frameworks)
        if self.to:
            keys["to"] = _one(_kept(self.to, below))
        if self.tags:
            keys["tags"] = list(self.tags)
        return keys


def stem(name: str) -> str:
    """Return the name for a model whose file has this name: without folders and suffix."""
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
    """Draft a model.

    Args:
        what: a URL, or a hub's repository: `hf:ORG/NAME[@REVISION]` or `modelscope:ORG/NAME[@REVISION]`.
        entry_defaults: its places, frameworks and tags.
        name: its name; "" to derive it from `what`.
        sha256: the digest of a URL's file; "" if it is not known.
        include: of a repository, patterns of the files wanted.
        exclude: of a repository, patterns of the files not wanted.

    Raises:
        ManifestError: `what` is neither, or an argument does not go with it.
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
    """Draft a model for each file of a list, or one model of them all.

    Args:
        listed: the files of the list.
        source: the path of the list, for messages and comments.
        base: the URL below which the files are; "" if the list itself has their URLs.
        entry_defaults: the places, frameworks and tags of the models.
        together: the name of the one model for all files; "" for a model each.

    Raises:
        ManifestError: a file has no URL.
    """
    nowhere = [(0, f"it does not say where {entry.name} is") for entry in listed if not _urls(entry, base)]
    if nowhere:
        raise refusal(source, nowhere, "say where these files are: --base URL")
    digest_source = f"from {os.path.basename(source.rstrip('/'))}"
    if together:
        parts = [{"path": entry.name, **_source(entry, base)} for entry in listed]
        return [Draft(together, {"files": parts, **entry_defaults.keys()}, digest_source)]
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
        drafts.append(Draft(name, {**_source(entry, base), **entry_defaults.keys(below)}, digest_source, below))
    return drafts


def _urls(entry: ListedFile, base: str) -> tuple[str, ...]:
    """The URLs of a file, best first: the last becomes the manifest's `url`, the others its `mirrors`."""
    return (*entry.urls, f"{base.rstrip('/')}/{quote(entry.name)}") if base else entry.urls


def _source(entry: ListedFile, base: str) -> dict[str, object]:
    *mirrors, url = _urls(entry, base)
    source: dict[str, object] = {"url": url}
    if mirrors:
        source["mirrors"] = mirrors
    pins = {"sha256": entry.digests["sha256"]} if "sha256" in entry.digests else entry.digests
    source.update(pins)
    if entry.size is not None:
        source["size"] = entry.size
    return source


def put_into(context: Context, path: str, drafts: Sequence[Draft]) -> tuple[Model, ...]:
    """Write models into the manifest at `path` (absolute), or into a new one; nothing else in it changes.

    Models without a place get `to: models/`. Several orch may do this at once: each locks the folder from reading to
    renaming; for file systems without locks the file is read once more before it is replaced.

    Returns:
        The new models, as they were parsed from the new text.

    Raises:
        ManifestError: the manifest does not parse, has one of the names, or would not parse with the new models.
        PlacementError, StoreError: it cannot be written.
        HeldError: somebody else changed it again and again.
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
    """The manifest's text with the new models, and these models as parsed from it."""
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
    except ManifestError as error:  # line 0: the problems' lines belong to a text that is not written
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
    """Return the drafts with places, ready to be printed for pasting; what `put_into` refuses is refused here too.

    Raises:
        ManifestError: no manifest may have one of them (a URL with a secret, a bad name ...); `source` stands in the
            place of the file.
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
    """Return the draft with the places `to`, if it has none itself.

    Args:
        draft: the draft.
        to: the places.
        tacit: `to` comes from the manifest's defaults: write it only where the file's folders must be kept below it.
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
    """The places, with the path `below` appended to those that are folders (`models/a.bin` is not doubled)."""
    return tuple(path + below.removeprefix(path) if below and path.endswith("/") else path for path in to)


def _name(text: str) -> str:
    """Make `text` a model's name: without outer blanks and leading dashes, cut to the longest name allowed."""
    short = text.encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    return short.strip().lstrip("-").strip() or "model"


def _few(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The first problems, and a last one that counts the others."""
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
