"""PURE: the values that all of orch uses: sources, places, wanted files, artifacts, hosts, byte ranges."""

from __future__ import annotations

from enum import Enum
from typing import Literal, NamedTuple

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
    """Where a source was named; sources are trusted and tried in this order."""

    DIGEST = "mirror by digest"
    PEER = "peer"
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
        """The scheme, in lower case."""
        return self.url.partition(":")[0]


class StoreBelow(NamedTuple):
    """A store that is only read: its absolute path, and that of the manifest that names it ("": the site file does)."""

    path: str
    manifest: str = ""


class Pin(NamedTuple):
    """A weaker digest than sha256: `kind` is sha512, sha1, md5, or git (a git blob's sha1); `hex` in lower case."""

    kind: str
    hex: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.hex}"


class Host(msgspec.Struct, frozen=True, gc=False):
    """What a manifest or site file says of one host.

    `ca` is the absolute path of a PEM file; `connections` the most at once; `token_env` the name of the environment
    variable that holds the host's Bearer token; `plain` lets it go over http.
    """

    ca: str | None = None
    connections: int | None = None
    user_agent: str | None = None
    token_env: str | None = None
    plain: bool = False

    def completed(self, other: Host) -> Host:
        """Return this entry, with each key that it leaves open taken from `other`; `plain` goes with its token."""
        token = self if self.token_env else other
        return Host(
            self.ca or other.ca,
            self.connections or other.connections,
            self.user_agent or other.user_agent,
            token.token_env,
            token.plain,
        )


class Trust(msgspec.Struct, frozen=True, gc=False):
    """What the site file lets manifests ask for: `trust:`. A key that is None leaves the default rule as it is.

    `roots` are absolute folders below which places may be; `schemes` those of URLs; `hosts` names of hosts, and
    `token_env` names of variables, both as patterns with `*` and `?`.
    """

    roots: tuple[str, ...] | None = None
    schemes: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    token_env: tuple[str, ...] | None = None


class Swarm(msgspec.Struct, frozen=True, gc=False):
    """Where the hosts of a swarm find each other: the tracker's announce URL, http or https.

    `ports` are the first and the last that this host may listen on for the others.
    """

    tracker: str
    ports: tuple[int, int]


class Signers(msgspec.Struct, frozen=True, gc=False):
    """Who may sign manifests: the absolute path of an `allowed_signers` file, see ssh-keygen(1).

    `identities` are the principals of that file that count; if empty, all do.
    """

    allowed_signers: str
    identities: tuple[str, ...] = ()


class Repo(msgspec.Struct, frozen=True, gc=False):
    """A hub's repository: `hub` is hf or modelscope, `name` ORG/NAME, `revision` "" the hub's default branch."""

    hub: str
    name: str
    revision: str = ""


class Place(msgspec.Struct, frozen=True, gc=False):
    """An absolute path where a file must be installed, and how.

    `private`: the framework rewrites the file in place, so it must not share an inode with the blob. `target`: the
    path becomes a symlink with this text, which leads to another place of the same file. `unpack`: the path is a
    folder that holds the archive's content. `own`: a folder above it that must be this user's, as anyone could have
    made it before, and the environment variable that names another one.
    """

    path: str
    link: Link = Link.AUTO
    private: bool = False
    target: str = ""
    unpack: bool = False
    own: tuple[str, str] | None = None


class ExtraFile(msgspec.Struct, frozen=True, gc=False):
    """A small file with `text` that a layout needs beside a model, such as huggingface's `refs/main`.

    It is written once all files of the model are in place, where there is none yet. `each`: one such file is needed
    for every file of the unpacked archive, whose path replaces the `*` in `path`.
    """

    path: str
    text: str = ""
    each: bool = False


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One file of one model of one manifest.

    `manifest` is the manifest's absolute path. `sha256` is 64 lower-case hex digits, or "" where only `pins`, or
    nothing at all, are known. `size` is in bytes, or None. `sources` are in the order of trying. `places` are empty
    for `to: store`. `extra_files` stand on a model's last file. `pieces` are the hashes of the file's pieces, and
    `sha1_pieces` those of its torrent's, as `verify.pieces` writes them. `allow` are the formats that may be placed; if
    empty, all may. `adopt` is how the store gets a right file that stands at a place already: as a copy (or reflink),
    or the file itself. `share` is whether others may be given it; None: as its sources tell.
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
    adopt: Literal["copy", "move"] = "copy"
    share: bool | None = None
    sha1_pieces: str = ""

    @property
    def key(self) -> str:
        """The name of its content: two files with the same key have the same bytes. See `Artifact.key`."""
        return self.sha256 or _key(self.pins, self.sources)


class Unresolved(msgspec.Struct, frozen=True, gc=False):
    """A model that cannot be synced before `orch lock` resolves it; the other models of its manifest can."""

    manifest: str
    model: str
    message: str
    hint: str
    tags: tuple[str, ...] = ()


class Artifact(msgspec.Struct, frozen=True, gc=False):
    """One content that one or several files want: the unit of transfer.

    Without a sha256 only its `pins` are known. With neither, it is what its source gives: bytes of one version of one
    source.
    """

    sha256: str
    size: int | None
    sources: tuple[Source, ...]
    wanted: tuple[Wanted, ...]
    pins: tuple[Pin, ...] = ()
    pieces: str = ""
    sha1_pieces: str = ""

    @property
    def key(self) -> str:
        """The sha256, else the best pin as `md5-<hex>`, else `url-<sha256 of the URL>`; partials are named by it."""
        return self.sha256 or self.wanted[0].key

    @property
    def is_unpinned(self) -> bool:
        """Whether no digest is known, so that nothing can tell right bytes from wrong ones."""
        return not (self.sha256 or self.pins)

    @property
    def expected(self) -> str:
        """The expected digest for people: a sha256 as it is, others with their kind before them."""
        return self.sha256 or " ".join(map(str, self.pins)) or "unknown"

    def misjudged(self, size: int) -> str | None:
        """Say what is wrong with the manifest's `size:` if the right file has `size` bytes; None if nothing."""
        if self.size in (None, size):
            return None
        where = self.wanted[0].manifest
        return f"{self.name}: `size:` says {self.size}, the right file has {size} bytes: change it in {where}"

    def contradicted(self, found: str, after: str = "") -> str:
        """Say that bytes with the sha256 `found` are not the expected ones; `after` is appended."""
        if self.is_unpinned:
            return f"this is not the file{after}"
        if self.sha256 not in ("", found):
            return f"wrong bytes ({found[:12]} instead of {self.sha256[:12]}{after})"
        return f"wrong bytes (they are not {' '.join(map(str, self.pins))}{after})"

    @property
    def name(self) -> str:
        """Its name for people: the model, and the file where the model has several."""
        first = self.wanted[0]
        return first.model if len(first.file) == 0 else f"{first.model}/{first.file}"


def _key(pins: tuple[Pin, ...], sources: tuple[Source, ...]) -> str:
    if pins:
        best = min(pins, key=lambda pin: _BEST_FIRST.index(pin.kind))
        return f"{best.kind}-{best.hex}"
    import hashlib  # imported here: a run with nothing to do does not need it

    return f"url-{hashlib.sha256(sources[-1].url.encode()).hexdigest()}"


_BEST_FIRST = ("sha512", "git", "sha1", "md5")
