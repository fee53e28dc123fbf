"""A manifest and a site file as values: checked and normalised, with every path absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from orchestrator.model import Link, Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.bandwidth import RateRule
    from orchestrator.model import ExtraFile, Host, Pin, Place, Repo, Signers, Swarm, Unresolved


class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a model: `name` is its path in the model, or its own name where the model is one file.

    `url` and `mirrors` are percent-encoded ASCII. `sha256` is 64 lower-case hex digits, or "" where it is not known
    yet; then `sums` may be the URL of a SHA256SUMS that gives it. `size` is in bytes, or None. `pins` are weaker
    digests. `git` is the sha1 of a small file's git blob on a hub. `pieces` are the hashes of the file's pieces, and
    `sha1_pieces` those of its torrent's, as `verify.pieces` writes them. `extra_files` stand on a model's last file:
    they are written when all are in place.
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
    sha1_pieces: str = ""


class PublisherSignature(msgspec.Struct, frozen=True, gc=False):
    """Where a publisher's signature of a model is, and who must have made it: one of a key, CAs, or an identity.

    `url` is a URL, or a path in the model's repository; `key` and `certificates` are absolute paths of PEM files, ""
    where they are not it; `identity` and `issuer` are sigstore's.
    """

    url: str
    key: str = ""
    certificates: str = ""
    identity: str = ""
    issuer: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What a lock was made with: another one is no longer the same; the folder of a file does not count."""
        files = (self.key.rpartition("/")[2], self.certificates.rpartition("/")[2])
        return tuple(word for word in (self.url, *files, self.identity, self.issuer) if word)


class Model(msgspec.Struct, frozen=True, gc=False):
    """One model, with its files in the manifest's order.

    `layouts` are (framework, value or "") of `for:`. A hub's repository (`repo`) gets its files and its `commit` from
    the lock; `folders` are the absolute folders of its `to:`. `many` is true for a model that is written with
    `files:`. `adopt` is how the store gets a right file that stands at a place already. `signature` is its
    publisher's, which a lock checks. `share` is whether others may be given its files; None: as its sources tell.
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
    signature: PublisherSignature | None = None
    share: bool | None = None


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """A prefix mirror: URLs that begin with `origin` are also served below each of `urls`; all end with a `/`."""

    origin: str
    urls: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """A whole manifest. `file`, `root`, `store` and `allow_absolute` are absolute paths.

    `below` are the stores that are only read, in order: absolute paths, or URLs that end with a `/`. `unresolved` are
    the models that are not in the lock, or outdated there; they are not among `models`. `allow` are the formats that
    may be placed; if empty, all may. `limits` are the rules of bandwidth. `swarm` is where hosts find each other.
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
    below: tuple[str, ...] = ()
    limits: tuple[RateRule, ...] = ()
    swarm: Swarm | None = None


class Hooks(msgspec.Struct, frozen=True, gc=False):
    """The programs, each with its arguments, that runs start; `file` is the site file, `limit_s` for each of them."""

    file: str
    start: tuple[tuple[str, ...], ...] = ()
    changed: tuple[tuple[str, ...], ...] = ()
    failed: tuple[tuple[str, ...], ...] = ()
    always: tuple[tuple[str, ...], ...] = ()
    limit_s: int = 60


class Site(msgspec.Struct, frozen=True, gc=False):
    """A site file: the store, the prefix mirrors and the hosts of a machine or an office, and what it lets others do.

    `shared` is true where the group of the store's folders may write into them. `signed_by` says who must have signed
    each manifest; None: nobody need. `below` is as in `Manifest`. `limits` are the rules of bandwidth. `peers` are
    URLs, ending in `/`, below which other hosts serve files by sha256, and `srv:` names of DNS records that have them.
    `swarm` is where hosts find each other.
    """

    file: str
    store: str | None
    mirrors: tuple[Prefix, ...]
    hosts: Mapping[str, Host]
    trust: Trust = Trust()
    shared: bool = False
    signed_by: Signers | None = None
    hooks: Hooks | None = None
    below: tuple[str, ...] = ()
    limits: tuple[RateRule, ...] = ()
    peers: tuple[str, ...] = ()
    swarm: Swarm | None = None


Key: TypeAlias = "tuple[str | int, ...]"
Problems: TypeAlias = "list[tuple[Key, str]]"
