"""Installed files of models that were taken out of their manifest: find them by stat, remove the unchanged ones."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.engine import weak_pins
from orchestrator.engine.scan import is_inode, leads_below, leads_into
from orchestrator.files import reason
from orchestrator.folders import Folder, Folders
from orchestrator.placement import tree
from orchestrator.store import extra_files, records, seal, tree_records

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from orchestrator.manifest import Manifest
    from orchestrator.model import Wanted
    from orchestrator.store import Store
    from orchestrator.store.records import PlaceRecord, RecordFile
    from orchestrator.workspace import Workspace


class LeftPlace(NamedTuple):
    """Something that stands where no model of a manifest wants it any more.

    `kind` is place or tree; `stays` says why it may not be removed, "" where it may; `files` are the files of a tree
    that are ours and whole, by their paths below it. `frees_bytes` is what the disk gets back, as far as this place
    alone decides it. `identity` (inode and mtime in ns) tells whether it is still the same thing later.
    """

    record: RecordFile
    kind: str
    path: str
    made: PlaceRecord
    size_bytes: int = 0
    frees_bytes: int = 0
    identity: tuple[int, int] = (0, 0)
    stays: str = ""
    files: tuple[str, ...] = ()


class LeftPlaces(NamedTuple):
    """What was found: `places` stand, of `absent` (record, path) nothing stands; `notes` say what was not looked at."""

    places: list[LeftPlace]
    absent: list[tuple[RecordFile, str]]
    notes: list[str]


def find(store: Store, host: str, space: Workspace, also: Iterable[Wanted] = ()) -> LeftPlaces:
    """Find the places of the manifests in `space` that no model wants any more; nothing is changed.

    Only what the records of these manifests name is looked at, with one lstat each. A place that another record names
    as well, or that a file in `also` (of other manifests) wants, is not left. Neither is one whose digest a model with
    `for:` still wants, or one outside of the manifest's own folders whose digest any model wants: it may be in a
    framework's cache of another environment (TORCH_HOME, --caches), or below another --root.

    Args:
        host: this machine's name; a record that another one wrote is not looked at.
    """
    found = LeftPlaces([], [], [])
    named = {place.path for w in space.wanted for place in w.places}
    candidates: list[tuple[RecordFile, str, PlaceRecord]] = []
    wanted = weak_pins.with_known_sha256(store, space.wanted)
    extra = {each.path for w in space.wanted if w.extra_files for each in extra_files.of(store, w)}
    for manifest in space.manifests:
        record = records.read(store, manifest.file, unless=named)
        if record is None or not (unwanted := _unwanted(manifest, record, wanted, extra)):
            continue
        if note := _why_unknown(host, manifest, record, space):
            found.notes.append(note)
            continue
        candidates += [(record, path, made) for path, made in unwanted.items()]
    if not candidates:
        return found
    subjects = [(path, made) for _, path, made in candidates]
    claimed = _matches(store, subjects, ((path, "") for w in (*space.wanted, *also) for path in _paths_of(store, w)))
    recorded = _matches(store, subjects, _recorded_elsewhere(store, {manifest.file for manifest in space.manifests}))
    taken = {*claimed, *recorded}
    for record, path, made in candidates:
        if path in claimed:
            continue
        left = _judge(store, record, path, made, taken)
        if left is None:
            found.absent.append((record, path))
            continue
        if path in recorded:
            left = left._replace(stays=f"it is recorded for {recorded[path]} too")
        found.places.append(left)
    may_go = {
        left.path for left in found.places if not left.stays
    }  # two records may name a place that one of them made
    return found._replace(places=[left for left in found.places if not left.stays or left.path not in may_go])


def remove(store: Store, left: LeftPlace) -> bool:
    """Remove a place that may go, if it is still the same; of a tree its files, and the folders that are empty then.

    Raises:
        OSError: the disk said no.
    """
    folders = Folders(store.trusted, open_to_all=True)
    folder, name = folders.in_folder(left.path)
    if left.kind == "tree":
        with folder.below(name) as place:
            if os.fstat(place.fd).st_ino != left.identity[0]:
                return False
            tree.clear(store, place, left.files)
        with suppress(OSError):  # something is in it that is not ours
            os.rmdir(folder.at(name))
        return True
    try:
        status = os.lstat(folder.at(name))
    except FileNotFoundError:
        return False
    if (status.st_ino, status.st_mtime_ns) != left.identity:
        return False
    os.unlink(folder.at(name))
    _tidy_hub_cache(folders, left.path)
    return True


def forget(store: Store, space: Workspace, found: LeftPlaces, removed: Collection[str]) -> None:
    """Take from the records of these manifests what was removed, and what is absent from a folder that is here.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for while another orch was writing.
    """
    gone = {manifest.file: set(removed) for manifest in space.manifests}
    for record, path in found.absent:
        with suppress(OSError):  # of a disk that is not mounted nobody can tell; its mount point is empty
            if os.listdir(os.path.dirname(path)):
                gone[record.manifest].add(path)
    for manifest, paths in gone.items():
        if paths:
            records.forget(store, manifest, paths, store.stop)


def _unwanted(
    manifest: Manifest, record: RecordFile, all_wanted: Sequence[Wanted], extra: set[str]
) -> dict[str, PlaceRecord]:
    """Give the recorded places of one manifest, other than places of wanted files, that nothing here names.

    `all_wanted` are the files of all manifests, `extra` the paths of their extra files.
    """
    if not record.places:
        return {}
    wanted = [w for w in all_wanted if w.manifest == manifest.file]
    digests = {w.sha256 for w in wanted}
    with_layout = {model.name for model in manifest.models if model.layouts}
    by_layout = {w.sha256 for w in wanted if w.model in with_layout}
    folders = tuple(f"{folder.rstrip('/')}/" for folder in (manifest.root, *manifest.allow_absolute))

    def is_elsewhere(path: str, sha256: str) -> bool:
        return sha256 in by_layout or (sha256 in digests and not path.startswith(folders))

    return {
        path: made
        for path, made in record.places.items()
        if path not in extra and not is_elsewhere(path, made["sha256"])
    }


def _why_unknown(host: str, manifest: Manifest, record: RecordFile, space: Workspace) -> str:
    """Say why nobody can tell which places of a manifest are wanted; "" where one can."""
    if record.host != host:
        return f"{manifest.file} was last synced on {record.host}: files of removed models are not looked for"
    if any(each.manifest == manifest.file for each in space.unresolved):
        return f"{manifest.file} has models without a pin: `orch lock {manifest.file}`, then run this again"
    return ""


def _recorded_elsewhere(store: Store, named: set[str]) -> Iterator[tuple[str, str]]:
    """Go through the places, and the files of trees, that the records of other manifests than `named` have."""
    for record in records.records(store):
        if record.manifest not in named:
            for place, made in record.places.items():
                yield place, record.manifest
                yield from ((f"{place}/{name}", record.manifest) for name in _listing(store, made))


def _matches(
    store: Store, subjects: Sequence[tuple[str, PlaceRecord]], paths: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Give the subjects (and the files of those that are trees) that are one of `paths`, with what goes by that path.

    Their folders may have other names in `paths`: through a link, or where a disk is mounted twice.
    """
    by_name: dict[str, list[str]] = {}
    for subject, made in subjects:
        for path in (subject, *(f"{subject}/{name}" for name in _listing(store, made))):
            by_name.setdefault(os.path.basename(path).casefold(), []).append(path)
    found: dict[str, str] = {}
    for path, what in paths:
        for subject in by_name.get(os.path.basename(path).casefold(), ()):
            if subject not in found and _is_same_place(subject, path):
                found[subject] = what
    return found


