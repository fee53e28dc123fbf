"""Read a manifest's YAML into plain data by libyaml's events: scalars stay text; anchors, tags etc. are refused."""

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
KEYS = 256  # keys of which one copy is kept: more than a manifest has different ones, model names aside
# The unquoted scalars that mean null.
NULLS = frozenset(("", "~", "null"))


class YamlError(Exception):
    """The text is not a manifest's YAML; `positions` finds where and why."""


def events(text: str) -> Iterator[Any]:
    """Return libyaml's events of `text`, lazily.

    Raises:
        yaml.YAMLError: while iterating, where the text is not YAML.
        UnicodeEncodeError: the text has lone surrogates.
    """
    # As yaml.parse does, without its generator and its two calls per event. The last event is followed by None.
    stream: Iterator[Any] = iter(LOADER(text).get_event, None)
    return stream


def load(text: str) -> object:
    """Read the one document in `text` as dict, list, str and None.

    Lines are not tracked: this runs on every start, and most manifests have no problem.

    Raises:
        YamlError: the text is not YAML, or has duplicate keys, keys that are not text, anchors, aliases, tags, more
            than DEPTH levels, or several documents.
    """
    try:
        return _build(text)
    except (yaml.YAMLError, UnicodeEncodeError) as problem:
        raise YamlError from problem


def _build(text: str) -> object:  # noqa: C901  (the hot loop: calls would double its time)
    # `container` is the innermost open mapping or list, `key` the key that waits for its value. In a list it is _ITEM
    # and not None, so that one test, `key is None`, tells whether a key comes next.
    top: list[object] = []
    container: Any = top
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
                if value in container:
                    raise YamlError
                # Each model has the same few keys: keep one copy of each. Names of models come once.
                key = keys.get(value)
                if key is None:
                    key = keys.setdefault(value, value) if len(keys) < KEYS else value
                continue
            if value in NULLS and not event.style:
                value = None
            if key is _ITEM:
                container.append(value)
            else:
                container[key] = value
                key = None
            continue
        if kind is MappingStartEvent or kind is SequenceStartEvent:
            if event.anchor is not None or event.tag is not None or key is None or len(open_) == DEPTH:
                raise YamlError
            value = {} if kind is MappingStartEvent else []
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            container, key = open_.pop()
            if key is not _ITEM:
                key = None
            continue
        elif kind is AliasEvent:
            raise YamlError
        else:
            documents += kind is DocumentStartEvent
            continue
        if key is _ITEM:
            container.append(value)
        else:
            container[key] = value
            key = None
        open_.append((container, key))
        container, key = value, None if kind is MappingStartEvent else _ITEM
    if documents != 1:
        raise YamlError
    return top[0]


# The `key` where no key is wanted: in a list, and at the top.
_ITEM = object()


def without_extensions(data: object) -> object:
    """Return `data` without the team's own `x-` keys at the top and in models; the rest is shared, not copied."""
    if not isinstance(data, dict):
        return data
    plain: dict[str, Any] = {key: value for key, value in data.items() if not key.startswith("x-")}
    models = plain.get("models")
    if isinstance(models, dict):
        plain["models"] = {
            name: {k: v for k, v in model.items() if k[:2] != "x-"} if _has_extensions(model) else model
            for name, model in models.items()
        }
    return plain


def _has_extensions(model: object) -> bool:
    if isinstance(model, dict):
        for key in model:
            if key[:2] == "x-":
                return True
    return False
