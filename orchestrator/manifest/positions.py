"""Read a manifest's YAML once more with the place of each key and value, and all syntax errors; only for messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
)

from orchestrator.errors import Problem
from orchestrator.manifest.plain_yaml import NULLS
from orchestrator.manifest.yaml_reader import DEPTH, LOADER, events
from orchestrator.text import keypath, shown
from orchestrator.urls import masked_line

_CONFLICT = re.compile(r"^<{7} .*$(?=[\s\S]*^>{7} )", re.M)  # git's markers; a sound manifest has no line like that
LONGEST_LINE = 4096  # characters of a line that is shown: a manifest on one line is no help
TOO_DEEP = f"more than {DEPTH} levels deep"


_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what ends a line in YAML 1.1
# Problems of a key; all others are of its value.
_OF_A_KEY = re.compile("unknown key|duplicate key|a blank is missing|`[a-z0-9]+` belongs|either `|indent ")
_LOOKS_LIKE_ONE = re.compile(r"""^\s*["']?(version|models|mirrors|hosts|store|defaults)["']?\s*:""", re.M)


# What `orch explain` takes, for the problems that have an explanation of their own.
_CODES = (
    (
        "yaml",
        r"not YAML|merge-conflict|(aliases|anchors|tags) \(|.* character is not allowed|more than \d+ levels|lone s",
    ),
    ("yaml", "one document only|a key must be text"),
    ("no-checksum", "no checksum|not resolved yet"),
    ("secret", "a literal secret|a signed URL"),
    ("place-clash", "the destination `"),
    ("outside-root", "an absolute path must be below|`..` is not allowed|a symlink leads out of root"),
    ("not-allowed", ".*(allow it in the site file|among the site file's|which no manifest may)"),
)


def code_of(message: str) -> str:
    """The code of a problem, by its message."""
    return next((code for code, words in _CODES if re.match(words, message)), "manifest")


class Span(NamedTuple):
    """A piece of one line: `line` counts from 1, `start` and `end` are characters from 0, `end` is not in it."""

    line: int
    start: int
    end: int


class Fault(NamedTuple):
    """What YAML does not allow, or a manifest does not: at a key path, where it has one, and at a piece of a line."""

    path: str
    at: Span
    message: str


@dataclass(slots=True)
class Positions:
    """A manifest's data, where each key and each value stands, and what YAML allows but a manifest does not.

    `keys` has the key of each key path that ends in one, `values` the value of each key path. `whole` is false where
    reading had to stop: then `data` is of no use. `lines` are those of `text`, once one is shown; none if it does not
    look like a manifest.
    """

    data: object = None
    whole: bool = False
    text: str = ""
    lines: list[str] | None = None
    keys: dict[str, Span] = field(default_factory=dict)
    values: dict[str, Span] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: str) -> int:
        """The line of a key path, else of the nearest key above it that has one; 1 where none has."""
        place = self._nearest(path)
        span = self.keys.get(place) or self.values.get(place)
        return span.line if span and place else 1

    def problem(self, file: str, path: str, message: str, code: str = "") -> Problem:
        """Return a problem of the key at `path` with its line, and the piece of it that is meant."""
        place = self._nearest(path)
        key, value = self.keys.get(place), self.values.get(place)
        if not place or (key or value) is None:
            return Problem(file, 1, path, message, code=code or code_of(message))
        of_key = place != path or _OF_A_KEY.match(message) or value is None or (key and value.line != key.line)
        span = (key or value) if of_key else value
        assert span is not None
        return self.at(file, path, message, span, code)

    def at(self, file: str, path: str, message: str, span: Span, code: str = "") -> Problem:
        """Return a problem with a piece of a line; a text that does not look like a manifest is not shown."""
        code = code or code_of(message)
        if self.lines is None:
            self.lines = _BREAK.split(self.text) if _LOOKS_LIKE_ONE.search(self.text) else []
        line = self.lines[span.line - 1] if 0 < span.line <= len(self.lines) else ""
        if not line or len(line) > LONGEST_LINE:
            return Problem(file, span.line, path, message, code=code)
        shift = line.startswith("\ufeff")  # libyaml does not count the mark of the byte order
        end = min(max(span.end, span.start + 1), max(len(line) - shift, span.start + 1))
        excerpt, start, end = masked_line(line[shift:], span.start, end)
        return Problem(file, span.line, path, message, excerpt, start + 1, end + 1, code)

    def _nearest(self, path: str) -> str:
        while path and path not in self.keys and path not in self.values:
            path = path.rpartition(" > ")[0]
        return path


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
    positions = Positions(text=text)
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        message = "merge-conflict markers: keep one side and remove the three marker lines"
        positions.faults.append(Fault("", Span(line, 0, len(conflict[0])), message))
        return positions
    try:
        _walk(text, positions)
    except _EndError:
        return positions
    except UnicodeEncodeError as problem:
        positions.faults.append(Fault("", _span(text, problem.start), "lone surrogates are not text"))
        return positions
    except yaml.YAMLError as problem:
        positions.faults.append(_syntax(text, problem))
        return positions
    positions.whole = True
    return positions


