"""Judgements on one model that its types cannot express; what holds becomes a `Model`."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from orchestrator import urls
from orchestrator.manifest import lockfile, paths
from orchestrator.manifest.clash import contested, message
from orchestrator.manifest.paths import Ground, PathError
from orchestrator.manifest.types import Defaults, Document, FileEntry, HostEntry, ModelEntry, PrefixEntry, SiteDocument
from orchestrator.manifest.values import File, Manifest, Model, Prefix, Site
from orchestrator.model import Host, Link, Pin, Place
from orchestrator.text import fault_of_name, has_unseen
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.types import FileEntry, ModelEntry
    from orchestrator.manifest.values import Key, Problems
    from orchestrator.model import Unresolved


NO_PLACE = "say where: `to: PATH`, `for: FRAMEWORK`, or `to: store`"
ONE_OF = "say what: `url: URL`, `files:`, or `repo: hf:ORG/NAME`"


def model(name: str, entry: ModelEntry, defaults: Defaults | None, ground: Ground, found: Problems) -> Model:
    """`entry` with `defaults` under it, as a value; what is wrong is added to `found`.

    `defaults` is None where the manifest's own could not be read: then nothing is said of what they may hold.
    A model with anything in `found` is not to be used.
    """
    at: Key = ("models", name)
    if fault := fault_of_name(name):
        found.append((at, f"the model's name {fault}"))
    under = defaults if defaults is not None else _UNKNOWN
    to = under.to if entry.to is UNSET else entry.to
    for_ = under.for_ if entry.for_ is UNSET else entry.for_
    link = (under.link if entry.link is UNSET else entry.link) or Link.AUTO
    tags = (under.tags if entry.tags is UNSET else entry.tags) or ()
    if not to and not for_ and defaults is not None:
        found.append((at, NO_PLACE))
    wheres = (to,) if isinstance(to, str) else tuple(to or ())
    layouts = _layouts(for_)
    if entry.repo is not UNSET:
        from orchestrator.manifest import repos  # few models are a hub's

        return repos.model(name, entry, tuple(tags), layouts, link, _places(at, entry, wheres, ground, found), found)
    for key in ("include", "exclude"):
        if getattr(entry, key) is not UNSET:
            found.append(((*at, key), f"`{key}` belongs to a `repo`"))
    if entry.files is UNSET:
        file = _only_file(at, entry, under, wheres, link, ground, found)
        return Model(name, tuple(tags), (file,), layouts, link, entry.unpack is True)
    files = _many_files(at, entry, entry.files, wheres, link, ground, found)
    return Model(name, tuple(tags), files, layouts, link, many=True)


def _layouts(for_: Any) -> tuple[tuple[str, str], ...]:
    """(framework, its value or "") of each framework in `for:`."""
    if isinstance(for_, dict):
        return tuple((framework, value or "") for framework, value in for_.items())
    return tuple((word, "") for word in dict.fromkeys((for_,) if isinstance(for_, str) else for_ or ()))


def _only_file(
    at: Key,
    entry: ModelEntry,
    under: Defaults,
    wheres: tuple[str, ...],
    link: Link,
    ground: Ground,
    found: Problems,
) -> File:
    if entry.url is UNSET:
        found.append((at, ONE_OF))
    url = "" if entry.url is UNSET else _url((*at, "url"), entry.url, found)
    mirrors = (under.mirrors if entry.mirrors is UNSET else entry.mirrors) or []
    name = refused = ""
    if url:
        try:
            name = urls.last_name(url)
        except UrlError as problem:
            refused = str(problem)
    places = []
    unpack = entry.unpack is True
    for path, is_folder in _places(at, entry, wheres, ground, found):
        if unpack:
            places.append(path)
            continue
        if is_folder and refused:
            found.append(((*at, "url"), refused))
        if name or not is_folder:
            places.append(f"{path}/{name}" if is_folder else path)
    made = File(
        name or (places[0].rpartition("/")[2] if places else at[1]),  # type: ignore[arg-type]
        url,
        _urls((*at, "mirrors"), mirrors, found) if mirrors else (),
        digest(entry.sha256),
        None if entry.size is UNSET else entry.size,
        _unique(places, link, unpack=unpack),
    )
    return pinned(at, entry, made, found)


def _many_files(
    at: Key,
    entry: ModelEntry,
    files: list[FileEntry],
    wheres: tuple[str, ...],
    link: Link,
    ground: Ground,
    found: Problems,
) -> tuple[File, ...]:
    for key in ("url", "mirrors", "sha256", "sha512", "sha1", "md5", "size"):
        # `mirrors: null` only undoes a default.
        if getattr(entry, key) not in (UNSET, None):
            message = "either `url` or `files`" if key == "url" else f"`{key}` belongs to each of `files`"
            found.append(((*at, key), message))
    if entry.unpack is True:
        found.append(((*at, "unpack"), "only a model of one file, with `url`, can be unpacked"))
    folders = [path for path, _ in _places(at, entry, wheres, ground, found)]
    made: list[File] = []
    seen: set[str] = set()
    for number, file in enumerate(files):
        here: Key = (*at, "files", number)
        try:
            path = paths.relative(file.path)
            for folder in folders:
                paths.fit(f"{folder}/{path}")
        except PathError as problem:
            found.append(((*here, "path"), str(problem)))
            path = file.path
        if path in seen:
            found.append(((*here, "path"), "an earlier file of the model has this path"))
        seen.add(path)
        value = File(
            path,
            _url((*here, "url"), file.url, found),
            _urls((*here, "mirrors"), file.mirrors or [], found),
            digest(file.sha256),
            None if file.size is UNSET else file.size,
            _unique([f"{folder}/{path}" for folder in folders], link),
        )
        made.append(pinned(here, file, value, found))
    return tuple(made)


def _places(
    at: Key, entry: ModelEntry, wheres: tuple[str, ...], ground: Ground, found: Problems
) -> list[tuple[str, bool]]:
    made = []
    for number, text in enumerate(wheres):
        if text == "store":
            continue
        try:
            made.append(paths.place(text, ground))
        except PathError as problem:
            at_to: Key = ("defaults", "to") if entry.to is UNSET else (*at, "to")
            found.append(((*at_to, number) if len(wheres) > 1 else at_to, str(problem)))
    return made


def _unique(paths_: list[str], link: Link, *, unpack: bool = False) -> tuple[Place, ...]:
    """Each path once, as a place."""
    if len(paths_) == 1:
        return (Place(paths_[0], link, unpack=unpack),)
    return tuple(Place(path, link, unpack=unpack) for path in dict.fromkeys(paths_))


def _url(at: Key, text: str, found: Problems) -> str:
    try:
        return urls.normal(text)
    except UrlError as problem:
        found.append((at, str(problem)))
        return ""


def _urls(at: Key, texts: list[str], found: Problems) -> tuple[str, ...]:
    return tuple(_url((*at, number), text, found) for number, text in enumerate(texts))


_UNKNOWN = Defaults()


def manifest(
    entry: Document,
    file: str,
    home: str,
    found: Problems,
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
    models = tuple(model(n, m, defaults, ground, found) for n, m in entry.models.items())
    unresolved: tuple[Unresolved, ...] = ()
    if resolve:
        models, unresolved = lockfile.merged(file, models, lock, found)
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


def site(entry: SiteDocument, file: str, home: str, found: Problems) -> Site:
    """`entry` as a value; what is wrong is added to `found`."""
    beside = posixpath.dirname(file)
    return Site(
        file,
        _folder(("store",), entry.store, beside, home, found),
        _prefixes(entry.mirrors, found),
        _hosts(entry.hosts, beside, found),
    )


def _clashes(models: tuple[Model, ...], found: Problems) -> None:
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
            from orchestrator.manifest.repos import pattern_of

            at, said = ("models", model.name, "repo"), f"{said}; `exclude: [{pattern_of(model.files[number].name)}]`"
        found.append((at, said))


def _folder(at: Key, text: str | UnsetType, beside: str, home: str, found: Problems) -> str | None:
    if text is UNSET:
        return None
    return _tried(lambda t: paths.folder(t, beside, home), text, at, found)


def _prefixes(entries: list[PrefixEntry] | None, found: Problems) -> tuple[Prefix, ...]:
    made = []
    for number, entry in enumerate(entries or ()):
        at: Key = ("mirrors", number)
        origin = _tried(urls.prefix, entry.origin, (*at, "origin"), found)
        bases = [_tried(urls.prefix, text, (*at, "urls", n), found) for n, text in enumerate(entry.urls)]
        made.append(Prefix(origin, tuple(bases)))
    return tuple(made)


def _hosts(entries: dict[str, HostEntry] | None, beside: str, found: Problems) -> dict[str, Host]:
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


def _tried(make: Callable[[str], str], text: str, at: Key, found: Problems) -> str:
    """What `make` makes of `text`; "" where it refuses, and then `found` says why."""
    try:
        return make(text)
    except (PathError, UrlError) as problem:
        found.append((at, str(problem)))
        return ""


# Hex digits of the digests that are accepted where the publisher gives no sha256.
WEAK = {"sha512": 128, "sha1": 40, "md5": 32}


def digest(text: str | UnsetType) -> str:
    """The 64 lower-case digits of `sha256:`; "" where none are written."""
    if text is UNSET or "/" in text:
        return ""
    digits = text[-64:]
    return digits if digits.islower() else digits.lower()  # a copy of each costs memory


def pinned(at: Key, entry: ModelEntry | FileEntry, file: File, found: Problems) -> File:
    """`file` with its other pins and the URL that tells its sha256, where `entry` has any."""
    weak = tuple(
        Pin(kind, text[-length:].lower())
        for kind, length in WEAK.items()
        if (text := getattr(entry, kind)) is not UNSET
    )
    sums = ""
    if not file.sha256 and entry.sha256 is not UNSET:
        try:
            sums = urls.normal(entry.sha256)
        except UrlError as problem:
            found.append(((*at, "sha256"), str(problem)))
    return replace(file, pins=weak, sums=sums) if weak or sums else file
