"""What nobody wants goes from the store: shown first, agreed to, and looked at again while nobody else works there."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.commands.gc_roots import Known, is_awaited, known
from orchestrator.errors import ExitCode, Stopped
from orchestrator.events import Summary
from orchestrator.store import Store, gc, locks
from orchestrator.store.store import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.context import World
    from orchestrator.model import Wanted
    from orchestrator.store.gc import Leftover


def prune(
    world: World,
    store_path: str,
    named: Sequence[Wanted],
    files: Sequence[str],
    *,
    agree: Callable[[list[Leftover]], bool],
    tell: Callable[[str], None],
    wait: bool = True,
) -> tuple[Summary, list[Leftover]]:
    """Drop the blobs that no known manifest wants, what dead writers left, and dangling names; never a place.

    Unfinished bytes that a known manifest wants stay, for the next sync to go on with. `named` is what the manifests
    in `files` want; `agree` is asked once, when there is anything. Only what it was shown is dropped, and of that only
    what still nobody wants once no sync is running.

    Returns:
        The summary, with the bytes that the disk got back, and what was dropped.

    Raises:
        HeldError: a sync is running, and `wait` is false.
        StoreError: the disk said no.
    """
    store = Store(store_path, world.state, world.stop)
    nothing = Summary(ok=True, exit_code=0, bytes_freed=0)
    if not os.path.isdir(store.path):
        return nothing, []
    with disk(store.path):
        before = known(world, store, named, files)
        for note in (*before.notes, *((before.blind,) if before.blind else ())):
            tell(note)
        shown = _leftovers(world, store, before, tell)
        if not shown or not agree(shown):
            return nothing, []
        try:
            with locks.removing(world, store, tell, wait=wait):
                still = {left.path for left in _leftovers(world, store, known(world, store, named, files))}
                dropped = [left for left in shown if left.path in still and gc.drop(left)]
        except Stopped:
            return Summary(ok=False, exit_code=world.stop.code or int(ExitCode.INTERRUPTED), bytes_freed=0), []
    return Summary(ok=True, exit_code=0, bytes_freed=sum(left.frees_bytes for left in dropped)), dropped


def _leftovers(world: World, store: Store, found: Known, tell: Callable[[str], None] | None = None) -> list[Leftover]:
    """What may go; no blob as long as it is not known what somebody wants; `tell` says what is gone on with."""
    everything = gc.leftovers(store, found.digests, partial(is_awaited, found), world.now())
    awaited = [left for left in everything if left.awaited]
    if awaited and tell is not None:
        size = sum(left.frees_bytes for left in awaited)
        which = "1 unfinished download stays" if len(awaited) == 1 else f"{len(awaited)} unfinished downloads stay"
        tell(f"{which} ({size} bytes): the next sync goes on with what a manifest wants, until it is 30 days old")
    records = [] if found.blind else [left for file in found.idle if (left := gc.record_of(file))]
    return [
        left._replace(known_as=found.placed.get(left.sha256, ""))
        for left in (*everything, *records)
        if not left.awaited and not (found.blind and left.kind in ("blob", "alias"))
    ]
