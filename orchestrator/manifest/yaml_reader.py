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

from orchestrator.manifest.plain_yaml import NULLS, YamlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEPTH = 16
KEYS = 256  # keys of which one copy is kept: more than a manifest has different ones, model names aside


def events(text: str) -> Iterator[Any]:
    """Return libyaml's events of `text`, lazily.

    Raises:
        yaml.YAMLError: while iterating, where the text is not YAML.
        UnicodeEncodeError: the text has lone surrogates.
    """
    # As yaml.parse does, without its generator and its two calls per event. The last event is followed by None.
    stream: Iterator[Any] = iter(LOADER(text).get_event, None)
    return stream


def load(text: str, model: Callable[[Any], object] | None = None) -> object:
    """Read the one document in `text` as dict, list, str and None.

    Lines are not tracked: this runs on every start, and most manifests have no problem.

    Args:
        text: the YAML.
        model: makes of each dict right below `models:` what stands for it in the result, as soon as it is read: those
            of a hundred thousand models need not be there at once. What it raises goes through.

    Raises:
        YamlError: the text is not YAML, or has duplicate keys, keys that are not text, anchors, aliases, tags, more
            than DEPTH levels, or several documents.
    """
    try:
        return _build(text, model)
    except (yaml.YAMLError, UnicodeEncodeError) as problem:
        raise YamlError from problem


def _build(text: str, model: Callable[[Any], object] | None) -> object:  # noqa: C901  (the hot loop)
    # `container` is the innermost open mapping or list, `key` the key that waits for its value. In a list it is _ITEM
    # and not None, so that one test, `key is None`, tells whether a key comes next. `open_` has those around it.
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
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            if event.anchor is not None or event.tag is not None or key is None or len(open_) == DEPTH:
                raise YamlError
            open_.append((container, key))
            container, key = ({}, None) if kind is MappingStartEvent else ([], _ITEM)
            continue
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            value = container
            container, key = open_.pop()
            if model is not None and kind is MappingEndEvent and len(open_) == 2 and open_[1][1] == "models":
                value = model(value)
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
    if documents != 1:
        raise YamlError
    return top[0]


# The `key` where no key is wanted: in a list, and at the top.
_ITEM = object()
