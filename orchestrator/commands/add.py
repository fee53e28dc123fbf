"""`orch add`: draft new models from a URL, a repository or a list, and write them into a manifest."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import msgspec

from orchestrator import manifest as manifests
from orchestrator import urls
from orchestrator.commands.locked_manifest import rewrite, written_text
from orchestrator.commands.verify import TOLD, refusal
from orchestrator.errors import ManifestError, Problem
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import with_layouts
from orchestrator.manifest.edit import NEW, Draft, block, insert
from orchestrator.manifest.pasted import Address, PageError, meant
from orchestrator.manifest.repos import HUBS, RepoError, parse
from orchestrator.manifest.yaml_reader import load
from orchestrator.text import NAME_BYTES
from orchestrator.urls import UrlError
from orchestrator.workspace import hint_for

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from orchestrator.commands.import_list import ListedFile
    from orchestrator.context import Context
    from orchestrator.manifest import Model

TO = "models/"
OF_HUB = {"hf": "huggingface", "modelscope": "modelscope"}  # whose cache a repository goes into
TAKES = "give a URL, or hf:ORG/NAME"


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


def free_name(name: str, taken: Container[str]) -> str:
    """Return the first of `NAME`, `NAME-2`, `NAME-3` ... that is not taken."""
    return next(each for each in chain((name,), (f"{name}-{number}" for number in count(2))) if each not in taken)


def read_address(text: str) -> Address:
    """Read an address as people paste it; `note` of the result says what was made of it.

    Raises:
        ManifestError: it is a web page's that says of no file which one.
    """
    try:
        return meant(text)
    except PageError as page:
        raise ManifestError((Problem("", 0, "", f"{urls.masked(text)}: {page}"),), page.hint) from None


def of(
    what: str,
    entry_defaults: EntryDefaults,
    name: str = "",
    *,
    sha256: str = "",
    size: int | None = None,
    mirrors: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Draft:
    """Draft a model.

    Args:
        what: a URL, or a hub's repository: `hf:ORG/NAME[@REVISION]` or `modelscope:ORG/NAME[@REVISION]`.
        entry_defaults: its places, frameworks and tags.
        name: its name; "" to derive it from `what`.
        sha256: the digest of a URL's file; "" if it is not known.
        size: the size in bytes of a URL's file; None if it is not known.
        mirrors: other URLs of a URL's file.
        include: of a repository, patterns of the files wanted.
        exclude: of a repository, patterns of the files not wanted.

    Raises:
        ManifestError: `what` is neither, or an argument does not go with it.
    """
    is_repo = what.partition(":")[0] in HUBS
    try:
        if is_repo:
            default = parse(what).name.rpartition("/")[2]
        else:
            url = urls.normal(what)
            default = name or stem(urls.last_name(url))
    except (UrlError, RepoError) as problem:
        hint = urls.instead(str(problem)) or TAKES
        raise ManifestError((Problem("", 0, "", f"{urls.masked(what)}: {problem}"),), hint) from None
    if is_repo and sha256:
        why = Problem("", 0, "", "a repository has no sha256 of its own")
        raise ManifestError((why,), f"leave out --sha256; `{what}@COMMIT` pins it, `orch lock` records checksums")
    if is_repo and (mirrors or size is not None):
        why = Problem("", 0, "", "--mirror and --size belong to a URL")
        raise ManifestError((why,), "leave them out; a hub's mirror is HF_ENDPOINT, or `mirrors:` of the manifest")
    if not is_repo and (include or exclude):
        raise ManifestError((Problem("", 0, "", "--include and --exclude belong to a repository"),), "leave them out")
    if is_repo:
        patterns = {"include": list(include), "exclude": list(exclude)}
        entry: dict[str, object] = {"repo": what, **{key: words for key, words in patterns.items() if words}}
    else:
        entry = {
            "url": what,
            **({"mirrors": list(mirrors)} if mirrors else {}),
            **({"sha256": sha256} if sha256 else {}),
            **({"size": size} if size is not None else {}),
        }
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
    nowhere = [entry.name for entry in listed if not _urls(entry, base)]
    if nowhere:
        more = f" and {len(nowhere) - 1:,} more" if len(nowhere) > 1 else ""
        raise refusal(source, [(0, f"no URL for {nowhere[0]}{more}")], "give the URL of their folder: --base URL")
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
        name = free_name(name, names)
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


class Added(NamedTuple):
    """The new models, as they were parsed from the new text, and their lines in it."""

    models: tuple[Model, ...]
    lines: tuple[str, ...]


def put_into(context: Context, path: str, drafts: Sequence[Draft], new: str = NEW, *, dry_run: bool = False) -> Added:
    """Write models into the manifest at `path` (absolute), or into a new one; nothing else in it changes.

    Models without a place get one: a repository `for:` its hub's client, a file `to: models/`. Several orch may do
    this at once, as of `rewrite`.

    Args:
        context: the environment and the request to stop.
        path: the manifest, which need not exist, nor its folder.
        drafts: the models.
        new: the text that a new manifest begins with.
        dry_run: write nothing.

    Raises:
        ManifestError: the manifest does not parse, has one of the names, or would not parse with the new models.
        PlacementError, StoreError: it cannot be written.
        HeldError: somebody else changed it again and again.
    """
    if dry_run:
        return _with(context, path, written_text(path) or new, drafts)[1]
    return rewrite(context, path, lambda text: _with(context, path, text or new, drafts))


def _with(context: Context, path: str, text: str, drafts: Sequence[Draft]) -> tuple[str, Added]:
    """The manifest's text with the new models."""
    try:
        before = manifests.parse(text, path, context.home, resolve=False)
    except ManifestError as error:
        raise ManifestError(error.problems, hint_for(error.problems)) from None
    known = {model.name for model in before.models}
    names = [draft.name for draft in drafts]
    taken = [name for n, name in enumerate(names) if name in known or name in names[:n]]
    if taken:
        problems = tuple(Problem(path, 0, f"models > {name}", "a model of this name already exists") for name in taken)
        raise ManifestError(_few(problems), "give another name (--name), or first: `orch remove NAME`")
    to, frameworks = _default_places(text)
    drafts = [with_place(draft, to or (() if frameworks else (TO,)), tacit=bool(to)) for draft in drafts]
    whole = insert(text, drafts)
    try:
        after = manifests.parse(whole, path, context.home, resolve=False)
    except ManifestError as error:  # line 0: the problems' lines belong to a text that is not written
        problems = tuple(Problem(path, 0, problem.path, problem.message) for problem in error.problems)
        hint = next(filter(None, (urls.instead(problem.message) for problem in problems)), "")
        raise ManifestError(_few(problems), hint or "nothing was written; see `orch add --help`") from None
    old, added = after.models[: len(known)], after.models[len(known) :]
    if old != before.models or [model.name for model in added] != names:
        raise ManifestError(
            (Problem(path, 0, "", "the new models cannot be added to this file automatically"),),
            "add them with an editor",
        )
    _check_layouts(context, path, added)
    return whole, Added(added, tuple(line for draft in drafts for line in block(draft)))


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
        raise ManifestError(_few(problems), "correct this in the list") from None
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
    if not tacit and "repo" in draft.entry:
        # Two repositories in one folder would clash at once: each has a config.json.
        hub = str(draft.entry["repo"]).partition(":")[0]
        return msgspec.structs.replace(draft, entry={**draft.entry, "for": OF_HUB[hub]})
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
