"""YAML text to plain data by libyaml's events: every scalar stays text, everything odd is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEPTH = 16
KEYS = 256  # more than a manifest knows
# What a bare word must be to mean "nothing"; quoted, it is text.
NULLS = frozenset(("", "~", "null"))


class YamlError(Exception):
    """The text is not a manifest's YAML; `lines.py` says where and why."""


def events(text: str) -> Iterator[Any]:
    """libyaml's events of `text`; raises `yaml.YAMLError`, and `UnicodeEncodeError` for lone surrogates."""
    # What yaml.parse does, without its generator and its two calls an event. After the last one comes None.
    found: Iterator[Any] = iter(LOADER(text).get_event, None)
    return found


def plain(text: str) -> object:
    """The one document in `text` as dict, list, str and None; raises `WalkError`, and nothing else.

    WalkError are duplicate keys, keys that are not text, anchors, aliases, tags, a depth over 16, and several
    documents. No line is tracked: this is the road of every run, and most runs have nothing to say.
    """
    try:
        return _built(text)
    except (yaml.YAMLError, UnicodeEncodeError) as problem:
        raise YamlError from problem


def _built(text: str) -> object:  # noqa: C901  (the hot loop: calls would double its time)
    # `box` is the innermost open container and `key` the key that waits for its value. A list's key is not
    # None, so that the one test "is a key wanted" is enough for both.
    top: list[object] = []
    box: Any = top
    key: Any = _ITEM
    open_: list[tuple[Any, Any]] = []
    documents = 0
    keys: dict[str, str] = {}
    for event in events(text):
        kind = type(event)
        if kind is ScalarEvent:
            if event.anchor is not None or event.tag is not None:
                raise YamlError
            value: Any = event.value
            if key is None:
                if value in box:
                    raise YamlError
                # The same few keys come again with each model: one copy of each is enough. Names come once.
                key = keys.get(value)
                if key is None:
                    key = keys.setdefault(value, value) if len(keys) < KEYS else value
                continue
            if value in NULLS and not event.style:
                value = None
            if key is _ITEM:
                box.append(value)
            else:
                box[key] = value
                key = None
            continue
        if kind is MappingStartEvent or kind is SequenceStartEvent:
            if event.anchor is not None or event.tag is not None or key is None or len(open_) == DEPTH:
                raise YamlError
            value = {} if kind is MappingStartEvent else []
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            box, key = open_.pop()
            if key is not _ITEM:
                key = None
            continue
        elif kind is AliasEvent:
            raise YamlError
        else:
            documents += kind is DocumentStartEvent
            continue
        if key is _ITEM:
            box.append(value)
        else:
            box[key] = value
            key = None
        open_.append((box, key))
        box, key = value, None if kind is MappingStartEvent else _ITEM
    if documents != 1:
        raise YamlError
    return top[0]


# Stands for "no key is wanted here": an element of a list, or the top.
_ITEM = object()


def without_own(data: object) -> object:
    """`data` without the team's own `x-` keys at the top and in models; the rest is shared, not copied."""
    if not isinstance(data, dict):
        return data
    plain: dict[str, Any] = {key: value for key, value in data.items() if not key.startswith("x-")}
    models = plain.get("models")
    if isinstance(models, dict):
        plain["models"] = {
            name: {k: v for k, v in model.items() if k[:2] != "x-"} if _has_own(model) else model
            for name, model in models.items()
        }
    return plain


def _has_own(model: object) -> bool:
    if isinstance(model, dict):
        for key in model:
            if key[:2] == "x-":
                return True
    return False
