"""What a manifest may say, as types: they judge it, and the JSON Schema is made from them."""

# No `from __future__ import annotations` here: msgspec reads these annotations at run time.
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from orchestrator.model import Link

# `$` alone would let a last newline pass.
Digest = Annotated[
    str,
    Meta(
        title="digest",
        pattern=r"^([Ss][Hh][Aa]256:)?[0-9A-Fa-f]{64}$(?!\n)",
        description="The file's sha256: 64 hex digits. This is the pin; orch fetches nothing without it.",
    ),
]
Size = Annotated[
    int,
    Meta(title="size", ge=0, le=2**63 - 1, description="The file's size in bytes. A help, not a pin."),
]
Url = Annotated[
    str, Meta(title="URL", min_length=1, description="Where the bytes are: https, http, ftp, rsync or file.")
]
Urls = Annotated[
    list[Url], Meta(title="mirrors", description="URLs of the same bytes, best first, tried before `url`.")
]
Text = Annotated[str, Meta(min_length=1)]
Tag = Annotated[str, Meta(title="tag", pattern=r"^[A-Za-z0-9_.-]+$(?!\n)")]
To = Annotated[
    Text | list[Text] | UnsetType | None,
    Meta(
        title="places",
        description="Where the file must be: a path below `root`, a list of paths, or `store` (no place). "
        "A trailing `/` is a folder; with `files`, it is always a folder.",
    ),
]
How = Annotated[
    Link | UnsetType | None,
    Meta(title="link", description="How a place is made from the stored file."),
]
Tags = Annotated[
    list[Tag] | UnsetType | None,
    Meta(title="tags", description="Words to choose models by: `--only tag:TAG`."),
]


class FileEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One file of a model that has several."""

    path: Annotated[Text, Meta(title="path", description="Where the file stands below the model's `to:`.")]
    url: Url
    mirrors: Urls | UnsetType = UNSET
    sha256: Digest | UnsetType = UNSET
    size: Size | UnsetType = UNSET


class ModelEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One model: one file (`url`) or several (`files`)."""

    url: Url | UnsetType = UNSET
    mirrors: Urls | UnsetType | None = UNSET
    sha256: Digest | UnsetType = UNSET
    size: Size | UnsetType = UNSET
    files: (
        Annotated[list[FileEntry], Meta(title="files", min_length=1, description="The model's files.")] | UnsetType
    ) = UNSET
    to: To = UNSET
    link: How = UNSET
    tags: Tags = UNSET


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Put under each model, key by key; `null` in a model undoes it."""

    to: To = UNSET
    link: How = UNSET
    tags: Tags = UNSET
    mirrors: Urls | UnsetType | None = UNSET


class PrefixEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """URLs that begin with `origin` are tried below each of `urls` first."""

    origin: Annotated[str, Meta(title="origin", min_length=1, description="The beginning of the URLs meant.")]
    urls: Annotated[list[Url], Meta(title="urls", min_length=1, description="What to put in its place, best first.")]


class HostEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What cannot be guessed of a host."""

    ca: Annotated[Text, Meta(title="ca", description="A PEM file of CAs; relative to this file.")] | UnsetType = UNSET
    connections: (
        Annotated[int, Meta(title="connections", ge=1, le=1024, description="At most so many at once.")] | UnsetType
    ) = UNSET
    user_agent: (
        Annotated[Text, Meta(title="user agent", description="What this host wants to be told.")] | UnsetType
    ) = UNSET
    token_env: (
        Annotated[
            str,
            Meta(
                title="token variable",
                pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)",
                description="The environment variable that holds this host's Bearer token.",
            ),
        ]
        | UnsetType
    ) = UNSET


Prefixes = Annotated[
    list[PrefixEntry] | None, Meta(title="mirrors", description="Prefix rewriting, tried in this order.")
]
Hosts = Annotated[
    dict[str, HostEntry] | None,
    Meta(title="hosts", description="By host name, with the port where it is not the usual one."),
]
Store = Annotated[
    Text | UnsetType,
    Meta(title="store", description="Where complete files are kept. `~/` is expanded."),
]


class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """orch manifest, version 1: model weights, their digests and their places."""

    version: Annotated[int, Meta(title="version", ge=1, le=1, description="1")]
    models: Annotated[dict[str, ModelEntry], Meta(title="models", description="The models, by name.")]
    root: (
        Annotated[
            Text,
            Meta(
                title="root",
                description="Base of relative `to:` paths; itself relative to this file.",
            ),
        ]
        | UnsetType
    ) = UNSET
    store: Store = UNSET
    allow_absolute: Annotated[
        list[Text] | None,
        Meta(title="allow_absolute", description="Folders below which `to:` may be an absolute path."),
    ] = None
    mirrors: Prefixes = None
    hosts: Hosts = None
    defaults: Defaults | None = None


class SiteDocument(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """orch site file: what belongs to a machine or an office."""

    mirrors: Prefixes = None
    hosts: Hosts = None
    store: Store = UNSET
