"""Insert models into a manifest's text, or remove them; no other byte changes, comments and order included."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
from yaml.events import MappingStartEvent, ScalarEvent, SequenceStartEvent

from orchestrator.manifest.plain_yaml import NULLS
from orchestrator.manifest.yaml_reader import events
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


NEW = "version: 1\nmodels: {}\n"


class _InsertPoint(msgspec.Struct):
    """Where in a text new models go.

    `at` is the offset behind the last model, `start` that of the whole `models:` mapping, both in characters.
    `flow`: the mapping is written in braces. `filled`: it has models already. `column` is the indentation of the
    models' names, `step` how much deeper their keys are. `below`: `at` is at the beginning of a line.
    """

    flow: bool
    start: int
    column: int
    at: int = 0
    step: int = 2
    filled: bool = False
    below: bool = False


def insert(text: str, drafts: Sequence[Draft]) -> str:
    """Return `text`, a manifest that parses, with `drafts` added as its last models.

    Raises:
        ValueError: it has no `models:` mapping.
    """
    _, start, stream = _models(text)
    point = _find(start, stream)
    newline = "\r\n" if "\r\n" in text else "\n"
    if point.flow and (point.filled or text.lstrip().startswith("{")):
        pairs = ",".join(f"{newline if point.filled else ''} {flow(draft)}" for draft in drafts)
        before = text[: point.at].rstrip()
        comma = "," if point.filled and not before.endswith(",") else ""
        return f"{before}{comma}{pairs}{text[len(before) :]}"
    if point.flow:  # `models: {}` in a block
        lines = [line for draft in drafts for line in block(draft)]
        return f"{text[: point.start].rstrip()}{newline}{newline.join(lines)}{text[point.at + 1 :]}"
    lines = [line for draft in drafts for line in block(draft, " " * point.column, " " * point.step)]
    at = _line_after(text, point.at, below=point.below, column=point.column)
    gap = "" if text[:at].endswith("\n") else newline
    return f"{text[:at]}{gap}{newline.join(lines)}{newline}{text[at:]}"


class _Entry(msgspec.Struct):
    """One model in a text, by offsets in characters: its name's begin and its value's end.

    `below`: the end is at the beginning of a line.
    """

    name: str
    start: int
    end: int = 0
    below: bool = False


def remove(text: str, names: Collection[str]) -> str:
    """Return `text`, a manifest that parses, without the models `names`, each of which it has.

    A model's own comments go with it: those on its lines, and those below its name that are indented deeper. What
    stands above it at the indentation of its name stays, as the heading of a group may.

    Raises:
        ValueError: it has no `models:` mapping.
    """
    key_end, start, entries = _entries(text)
    gone = [entry for entry in entries if entry.name in names]
    if not start.flow_style:
        for entry in reversed(gone):
            text = _without_block(text, entry, start.start_mark.column)
        if len(gone) == len(entries):
            colon = text.index(":", key_end) + 1
            text = f"{text[:colon]} {{}}{text[colon:]}"
        return text
    kept = [entry for entry in entries if entry.name not in names]
    ranges = []
    for entry in gone:
        comma = _comma(text, entry.end)
        end = entry.end if comma is None else comma + 1
        begin = entry.start
        if not kept or entry.start > kept[-1].start:  # one of the last: the blanks before it go, else those behind
            begin = len(text[:begin].rstrip(" "))
        else:
            end += len(text[end:]) - len(text[end:].lstrip(" "))
        line = text.rfind("\n", 0, begin) + 1
        if not text[line:begin].strip() and text[end : end + 1] == "\n":  # nothing else is on its lines
            begin, end = line, end + 1
        ranges.append((begin, end))
    if kept and kept[-1] is not entries[-1] and _comma(text, entries[-1].end) is None:
        comma = _comma(text, kept[-1].end)
        assert comma is not None
        ranges.append((comma, comma + 1))  # JSON has no comma behind the last
    for begin, end in sorted(ranges, reverse=True):
        text = text[:begin] + text[end:]
    return text


def _without_block(text: str, entry: _Entry, column: int) -> str:
    """The text without one model of a block mapping; of the blank lines around it one goes, too."""
    begin = text.rfind("\n", 0, entry.start) + 1
    end = _line_after(text, entry.end, below=entry.below, column=column)
    before, after = text[:begin], text[end:]
    for newline in ("\r\n", "\n"):
        if before.endswith(newline * 2) and after.startswith(newline):
            return before + after.removeprefix(newline)
    return before + after


def _comma(text: str, at: int) -> int | None:
    """The offset of the comma that follows in a flow mapping, over blanks and comments; None where there is none."""
    while at < len(text):
        if text[at] == "#":
            at = text.find("\n", at)
            if at < 0:
                return None
        elif not text[at].isspace():
            return at if text[at] == "," else None
        at += 1
    return None


def _entries(text: str) -> tuple[int, Any, list[_Entry]]:
    """Find the models: where the key `models` ends, the event that begins its mapping, and each model."""
    key, start, stream = _models(text)
    return _position(key.end_mark).index, start, list(_each_entry(stream))


def _models(text: str) -> tuple[Any, Any, Iterator[Any]]:
    """Go to the mapping under the top key `models`: the key, the event that begins the mapping, and what follows.

    Raises:
        ValueError: there is none.
    """
    stream = events(text)
    for event in stream:  # to the top mapping
        if isinstance(event, MappingStartEvent):
            break
    for key in stream:
        value = next(stream)
        if isinstance(key, ScalarEvent) and key.value == "models" and isinstance(value, MappingStartEvent):
            return key, value, stream
        _skip(stream, value)
    raise ValueError("no models in this text")


def _each_entry(stream: Iterator[Any]) -> Iterator[_Entry]:
    entry, depth = None, 0
    for event in stream:
        if isinstance(event, ScalarEvent):
            if entry is None:
                entry = _Entry(event.value, _position(event.start_mark).index)
                continue
            entry.end, entry.below = _position(event.end_mark).index, event.style in ("|", ">")
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            depth += 1
            continue
        elif depth == 0:
            return
        else:
            depth -= 1
            if _position(event.end_mark).index > _position(event.start_mark).index and entry is not None:
                entry.end, entry.below = _position(event.end_mark).index, False
        if depth == 0 and entry is not None:
            yield entry
            entry = None


def _line_after(text: str, at: int, *, below: bool, column: int) -> int:
    """The beginning of the line behind a model whose value ends at `at`, and behind the comments that belong to it.

    Those follow directly and are indented deeper than a model's name. `below`: as of `_Entry`.
    """
    at = at if below else text.find("\n", at) + 1 or len(text)
    for line in text[at:].splitlines(keepends=True):
        comment = line.lstrip(" ")
        if not comment.startswith("#") or len(line) - len(comment) <= column:
            break
        at += len(line)
    return at


def _find(start: Any, stream: Iterator[Any]) -> _InsertPoint:
    """Find the place behind the last model: go through the mapping that `start` begins."""
    point = _InsertPoint(bool(start.flow_style), start.start_mark.index, start.start_mark.column)
    depth = 0
    for event in stream:
        if isinstance(event, ScalarEvent):
            point.at, point.below = _position(event.end_mark).index, event.style in ("|", ">")
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            column = _position(event.start_mark).column
            if depth == 0 and not event.flow_style and column > point.column:
                point.step = column - point.column
            depth += 1
        elif depth == 0:
            point.at = _position(event.start_mark).index if point.flow else point.at
            return point
        else:
            depth -= 1
            if (
                _position(event.end_mark).index > _position(event.start_mark).index
            ):  # a bracket, not just the end of a block
                point.at, point.below = _position(event.end_mark).index, False
        point.filled = True
    raise ValueError("no models in this text")


def _position(mark: Any) -> Any:
    """An event's mark, which every parsed event has although its type says that it may be None."""
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


