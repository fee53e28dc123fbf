"""A manifest and a site file as values: checked and normalised, with every path absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from orchestrator.model import Link, Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import ExtraFile, Host, Pin, Place, Repo, Signers, Unresolved


class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a model: `name` is its path in the model, or its own name where the model is one file.

    `url` and `mirrors` are percent-encoded ASCII. `sha256` is 64 lower-case hex digits, or "" where it is not known
    yet; then `sums` may be the URL of a SHA256SUMS that gives it. `size` is in bytes, or None. `pins` are weaker
    digests. `git` is the sha1 of a small file's git blob on a hub. `pieces` are the hashes of the file's pieces, as
    `verify.pieces` writes them. `extra_files` stand on a model's last file: they are written when all are in place.
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
    """One model, with its files in the manifest's order.

    `layouts` are (framework, value or "") of `for:`. A hub's repository (`repo`) gets its files and its `commit` from
    the lock; `folders` are the absolute folders of its `to:`. `many` is true for a model that is written with
    `files:`. `adopt` is how the store gets a right file that stands at a place already.
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
    adopt: Literal["copy", "move"] = "copy"


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """A prefix mirror: URLs that begin with `origin` are also served below each of `urls`; all end with a `/`."""

    origin: str
    urls: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """A whole manifest. `file`, `root`, `store` and `allow_absolute` are absolute paths.

    `unresolved` are the models that are not in the lock, or outdated there; they are not among `models`. `allow` are
    the formats that may be placed; if empty, all may.
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
    """A site file: the store, the prefix mirrors and the hosts of a machine or an office, and what it lets others do.

    `shared` is true where the group of the store's folders may write into them. `signed_by` says who must have signed
    each manifest; None: nobody need.
    """

    file: str
    store: str | None
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]
    trust: Trust = Trust()
    shared: bool = False
    signed_by: Signers | None = None


Key: TypeAlias = "tuple[str | int, ...]"
Problems: TypeAlias = "list[tuple[Key, str]]"
