"""What nobody wants goes from the store: shown first, agreed to, and looked at again while nobody else works there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.errors import ExitCode, ManifestError, Stopped
from orchestrator.events import Summary
from orchestrator.manifest import lock_path
from orchestrator.store import Store, blobs, gc, locks, records
from orchestrator.store.store import disk
from orchestrator.workspace import open_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Wanted
    from orchestrator.store.gc import Garbage


def prune(
    context: Context,
    store_path: str,
    named: Sequence[Wanted],
    files: Sequence[str],
    *,
    agree: Callable[[list[Garbage]], bool],
    tell: Callable[[str], None],
    wait: bool = True,
) -> tuple[Summary, list[Garbage]]:
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
    store = Store(store_path, context.state, context.stop)
    nothing = Summary(ok=True, exit_code=0, bytes_freed=0)
    if not os.path.isdir(store.path):
        return nothing, []
    with disk(store.path):
        before = gc_roots(context, store, named, files)
        for note in (*before.notes, *((before.blind,) if before.blind else ())):
            tell(note)
        shown = _garbage(context, store, before, tell)
        if not shown or not agree(shown):
            return nothing, []
        try:
            with locks.exclusive(context, store, tell, wait=wait):
                still = {left.path for left in _garbage(context, store, gc_roots(context, store, named, files))}
                dropped = [left for left in shown if left.path in still and gc.drop(left)]
        except Stopped:
            return Summary(ok=False, exit_code=context.stop.code or int(ExitCode.INTERRUPTED), bytes_freed=0), []
    return Summary(ok=True, exit_code=0, bytes_freed=sum(left.frees_bytes for left in dropped)), dropped


def _garbage(
    context: Context, store: Store, found: GcRoots, tell: Callable[[str], None] | None = None
) -> list[Garbage]:
    """What may go; no blob as long as it is not known what somebody wants; `tell` says what is gone on with."""
    everything = gc.garbage(store, found.digests, partial(is_awaited, found), context.now())
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


_DIGEST = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")


@dataclass
class GcRoots:
    """The digests that must stay, a place of each that was ever placed, and what is to be said of how they were found.

    `keys` are what the wanted files' unfinished bytes go by; `idle` the records of manifests of which nothing is left.
    `blind` is why no blob may be dropped at all: what a damaged record wanted is not known.
    """

    digests: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    idle: list[str] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    blind: str = ""


def gc_roots(context: Context, store: Store, named: Sequence[Wanted], files: Iterable[str]) -> GcRoots:
    """Gather what `named` wants (of the manifests in `files`), and what all recorded manifests want.

    A recorded manifest that is gone wants nothing any more. One that cannot be read, or that is on another host,
    keeps what its record names. A place that is a symlink into the store keeps its blob.
    """
    found = GcRoots()
    done = set(files)
    _add(found, store, named)
    for file in done:
        found.digests |= _digests_in(lock_path(file))
    for record in records.records(store):
        if record.problem:
            found.blind = (
                f"{record.file} is damaged ({record.problem}), so what it wanted is not known and every blob stays: "
                "run `orch sync` with its manifest, or remove it where you know that all is placed"
            )
            continue
        found.placed.update((made["sha256"], path) for path, made in record.places.items())
        recorded = {made["sha256"] for made in record.places.values()}
        found.digests |= {sha256 for path, sha256 in _made(record) if _leads_in(store, path, sha256)}
        if _is_idle(context, record) and record.manifest not in done:
            found.idle.append(record.file)
        if record.host != context.hostname:
            found.digests |= recorded
            found.notes.append(f"{record.manifest} is on {record.host}: what it placed from here stays")
        elif record.manifest not in done:
            _add_recorded(context, store, found, record.manifest, recorded)
    return found


def is_awaited(found: GcRoots, key: str) -> bool:
    """Whether somebody may go on with the unfinished bytes of a key; of a file without a pin nobody can tell."""
    return bool(found.blind) or key in found.keys or key.startswith("url-")


def _is_idle(context: Context, record: records.RecordFile) -> bool:
    """Whether nothing is left that a record tells of: neither its manifest nor any place."""
    if record.host != context.hostname or (os.path.isabs(record.manifest) and os.path.lexists(record.manifest)):
        return False
    return not any(os.path.lexists(path) for path in record.places)


def _add_recorded(context: Context, store: Store, found: GcRoots, manifest: str, recorded: set[str]) -> None:
    if not os.path.isabs(manifest):
        return  # what `orch get` fetched: no manifest wants it
    if not os.path.lexists(manifest):
        found.notes.append(f"{manifest} is gone: it wants nothing any more")
        return
    try:
        space = open_workspace(context, [manifest])
    except ManifestError as error:
        found.digests |= recorded | _digests_in(manifest) | _digests_in(lock_path(manifest))
        first = error.message.partition("\n")[0]
        found.notes.append(f"what {manifest} placed from here stays, since it cannot be read: {first}")
        return
    _add(found, store, space.wanted)
    found.digests |= _digests_in(lock_path(manifest))


def _add(found: GcRoots, store: Store, wanted: Iterable[Wanted]) -> None:
    for one in wanted:
        sha256 = one.sha256 or blobs.find(store, one.pins)
        found.digests.add(sha256)
        found.keys |= {one.key, sha256}


def _digests_in(path: str) -> set[str]:
    """Every sha256 in a file, whatever it means there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return {match.lower() for match in _DIGEST.findall(file.read())}
    except OSError:
        return set()


def _made(record: records.RecordFile) -> list[tuple[str, str]]:
    return [(path, made["sha256"]) for path, made in record.places.items()]


def _leads_in(store: Store, path: str, sha256: str) -> bool:
    return os.path.islink(path) and os.path.realpath(path) == os.path.realpath(store.blob(sha256))
