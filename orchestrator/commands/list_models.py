"""`orch list`: the models of the manifests, how large they are, for whom, and their state by stat alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.commands.status import GRAVEST_FIRST, gravest, size_of
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import scan
from orchestrator.workspace import store_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.context import Context
    from orchestrator.engine.scan import FileState
    from orchestrator.workspace import Workspace

PRESENT, UNLOCKED = "present", "unlocked"


class ModelRow(msgspec.Struct, frozen=True):
    """One model: `size_bytes` is None where the size of a file is not known.

    `state` is `present`, `unlocked` (`orch lock` is needed first), or the gravest of its files' states, as `orch
    status` tells them apart: modified, foreign, obstructed, unknown, linked, outdated, unverified or absent. `present`
    are the files that are in place.
    """

    manifest: str
    model: str
    files: int
    present: int
    size_bytes: int | None
    frameworks: tuple[str, ...]
    tags: tuple[str, ...]
    state: str


def rows(context: Context, space: Workspace, whole: Workspace) -> Iterator[ModelRow]:
    """Give the models in the manifests' order; no file is opened.

    Args:
        context: the environment.
        space: the models that are meant, with their files.
        whole: all models as they are written (`resolve=False`), for their order and frameworks.
    """
    store = store_of(context, space)
    by_model: dict[tuple[str, str], list[FileState]] = {}
    for each in scan(store, weak_pins.with_known_sha256(store, space.wanted)):
        by_model.setdefault((each.wanted.manifest, each.wanted.model), []).append(each)
    unlocked = {(each.manifest, each.model) for each in space.unresolved}
    for manifest in whole.manifests:
        for model in manifest.models:
            key = (manifest.file, model.name)
            frameworks = tuple(framework for framework, _ in model.layouts)
            if key in unlocked:
                count = len(model.files)
                yield ModelRow(*key, count, 0, None, frameworks, model.tags, UNLOCKED)
            elif key in by_model:
                states = by_model[key]
                bad = [gravest(each)[1] for each in states if not each.present]
                worst = min(bad, key=GRAVEST_FIRST.index, default=None)
                sizes = [size_of(each) for each in states]
                size = None if None in sizes else sum(size or 0 for size in sizes)
                state = worst.value if worst is not None else PRESENT
                yield ModelRow(*key, len(states), len(states) - len(bad), size, frameworks, model.tags, state)
