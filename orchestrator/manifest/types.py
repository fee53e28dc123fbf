"""The keys and values of a manifest and a site file, as types: msgspec checks them, the JSON Schema is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from orchestrator.bandwidth import HOUR, RATE
from orchestrator.model import Link


class FileEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One file of a model that has several."""

    path: Annotated[Text, Meta(title="path", description="The path of the file below the model's `to:`.")]
    url: Url
    mirrors: Urls | UnsetType = UNSET
    sha256: Digest | UnsetType = UNSET
    sha512: Sha512 | UnsetType = UNSET
    sha1: Sha1 | UnsetType = UNSET
    md5: Md5 | UnsetType = UNSET
    size: Size | UnsetType = UNSET


class SignatureEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A publisher's signature of a model, in the format of OpenSSF Model Signing, and who must have made it."""

    url: Annotated[Text, Meta(title="URL", description="A URL, or a path in the model's `repo`.")]
    key: (
        Annotated[Text, Meta(title="key", description="A PEM file of the publisher's key; relative to this file.")]
        | UnsetType
    ) = UNSET
    certificates: (
        Annotated[
            Text,
            Meta(title="certificates", description="A PEM file of the CAs of the publisher's certificate."),
        ]
        | UnsetType
    ) = UNSET
    identity: (
        Annotated[Text, Meta(title="identity", description="Who signed it with sigstore, as an e-mail address.")]
        | UnsetType
    ) = UNSET
    issuer: (
        Annotated[Text, Meta(title="issuer", description="The OpenID issuer that confirms the identity.")] | UnsetType
    ) = UNSET


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
        Annotated[Patterns, Meta(title="include", description="Only the repository's files that match one of these.")]
        | UnsetType
    ) = UNSET
    exclude: (
        Annotated[Patterns, Meta(title="exclude", description="Not the repository's files that match one of these.")]
        | UnsetType
    ) = UNSET
    unpack: (
        Annotated[bool, Meta(title="unpack", description="Unpack the archive: the destinations are folders.")]
        | UnsetType
    ) = UNSET
    signature: SignatureEntry | UnsetType = UNSET
    for_: For = msgspec.field(default=UNSET, name="for")
    to: To = UNSET
    link: LinkMode = UNSET
    adopt: AdoptMode = UNSET
    share: Share = UNSET
    tags: Tags = UNSET


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Put under each model, key by key; `null` in a model undoes it."""

    for_: For = msgspec.field(default=UNSET, name="for")
    to: To = UNSET
    link: LinkMode = UNSET
    adopt: AdoptMode = UNSET
    share: Share = UNSET
    tags: Tags = UNSET
    mirrors: Urls | UnsetType | None = UNSET


class PrefixEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """URLs that begin with `origin` are tried below each of `urls` first."""

    origin: Annotated[str, Meta(title="origin", min_length=1, description="The beginning of the URLs with mirrors.")]
    urls: Annotated[list[Url], Meta(title="urls", min_length=1, description="What to put in its place, best first.")]


class HostEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What cannot be guessed of a host."""

    ca: Annotated[Text, Meta(title="ca", description="A PEM file of CAs; relative to this file.")] | UnsetType = UNSET
    connections: (
        Annotated[int, Meta(title="connections", ge=1, le=1024, description="Maximum number at once.")] | UnsetType
    ) = UNSET
    user_agent: (
        Annotated[Text, Meta(title="user agent", description="The User-Agent header for this host.")] | UnsetType
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
    plain: (
        Annotated[bool, Meta(title="plain", description="Send the token also by http, where anybody can read it.")]
        | UnsetType
    ) = UNSET


class LimitEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A limit of bandwidth, with the hours and weekdays at which it applies; without any it always does."""

    rate: Rate
    from_: Hour | UnsetType = msgspec.field(default=UNSET, name="from")
    to: Hour | UnsetType = UNSET
    days: (
        Annotated[
            Text, Meta(title="days", description="Weekdays such as `mon-fri` or `sat,sun`: those on which it begins.")
        ]
        | UnsetType
    ) = UNSET


Prefixes = Annotated[
    list[PrefixEntry] | None, Meta(title="mirrors", description="Prefix rewriting, tried in this order.")
]
Hosts = Annotated[
    dict[str, HostEntry] | None,
    Meta(title="hosts", description="By host name, with the port if it is not the default."),
]


class BelowEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A store that is only read: what the first one lacks is taken from it before any source is asked."""

    below: Annotated[
        Text,
        Meta(title="below", description="The folder of another store, or the http(s) URL of a mirror by sha256."),
    ]


class SwarmEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where `orch sync --swarm` and `orch seed` find other hosts that fetch the same files."""

    tracker: Annotated[
        Text,
        Meta(
            title="tracker",
            description="The announce URL of a BitTorrent tracker of the fleet's own, as `http://gpu01:6969/announce`.",
        ),
    ]
    ports: Annotated[
        str,
        Meta(
            title="ports",
            pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$(?!\n)",
            description="The TCP ports that a host may listen on for the others: one for each file at once.",
        ),
    ] = "6881-6999"


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
    limits: Limits = None
    swarm: SwarmEntry | None = None
    defaults: Defaults | None = None


class TrustEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What manifests may ask for here. A key that is absent leaves its default rule; one that is there is the rule."""

    roots: (
        Annotated[list[Text], Meta(title="roots", description="The only folders below which places may be.")]
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


class HooksEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Programs that `sync` and `verify --repair` start, one after the other; they get the summary on stdin."""

    start: Programs = UNSET
    changed: Programs = UNSET
    failed: Programs = UNSET
    always: Programs = UNSET
    limit: Annotated[int, Meta(title="limit", ge=1, le=3600, description="Seconds that each program may take.")] = 60


class SiteDocument(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """orch site file: what belongs to a machine or an office."""

    mirrors: Prefixes = None
    hosts: Hosts = None
    limits: Limits = None
    swarm: SwarmEntry | None = None
    store: Store = UNSET
    trust: TrustEntry | None = None
    shared: Annotated[bool, Meta(title="shared", description="The store's group may write into its folders.")] = False
    signed_by: Annotated[
        Text | SignersEntry | UnsetType,
        Meta(title="signed by", description="Each manifest and lock needs a signature of one of these signers."),
    ] = UNSET
    hooks: HooksEntry | None = None
    peers: (
        Annotated[
            list[Peer],
            Meta(
                title="peers",
                max_length=64,
                description="Hosts that run `orch serve`, as `http://gpu01:8080`, or the name of a DNS SRV record that "
                "names them, as `srv:_orch._tcp.example.org`: asked for a file by its sha256 before all mirrors.",
            ),
        ]
        | None
    ) = None


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
    Meta(title="size", ge=0, le=2**63 - 1, description="The file's size in bytes; it is not a pin."),
]
Rate = Annotated[
    str,
    Meta(title="rate", pattern=rf"^({RATE})$(?!\n)", description="Bytes a second, such as `50M`; `0`: no limit."),
]
Hour = Annotated[
    str,
    Meta(title="hour", pattern=rf"^({HOUR})$(?!\n)", description="An hour of this machine's time, such as `08:00`."),
]
Limits = Annotated[
    Rate | list[LimitEntry] | None,
    Meta(
        title="limits",
        description="Maximum rate of all downloads together: a rate, or rules; the first that applies is used.",
    ),
]
Url = Annotated[
    str, Meta(title="URL", min_length=1, description="The URL of the file: https, http, ftp, rsync or file.")
]
Peer = Annotated[
    str, Meta(title="peer", min_length=1, description="An http or https URL, or `srv:` and the name of an SRV record.")
]
Urls = Annotated[list[Url], Meta(title="mirrors", description="URLs of the same file, best first, tried before `url`.")]
Text = Annotated[str, Meta(min_length=1)]
Tag = Annotated[str, Meta(title="tag", pattern=r"^[A-Za-z0-9_.-]+$(?!\n)")]
To = Annotated[
    Text | list[Text] | UnsetType | None,
    Meta(
        title="places",
        description="Where the file is installed: a path below `root`, a list of paths, or `store` (no place). "
        "A trailing `/` is a folder; with `files`, it is always a folder.",
    ),
]
LinkMode = Annotated[
    Link | UnsetType | None,
    Meta(title="link", description="How the file is installed from the store."),
]
AdoptMode = Annotated[
    Literal["copy", "move"] | UnsetType | None,
    Meta(
        title="adopt",
        description="How the store takes a correct file that is at its destination already: `copy` it (or reflink), or "
        "`move` it and leave a hard link.",
    ),
]
Share = Annotated[
    bool | UnsetType | None,
    Meta(
        title="share",
        description="Whether `orch serve` and a swarm give the files to everybody who asks: `true` also if a token "
        "was needed for them, `false` never. By default: only files that every source gives without a token.",
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
FrameworkName = Literal[Framework, "hf", "pytorch"]  # the last two as people call them: see ALIASES
ALIASES = {"hf": "huggingface", "pytorch": "torch"}
For = Annotated[
    FrameworkName | list[FrameworkName] | dict[FrameworkName, Text | None] | UnsetType | None,
    Meta(
        title="frameworks",
        description="The framework in whose cache the file is installed. If the framework needs a name, give it as a "
        "value: `{tfhub: HANDLE}`.",
    ),
]
# Each is a format that `formats/` can detect; a test checks that.
Format = Literal["safetensors", "gguf", "onnx", "hdf5", "npy", "tflite", "pickle", "zip", "tar", "other"]
Formats = Annotated[
    list[Format],
    Meta(
        title="formats",
        min_length=1,
        description="The formats that may be installed, found from the files' bytes; all others are refused. Text "
        "and JSON are always allowed. Without this key all formats are allowed.",
    ),
]
Patterns = Annotated[list[Text], Meta(min_length=1)]
Programs = Annotated[
    list[Text | Patterns] | UnsetType,
    Meta(
        title="programs",
        description="A program with its arguments, as a list, or a list of such lists. No shell is used.",
    ),
]
Store = Annotated[
    Text | Annotated[list[Text | BelowEntry], Meta(min_length=1)] | UnsetType,
    Meta(
        title="store",
        description="The folder where verified files are kept. `~/` is expanded. In a list, orch writes to the first "
        "and only reads those with `below`, in order.",
    ),
]
Tags = Annotated[
    list[Tag] | UnsetType | None,
    Meta(title="tags", description="Words by which `--only tag:TAG` chooses models."),
]


DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLES = {
    "Document": "manifest",
    "SiteDocument": "site file",
    "ModelEntry": "model",
    "FileEntry": "file",
    "PrefixEntry": "prefix mirror",
    "HostEntry": "host",
    "LimitEntry": "limit",
    "SwarmEntry": "swarm",
    "Defaults": "defaults",
    "SignatureEntry": "signature",
    "TrustEntry": "trust",
    "SignersEntry": "signers",
    "HooksEntry": "hooks",
    "BelowEntry": "store below",
    "Link": "link",
}
# Where a team may add keys of its own, `x-...`.
OPEN = ("Document", "SiteDocument", "ModelEntry")


def without_extensions(data: object) -> object:
    """Return `data` without the team's own `x-` keys at the top and in models; the rest is shared, not copied."""
    plain = without_own_keys(data)
    if isinstance(plain, dict) and isinstance(models := plain.get("models"), dict):
        return {**plain, "models": {name: without_own_keys(model) for name, model in models.items()}}
    return plain


def without_own_keys(data: object) -> object:
    """Return `data` without the team's own `x-` keys; where there are none it is `data` itself."""
    if isinstance(data, dict):
        for key in data:
            if key[:2] == "x-":
                return {key: value for key, value in data.items() if key[:2] != "x-"}
    return data


def schema(of: type[Document | SiteDocument] = Document) -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of a manifest or a site file."""
    (start,), definitions = msgspec.json.schema_components((of,), ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        definition["title"] = TITLES[name]
        if name in OPEN:
            definition["patternProperties"] = {"^x-": True}
    return {"$schema": DIALECT, "title": definitions[of.__name__]["title"], **start, "$defs": definitions}
