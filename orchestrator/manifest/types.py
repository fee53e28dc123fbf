"""What a manifest may say, as types: they judge it, and the JSON Schema is made from them."""

# No `from __future__ import annotations` here: msgspec reads these annotations at run time.
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from orchestrator.manifest.keys import (
    Digest,
    For,
    Formats,
    How,
    Md5,
    Patterns,
    Sha1,
    Sha512,
    Size,
    Store,
    Tags,
    Text,
    To,
    Url,
    Urls,
)


class FileEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One file of a model that has several."""

    path: Annotated[Text, Meta(title="path", description="Where the file stands below the model's `to:`.")]
    url: Url
    mirrors: Urls | UnsetType = UNSET
    sha256: Digest | UnsetType = UNSET
    sha512: Sha512 | UnsetType = UNSET
    sha1: Sha1 | UnsetType = UNSET
    md5: Md5 | UnsetType = UNSET
    size: Size | UnsetType = UNSET


class ModelEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One model: one file (`url`), several (`files`), or those of a hub repository (`repo`)."""

    url: Url | UnsetType = UNSET
    mirrors: Urls | UnsetType | None = UNSET
    sha256: Digest | UnsetType = UNSET
    sha512: Sha512 | UnsetType = UNSET
    sha1: Sha1 | UnsetType = UNSET
    md5: Md5 | UnsetType = UNSET
    size: Size | UnsetType = UNSET
    files: (
        Annotated[list[FileEntry], Meta(title="files", min_length=1, description="The model's files.")] | UnsetType
    ) = UNSET
    repo: (
        Annotated[
            Text,
            Meta(
                title="repository",
                description="A hub's repository: `hf:ORG/NAME[@REVISION]` or `modelscope:ORG/NAME[@REVISION]`. "
                "`orch lock` resolves it.",
            ),
        ]
        | UnsetType
    ) = UNSET
    include: (
        Annotated[Patterns, Meta(title="include", description="Only the repository's files that fit one of these.")]
        | UnsetType
    ) = UNSET
    exclude: (
        Annotated[Patterns, Meta(title="exclude", description="Not the repository's files that fit one of these.")]
        | UnsetType
    ) = UNSET
    unpack: (
        Annotated[bool, Meta(title="unpack", description="The places are folders that hold the archive's content.")]
        | UnsetType
    ) = UNSET
    for_: For = msgspec.field(default=UNSET, name="for")
    to: To = UNSET
    link: How = UNSET
    tags: Tags = UNSET


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Put under each model, key by key; `null` in a model undoes it."""

    for_: For = msgspec.field(default=UNSET, name="for")
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
                title="variable",
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
    allow: Formats | None = None
    mirrors: Prefixes = None
    hosts: Hosts = None
    defaults: Defaults | None = None


class SiteDocument(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """orch site file: what belongs to a machine or an office."""

    mirrors: Prefixes = None
    hosts: Hosts = None
    store: Store = UNSET
