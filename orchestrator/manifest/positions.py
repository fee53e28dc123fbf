"""The walk once more, with lines and words: only for a manifest that was refused, or to name a line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
)

from orchestrator.manifest.yaml_reader import DEPTH, LOADER, NULLS, events
from orchestrator.text import keypath, shown

_CONFLICT = re.compile(r"^<{7} .*$(?=[\s\S]*^>{7} )", re.M)  # git's; a whole manifest has no line like that
TOO_DEEP = f"more than {DEPTH} levels deep"


@dataclass(slots=True)
class Marked:
    """Plain data, the line of each key path, and what YAML allows but a manifest does not.

    `whole` is False where the walk had to stop; `data` is then of no use.
    """

    data: object = None
    whole: bool = False
    lines: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, int, str]] = field(default_factory=list)

    def line(self, path: str) -> int:
        """Line of `path`, else of the nearest key above it that has one; 1 where none has."""
        while path and path not in self.lines:
            path = path.rpartition(" > ")[0]
        return self.lines.get(path, 1)


@dataclass(slots=True)
class _Box:
    items: Any
    path: str
    key: str | None = None

    def child(self) -> str:
        """Key path of the value that comes next."""
        return keypath(self.path, len(self.items) if isinstance(self.items, list) else self.key or "")


class _EndError(Exception):
    """Nothing sensible can be read after this."""


def marked(text: str) -> Marked:
    """Walk `text` as far as it goes; never raises."""
    found = Marked()
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        found.faults.append(("", line, "merge-conflict markers: keep one side and remove the three lines of marks"))
        return found
    try:
        _walk(text, found)
    except _EndError:
        return found
    except UnicodeEncodeError as problem:
        found.faults.append(("", text.count("\n", 0, problem.start) + 1, "lone surrogates are not text"))
        return found
    except yaml.YAMLError as problem:
        found.faults.append(("", *_syntax(text, problem)))
        return found
    found.whole = True
    return found


def locate(text: str, file: str, path: str) -> int:  # noqa: ARG001  (called like its sisters)
    """Line, from 1, of a key path such as `models > resnet50 > to`; of the nearest key above it that stands.

    `text` is the text of `file`. Never raises.
    """
    return marked(text).line(path)


def _walk(text: str, found: Marked) -> None:
    boxes: list[_Box] = []
    documents = 0
    for event in events(text):
        kind = type(event)
        line = event.start_mark.line + 1
        if kind is DocumentStartEvent:
            documents += 1
            if documents > 1:
                _stop(found, "", line, "one document only")
        elif kind is ScalarEvent or kind is AliasEvent or isinstance(event, CollectionStartEvent):
            _node(event, line, boxes, found)
        elif isinstance(event, CollectionEndEvent):
            boxes.pop()


def _node(event: Any, line: int, boxes: list[_Box], found: Marked) -> None:
    box = boxes[-1] if boxes else None
    wants_key = box is not None and isinstance(box.items, dict) and box.key is None
    path = "" if box is None else box.path if wants_key else box.child()
    _odd(event, path, line, found)
    if wants_key and box is not None:
        if type(event) is not ScalarEvent:
            _stop(found, path, line, "a key must be text")
        box.key = event.value
        path = box.child()
        if event.value in box.items:
            first = found.lines.get(path, line)
            found.faults.append((path, line, f"duplicate key, first on line {first}"))
        found.lines[path] = line
        return
    found.lines.setdefault(path, line)
    value: Any = None
    if type(event) is ScalarEvent:
        value = None if event.value in NULLS and not event.style else event.value
    elif isinstance(event, CollectionStartEvent):
        if len(boxes) == DEPTH:
            _stop(found, path, line, TOO_DEEP)
        value = {} if type(event) is MappingStartEvent else []
    if box is None:
        found.data = value
    elif isinstance(box.items, list):
        box.items.append(value)
    else:
        box.items[box.key] = value
        box.key = None
    if isinstance(event, CollectionStartEvent):
        boxes.append(_Box(value, path))


def _odd(event: Any, path: str, line: int, found: Marked) -> None:
    if type(event) is AliasEvent:
        found.faults.append((path, line, f"aliases (`*{event.anchor}`) are not allowed, write it out"))
    elif event.anchor is not None:
        found.faults.append((path, line, f"anchors (`&{event.anchor}`) are not allowed, write it out"))
    if getattr(event, "tag", None) is not None:
        found.faults.append((path, line, "tags (`!`) are not allowed"))


def _stop(found: Marked, path: str, line: int, message: str) -> None:
    found.faults.append((path, line, message))
    raise _EndError


def _syntax(text: str, problem: yaml.YAMLError) -> tuple[int, str]:
    if isinstance(problem, yaml.MarkedYAMLError):
        mark = problem.problem_mark or problem.context_mark
        what = problem.problem or problem.context or "cannot be read"
        number = mark.line + 1 if mark else 1
        # libyaml reads ahead, and may come to its own limit before we come to ours.
        return number, TOO_DEEP if "nesting" in what else f"not YAML: {_plainly(what, text, mark)}"
    # A ReaderError has an offset only; libyaml counts bytes, the fallback characters.
    at = getattr(problem, "position", 0) or 0
    before = text[:at] if LOADER is yaml.SafeLoader else text.encode()[:at].decode(errors="ignore")
    is_nul = text[len(before) : len(before) + 1] == "\0"
    why = "a NUL character is not allowed (is it UTF-16? save it as UTF-8)" if is_nul else ""
    return before.count("\n") + 1, why or "a control character is not allowed"


def _plainly(what: str, text: str, mark: Any) -> str:
    """libyaml's words, with what people usually did."""
    line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
    here = line[mark.column] if mark and mark.column < len(line) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab at the beginning of the line: indent by blanks"
    if "cannot start any token" in what and here:
        return f'"{shown(here)}" cannot begin a value: put the value in quotes'
    if "mapping values are not allowed" in what:
        return "a `: ` where none may stand: put the value in quotes, or look at the indentation here and above"
    if "could not find expected ':'" in what:
        return "a key without its `:` here or on the line above, or a quote that is not closed"
    if "unexpected end of stream" in what:
        return "a quote that is not closed"
    if "did not find expected key" in what or "did not find expected '-' indicator" in what:
        return "this line does not fit the indentation of those above, or a quote or comma is missing before it"
    if "did not find expected ',' or" in what:
        return "a comma, `]` or `}` is missing here or on the line above"
    return shown(what)
