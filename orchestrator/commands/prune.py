"""`orch prune`: remove unreferenced files: show them, ask, and check again while no sync runs."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.commands import left_places
from orchestrator.commands.left_places import LeftPlaces
from orchestrator.errors import ExitCode, ManifestError, PlacementError, SignatureError, Stopped
from orchestrator.events import Summary
from orchestrator.files import reason
from orchestrator.manifest import lock_path
from orchestrator.store import Store, blobs, gc, locks, records
from orchestrator.store.gc import Garbage
from orchestrator.store.store import disk
from orchestrator.text import size_text
from orchestrator.workspace import open_workspace, site, store_at, store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from orchestrator.context import Context
    from orchestrator.model import Wanted
    from orchestrator.workspace import Workspace


KEEP_S = 30 * 86400.0  # how long `git revert` and `orch sync --offline` bring a previous version back

PLACES = ("place", "tree")  # the kinds of what is no garbage of the store
_LATEST_S = 250_000_000_000.0  # the year 9892: a longer `--keep` means for ever


def prune(
    context: Context,
    store_path: str,
    space: Workspace | None,
    *,
    agree: Callable[[list[Garbage]], bool],
    tell: Callable[[str], None],
    reread: Callable[[], Workspace | None] | None = None,
    keep_s: float = KEEP_S,
    show_kept: Callable[[list[Garbage]], None] | None = None,
    places: bool = False,
    lock_wait_s: float = math.inf,
) -> tuple[Summary, list[Garbage]]:
    """Remove the blobs that no known manifest wants, what dead processes left, and dangling names.

    Unfinished downloads that a known manifest wants stay, for the next sync to resume, unless `keep_s` is 0.

    `space` has the manifests that were named; `agree` is asked once, when there is anything. Only what it was shown is
    dropped, and of that only what still nobody wants once no sync is running: `reread` gives the named manifests as
    they are then.

    The blob of a previous version (what a place of a known manifest held until it was replaced) stays for `keep_s`
    seconds after that; `show_kept` gets all that stay by this alone.

    With `places` also what orch placed for models that left the named manifests is removed, where it is ours by its
    inode and whole by its seal; `tell` gets a line of each that stays.

    Returns:
        The summary, with the bytes that the disk got back, and what was dropped. Its exit code is 7 where a place
        could not be removed.

    Raises:
        HeldError: a sync has been running for `lock_wait_s`.
        ManifestError: a named manifest cannot be read any more.
        StoreError: the disk said no.
    """
    store = store_of(context, space) if space is not None else store_at(context, site(context), store_path)
    nothing = Summary(ok=True, exit_code=0, bytes_freed=0)
    if not os.path.isdir(store.path):
        return nothing, []
    with disk(store.path):
        before = gc_roots(context, store, space)
        for note in (*before.notes, *((before.blind,) if before.blind else ())):
            tell(note)
        left = _left_places(context, store, before, space if places else None, tell)
        shown = _with_last_names([*_as_garbage(left), *_garbage(context, store, before, keep_s, tell, show_kept)])
        if not shown or not agree(shown):
            return nothing, []
        try:
            with locks.exclusive(context, store, tell, wait_s=lock_wait_s):
                space = reread() if reread is not None else space
                again = gc_roots(context, store, space)
                left = _left_places(context, store, again, space if places else None)
                still = {each.path for each in (*_as_garbage(left), *_garbage(context, store, again, keep_s))}
                agreed = [each for each in shown if each.path in still]
                removed, failed = _remove_places(store, left, {each.path for each in agreed}, tell)
                if space is not None:
                    left_places.forget(store, space, left, removed)
                dropped = [each for each in agreed if each.path in removed or _drops(context, each)]
        except Stopped:
            return Summary(ok=False, exit_code=context.stop.code or int(ExitCode.INTERRUPTED), bytes_freed=0), []
    code = int(ExitCode.PLACEMENT) if failed else 0
    freed = sum(each.frees_bytes for each in dropped)
    return Summary(ok=not failed, exit_code=code, bytes_freed=freed), dropped


def _left_places(
    context: Context,
    store: Store,
    found: GcRoots,
    space: Workspace | None,
    tell: Callable[[str], None] = lambda _: None,
) -> LeftPlaces:
    """Find the places of models that left their manifest (of none where `space` is None); `tell` gets what stays."""
    if space is None:
        return LeftPlaces([], [], [])
    if found.blind:
        tell("all installed files stay: a model that cannot be read may need them")
        return LeftPlaces([], [], [])
    left = left_places.find(store, context.hostname, space, found.others)
    for note in left.notes:
        tell(note)
    for place in left.places:
        if place.stays:
            tell(f"{place.path} stays: {place.stays}")
    return left


def _as_garbage(left: LeftPlaces) -> list[Garbage]:
    return [
        Garbage(place.kind, place.path, place.made["sha256"], place.frees_bytes, place.identity, place.path)
        for place in {place.path: place for place in left.places if not place.stays}.values()
    ]


def _drops(context: Context, entry: Garbage) -> bool:
    return entry.kind not in PLACES and gc.drop(entry, context.state, context.stop)


def _with_last_names(shown: list[Garbage]) -> list[Garbage]:
    """Let the last of the names of one inode free its bytes, where all of its names go."""
    names = Counter(entry.identity for entry in shown if entry.kind in ("blob", "place"))
    found: list[Garbage] = []
    for entry in reversed(shown):
        if entry.frees_bytes == 0 and names.get(entry.identity, 0) > 1 and entry.kind in ("blob", "place"):
            with suppress(OSError):
                status = os.lstat(entry.path)
                if status.st_nlink == names.pop(entry.identity):
                    entry = entry._replace(frees_bytes=status.st_size)
        found.append(entry)
    return found[::-1]


def _remove_places(
    store: Store, left: LeftPlaces, agreed: Collection[str], tell: Callable[[str], None]
) -> tuple[set[str], bool]:
    """Remove the places that were agreed to.

    Returns:
        The paths of those that are gone, and whether one could not be removed.
    """
    removed: set[str] = set()
    failed = False
    for place in left.places:
        if place.stays or place.path not in agreed or place.path in removed:
            continue
        try:
            if left_places.remove(store, place):
                removed.add(place.path)
        except OSError as error:
            failed = True
            tell(f"{place.path} cannot be removed: {reason(error)}")
            continue
        if place.kind == "tree" and os.path.lexists(place.path):
            tell(f"{place.path} stays: something in it is not from the archive, or was changed")
    return removed, failed


def _garbage(
    context: Context,
    store: Store,
    found: GcRoots,
    keep_s: float,
    tell: Callable[[str], None] | None = None,
    show_kept: Callable[[list[Garbage]], None] | None = None,
) -> list[Garbage]:
    """List what may be removed: no blob while it is not known what somebody wants. Both callbacks get what stays."""
    now = context.now()
    until = {sha256: min(when + keep_s, _LATEST_S) for sha256, when in found.previous.items()}
    kept = {sha256: end for sha256, end in until.items() if keep_s and now < end}
    everything = [
        entry._replace(known_as=found.placed.get(entry.sha256, ""))
        for entry in gc.garbage(store, found.digests, partial(is_awaited, found) if keep_s else _nobody, now, kept)
        if not (found.blind and entry.kind in ("blob", "alias"))
    ]
    awaited = [entry for entry in everything if entry.awaited]
    if awaited and tell is not None:
        size = sum(entry.frees_bytes for entry in awaited)
        which = "1 unfinished download stays" if len(awaited) == 1 else f"{len(awaited)} unfinished downloads stay"
        tell(
            f"{which} ({size_text(size)}): the next sync resumes what a manifest wants, until it is 30 days old; "
            "--keep 0s removes it now"
        )
    if show_kept is not None:
        show_kept([entry for entry in everything if entry.kept_until])
    records = [] if found.blind else [entry for file in found.idle if (entry := gc.record_of(file))]
    return [entry for entry in (*everything, *records) if not (entry.awaited or entry.kept_until)]


_DIGEST = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")


@dataclass
class GcRoots:
    """The digests that must stay, a place of each that was ever placed, and what is to be said of how they were found.

    `keys` are what the wanted files' unfinished bytes go by; `idle` the records of manifests of which nothing is left;
    `previous` the digests that a place held before, each with the time of its replacement (s since the epoch);
    `others` what the manifests want that were not named.
    `blind` is why no blob may be dropped at all: what a damaged record wanted is not known. `unreachable` are the
    manifests whose folder is not here: their disk may not be mounted.
    """

    digests: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    idle: list[str] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)
    previous: dict[str, float] = field(default_factory=dict)
    others: list[Wanted] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    blind: str = ""


def gc_roots(context: Context, store: Store, space: Workspace | None) -> GcRoots:
    """Gather what the manifests in `space` want, which were named, and what all recorded manifests want.

    A recorded manifest that is gone wants nothing any more. One that cannot be read, that is on another host, or whose
    folder is not here (its disk may not be mounted) keeps what its record names. A place that is a symlink into the
    store keeps its blob.
    """
    found = GcRoots()
    done = {manifest.file for manifest in space.manifests} if space is not None else set()
    wanted = space.wanted if space is not None else ()
    places = {place.path for w in wanted for place in w.places}
    _add(found, store, wanted)
    for file in done:
        found.digests |= _digests_in(lock_path(file))
    unlocked = {each.manifest for each in space.unresolved} if space is not None else set()
    for file in unlocked:
        found.notes.append(
            f"files that {file} installed from this store stay: not all of its models are locked (`orch lock {file}`)"
        )
    for record in records.records(store):
        if record.problem:
            found.blind = (
                f"{record.file} is damaged ({record.problem}), so what it refers to is not known, and every file of "
                "the store stays: run `orch sync` with its manifest, or remove it if all its files are installed"
            )
            continue
        found.placed.update((made["sha256"], path) for path, made in record.places.items())
        recorded = {made["sha256"] for made in record.places.values()}
        if record.manifest in unlocked:
            found.digests |= recorded
        found.digests |= {
            made["sha256"] for path, made in record.places.items() if _leads_in(store, path, made["sha256"])
        }
        if _is_idle(context, record) and record.manifest not in done:
            found.idle.append(record.file)
        if record.host != context.hostname:
            found.digests |= recorded
            found.notes.append(f"{record.manifest} is on {record.host}: files that it installed from this store stay")
        elif record.manifest not in done and _is_unreachable(record.manifest):
            found.digests |= recorded
            _add_unreachable(found, record)
        elif record.manifest not in done:
            _add_recorded(context, store, found, record.manifest, recorded)
        if not _is_gone(context, record):
            _add_previous(found, record)
            _add_standing(found, record, places, context.now())
    return found


def _is_gone(context: Context, record: records.RecordFile) -> bool:
    """Whether nobody wants any more what a record names: its manifest was removed, or it is of `orch get`."""
    if record.host != context.hostname or (os.path.isabs(record.manifest) and os.path.lexists(record.manifest)):
        return False
    return not _is_unreachable(record.manifest)


def _is_unreachable(manifest: str) -> bool:
    """Whether the folder of a recorded manifest is not here, or has nothing in it, as a disk that is not mounted."""
    if not os.path.isabs(manifest) or os.path.lexists(manifest):
        return False
    try:
        return not os.listdir(os.path.dirname(manifest))
    except OSError:
        return True


def _add_unreachable(found: GcRoots, record: records.RecordFile) -> None:
    """Say that nobody can tell what a manifest wants whose folder is not here; keep all where its record names none."""
    found.unreachable.append(record.manifest)
    where = f"the folder of {record.manifest} is not here (a disk that is not mounted?)"
    forget = f"where it is gone for good, remove {record.file}"
    if record.places:
        found.notes.append(f"{where}: files that it installed from this store stay; {forget}")
    else:
        found.blind = f"{where}, and what it refers to is not known, so every file of the store stays; {forget}"


def _add_previous(found: GcRoots, record: records.RecordFile) -> None:
    """Add what the places of one record held before; of a digest that several held, the last replacement counts."""
    for path, made in record.places.items():
        for sha256, when in made.get("previous", ()):
            found.previous[sha256] = max(when, found.previous.get(sha256, 0.0))
            found.placed.setdefault(sha256, path)


def _add_standing(found: GcRoots, record: records.RecordFile, places: Collection[str], now: float) -> None:
    """Add what wanted places hold until the next sync replaces it: a previous version from then on."""
    for path, made in record.places.items():
        if path in places and os.path.lexists(path):
            found.previous[made["sha256"]] = now


def _nobody(_: str) -> bool:
    return False


def is_awaited(found: GcRoots, key: str) -> bool:
    """Whether somebody may resume the unfinished bytes of a key; of a file without a pin nobody can tell."""
    return bool(found.blind or found.unreachable) or key in found.keys or key.startswith("url-")


def _is_idle(context: Context, record: records.RecordFile) -> bool:
    """Whether neither the manifest of a record nor any of its places exists any more."""
    return _is_gone(context, record) and not any(os.path.lexists(path) for path in record.places)


def _add_recorded(context: Context, store: Store, found: GcRoots, manifest: str, recorded: set[str]) -> None:
    if not os.path.isabs(manifest):
        return  # what `orch get` fetched: no manifest wants it
    if not os.path.lexists(manifest):
        found.notes.append(f"{manifest} was deleted: nothing is kept for it")
        return
    try:
        space = open_workspace(context, [manifest])
    except (ManifestError, PlacementError, SignatureError) as error:
        found.digests |= recorded | _digests_in(manifest) | _digests_in(lock_path(manifest))
        first = error.message.partition("\n")[0]
        found.notes.append(f"files that {manifest} installed from this store stay, since it cannot be read: {first}")
        return
    _add(found, store, space.wanted)
    found.others += space.wanted
    found.digests |= _digests_in(lock_path(manifest))


def _add(found: GcRoots, store: Store, wanted: Iterable[Wanted]) -> None:
    for one in wanted:
        sha256 = one.sha256 or blobs.find(store, one.pins)
        found.digests.add(sha256)
        found.keys |= {one.key, sha256}


def _digests_in(path: str) -> set[str]:
    """Find every sha256 in a file, whatever it means there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return {match.lower() for match in _DIGEST.findall(file.read())}
    except OSError:
        return set()


def _leads_in(store: Store, path: str, sha256: str) -> bool:
    return os.path.islink(path) and os.path.realpath(path) == os.path.realpath(store.blob(sha256))