def _paths_of(store: Store, wanted: Wanted) -> Iterator[str]:
    """Go through the paths that one file takes up: its places, what an archive unpacks to, a layout's small files."""
    for place in wanted.places:
        yield place.path
        if place.unpack:
            yield from (f"{place.path}/{name}" for name in tree_records.read(store, wanted.sha256))
    yield from (extra.path for extra in extra_files.of(store, wanted))


def _is_same_place(one: str, other: str) -> bool:
    """Whether two paths, whose last names differ in case at most, name one place."""
    if one == other:
        return True
    try:
        if not os.path.samestat(os.stat(os.path.dirname(one)), os.stat(os.path.dirname(other))):
            return False
        return os.path.basename(one) == os.path.basename(other) or os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def _listing(store: Store, made: PlaceRecord) -> tree_records.Listing:
    """What was unpacked at a recorded place; nothing where it is no tree."""
    return tree_records.read(store, made["sha256"]) if made.get("how") == "unpacked" else {}


def _listings(store: Store, made: PlaceRecord) -> list[tree_records.Listing]:
    return [tree_records.read(store, digest) for digest in (made["sha256"], made.get("old", "")) if digest]


def _judge(store: Store, record: RecordFile, path: str, made: PlaceRecord, claimed: set[str]) -> LeftPlace | None:
    """Judge what stands at a place that nobody wants any more; None where nothing does."""
    left = LeftPlace(record, "place", path, made)
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return left._replace(stays=f"it cannot be read ({reason(error)})")
    if stat.S_ISDIR(status.st_mode):
        return _judge_tree(store, left, status, claimed)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    left = left._replace(
        size_bytes=size,
        frees_bytes=size if status.st_nlink == 1 else 0,
        identity=(status.st_ino, status.st_mtime_ns),
    )
    return left._replace(stays=_why_file_stays(store, left, status))


