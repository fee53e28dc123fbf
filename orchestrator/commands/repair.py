"""Every byte read again, and what is wrong put right: from what is here, else by as few bytes as can be."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.commands.verify import give_up, read, unread_error
from orchestrator.engine import weak_pins
from orchestrator.engine.run import put_right
from orchestrator.engine.scan import Records, Standing, State, standings, warn_of_size
from orchestrator.engine.summary import Tally
from orchestrator.errors import Stopped
from orchestrator.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.commands.verify import Found
    from orchestrator.context import World
    from orchestrator.engine.options import Options
    from orchestrator.events import Event, Summary
    from orchestrator.model import Host, Unresolved, Wanted


def repair(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    hosts: Mapping[str, Host],
    options: Options,
    unresolved: Sequence[Unresolved] = (),
    max_age_s: float | None = None,
) -> Summary:
    """Read everything as `reread` does, then do for what is wrong or absent what a sync would. No pin is changed.

    Returns:
        The summary: 0 where all is right in the end, else what `sync` would end with.
    """
    began = world.monotonic()
    store = Store(store_path, world.state, world.stop)
    wanted = weak_pins.known(store, wanted)
    tally = Tally(wanted)
    tally.refuse(unresolved, emit)
    todo: list[Standing] = []
    unread, records = iter(wanted), Records(store)
    try:
        for found in read(world, store, wanted, max_age_s):
            next(unread)
            if found.unknown and not found.wrong:
                emit(tally.fail(found.wanted, unread_error(store, *found.unknown[0])))
                continue
            if found.true_size is not None:
                warn_of_size(found.wanted, found.true_size, emit)
            standing = _standing(store, records, found)
            if standing.present:
                tally.present += 1
                emit(found.event)
            else:
                todo.append(standing)
    except Stopped:
        give_up(tally, (*(standing.wanted for standing in todo), *unread), emit)
        todo = []
    if todo:
        put_right(world, store, todo, emit, hosts, options, tally)
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def _standing(store: Store, records: Records, found: Found) -> Standing:
    """What stands where, by what was read: an inode that is wrong is so at each of its names."""
    for place in found.wanted.places:
        for path in found.wrong:
            if place.unpack and path.startswith(f"{place.path}/"):
                with suppress(OSError):
                    os.utime(path)  # breaks its seal, as a write would: then it is found in its tree
    (standing,) = standings(store, (found.wanted,), records)
    wrong = {_inode(path) for path in found.wrong} - {None}
    states = {path: _read(path, state, wrong) for path, state in standing.states}
    blob = store.blob(found.wanted.key)
    if _inode(blob) in wrong:
        states[blob] = State.WRONG
    return Standing(found.wanted, tuple(states.items()))


def _read(path: str, state: State, wrong: set[tuple[int, int] | None]) -> State:
    """A state after the reading: bytes that were read and are right are not doubted, wrong ones not believed."""
    if _inode(path) not in wrong:
        return state
    return state if state is State.OUTDATED else State.WRONG


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
