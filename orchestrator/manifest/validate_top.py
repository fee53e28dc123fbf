"""Judgements on what stands at the top of a manifest and in a site file: folders, mirrors, hosts."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from orchestrator import urls
from orchestrator.manifest import merge, paths, validate
from orchestrator.manifest.clash import contested, message
from orchestrator.manifest.paths import Ground, PathError
from orchestrator.manifest.types import Defaults, Document, HostEntry, PrefixEntry, SiteDocument
from orchestrator.manifest.values import Manifest, Prefix, Site
from orchestrator.model import Host
from orchestrator.text import has_unseen
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.problem_list import Found, Key
    from orchestrator.manifest.values import Model
    from orchestrator.model import Unresolved


def manifest(
    entry: Document,
    file: str,
    home: str,
    found: Found,
    unknown: Collection[str] = (),
    lock: Lock | None = None,
    *,
    resolve: bool = True,
) -> Manifest:
    """`entry` as a value; what is wrong is added to `found`, and a manifest with anything there is of no use.

    `unknown` are top keys that could not be read: nothing is said of what they may hold. With `resolve`, what the
    manifest does not pin comes from `lock`.
    """
    beside = posixpath.dirname(file)
    root = _folder(("root",), entry.root, beside, home, found) or paths.absolute(".", beside)
    allowed = [
        _tried(paths.allowed, text, ("allow_absolute", number), found)
        for number, text in enumerate(entry.allow_absolute or ())
    ]
    ground = Ground(root.rstrip("/") + "/", None if "allow_absolute" in unknown else tuple(allowed))
    defaults = None if "defaults" in unknown else entry.defaults or Defaults()
    models = tuple(validate.model(n, m, defaults, ground, found) for n, m in entry.models.items())
    unresolved: tuple[Unresolved, ...] = ()
    if resolve:
        models, unresolved = merge.merged(file, models, lock, found)
    _clashes(models, found)
    return Manifest(
        file,
        root,
        _folder(("store",), entry.store, beside, home, found),
        tuple(allowed),
        _prefixes(entry.mirrors, found),
        _hosts(entry.hosts, beside, found),
        models,
        unresolved,
        tuple(entry.allow or ()),
    )


def site(entry: SiteDocument, file: str, home: str, found: Found) -> Site:
    """`entry` as a value; what is wrong is added to `found`."""
    beside = posixpath.dirname(file)
    return Site(
        file,
        _folder(("store",), entry.store, beside, home, found),
        _prefixes(entry.mirrors, found),
        _hosts(entry.hosts, beside, found),
    )


def _clashes(models: tuple[Model, ...], found: Found) -> None:
    claims = (
        (place.path, file.sha256, (model, number))
        for model in models
        for number, file in enumerate(model.files)
        for place in file.places
        if file.sha256
    )
    for first, second, path, why in contested(claims):
        model, number = second
        at: Key = ("models", model.name, "to")
        if len(model.files) > 1:
            at = ("models", model.name, "files", number, "path")
        said = message(path, why, first[0].name)
        if model.repo is not None:
            from orchestrator.manifest.hub_specs import pattern_of

            at, said = ("models", model.name, "repo"), f"{said}; `exclude: [{pattern_of(model.files[number].name)}]`"
        found.append((at, said))


def _folder(at: Key, text: str | UnsetType, beside: str, home: str, found: Found) -> str | None:
    if text is UNSET:
        return None
    return _tried(lambda t: paths.folder(t, beside, home), text, at, found)


def _prefixes(entries: list[PrefixEntry] | None, found: Found) -> tuple[Prefix, ...]:
    made = []
    for number, entry in enumerate(entries or ()):
        at: Key = ("mirrors", number)
        origin = _tried(urls.prefix, entry.origin, (*at, "origin"), found)
        bases = [_tried(urls.prefix, text, (*at, "urls", n), found) for n, text in enumerate(entry.urls)]
        made.append(Prefix(origin, tuple(bases)))
    return tuple(made)


def _hosts(entries: dict[str, HostEntry] | None, beside: str, found: Found) -> dict[str, Host]:
    made: dict[str, Host] = {}
    for text, entry in (entries or {}).items():
        at: Key = ("hosts", text)
        name = _tried(urls.host, text, at, found)
        if name and name in made:
            found.append((at, "an earlier entry is for the same host"))
        ca = agent = None
        if entry.ca is not UNSET:
            ca = _tried(lambda t: paths.companion(t, beside), entry.ca, (*at, "ca"), found)
        if entry.user_agent is not UNSET:
            agent = entry.user_agent
            if not agent.isascii() or has_unseen(agent) or agent != agent.strip():
                found.append(((*at, "user_agent"), "expected printable ASCII without outer blanks"))
        connections = None if entry.connections is UNSET else entry.connections
        made[name] = Host(ca, connections, agent, None if entry.token_env is UNSET else entry.token_env)
    return made


def _tried(make: Callable[[str], str], text: str, at: Key, found: Found) -> str:
    """What `make` makes of `text`; "" where it refuses, and then `found` says why."""
    try:
        return make(text)
    except (PathError, UrlError) as problem:
        found.append((at, str(problem)))
        return ""
