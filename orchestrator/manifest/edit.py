"""New models put into a manifest's text: not one other byte of it changes, comments and order included."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
from yaml.events import MappingStartEvent, ScalarEvent, SequenceStartEvent

from orchestrator.manifest.yaml_reader import NULLS, events
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


NEW = "version: 1\nmodels: {}\n"


class _InsertPoint(msgspec.Struct):
    """Where new models go: behind `at`, an offset in the text; `start` is the offset of the whole mapping.

    `flow` is its style, `filled` whether it holds anything yet; `column` is that of the models' names, and what is
    below them stands `step` deeper. `below` says that `at` is at the beginning of a line already.
    """

    flow: bool
    start: int
    column: int
    at: int = 0
    step: int = 2
    filled: bool = False
    below: bool = False


def insert(text: str, drafts: Sequence[Draft]) -> str:
    """`text`, a manifest that parses, with `drafts` as its last models."""
    spot = _find(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    if spot.flow and (spot.filled or text.lstrip().startswith("{")):
        pairs = ",".join(f"{newline if spot.filled else ''} {flow(draft)}" for draft in drafts)
        before = text[: spot.at].rstrip()
        comma = "," if spot.filled and not before.endswith(",") else ""
        return f"{before}{comma}{pairs}{text[len(before) :]}"
    if spot.flow:  # `models: {}` in a block
        lines = [line for draft in drafts for line in block(draft)]
        return f"{text[: spot.start].rstrip()}{newline}{newline.join(lines)}{text[spot.at + 1 :]}"
    lines = [line for draft in drafts for line in block(draft, " " * spot.column, " " * spot.step)]
    at = _past_comments(text, spot.at if spot.below else text.find("\n", spot.at) + 1 or len(text), spot.column)
    gap = "" if text[:at].endswith("\n") else newline
    return f"{text[:at]}{gap}{newline.join(lines)}{newline}{text[at:]}"


def _past_comments(text: str, at: int, column: int) -> int:
    """Past the comments that follow directly and stand deeper than a model's name: they are about the one above."""
    for line in text[at:].splitlines(keepends=True):
        said = line.lstrip(" ")
        if not said.startswith("#") or len(line) - len(said) <= column:
            break
        at += len(line)
    return at


def _find(text: str) -> _InsertPoint:
    """Walk to the mapping under `models` at the top, and through it."""
    stream = events(text)
    for event in stream:  # to the top mapping
        if isinstance(event, MappingStartEvent):
            break
    for key in stream:
        value = next(stream)
        if isinstance(key, ScalarEvent) and key.value == "models" and isinstance(value, MappingStartEvent):
            return _walk(stream, value)
        _skip(stream, value)
    raise ValueError("no models in this text")


def _walk(stream: Iterator[Any], start: Any) -> _InsertPoint:
    spot = _InsertPoint(bool(start.flow_style), start.start_mark.index, start.start_mark.column)
    depth = 0
    for event in stream:
        if isinstance(event, ScalarEvent):
            spot.at, spot.below = _mark(event.end_mark).index, event.style in ("|", ">")
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            column = _mark(event.start_mark).column
            if depth == 0 and not event.flow_style and column > spot.column:
                spot.step = column - spot.column
            depth += 1
        elif depth == 0:
            spot.at = _mark(event.start_mark).index if spot.flow else spot.at
            return spot
        else:
            depth -= 1
            if _mark(event.end_mark).index > _mark(event.start_mark).index:  # a bracket, not just the end of a block
                spot.at, spot.below = _mark(event.end_mark).index, False
        spot.filled = True
    raise ValueError("no models in this text")


def _mark(mark: Any) -> Any:
    """What every parsed event has, though its type says that it may be None."""
    return mark


def _skip(stream: Iterator[Any], event: Any) -> None:
    depth = 0
    while True:
        if isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            depth += 1
        elif not isinstance(event, ScalarEvent):
            depth -= 1
        if depth == 0:
            return
        event = next(stream)


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
