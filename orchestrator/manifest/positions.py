"""Read a manifest's YAML once more with the line of each key and all syntax errors; only for error messages."""

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

_CONFLICT = re.compile(r"^<{7} .*$(?=[\s\S]*^>{7} )", re.M)  # git's markers; a sound manifest has no line like that
TOO_DEEP = f"more than {DEPTH} levels deep"


@dataclass(slots=True)
class Positions:
    """A manifest's data, the line of each key path, and what YAML allows but a manifest does not.

    `lines` count from 1. `faults` are (key path, line, message). `whole` is false where reading had to stop: then
    `data` is of no use.
    """

    data: object = None
    whole: bool = False
    lines: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, int, str]] = field(default_factory=list)

    def line(self, path: str) -> int:
        """The line of a key path, else of the nearest key above it that has one; 1 where none has."""
        while path and path not in self.lines:
            path = path.rpartition(" > ")[0]
        return self.lines.get(path, 1)


@dataclass(slots=True)
class _Container:
    """A mapping or list that is being read: `key` is the key of a mapping that waits for its value."""

    items: Any
    path: str
    key: str | None = None

    def child(self) -> str:
        """The key path of the value that comes next."""
        return keypath(self.path, len(self.items) if isinstance(self.items, list) else self.key or "")


class _EndError(Exception):
    """Reading stops here: nothing sensible can follow."""


def find_positions(text: str) -> Positions:
    """Read `text` as far as it can be read; never raises."""
    positions = Positions()
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        positions.faults.append(("", line, "merge-conflict markers: keep one side and remove the three lines of marks"))
        return positions
    try:
        _walk(text, positions)
    except _EndError:
        return positions
    except UnicodeEncodeError as problem:
        positions.faults.append(("", text.count("\n", 0, problem.start) + 1, "lone surrogates are not text"))
        return positions
    except yaml.YAMLError as problem:
        positions.faults.append(("", *_syntax(text, problem)))
        return positions
    positions.whole = True
    return positions


def locate(text: str, file: str, path: str) -> int:  # noqa: ARG001  (takes the same arguments as `parse`)
    """Find the line of a key path in a manifest; never raises.

    Args:
        text: the manifest.
        file: its path.
        path: a key path such as `models > resnet50 > to`.

    Returns:
        The line, from 1, of that key, or of the nearest key above it that exists.
    """
    return find_positions(text).line(path)


def _walk(text: str, positions: Positions) -> None:
    containers: list[_Container] = []
    documents = 0
    for event in events(text):
        kind = type(event)
        line = event.start_mark.line + 1
        if kind is DocumentStartEvent:
            documents += 1
            if documents > 1:
                _stop(positions, "", line, "one document only")
        elif kind is ScalarEvent or kind is AliasEvent or isinstance(event, CollectionStartEvent):
            _node(event, line, containers, positions)
        elif isinstance(event, CollectionEndEvent):
            containers.pop()


def _node(event: Any, line: int, containers: list[_Container], positions: Positions) -> None:
    container = containers[-1] if containers else None
    wants_key = container is not None and isinstance(container.items, dict) and container.key is None
    path = "" if container is None else container.path if wants_key else container.child()
    _refuse_features(event, path, line, positions)
    if wants_key and container is not None:
        if type(event) is not ScalarEvent:
            _stop(positions, path, line, "a key must be text")
        container.key = event.value
        path = container.child()
        if event.value in container.items:
            first = positions.lines.get(path, line)
            positions.faults.append((path, line, f"duplicate key, first on line {first}"))
        positions.lines[path] = line
        return
    positions.lines.setdefault(path, line)
    value: Any = None
    if type(event) is ScalarEvent:
        value = None if event.value in NULLS and not event.style else event.value
    elif isinstance(event, CollectionStartEvent):
        if len(containers) == DEPTH:
            _stop(positions, path, line, TOO_DEEP)
        value = {} if type(event) is MappingStartEvent else []
    if container is None:
        positions.data = value
    elif isinstance(container.items, list):
        container.items.append(value)
    else:
        container.items[container.key] = value
        container.key = None
    if isinstance(event, CollectionStartEvent):
        containers.append(_Container(value, path))


def _refuse_features(event: Any, path: str, line: int, positions: Positions) -> None:
    if type(event) is AliasEvent:
        positions.faults.append((path, line, f"aliases (`*{event.anchor}`) are not allowed, write it out"))
    elif event.anchor is not None:
        positions.faults.append((path, line, f"anchors (`&{event.anchor}`) are not allowed, write it out"))
    if getattr(event, "tag", None) is not None:
        positions.faults.append((path, line, "tags (`!`) are not allowed"))


def _stop(positions: Positions, path: str, line: int, message: str) -> None:
    positions.faults.append((path, line, message))
    raise _EndError


def _syntax(text: str, problem: yaml.YAMLError) -> tuple[int, str]:
    if isinstance(problem, yaml.MarkedYAMLError):
        mark = problem.problem_mark or problem.context_mark
        what = problem.problem or problem.context or "cannot be read"
        number = mark.line + 1 if mark else 1
        # libyaml reads ahead, and may reach its own limit of depth before we reach ours.
        return number, TOO_DEEP if "nesting" in what else f"not YAML: {_explain(what, text, mark)}"
    # A ReaderError has an offset only: in bytes from libyaml, in characters from PyYAML's own reader.
    at = getattr(problem, "position", 0) or 0
    before = text[:at] if LOADER is yaml.SafeLoader else text.encode()[:at].decode(errors="ignore")
    is_nul = text[len(before) : len(before) + 1] == "\0"
    why = "a NUL character is not allowed (is it UTF-16? save it as UTF-8)" if is_nul else ""
    return before.count("\n") + 1, why or "a control character is not allowed"


def _explain(what: str, text: str, mark: Any) -> str:
    """Turn a message of libyaml into the mistake that usually causes it."""
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
