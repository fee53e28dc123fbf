"""A manifest as values: checked, normalised, and with every place an absolute path."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from orchestrator.model import Link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import ExtraFile, Host, Pin, Place, Repo, Unresolved


class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a model: `name` is its path below the model, or its own name where the model is one file.

    `url` and `mirrors` are percent-encoded ASCII; `sha256` 64 lower-case hex digits, or "" where nobody gave it yet:
    then `sums`, the URL of a SHA256SUMS, may tell it. `size` bytes or None. `git` is the sha1 under which a hub's git
    knows a small file; `pieces` tell which bytes of a wrong file are bad.
    """

    name: str
    url: str
    mirrors: tuple[str, ...]
    sha256: str
    size: int | None
    places: tuple[Place, ...]
    pins: tuple[Pin, ...] = ()
    sums: str = ""
    git: str = ""
    pieces: str = ""
    extra_files: tuple[ExtraFile, ...] = ()


class Model(msgspec.Struct, frozen=True, gc=False):
    """One model: its name, its tags, its files in the manifest's order.

    `layouts` are (framework, value or "") of `for:`. A hub's repository has its files, and `commit`, from the lock;
    `folders` are where `to:` wants them. `many`: it was written with `files:`.
    """

    name: str
    tags: tuple[str, ...]
    files: tuple[File, ...]
    layouts: tuple[tuple[str, str], ...] = ()
    link: Link = Link.AUTO
    unpack: bool = False
    repo: Repo | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    commit: str = ""
    many: bool = False


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """URLs that begin with `origin` may be had below each of `urls`; all of them end with a `/`."""

    origin: str
    urls: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """A whole manifest. `file`, `root`, `store` and `allow_absolute` are absolute paths.

    `unresolved` are models that the lock says nothing of, or something outdated; they are not among `models`.
    `allow` are the formats that may be placed; none: all.
    """

    file: str
    root: str
    store: str | None
    allow_absolute: tuple[str, ...]
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]
    models: tuple[Model, ...]
    unresolved: tuple[Unresolved, ...] = ()
    allow: tuple[str, ...] = ()


class Site(msgspec.Struct, frozen=True, gc=False):
    """What a site file says of this machine or office."""

    file: str
    store: str | None
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]


Key: TypeAlias = "tuple[str | int, ...]"
Problems: TypeAlias = "list[tuple[Key, str]]"
