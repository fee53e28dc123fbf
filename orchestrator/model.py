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


class Host(msgspec.Struct, frozen=True, gc=False):
    """What a manifest or site file says of one host."""

    ca: str | None = None
    connections: int | None = None
    user_agent: str | None = None
    token_env: str | None = None  # the variable that holds its token


class Place(msgspec.Struct, frozen=True, gc=False):
    """An absolute path where a file must end up, and how."""

    path: str
    link: Link = Link.AUTO


class Repo(msgspec.Struct, frozen=True, gc=False):
    """A hub repository: `hub` is "hf" or "modelscope", `name` "org/name", `revision` "" for the default branch."""

    hub: str
    name: str
    revision: str = ""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One file of one model of one manifest.

    `manifest` is the manifest's absolute path; `sha256` 64 lower-case hex digits; `size` bytes or None where
    the manifest does not say; `places` empty for `to: store`.
    """

    manifest: str
    model: str
    file: str
    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    places: tuple[Place, ...]
    tags: tuple[str, ...] = ()


class Artifact(msgspec.Struct, frozen=True, gc=False):
    """One digest wanted by one or several files: the unit of transfer."""

    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    wanted: tuple[Wanted, ...]

    @property
    def name(self) -> str:
        """What people call it: model, and the file where the two differ."""
        first = self.wanted[0]
        return first.model if len(first.file) == 0 else f"{first.model}/{first.file}"
