"""The types of a manifest's values, each with what it means: the JSON Schema says the same."""

# No `from __future__ import annotations` here: msgspec reads these annotations at run time.
from typing import Annotated, Literal

from msgspec import Meta, UnsetType

from orchestrator.model import Link

# `$` alone would let a last newline pass.
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
How = Annotated[
    Link | UnsetType | None,
    Meta(title="link", description="How a place is made from the stored file."),
]
# Each is a module of `placement/`; a test holds it.
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
# Each is a format that `formats/` tells apart; a test holds it.
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
