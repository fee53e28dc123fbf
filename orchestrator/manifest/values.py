"""A manifest as values: checked, normalised, and with every place an absolute path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import Host, Place


class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a model: `name` is its path below the model, or its own name where the model is one file.

    `url` and `mirrors` are percent-encoded ASCII; `sha256` 64 lower-case hex digits; `size` bytes or None.
    """

    name: str
    url: str
    mirrors: tuple[str, ...]
    sha256: str
    size: int | None
    places: tuple[Place, ...]


class Model(msgspec.Struct, frozen=True, gc=False):
    """One model: its name, its tags, its files in the manifest's order."""

    name: str
    tags: tuple[str, ...]
    files: tuple[File, ...]


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """URLs that begin with `origin` may be had below each of `urls`; all of them end with a `/`."""

    origin: str
    urls: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """A whole manifest. `file`, `root`, `store` and `allow_absolute` are absolute paths."""

    file: str
    root: str
    store: str | None
    allow_absolute: tuple[str, ...]
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]
    models: tuple[Model, ...]


class Site(msgspec.Struct, frozen=True, gc=False):
    """What a site file says of this machine or office."""

    file: str
    store: str | None
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]
