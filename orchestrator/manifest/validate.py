"""Judgements on one model that its types cannot express; what holds becomes a `Model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from orchestrator import urls
from orchestrator.manifest import paths, pins
from orchestrator.manifest.paths import Ground, PathError
from orchestrator.manifest.types import Defaults, FileEntry, ModelEntry
from orchestrator.manifest.values import File, Model
from orchestrator.model import Link, Place
from orchestrator.text import fault_of_name
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from orchestrator.manifest.problem_list import Found, Key

NO_PLACE = "say where: `to: PATH`, `for: FRAMEWORK`, or `to: store`"
ONE_OF = "say what: `url: URL`, `files:`, or `repo: hf:ORG/NAME`"


def model(name: str, entry: ModelEntry, defaults: Defaults | None, ground: Ground, found: Found) -> Model:
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
    found: Found,
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
        pins.digest(entry.sha256),
        None if entry.size is UNSET else entry.size,
        _unique(places, link, unpack=unpack),
    )
    return pins.pinned(at, entry, made, found)


def _many_files(
    at: Key,
    entry: ModelEntry,
    files: list[FileEntry],
    wheres: tuple[str, ...],
    link: Link,
    ground: Ground,
    found: Found,
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
            pins.digest(file.sha256),
            None if file.size is UNSET else file.size,
            _unique([f"{folder}/{path}" for folder in folders], link),
        )
        made.append(pins.pinned(here, file, value, found))
    return tuple(made)


def _places(
    at: Key, entry: ModelEntry, wheres: tuple[str, ...], ground: Ground, found: Found
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


def _url(at: Key, text: str, found: Found) -> str:
    try:
        return urls.normal(text)
    except UrlError as problem:
        found.append((at, str(problem)))
        return ""


def _urls(at: Key, texts: list[str], found: Found) -> tuple[str, ...]:
    return tuple(_url((*at, number), text, found) for number, text in enumerate(texts))


_UNKNOWN = Defaults()
