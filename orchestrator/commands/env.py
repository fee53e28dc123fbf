"""Where the frameworks of some manifests look, as environment variables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orchestrator import manifest as manifests
from orchestrator.errors import ManifestError, Problem
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import below, by_name, reads_no_variable
from orchestrator.workspace import DEFAULT_MANIFEST, hint_for, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context


class Environment(msgspec.Struct, frozen=True):
    """The variables, those that keep the frameworks off the network, and the frameworks that read none."""

    variables: dict[str, str]
    offline: dict[str, str]
    unread_frameworks: tuple[str, ...]


def environment(context: Context, paths: Sequence[str], caches: str | None) -> Environment:
    """What the frameworks in these manifests' `for:` read; `caches` is the folder of them all, if there is one.

    No lock is needed. None given: manifests/team.yaml.

    Raises:
        ManifestError: every problem of every file at once.
    """
    problems: list[Problem] = []
    frameworks: dict[str, str] = {}
    for path in dict.fromkeys(os.path.abspath(os.path.join(context.cwd, p)) for p in paths or (DEFAULT_MANIFEST,)):
        try:
            manifest = manifests.parse(read_text(path), path, context.home, resolve=False)
        except ManifestError as error:
            problems += error.problems
            continue
        frameworks.update((name, path) for model in manifest.models for name, _ in model.layouts)
    looking = below(context, caches) if caches else context
    found = Environment({}, {}, ())
    for name, path in sorted(frameworks.items()):
        layout = by_name(name)
        try:
            read = layout.variables(looking)
        except LayoutError as error:
            problems.append(Problem(path, 0, f"for: {name}", str(error)))
            continue
        found.variables.update(read)
        found.offline.update(layout.OFFLINE)
    if problems:
        raise ManifestError(tuple(problems), hint_for(problems))
    return msgspec.structs.replace(found, unread_frameworks=tuple(reads_no_variable(looking, frameworks)))
