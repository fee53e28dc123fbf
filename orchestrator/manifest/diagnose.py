"""Find every problem of a refused manifest or site file, with its line and key path; runs only after a failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.errors import Problem
from orchestrator.manifest import validate
from orchestrator.manifest.lockfile import NO_PIN, NOT_RESOLVED
from orchestrator.manifest.messages import is_foreign, lost_indentation, schema_problems
from orchestrator.manifest.positions import Positions, find_positions
from orchestrator.manifest.types import Document, ModelEntry, SiteDocument, without_extensions
from orchestrator.text import keypath, shown
from orchestrator.urls import masked_text

if TYPE_CHECKING:
    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import Key, Problems


def with_lines(text: str, file: str, problems: Problems) -> tuple[Problem, ...]:
    """Turn problems with keys into problems of `file` with lines, in the order of lines."""
    return _sorted(file, find_positions(text), problems)


def of_manifest(
    text: str, file: str, home: str, why: str, lock: Lock | None = None, *, resolve: bool = True
) -> tuple[Problem, ...]:
    """Find all problems of a manifest that its types refused.

    Args:
        text: the manifest.
        file: its absolute path.
        home: the folder that `~/` means.
        why: the message to use if nothing else explains the refusal.
        lock: its lock, if there is one.
        resolve: false where files without a sha256 are no problem.
    """
    positions = find_positions(text)
    problems: Problems = []
    data: Any = without_extensions(positions.data)
    if positions.whole and is_foreign(data, Document):
        return (Problem(file, 1, "", "not a manifest: it has neither `version:` nor `models:`", code="manifest"),)
    if positions.whole and isinstance(data, dict):
        moved = lost_indentation(data)
        _manifest(data, file, home, problems, lock, resolve=resolve)
        problems = [*moved, *(p for p in problems if not moved or p[1] not in (NO_PIN, NOT_RESOLVED))]
    elif positions.whole:
        problems += schema_problems(data, Document)
    return _sorted(file, positions, problems, why)


def of_site(text: str, file: str, home: str, why: str) -> tuple[Problem, ...]:
    """Find all problems of a site file that its types refused; the arguments are those of `of_manifest`."""
    positions = find_positions(text)
    data: Any = without_extensions(positions.data)
    problems = schema_problems(data, SiteDocument) if positions.whole else []
    if positions.whole and isinstance(data, dict):
        good = {k: v for k, v in data.items() if _is_sound({k: v}, SiteDocument)}
        validate.site(msgspec.convert(good, SiteDocument, strict=False), file, home, problems)
    return _sorted(file, positions, problems, why)


def _manifest(
    data: dict[str, Any], file: str, home: str, problems: Problems, lock: Lock | None, *, resolve: bool
) -> None:
    # jsonschema is slow: it gets only what the types refuse. What they accept goes on to `validate`.
    models = data.get("models")
    bare = {**data, "models": {}} if isinstance(models, dict) else data
    problems += schema_problems(bare, Document)
    empty: dict[str, Any] = {"version": "1", "models": {}}
    good = {k: v for k, v in bare.items() if k != "version" and _is_sound({**empty, k: v}, Document)}
    sound: dict[str, Any] = {}
    kept: dict[str, set[str]] = {}  # of each model that the types refuse: its keys that they accept
    for name, model in models.items() if isinstance(models, dict) else ():
        if _is_sound(model, ModelEntry):
            sound[name] = model
        else:
            problems += schema_problems(model, ModelEntry, ("models", name))
            if isinstance(model, dict):
                sound[name] = {k: v for k, v in model.items() if _is_sound({k: v}, ModelEntry)}
                kept[name] = set(sound[name])
    entry = msgspec.convert({**empty, **good, "models": sound}, Document, strict=False)
    judged: Problems = []
    validate.manifest(entry, file, home, judged, unknown=data.keys() - good.keys(), lock=lock, resolve=resolve)
    # A key that such a model lacks may be there under a misspelt name: report only problems of the keys that it has.
    problems += [
        (key, text) for key, text in judged if key[1:2] and key[1] in kept and key[2:3] and key[2] in kept[key[1]]
    ]
    problems += [(key, text) for key, text in judged if not (key[0] == "models" and key[1:2] and key[1] in kept)]


def _is_sound(data: object, type_: type[Document | ModelEntry | SiteDocument]) -> bool:
    try:
        msgspec.convert(data, type_, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _sorted(file: str, positions: Positions, problems: Problems, why: str = "") -> tuple[Problem, ...]:
    odd = {fault.path for fault in positions.faults if fault.message.startswith("aliases")}
    located = {positions.at(file, *(fault.path, fault.message, fault.at)) for fault in positions.faults}
    said = {path_of(key): message for key, message in problems if message not in (NO_PIN, NOT_RESOLVED)}
    for key, message in problems:
        path = path_of(key)
        if message in (NO_PIN, NOT_RESOLVED) and said.get(path, "") not in ("", validate.NO_PLACE):
            continue  # it has no source, or one that cannot be resolved as it is written
        # An alias's target is not read, so no other problem of that value is real.
        if path not in odd or message.startswith("unknown key"):
            located.add(positions.problem(file, path, message))
    if not located:
        located.add(Problem(file, 1, "", f"not a manifest: {shown(why)}", code="manifest"))
    return tuple(
        msgspec.structs.replace(p, path=_masked_path(p.path), message=masked_text(p.message))
        for p in sorted(located, key=lambda p: (p.line, p.path, p.message))
    )


def _masked_path(path: str) -> str:
    """A key path with secrets masked: somebody may have written `user:password@host` as a key of `hosts:`."""
    return masked_text(re.sub("(?<=^hosts > ).*@", "***@", path))


def path_of(key: Key) -> str:
    """A key as text: `models > resnet50 > sha256`."""
    path = ""
    for part in key:
        path = keypath(path, part)
    return path