# Text that needs no quotes in block style; `_NOT_TEXT` is what a YAML 1.1 or 1.2 reader would take for another type.
_PLAIN = re.compile(r"[A-Za-z0-9/._][A-Za-z0-9/._@%+~=&?-]*(?::[A-Za-z0-9/._@%+~=&?-]+)*", re.A)
_NOT_TEXT = re.compile(r"(?i)true|false|yes|no|on|off|y|n|[-+.\d_e:]+|0[xo].*")
_DIGESTS = ("sha256", "sha512", "sha1", "md5")


class Draft(msgspec.Struct, frozen=True):
    """A model to be written into a manifest.

    `entry` has its keys with their values (text, whole numbers, lists, mappings). `digest_source` says where its
    digests came from, for a comment behind them. `path` is its file's path with folders, where they are to be kept
    below a place that is a folder.
    """

    name: str
    entry: Mapping[str, object]
    digest_source: str = ""
    path: str = ""


def block(draft: Draft, indent: str = "  ", step: str = "  ") -> list[str]:
    """Write a draft as lines in block style; `indent` stands before its name, `step` more before each deeper level."""
    return [f"{indent}{word(draft.name)}:", *_keys(draft.entry, indent + step, step, draft.digest_source)]


def flow(draft: Draft) -> str:
    """Write a draft as one pair of a flow mapping; it is JSON, which is YAML too."""
    return f"{_quoted(draft.name)}: {json.dumps(draft.entry, ensure_ascii=False)}"


def word(text: str) -> str:
    """Write `text` as a YAML scalar: plain where that is safe, else in double quotes."""
    if _PLAIN.fullmatch(text) and text not in NULLS and not _NOT_TEXT.fullmatch(text):
        return text
    return _quoted(text)


def _keys(entry: Mapping[str, object], indent: str, step: str, digest_source: str) -> list[str]:
    lines: list[str] = []
    for key, value in entry.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for part in value:
                first, *rest = _keys(part, indent + step + "  ", step, digest_source)
                lines += [f"{indent}{step}- {first.strip()}", *rest]
        else:
            comment = f"  # {shown(digest_source)}" if digest_source and key in _DIGESTS else ""
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
