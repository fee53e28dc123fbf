"""Whose the wrong bytes are: who gave which range of a file, and what of it need not be fetched again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends.shared import subtract
from orchestrator.events import Mismatched, Noticed
from orchestrator.faults import Fault, Kind
from orchestrator.transfer import repair
from orchestrator.transfer.retry import Attempt

if TYPE_CHECKING:
    from orchestrator.model import Range
    from orchestrator.transfer.state import Effort

EARLIER = "an earlier run"


class Given(NamedTuple):
    """A range that came in this run: by which program, and from which sources, of which one gave it."""

    range: Range
    backend: str
    sources: tuple[str, ...]


def given(before: tuple[Range, ...], after: tuple[Range, ...], backend: str, sources: tuple[str, ...]) -> list[Given]:
    """What a program brought: the ranges that were missing before it and are not after it."""
    return [Given(piece, backend, sources) for piece in subtract(before, after)]


def keep_good(effort: Effort, backend: str, source: str) -> tuple[Attempt, ...] | None:
    """Of a complete file with wrong bytes keep the good pieces, if they are known; the bad ones are missing again.

    Returns:
        An attempt for each source that gave wrong bytes: CORRUPT where it is plain who did. Where several gave a bad
        piece together, the one that was asked (`backend`, `source`) is only set aside, and from now on each goes
        alone. Empty where they are of an earlier run. None where no piece is known to be good.
    """
    artifact, partial, kit = effort.artifact, effort.holding.partial, effort.kit
    damage = repair.examine(partial.file, artifact, kit.world.stop)
    if damage is None:
        if effort.mends:
            effort.mends = False
            kit.emit(Noticed(f"{artifact.name}: its piece hashes do not help: `orch lock --update` makes them anew"))
        return None
    blamed, suspects = _blame(effort, damage.bad)
    whose = " and ".join(dict.fromkeys((*blamed, *suspects)))
    about = {"expected": artifact.sha256, "source": whose, "model": effort.talk[0]}
    folder = repair.banish(kit.store, partial.file, damage, about)
    kit.emit(Mismatched(*effort.talk, whose, artifact.sha256, damage.found, folder, damage.words))
    repair.ask_for(partial, damage)
    was_inherited, effort.inherited, effort.given, effort.proven = effort.inherited, False, [], True
    if blamed:
        hint = "add a mirror and run `orch sync` again: the good pieces are kept, the others are fetched"
        fault = Fault(Kind.CORRUPT, f"wrong bytes: {damage.words}", hint=hint, mendable=True)
        return tuple(Attempt(program, url, fault) for url, program in blamed.items())
    effort.part()
    if was_inherited and EARLIER in suspects:
        return ()
    fault = Fault(Kind.UNRESUMABLE, f"wrong bytes from several sources: {damage.words}", mendable=True)
    return (Attempt(backend, source, fault),)


def _blame(effort: Effort, bad: tuple[Range, ...]) -> tuple[dict[str, str], list[str]]:
    """Who alone gave something bad, with the program that brought it; and who may have, together with others."""
    blamed: dict[str, str] = {}
    suspects: dict[str, None] = {}
    for hole in bad:
        brought = [g for g in effort.given if g.range.start < hole.end and hole.start < g.range.end]
        givers = dict.fromkeys(url for g in brought for url in g.sources)
        if effort.inherited and subtract((hole,), tuple(g.range for g in brought)):
            givers[EARLIER] = None
        if len(givers) == 1 and brought:
            blamed[brought[0].sources[0]] = brought[0].backend
        else:
            suspects.update(givers or {EARLIER: None})
    return blamed, [url for url in suspects if url not in blamed]
