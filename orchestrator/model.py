"""The words of the house as values: ranges, sources, places, files wanted, artifacts."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec


class Range(NamedTuple):
    """Bytes `start` (included) to `end` (excluded) of a file."""

    start: int
    end: int


class Link(str, Enum):
    """How a place is made from its blob."""

    AUTO = "auto"
    HARD = "hard"
    REFLINK = "reflink"
    SYMLINK = "symlink"
    COPY = "copy"


class Role(str, Enum):
    """Where a source was named; the order is the order of trust and of trying."""

    SITE = "site mirror"
    MIRROR = "mirror"
    PREFIX = "prefix mirror"
    ORIGIN = "origin"


class Source(msgspec.Struct, frozen=True, gc=False):
    """A URL that an artifact may come from: percent-encoded ASCII, no fragment."""

    url: str
    role: Role

    @property
    def scheme(self) -> str:
        """Lower-case scheme."""
        return self.url.partition(":")[0]


class Pin(NamedTuple):
    """A weaker digest than sha256: `kind` is sha512, sha1, md5, or git (a git blob's sha1); `hex` in lower case."""

    kind: str
    hex: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.hex}"


class Host(msgspec.Struct, frozen=True, gc=False):
    """What a manifest or site file says of one host."""

    ca: str | None = None
    connections: int | None = None
    user_agent: str | None = None
    token_env: str | None = None  # the variable that holds its token


class Repo(msgspec.Struct, frozen=True, gc=False):
    """A repository of a hub: `hub` is hf or modelscope; `revision` "" is the hub's default branch."""

    hub: str
    name: str
    revision: str = ""


class Place(msgspec.Struct, frozen=True, gc=False):
    """An absolute path where a file must end up, and how.

    `private`: its client rewrites the file in place, so it never shares an inode with the blob. `target`: the path
    is a layout's own symlink with this text, to another place of the same file. `unpack`: the path is a folder
    that holds the archive's content.
    """

    path: str
    link: Link = Link.AUTO
    private: bool = False
    target: str = ""
    unpack: bool = False


class ExtraFile(msgspec.Struct, frozen=True, gc=False):
    """A small file that a layout wants once all files of a model are in place; written where there is none yet.

    `each`: one such mark is wanted for each file of the unpacked archive, with the file's path for the `*` of `path`.
    """

    path: str
    text: str = ""
    each: bool = False


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One file of one model of one manifest.

    `manifest` is the manifest's absolute path; `sha256` 64 lower-case hex digits, or "" where only `pins` (or nothing
    at all) are known; `size` bytes or None where nobody said; `places` empty for `to: store`; `marks` stand on a
    model's last file; `pieces` tell which bytes of a wrong file are bad; `allow` are the formats that
    may be placed (none: all).
    """

    manifest: str
    model: str
    file: str
    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    places: tuple[Place, ...]
    tags: tuple[str, ...] = ()
    pins: tuple[Pin, ...] = ()
    extra_files: tuple[ExtraFile, ...] = ()
    pieces: str = ""
    allow: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its bytes are known by: files of one key have one content."""
        return _key(self.sha256, self.pins, self.sources)


class Unresolved(msgspec.Struct, frozen=True, gc=False):
    """A model that cannot be synced before `orch lock`; the others can."""

    manifest: str
    model: str
    message: str
    hint: str
    tags: tuple[str, ...] = ()


class Artifact(msgspec.Struct, frozen=True, gc=False):
    """One digest wanted by one or several files: the unit of transfer. Without sha256 its `pins` are all that is known.

    With neither it is whatever its source gives: bytes of one version of one source.
    """

    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    wanted: tuple[Wanted, ...]
    pins: tuple[Pin, ...] = ()
    pieces: str = ""

    @property
    def key(self) -> str:
        """The sha256, else the best pin as `md5-<hex>`, else `url-<sha256 of the URL>`: a name for its partials."""
        return self.sha256 or self.wanted[0].key

    @property
    def is_unpinned(self) -> bool:
        """Whether nothing is known that could tell right bytes from wrong ones."""
        return not (self.sha256 or self.pins)

    @property
    def expected(self) -> str:
        """The digest for people: sha256 as it is, others with their kind before them."""
        return self.sha256 or " ".join(map(str, self.pins)) or "unknown"

    def misjudged(self, size: int) -> str | None:
        """What is wrong with the manifest's `size:` where the right bytes are `size` long; None where nothing is."""
        if self.size in (None, size):
            return None
        where = self.wanted[0].manifest
        return f"{self.name}: `size:` says {self.size}, the right file has {size} bytes: change it in {where}"

    def contradicted(self, found: str, after: str = "") -> str:
        """Bytes of the sha256 `found` that are not those that are wanted, in words; `after` says more."""
        if self.is_unpinned:
            return f"this is not the file{after}"
        if self.sha256 not in ("", found):
            return f"wrong bytes ({found[:12]} instead of {self.sha256[:12]}{after})"
        return f"wrong bytes (they are not {' '.join(map(str, self.pins))}{after})"

    @property
    def name(self) -> str:
        """What people call it: model, and the file where the two differ."""
        first = self.wanted[0]
        return first.model if len(first.file) == 0 else f"{first.model}/{first.file}"


def _key(sha256: str, pins: tuple[Pin, ...], sources: tuple[Source, ...]) -> str:
    if sha256:
        return sha256
    if pins:
        best = min(pins, key=lambda pin: _BEST_FIRST.index(pin.kind))
        return f"{best.kind}-{best.hex}"
    import hashlib  # which a run with all in place has no use for

    return f"url-{hashlib.sha256(sources[-1].url.encode()).hexdigest()}"


_BEST_FIRST = ("sha512", "git", "sha1", "md5")
