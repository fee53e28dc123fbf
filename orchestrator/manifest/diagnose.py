"""On failure only: every problem of a text, with its line, its key path and words for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.errors import Problem
from orchestrator.manifest import validate
from orchestrator.manifest.messages import schema_problems
from orchestrator.manifest.positions import Marked, marked
from orchestrator.manifest.types import Document, ModelEntry, SiteDocument
from orchestrator.manifest.yaml_reader import without_own
from orchestrator.text import keypath, shown
from orchestrator.urls import veiled

if TYPE_CHECKING:
    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import Key, Problems


def located(text: str, file: str, found: Problems) -> tuple[Problem, ...]:
    """`found` as problems of `file`, in the order of lines."""
    return _sorted(file, marked(text), found)


def of_manifest(
    text: str, file: str, home: str, why: str, lock: Lock | None = None, *, resolve: bool = True
) -> tuple[Problem, ...]:
    """All problems of a manifest that its types refused; `why` is what to say if nothing else explains it."""
    marks = marked(text)
    found: Problems = []
    data: Any = without_own(marks.data)
    if marks.whole and isinstance(data, dict):
        _manifest(data, file, home, found, lock, resolve=resolve)
    elif marks.whole:
        found += schema_problems(data, Document)
    return _sorted(file, marks, found, why)


def of_site(text: str, file: str, home: str, why: str) -> tuple[Problem, ...]:
    """All problems of a site file that its types refused; `why` as in `of_manifest`."""
    marks = marked(text)
    data: Any = without_own(marks.data)
    found = schema_problems(data, SiteDocument) if marks.whole else []
    if marks.whole and isinstance(data, dict):
        good = {k: v for k, v in data.items() if _is_sound({k: v}, SiteDocument)}
        validate.site(msgspec.convert(good, SiteDocument, strict=False), file, home, found)
    return _sorted(file, marks, found, why)


def _manifest(data: dict[str, Any], file: str, home: str, found: Problems, lock: Lock | None, *, resolve: bool) -> None:
    # Only what the types refuse goes to jsonschema, which takes its time; what they accept goes to the rules.
    models = data.get("models")
    bare = {**data, "models": {}} if isinstance(models, dict) else data
    found += schema_problems(bare, Document)
    empty: dict[str, Any] = {"version": "1", "models": {}}
    good = {k: v for k, v in bare.items() if k != "version" and _is_sound({**empty, k: v}, Document)}
    sound: dict[str, Any] = {}
    kept: dict[str, set[str]] = {}  # of models that are not sound: the keys that are, and are judged as well
    for name, model in models.items() if isinstance(models, dict) else ():
        if _is_sound(model, ModelEntry):
            sound[name] = model
        else:
            found += schema_problems(model, ModelEntry, ("models", name))
            if isinstance(model, dict):
                sound[name] = {k: v for k, v in model.items() if _is_sound({k: v}, ModelEntry)}
                kept[name] = set(sound[name])
    entry = msgspec.convert({**empty, **good, "models": sound}, Document, strict=False)
    judged: Problems = []
    validate.manifest(entry, file, home, judged, data.keys() - good.keys(), lock, resolve=resolve)
    # What such a model lacks may be what was misspelt: only what it has is held against it.
    found += [
        (key, said) for key, said in judged if key[1:2] and key[1] in kept and key[2:3] and key[2] in kept[key[1]]
    ]
    found += [(key, said) for key, said in judged if not (key[0] == "models" and key[1:2] and key[1] in kept)]


def _is_sound(data: object, type_: type[Document | ModelEntry | SiteDocument]) -> bool:
    try:
        msgspec.convert(data, type_, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _sorted(file: str, marks: Marked, found: Problems, why: str = "") -> tuple[Problem, ...]:
    odd = {path for path, _, message in marks.faults if message.startswith("aliases")}
    problems = {Problem(file, line, path, message) for path, line, message in marks.faults}
    for key, message in found:
        path = path_of(key)
        # What an alias stands for is not read, so nothing is known of it but that it is one.
        if path not in odd or message.startswith("unknown key"):
            problems.add(Problem(file, marks.line(path), path, message))
    if not problems:
        problems.add(Problem(file, 1, "", f"not a manifest: {shown(why)}"))
    return tuple(
        Problem(file, p.line, _veiled(p.path), veiled(p.message))
        for p in sorted(problems, key=lambda p: (p.line, p.path, p.message))
    )


def _veiled(path: str) -> str:
    """A key path without the secrets that somebody wrote as keys."""
    return veiled(re.sub("(?<=^hosts > ).*@", "***@", path))


def path_of(key: Key) -> str:
    """The key path of `key` as people read it."""
    path = ""
    for part in key:
        path = keypath(path, part)
    return path
