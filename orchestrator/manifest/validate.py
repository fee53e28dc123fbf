"""Check what the types of a manifest cannot express, and turn its entries into values with absolute paths."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from orchestrator import urls
from orchestrator.manifest import lockfile, paths
from orchestrator.manifest.clash import find_clashes, message
from orchestrator.manifest.paths import PathError, PlaceRules
from orchestrator.manifest.types import (
    Defaults,
    Document,
    FileEntry,
    HostEntry,
    ModelEntry,
    PrefixEntry,
    SignersEntry,
    SiteDocument,
    TrustEntry,
)
from orchestrator.manifest.values import File, Manifest, Model, Prefix, Site
from orchestrator.model import Host, Link, Pin, Place, Signers, Trust
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


def model(name: str, entry: ModelEntry, defaults: Defaults | None, rules: PlaceRules, problems: Problems) -> Model:
    """Make a model of its entry.

    Args:
        name: the model's name.
        entry: its keys, of which those that are unset come from `defaults`.
        defaults: the manifest's `defaults:`; None where they could not be read: then a key that they may hold is
            not reported as missing.
        rules: how to read the paths of `to:`.
        problems: what is wrong is added here; a model with a problem must not be used.
    """
    at: Key = ("models", name)
    if fault := fault_of_name(name):
        problems.append((at, f"the model's name {fault}"))
    known = defaults if defaults is not None else _UNKNOWN
    to = known.to if entry.to is UNSET else entry.to
    for_ = known.for_ if entry.for_ is UNSET else entry.for_
    link = (known.link if entry.link is UNSET else entry.link) or Link.AUTO
    adopt = (known.adopt if entry.adopt is UNSET else entry.adopt) or "copy"
    tags = (known.tags if entry.tags is UNSET else entry.tags) or ()
    if not to and not for_ and defaults is not None:
        problems.append((at, NO_PLACE))
    to_paths = (to,) if isinstance(to, str) else tuple(to or ())
    layouts = _layouts(for_)
    if entry.repo is not UNSET:
        from orchestrator.manifest import repos  # imported here: few models are repositories

        made = repos.model(
            name,
            entry,
            tags=tuple(tags),
            layouts=layouts,
            link=link,
            places=_places(at, entry, to_paths, rules, problems),
            problems=problems,
        )
        return made if adopt == "copy" else replace(made, adopt=adopt)
    for key in ("include", "exclude"):
        if getattr(entry, key) is not UNSET:
            problems.append(((*at, key), f"`{key}` belongs to a `repo`"))
    if entry.files is UNSET:
        file = _only_file(at, entry, known, to_paths, link=link, rules=rules, problems=problems)
        return Model(name, tuple(tags), (file,), layouts, link, entry.unpack is True, adopt=adopt)
    files = _many_files(at, entry, entry.files, to_paths, link=link, rules=rules, problems=problems)
    return Model(name, tuple(tags), files, layouts, link, many=True, adopt=adopt)


def _layouts(for_: Any) -> tuple[tuple[str, str], ...]:
    """(framework, value or "") of each framework in `for:`."""
    if isinstance(for_, dict):
        return tuple((framework, value or "") for framework, value in for_.items())
    return tuple((word, "") for word in dict.fromkeys((for_,) if isinstance(for_, str) else for_ or ()))


def _only_file(
    at: Key,
    entry: ModelEntry,
    defaults: Defaults,
    to_paths: tuple[str, ...],
    *,
    link: Link,
    rules: PlaceRules,
    problems: Problems,
) -> File:
    if entry.url is UNSET:
        problems.append((at, ONE_OF))
    url = "" if entry.url is UNSET else _url((*at, "url"), entry.url, problems)
    mirrors = (defaults.mirrors if entry.mirrors is UNSET else entry.mirrors) or []
    name = refused = ""
    if url:
        try:
            name = urls.last_name(url)
        except UrlError as problem:
            refused = str(problem)
    places = []
    unpack = entry.unpack is True
    for path, is_folder in _places(at, entry, to_paths, rules, problems):
        if unpack:
            places.append(path)
            continue
        if is_folder and refused:
            problems.append(((*at, "url"), refused))
        if name or not is_folder:
            places.append(f"{path}/{name}" if is_folder else path)
    file = File(
        name or (places[0].rpartition("/")[2] if places else at[1]),  # type: ignore[arg-type]
        url,
        _urls((*at, "mirrors"), mirrors, problems) if mirrors else (),
        digest(entry.sha256),
        None if entry.size is UNSET else entry.size,
        _unique(places, link, unpack=unpack),
    )
    return with_pins(at, entry, file, problems)


def _many_files(
    at: Key,
    entry: ModelEntry,
    files: list[FileEntry],
    to_paths: tuple[str, ...],
    *,
    link: Link,
    rules: PlaceRules,
    problems: Problems,
) -> tuple[File, ...]:
    for key in ("url", "mirrors", "sha256", "sha512", "sha1", "md5", "size"):
        # `mirrors: null` is allowed: it undoes a default.
        if getattr(entry, key) not in (UNSET, None):
            message = "either `url` or `files`" if key == "url" else f"`{key}` belongs to each of `files`"
            problems.append(((*at, key), message))
    if entry.unpack is True:
        problems.append(((*at, "unpack"), "only a model of one file, with `url`, can be unpacked"))
    folders = [path for path, _ in _places(at, entry, to_paths, rules, problems)]
    values: list[File] = []
    seen: set[str] = set()
    for number, file in enumerate(files):
        here: Key = (*at, "files", number)
        try:
            path = paths.relative(file.path)
            for folder in folders:
                paths.check_length(f"{folder}/{path}")
        except PathError as problem:
            problems.append(((*here, "path"), str(problem)))
            path = file.path
        if path in seen:
            problems.append(((*here, "path"), "an earlier file of the model has this path"))
        seen.add(path)
        value = File(
            path,
            _url((*here, "url"), file.url, problems),
            _urls((*here, "mirrors"), file.mirrors or [], problems),
            digest(file.sha256),
            None if file.size is UNSET else file.size,
            _unique([f"{folder}/{path}" for folder in folders], link),
        )
        values.append(with_pins(here, file, value, problems))
    return tuple(values)


def _places(
    at: Key, entry: ModelEntry, to_paths: tuple[str, ...], rules: PlaceRules, problems: Problems
) -> list[tuple[str, bool]]:
    places = []
    for number, text in enumerate(to_paths):
        if text == "store":
            continue
        try:
            places.append(paths.place(text, rules))
        except PathError as problem:
            at_to: Key = ("defaults", "to") if entry.to is UNSET else (*at, "to")
            problems.append(((*at_to, number) if len(to_paths) > 1 else at_to, str(problem)))
    return places


def _unique(paths_: list[str], link: Link, *, unpack: bool = False) -> tuple[Place, ...]:
    """Make a place of each path, without duplicates."""
    if len(paths_) == 1:
        return (Place(paths_[0], link, unpack=unpack),)
    return tuple(Place(path, link, unpack=unpack) for path in dict.fromkeys(paths_))


def _url(at: Key, text: str, problems: Problems) -> str:
    try:
        return urls.normal(text)
    except UrlError as problem:
        problems.append((at, str(problem)))
        return ""


def _urls(at: Key, texts: list[str], problems: Problems) -> tuple[str, ...]:
    return tuple(_url((*at, number), text, problems) for number, text in enumerate(texts))


_UNKNOWN = Defaults()


def manifest(
    entry: Document,
    file: str,
    home: str,
    problems: Problems,
    *,
    unknown: Collection[str] = (),
    lock: Lock | None = None,
    resolve: bool = True,
) -> Manifest:
    """Make a manifest of its document.

    Args:
        entry: the document, which its types accept.
        file: the manifest's absolute path.
        home: the folder that `~/` means.
        problems: what is wrong is added here; a manifest with a problem must not be used.
        unknown: top keys that could not be read: what they may hold is not reported as missing.
        lock: gives what the manifest does not pin, if `resolve` is true.
        resolve: if false, what the manifest does not pin stays open.
    """
    beside = posixpath.dirname(file)
    root = _folder(("root",), entry.root, beside, home, problems) or paths.absolute(".", beside)
    allowed = [
        _checked(paths.allowed, text, ("allow_absolute", number), problems)
        for number, text in enumerate(entry.allow_absolute or ())
    ]
    rules = PlaceRules(root.rstrip("/") + "/", None if "allow_absolute" in unknown else tuple(allowed))
    defaults = None if "defaults" in unknown else entry.defaults or Defaults()
    models = tuple(model(n, m, defaults, rules, problems) for n, m in entry.models.items())
    unresolved: tuple[Unresolved, ...] = ()
    if resolve:
        models, unresolved = lockfile.merged(file, models, lock, problems)
    _clashes(models, problems)
    return Manifest(
        file,
        root,
        _folder(("store",), entry.store, beside, home, problems),
        tuple(allowed),
        _prefixes(entry.mirrors, problems),
        _hosts(entry.hosts, beside, problems),
        models,
        unresolved,
        tuple(entry.allow or ()),
    )


def site(entry: SiteDocument, file: str, home: str, problems: Problems) -> Site:
    """Make a site file's value of its document; what is wrong is added to `problems`."""
    beside = posixpath.dirname(file)
    return Site(
        file,
        _folder(("store",), entry.store, beside, home, problems),
        _prefixes(entry.mirrors, problems),
        _hosts(entry.hosts, beside, problems),
        _trust(entry.trust or TrustEntry(), beside, home, problems),
        entry.shared,
        _signers(entry.signed_by, beside, home, problems),
    )


