"""What `import orchestrator` gives: load, plan, sync, path. Typed, silent, raising the classes of errors.py."""

from __future__ import annotations

from posixpath import dirname, normpath
from typing import TYPE_CHECKING

from orchestrator.context import Context
from orchestrator.errors import ManifestError, Problem
from orchestrator.workspace import Workspace, open_workspace, run_context, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.events import Event, Summary
    from orchestrator.transfer.run_context import Options


def _silent(_: Event) -> None:
    """Take an event and say nothing."""


def load(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    require_signature: bool = False,
) -> Workspace:
    """Read manifests (none: manifests/team.yaml) and the site file; `caches` is one folder for all frameworks' caches.

    Raises:
        ManifestError: every problem at once.
        PlacementError: a place or the store is where the site file does not let manifests put anything.
        SignatureError: a manifest or a lock lacks the signature that is required.
    """
    return open_workspace(
        Context.real(),
        manifests,
        only=only,
        store=store,
        root=root,
        caches=caches,
        require_signature=require_signature,
    )


def plan(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
    emit: Callable[[Event], None] = _silent,
) -> Summary:
    """Say what `sync` would do; the events `Foreseen` and `Measured` carry the details.

    Raises:
        ManifestError: every problem at once. Failures of files are in the summary.
    """
    from orchestrator.commands.plan import plan as plan_run

    space = load(*manifests, only=only, store=store, root=root, caches=caches)
    return plan_run(run_context(Context.real(), space, emit, options), space.wanted, space.unresolved)


def sync(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
    emit: Callable[[Event], None] = _silent,
) -> Summary:
    """Make it so. Look at the summary's `ok`, `exit_code` and `failed`.

    Raises:
        ManifestError: every problem at once. Failures of files are in the summary.
    """
    from orchestrator.engine.run import sync as sync_run

    space = load(*manifests, only=only, store=store, root=root, caches=caches)
    return sync_run(run_context(Context.real(), space, emit, options), space.wanted, space.unresolved)


def path(
    name: str, *manifests: str, store: str | None = None, root: str | None = None, caches: str | None = None
) -> str:
    """Give the first place of a model (of its first file); whether it is there yet is `sync`'s business.

    Raises:
        ManifestError: every problem at once, or no model of this name.
    """
    context = Context.real()
    return first_place(context, open_workspace(context, manifests, store=store, root=root, caches=caches), name)


def first_place(context: Context, space: Workspace, name: str) -> str:
    """Find the first place of a model, by the name that its framework knows it by; the blob where it wants none.

    Raises:
        ManifestError: no model of this name.
    """
    from orchestrator.store import Store

    found = next((w for w in space.wanted if w.model == name), None)
    if found is None:
        for model in space.unresolved:
            if model.model == name:
                raise ManifestError((Problem(model.manifest, 0, "", model.message),), model.hint)
        raise unknown_name(name, {w.model for w in space.wanted})
    if not found.places:
        store = Store(space.store, context.state)
        return store.alias(found.pins[0]) if not found.sha256 and found.pins else store.blob(found.sha256)
    first = found.places[0].path
    names = (p.path for p in found.places if p.target and normpath(f"{dirname(p.path)}/{p.target}") == first)
    return next(names, first)