def _why_file_stays(store: Store, left: LeftPlace, status: os.stat_result) -> str:
    """Say why a file or a link may not be removed; "" where it is ours, by its inode, and whole, by its seal."""
    path, made = left.path, left.made
    digests = [digest for digest in (made["sha256"], made.get("old")) if digest]
    if made["link"] == records.ADOPTED:
        return "it was there before orch"
    if stat.S_ISLNK(status.st_mode):
        text = os.readlink(path)
        return "" if leads_into(store, text) or leads_below(store, text) else "orch did not make this link"
    if not stat.S_ISREG(status.st_mode):
        return "orch did not make it"
    if made["link"] == records.MARK:
        text = extra_files.read_text(path) or ""
        return "" if hashlib.sha256(text.encode()).hexdigest() in digests else "it was changed"
    if not (records.is_inode(made, status, path) or any(is_inode(store.blob(digest), status) for digest in digests)):
        return "orch did not make this file"
    if not any(seal.fits(store, status, digest, None) for digest in digests):
        return "it was changed since it was verified"
    return ""


def _judge_tree(store: Store, left: LeftPlace, status: os.stat_result, claimed: set[str]) -> LeftPlace:
    """Judge the folder that an archive was unpacked into: only the archive's files in it are ours."""
    path, made = left.path, left.made
    left = left._replace(kind="tree", identity=(status.st_ino, status.st_mtime_ns))
    if made["link"] == records.ADOPTED:
        return left._replace(stays="it was there before orch")
    if not records.is_inode(made, status, path):
        return left._replace(stays="orch did not make this folder")
    listings = _listings(store, made)
    names = dict.fromkeys(name for listing in listings for name in listing)
    ours = tuple(
        name for name in names if f"{path}/{name}" not in claimed and tree_records.is_whole(store, path, name, listings)
    )
    if not ours:
        return left._replace(stays="nothing in it is as orch unpacked it")
    size = 0
    for name in ours:
        with suppress(OSError):
            size += os.lstat(f"{path}/{name}").st_size
    return left._replace(size_bytes=size, frees_bytes=size, files=ours)


def _tidy_hub_cache(folders: Folders, path: str) -> None:
    """Where a blob or a ref of a hub's cache was removed: remove the links to it, and the folders that are empty then.

    A snapshot's file is a link `../../blobs/ETAG` (huggingface_hub's "Understand caching"); orch records only the blob.
    """
    above, kind = os.path.split(os.path.dirname(path))
    if kind not in ("blobs", "refs") or "--" not in os.path.basename(above):
        return
    hub, name = folders.in_folder(above)
    with hub.below(name) as repository:
        with suppress(FileNotFoundError, NotADirectoryError), repository.below("snapshots") as snapshots:
            _remove_pointers(snapshots, path)
        for each in ("snapshots", kind):
            with suppress(OSError):  # something is in it
                os.rmdir(repository.at(each))
    with suppress(OSError):
        os.rmdir(hub.at(name))


def _remove_pointers(snapshots: Folder, path: str) -> None:
    """Remove the links to `path` below a folder, and each folder that is empty then."""
    changed: set[str] = set()
    for above, folders, names, fd in os.fwalk(".", topdown=False, dir_fd=snapshots.fd):
        for name in (*names, *folders):
            below = os.path.normpath(f"{above}/{name}")
            with suppress(OSError):  # no link, or something is in the folder
                if below in changed:
                    os.rmdir(name, dir_fd=fd)
                elif os.path.normpath(f"{snapshots.path}/{above}/{os.readlink(name, dir_fd=fd)}") == path:
                    os.unlink(name, dir_fd=fd)
                else:
                    continue
                changed.add(os.path.normpath(above))