def locate(text: str, file: str, path: str, message: str = "", code: str = "") -> Problem:
    """Return a problem of a key of a manifest, with its line: that of the nearest key above it that exists.

    Args:
        text: the manifest.
        file: its path.
        path: a key path such as `models > resnet50 > to`.
        message: what is wrong there.
        code: what `orch explain` takes; "" for what the message tells.
    """
    return find_positions(text).problem(file, path, message, code)


def _walk(text: str, positions: Positions) -> None:
    containers: list[_Container] = []
    documents = 0
    for event in events(text):
        kind = type(event)
        if kind is DocumentStartEvent:
            documents += 1
            if documents > 1:
                _stop(positions, "", _of(event), "one document only")
        elif kind is ScalarEvent or kind is AliasEvent or isinstance(event, CollectionStartEvent):
            _node(event, _of(event), containers, positions)
        elif isinstance(event, CollectionEndEvent):
            containers.pop()


def _of(event: Any) -> Span:
    start, end = event.start_mark, event.end_mark
    return Span(start.line + 1, start.column, end.column if end.line == start.line else 1 << 20)


def _node(event: Any, span: Span, containers: list[_Container], positions: Positions) -> None:
    container = containers[-1] if containers else None
    wants_key = container is not None and isinstance(container.items, dict) and container.key is None
    path = "" if container is None else container.path if wants_key else container.child()
    _refuse_features(event, path, span, positions)
    if wants_key and container is not None:
        if type(event) is not ScalarEvent:
            _stop(positions, path, span, "a key must be text")
        container.key = event.value
        path = container.child()
        if event.value in container.items:
            first = positions.keys.get(path, span).line
            positions.faults.append(Fault(path, span, f"duplicate key, first on line {first}"))
        positions.keys[path] = span
        return
    positions.values[path] = span
    value: Any = None
    if type(event) is ScalarEvent:
        value = None if event.value in NULLS and not event.style else event.value
        if not event.value and not event.style:  # no value stands there: the key is what can be shown
            positions.values.pop(path)
    elif isinstance(event, CollectionStartEvent):
        if len(containers) == DEPTH:
            _stop(positions, path, span, TOO_DEEP)
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


def _refuse_features(event: Any, path: str, span: Span, positions: Positions) -> None:
    if type(event) is AliasEvent:
        positions.faults.append(Fault(path, span, f"aliases (`*{event.anchor}`) are not allowed, write the value out"))
    elif event.anchor is not None:
        positions.faults.append(Fault(path, span, f"anchors (`&{event.anchor}`) are not allowed, write the value out"))
    if getattr(event, "tag", None) is not None:
        positions.faults.append(Fault(path, span, "tags (`!`) are not allowed"))