def _trust(entry: TrustEntry, beside: str, home: str, problems: Problems) -> Trust:
    roots = None
    if entry.roots is not UNSET:
        roots = tuple(
            _checked(lambda t: paths.folder(t, beside, home), text, ("trust", "roots", number), problems)
            for number, text in enumerate(entry.roots)
        )
    schemes, hosts, variables = (
        None if words is UNSET else tuple(words) for words in (entry.schemes, entry.hosts, entry.token_env)
    )
    return Trust(roots, schemes, None if hosts is None else tuple(host.lower() for host in hosts), variables)


def _signers(entry: str | SignersEntry | UnsetType, beside: str, home: str, problems: Problems) -> Signers | None:
    if entry is UNSET:
        return None
    at: Key = ("signed_by",) if isinstance(entry, str) else ("signed_by", "allowed_signers")
    text = entry if isinstance(entry, str) else entry.allowed_signers
    path = _checked(lambda t: paths.folder(t, beside, home), text, at, problems)
    named = () if isinstance(entry, str) or entry.identities is UNSET else tuple(entry.identities)
    return Signers(path, named)


def _clashes(models: tuple[Model, ...], problems: Problems) -> None:
    claims = (
        (place.path, file.sha256, (model, number))
        for model in models
        for number, file in enumerate(model.files)
        for place in file.places
        if file.sha256
    )
    for first, second, path, why in find_clashes(claims):
        model, number = second
        at: Key = ("models", model.name, "to")
        if len(model.files) > 1:
            at = ("models", model.name, "files", number, "path")
        text = message(path, why, first[0].name)
        if model.repo is not None:
            from orchestrator.manifest.repos import exact_pattern

            at, text = ("models", model.name, "repo"), f"{text}; `exclude: [{exact_pattern(model.files[number].name)}]`"
        problems.append((at, text))


