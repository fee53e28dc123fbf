"""New models as lines of a manifest: in block style as people write it, in flow style where the manifest is JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec

from orchestrator.manifest.yaml_reader import NULLS
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

# What needs no quotes anywhere in a block, and is not mistaken for anything by YAML 1.1 or 1.2 readers.
_PLAIN = re.compile(r"[A-Za-z0-9/._][A-Za-z0-9/._@%+~=&?-]*(?::[A-Za-z0-9/._@%+~=&?-]+)*", re.A)
_LIKE_OTHERS = re.compile(r"(?i)true|false|yes|no|on|off|y|n|[-+.\d_e:]+|0[xo].*")
_DIGESTS = ("sha256", "sha512", "sha1", "md5")


class Draft(msgspec.Struct, frozen=True):
    """A model to be: its name, its keys with values (text, whole numbers, lists, mappings), whence its digests are.

    `path` is that of its file, with folders, where it is to keep them below a place that is a folder.
    """

    name: str
    entry: Mapping[str, object]
    said: str = ""
    path: str = ""


def block(draft: Draft, indent: str = "  ", step: str = "  ") -> list[str]:
    """The draft's lines in block style, its name at `indent` and what is below it `step` deeper each."""
    return [f"{indent}{word(draft.name)}:", *_keys(draft.entry, indent + step, step, draft.said)]


def flow(draft: Draft) -> str:
    """The draft as a pair of a flow mapping, which is JSON, and YAML too."""
    return f"{_quoted(draft.name)}: {json.dumps(draft.entry, ensure_ascii=False)}"


def word(text: str) -> str:
    """`text` as a scalar: plain where that is safe, else in double quotes."""
    if _PLAIN.fullmatch(text) and text not in NULLS and not _LIKE_OTHERS.fullmatch(text):
        return text
    return _quoted(text)


def _keys(entry: Mapping[str, object], indent: str, step: str, said: str) -> list[str]:
    lines: list[str] = []
    for key, value in entry.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for part in value:
                first, *rest = _keys(part, indent + step + "  ", step, said)
                lines += [f"{indent}{step}- {first.strip()}", *rest]
        else:
            comment = f"  # {shown(said)}" if said and key in _DIGESTS else ""
            lines.append(f"{indent}{key}: {_value(key, value)}{comment}")
    return lines


def _value(key: str, value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(word(item) for item in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return text if isinstance(value, int) or key in _DIGESTS else word(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
