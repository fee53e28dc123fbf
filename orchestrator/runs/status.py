"""What is in place, by stat alone: nothing is opened, hashed or changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.errors import DigestError, PlacementError, TransferError
from orchestrator.runs import weak
from orchestrator.runs.standing import Records, State, standings
from orchestrator.runs.tally import Tally
from orchestrator.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.model import Unresolved, Wanted
    from orchestrator.runs.standing import Standing
    from orchestrator.world import World


def status(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    unresolved: Sequence[Unresolved] = (),
) -> Summary:
    """Judge every place by one stat each.

    Returns:
        The summary: 0 all in place, 5 something absent, 6 a broken seal, 7 a foreign file, 1 several of these.
    """
    began = world.monotonic()
    store = Store(store_path, world.state, world.stop)
    wanted = weak.known(store, wanted)
    tally, records = Tally(wanted), Records(store)
    tally.refuse(unresolved, emit)
    for standing in standings(store, wanted):
        w = standing.wanted
        if standing.present:
            tally.present += 1
            emit(events.Finished(w.model, w.file, "present", size_bytes=w.size or 0))
        else:
            emit(tally.fail(w, _what_is_wrong(standing, records)))
    return tally.summary(world.monotonic() - began)


def _what_is_wrong(standing: Standing, records: Records) -> OrchError:
    """The gravest state of a file's places: a broken seal, then a stranger, then absence."""
    sha256 = standing.wanted.sha256
    for path, state in standing.states:
        if state is State.UNSEALED and records.is_ours(path, sha256):
            hint = "run `orch sync`: it looks into the file and puts it right"
            return DigestError(f"{path}: its seal is broken, something wrote into it", hint, "seal")
    for path, state in standing.states:
        if state in (State.UNSEALED, State.OBSTRUCTED):
            hint = "run `orch sync`: it adopts the file if its bytes are right; else move it away, or --force"
            return PlacementError(f"{path}: a foreign file stands there", hint, "foreign")
    path = next(path for path, state in standing.states if state is State.ABSENT)
    return TransferError(f"{path}: absent", "run `orch sync`", "absent")