def _folder(at: Key, text: str | UnsetType, beside: str, home: str, problems: Problems) -> str | None:
    if text is UNSET:
        return None
    return _checked(lambda t: paths.folder(t, beside, home), text, at, problems)


def _prefixes(entries: list[PrefixEntry] | None, problems: Problems) -> tuple[Prefix, ...]:
    prefixes = []
    for number, entry in enumerate(entries or ()):
        at: Key = ("mirrors", number)
        origin = _checked(urls.prefix, entry.origin, (*at, "origin"), problems)
        bases = [_checked(urls.prefix, text, (*at, "urls", n), problems) for n, text in enumerate(entry.urls)]
        prefixes.append(Prefix(origin, tuple(bases)))
    return tuple(prefixes)


def _hosts(entries: dict[str, HostEntry] | None, beside: str, problems: Problems) -> dict[str, Host]:
    hosts: dict[str, Host] = {}
    for text, entry in (entries or {}).items():
        at: Key = ("hosts", text)
        name = _checked(urls.host, text, at, problems)
        if name and name in hosts:
            problems.append((at, "an earlier entry is for the same host"))
        ca = agent = None
        if entry.ca is not UNSET:
            ca = _checked(lambda t: paths.named_file(t, beside), entry.ca, (*at, "ca"), problems)
        if entry.user_agent is not UNSET:
            agent = entry.user_agent
            if not agent.isascii() or has_unseen(agent) or agent != agent.strip():
                problems.append(((*at, "user_agent"), "expected printable ASCII without outer blanks"))
        connections = None if entry.connections is UNSET else entry.connections
        hosts[name] = Host(ca, connections, agent, None if entry.token_env is UNSET else entry.token_env)
    return hosts


def _checked(make: Callable[[str], str], text: str, at: Key, problems: Problems) -> str:
    """Return `make(text)`; where it refuses the text, return "" and add the reason to `problems`."""
    try:
        return make(text)
    except (PathError, UrlError) as problem:
        problems.append((at, str(problem)))
        return ""


# The digests that are accepted where the publisher gives no sha256, with their number of hex digits.
WEAK = {"sha512": 128, "sha1": 40, "md5": 32}


def digest(text: str | UnsetType) -> str:
    """Return the 64 lower-case hex digits of a `sha256:` value; "" where it is unset or a URL."""
    if text is UNSET or "/" in text:
        return ""
    digits = text[-64:]
    return digits if digits.islower() else digits.lower()  # a copy of each digest would cost memory


def with_pins(at: Key, entry: ModelEntry | FileEntry, file: File, problems: Problems) -> File:
    """Return `file` with its weaker pins and the URL of its SHA256SUMS, where `entry` has any."""
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
            problems.append(((*at, "sha256"), str(problem)))
    return replace(file, pins=weak, sums=sums) if weak or sums else file
