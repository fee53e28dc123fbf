"""The keys and values of a manifest and a site file, as types: msgspec checks them, the JSON Schema is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from orchestrator.model import Link


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
    link: LinkMode = UNSET
    adopt: AdoptMode = UNSET
    tags: Tags = UNSET


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Put under each model, key by key; `null` in a model undoes it."""

    for_: For = msgspec.field(default=UNSET, name="for")
    to: To = UNSET
    link: LinkMode = UNSET
    adopt: AdoptMode = UNSET
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


class TrustEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What manifests may ask for here. A key that is absent leaves its default rule; one that is there is the rule."""

    roots: (
        Annotated[list[Text], Meta(title="roots", description="Folders below which places may be, and nowhere else.")]
        | UnsetType
    ) = UNSET
    schemes: (
        Annotated[
            list[Literal["https", "http", "ftp", "rsync", "file"]],
            Meta(
                title="schemes",
                description="Schemes that URLs may have; `file` includes files that others cannot read.",
            ),
        ]
        | UnsetType
    ) = UNSET
    hosts: (
        Annotated[list[Text], Meta(title="hosts", description="Hosts that URLs may name; `*` stands for any text.")]
        | UnsetType
    ) = UNSET
    token_env: (
        Annotated[
            list[Text], Meta(title="variables", description="Variables that `token_env` may name; `*` for any text.")
        ]
        | UnsetType
    ) = UNSET


class SignersEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who must have signed each manifest and its lock file."""

    allowed_signers: Annotated[
        Text,
        Meta(title="allowed signers", description="A file of keys as ssh-keygen(1) has it; relative to this file."),
    ]
    identities: (
        Annotated[list[Text], Meta(title="identities", min_length=1, description="Only these signers of that file.")]
        | UnsetType
    ) = UNSET


class SiteDocument(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """orch site file: what belongs to a machine or an office."""

    mirrors: Prefixes = None
    hosts: Hosts = None
    store: Store = UNSET
    trust: TrustEntry | None = None
    shared: Annotated[bool, Meta(title="shared", description="The store's group may write into its folders.")] = False
    signed_by: Annotated[
        Text | SignersEntry | UnsetType,
        Meta(title="signed by", description="Each manifest and lock needs a signature of one of these signers."),
    ] = UNSET


# `$` alone would accept a trailing newline, hence `$(?!\n)`.
Digest = Annotated[
    str,
    Meta(
        title="digest",
        pattern=r"^(([Ss][Hh][Aa]256:)?[0-9A-Fa-f]{64}|https?://[^\n]+)$(?!\n)",
        description="The file's sha256: 64 hex digits, or the URL of the publisher's SHA256SUMS. This is the pin.",
    ),
]
Sha512 = Annotated[
    str,
    Meta(
        title="sha512",
        pattern=r"^([Ss][Hh][Aa]512:)?[0-9A-Fa-f]{128}$(?!\n)",
        description="128 hex digits, where the publisher gives no sha256.",
    ),
]
Sha1 = Annotated[
    str,
    Meta(
        title="sha1",
        pattern=r"^([Ss][Hh][Aa]1:)?[0-9A-Fa-f]{40}$(?!\n)",
        description="40 hex digits, where the publisher gives nothing better. A weak pin.",
    ),
]
Md5 = Annotated[
    str,
    Meta(
        title="md5",
        pattern=r"^([Mm][Dd]5:)?[0-9A-Fa-f]{32}$(?!\n)",
        description="32 hex digits, where the publisher gives nothing better. A weak pin.",
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
LinkMode = Annotated[
    Link | UnsetType | None,
    Meta(title="link", description="How a place is made from the stored file."),
]
AdoptMode = Annotated[
    Literal["copy", "move"] | UnsetType | None,
    Meta(
        title="adopt",
        description="How the store gets a right file that stands at its place already: as a copy (or reflink), or the "
        "file itself, of which the place is a hard link then.",
    ),
]
# Each is a row of `frameworks/flat.py` or a module beside it; a test checks that.
Framework = Literal[
    "torch",
    "facenet",
    "keras",
    "tf_keras",
    "tfhub",
    "huggingface",
    "sentence-transformers",
    "whisper",
    "clip",
    "open_clip",
    "kagglehub",
    "modelscope",
    "comfyui",
    "ultralytics",
]
For = Annotated[
    Framework | list[Framework] | dict[Framework, Text | None] | UnsetType | None,
    Meta(
        title="frameworks",
        description="Whose own cache the file belongs in, by that framework's rules. A framework that needs a name "
        "of its own takes it as a value: `{tfhub: HANDLE}`.",
    ),
]
# Each is a format that `formats/` can detect; a test checks that.
Format = Literal["safetensors", "gguf", "onnx", "hdf5", "npy", "tflite", "pickle", "zip", "tar", "other"]
Formats = Annotated[
    list[Format],
    Meta(
        title="formats",
        min_length=1,
        description="The formats that may be put at a place, told by the files' bytes; all others are refused. Text "
        "and JSON always may. Without this key everything may.",
    ),
]
Patterns = Annotated[list[Text], Meta(min_length=1)]
Store = Annotated[
    Text | UnsetType,
    Meta(title="store", description="Where complete files are kept. `~/` is expanded."),
]
Tags = Annotated[
    list[Tag] | UnsetType | None,
    Meta(title="tags", description="Words to choose models by: `--only tag:TAG`."),
]


DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLES = {
    "Document": "manifest",
    "SiteDocument": "site file",
    "ModelEntry": "model",
    "FileEntry": "file",
    "PrefixEntry": "prefix mirror",
    "HostEntry": "host",
    "Defaults": "defaults",
    "TrustEntry": "trust",
    "SignersEntry": "signers",
    "Link": "link",
}
# Where a team may add keys of its own, `x-...`.
OPEN = ("Document", "SiteDocument", "ModelEntry")


def schema(of: type[Document | SiteDocument] = Document) -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of a manifest or a site file."""
    (start,), definitions = msgspec.json.schema_components((of,), ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        definition["title"] = TITLES[name]
        if name in OPEN:
            definition["patternProperties"] = {"^x-": True}
    return {"$schema": DIALECT, "title": definitions[of.__name__]["title"], **start, "$defs": definitions}