def _stop(positions: Positions, path: str, span: Span, message: str) -> None:
    positions.faults.append(Fault(path, span, message))
    raise _EndError


def _span(text: str, at: int) -> Span:
    """One character of a text as a piece of its line."""
    column = at - (text.rfind("\n", 0, at) + 1)
    return Span(text.count("\n", 0, at) + 1, column, column + 1)


def _syntax(text: str, problem: yaml.YAMLError) -> Fault:
    if isinstance(problem, yaml.MarkedYAMLError):
        mark = problem.problem_mark or problem.context_mark
        what = problem.problem or problem.context or "cannot be read"
        if "unexpected end of stream" in what:  # what was never closed began here
            mark = problem.context_mark or mark
        at = Span(mark.line + 1, mark.column, mark.column + 1) if mark else Span(1, 0, 1)
        # libyaml reads ahead, and may reach its own limit of depth before we reach ours.
        return Fault("", at, TOO_DEEP) if "nesting" in what else _explained(what, _BREAK.split(text), at)
    # A ReaderError has an offset only: in bytes from libyaml, in characters from PyYAML's own reader.
    at_ = getattr(problem, "position", 0) or 0
    before = text[:at_] if LOADER is yaml.SafeLoader else text.encode()[:at_].decode(errors="ignore")
    is_nul = text[len(before) : len(before) + 1] == "\0"
    why = "a NUL character is not allowed (is it UTF-16? save it as UTF-8)" if is_nul else ""
    return Fault("", _span(text, len(before)), why or "a control character is not allowed")


_JOINED = re.compile(r"^(\s*(?:- )?)([a-z][a-z0-9_]*):(?=[^\s:])(?!//)")  # `url:http...`, but no URL
_KEYED = re.compile(r"^(\s*)(?:- )?[^\s:#][^:#]*:(?=\s|$)")
_WITH_VALUE = re.compile(r"^(\s*)(?:- )?[^\s:#][^:#]*:\s+[^\s#|>]")


def _explained(what: str, lines: list[str], at: Span) -> Fault:
    """Turn a message of libyaml into the mistake that usually causes it."""
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        column = indent.index("\t")
        return Fault("", Span(at.line, column, column + 1), "not YAML: a tab; YAML indents with spaces only")
    above = next((n for n in range(at.line - 1, 0, -1) if lines[n - 1].strip()), 0)
    if "mapping values are not allowed" in what or "could not find expected ':'" in what:
        for number, text in ((at.line, line), (above, lines[above - 1] if above else "")):
            if joined := _JOINED.match(text):
                start = len(joined[1])
                span = Span(number, start, start + len(joined[2]) + 1)
                return Fault("", span, f"not YAML: a space is missing after `{joined[2]}:`")
    if "mapping values are not allowed" in what:
        here, before = _KEYED.match(line), _WITH_VALUE.match(lines[above - 1]) if above else None
        if here and before and len(here[1]) > len(before[1]) and here.end() == at.end:
            message = f"this line is indented further than line {above}, which has its value already"
            return Fault("", Span(at.line, len(here[1]), here.end()), f"not YAML: {message}")
    return Fault("", at, f"not YAML: {_explain(what, line[at.start : at.start + 1])}")


def _explain(what: str, here: str) -> str:
    if "cannot start any token" in what and here:
        return f'"{shown(here)}" cannot begin a value: put the value in quotes'
    if "mapping values are not allowed" in what:
        return "an unexpected `: `: put the value in quotes, or check the indentation here and above"
    if "could not find expected ':'" in what:
        return "a key without its `:` here or on the line above, or a quote that is not closed"
    if "unexpected end of stream" in what:
        return "a quote that is not closed"
    if "did not find expected key" in what or "did not find expected '-' indicator" in what:
        return "this line does not fit the indentation of those above, or a quote or comma is missing before it"
    if "did not find expected ',' or" in what:
        return "a comma, `]` or `}` is missing here or on the line above"
    return shown(what)
