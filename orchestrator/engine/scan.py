"""The state of each place, by `lstat` and the record alone: nothing is opened, hashed or changed.

One function decides it (`judge`), from what is wanted, what the record says that we put there, and what stands there.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import PlacementError
from orchestrator.store import blobs, seal
from orchestrator.store.owners import is_trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.events import Event
    from orchestrator.model import Place, Wanted
    from orchestrator.store import Store, records

ADOPTED = "adopted"  # as `store.places`, which a run with all in place does not read


class State(Enum):
    """What one place looks like."""

    SEALED = "sealed"  # size and seal of the wanted digest: present
    ABSENT = "absent"
    OUTDATED = "outdated"  # what we put there for an earlier pin, that seal whole; or our link to nothing
    UNVERIFIED = "unverified"  # perhaps right, and never read on this machine: a copy by tar, cp, git, a user
    MODIFIED = "modified"  # the very inode that we made, its seal broken
    FOREIGN = "foreign"  # not ours, and of another size
    LINKED = "linked"  # a symbolic link that we did not make: judged by the bytes behind it
    OBSTRUCTED = "obstructed"  # a folder where a file should be or the other way round, a FIFO, a device
    UNKNOWN = "unknown"  # the disk does not say what stands there
    WRONG = "wrong"  # read, and its bytes are wrong, whatever its seal says
    UNSEALED = "unsealed"  # of `look_at` only: something else, which `judge` tells apart


MAY_BE_RIGHT = frozenset((State.SEALED, State.UNVERIFIED, State.LINKED))


class FileState(msgspec.Struct, frozen=True, gc=False):
    """One wanted file and the state of each of its places (of the blob, where it wants none).

    `true_size` is what right bytes here take, where the manifest's `size:` says something else. `doubled` are places
    with right bytes that are a second copy of the store's, where none is wanted (`doubled.marked`).
    """

    wanted: Wanted
    states: tuple[tuple[str, State], ...]
    true_size: int | None = None
    doubled: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether nothing is to be done."""
        for _, state in self.states:
            if state is not State.SEALED:
                return False
        return not self.doubled

    @property
    def may_be_right(self) -> bool:
        """Whether all of it is here, as far as its status tells."""
        for _, state in self.states:  # noqa: SIM110 - as above
            if state is State.ABSENT or state not in MAY_BE_RIGHT:  # the hash of an Enum takes a call
                return False
        return True

    @property
    def good(self) -> list[str]:
        """The places that have the right bytes, by their seal; a layout's marks are none."""
        paths = {place.path for place in self.wanted.places if not place.unpack}
        return [path for path, state in self.states if state is State.SEALED and path in paths]


def look_at(
    store: Store,
    path: str,
    sha256: str,
    size: int | None,
    sizes: dict[str, int] | None = None,
    *,
    is_blob: bool = False,
) -> State:
    """Judge one path by its status: SEALED, ABSENT, OBSTRUCTED, UNKNOWN, or UNSEALED.

    `sizes` takes the true size of right bytes for which `size` is wrong. `is_blob`: it is the path of a blob, which is
    absent where something else is there than a regular file of somebody who may write into the store.
    """
    nothing = State.ABSENT
    try:
        status = os.lstat(path)
        if is_blob and not is_trusted(os.path.dirname(path), status):
            return nothing  # a link, say, or another user's file
        if stat.S_ISLNK(status.st_mode):
            nothing = State.UNSEALED  # a link to nothing is something
            status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return nothing
    except OSError:
        return State.UNKNOWN
    if sha256:
        if seal.fits(store, status, sha256, size):
            return State.SEALED
        if size is not None and status.st_size != size and _is_size_wrong(store, status, sha256):
            if sizes is not None:
                sizes[path] = status.st_size
            return State.SEALED
    return State.UNSEALED if stat.S_ISREG(status.st_mode) else State.OBSTRUCTED


def _is_size_wrong(store: Store, status: os.stat_result, sha256: str) -> bool:
    """Whether a sealed file has the size of the sealed blob of its digest: then it is the manifest that is wrong."""
    return seal.fits(store, status, sha256, None) and blob_size(store, sha256) == status.st_size


def blob_size(store: Store, sha256: str) -> int | None:
    """The true size in bytes of what has this digest; None where the store has no sealed blob of it."""
    status = blobs.status(store, sha256) if sha256 else None
    return status.st_size if status is not None and seal.fits(store, status, sha256, None) else None


def obstacle(path: str) -> PlacementError:
    """The error for what stands at a path where something of another kind should be: no option replaces it."""
    kinds = (os.path.isfile, "a file"), (os.path.isdir, "a folder")
    what = next((what for is_it, what in kinds if is_it(path)), "something that is neither a file nor a folder")
    return PlacementError(f"{path}: {what} is in the way", "move it away", "foreign")


def judge(store: Store, records: RecordIndex, wanted: Wanted, path: str, place: Place | None) -> State:
    """Say what stands at one path: the only function that decides it. `place` is None for the blob itself."""
    sha256 = wanted.sha256
    if place is not None and place.own is not None and _is_anothers(place.own):
        return State.OBSTRUCTED
    if place is not None and place.unpack:
        return _judge_tree(store, records, path, sha256)
    state = look_at(store, path, sha256, wanted.size, is_blob=place is None)
    if state is not State.UNSEALED:
        return state
    own = os.lstat(path)
    if stat.S_ISLNK(own.st_mode):
        return _judge_link(store, path, sha256, place)
    if sha256 and records.previous(path, own, sha256):
        return State.OUTDATED
    if records.is_ours(path, own, sha256):
        return State.UNVERIFIED if not sha256 or _has_no_seal(store, own, wanted) else State.MODIFIED
    if wanted.size in (None, own.st_size) or (sha256 and seal.fits(store, own, sha256, None)):
        return State.UNVERIFIED
    return State.FOREIGN if blob_size(store, sha256) != own.st_size else State.UNVERIFIED


def _is_anothers(own: tuple[str, str]) -> bool:
    """Whether a folder that must be this user's is another's, who could forge any seal in it."""
    from orchestrator.folders import refuse_anothers

    try:
        refuse_anothers(*own)
    except (PlacementError, OSError):
        return True
    return False


def _judge_link(store: Store, path: str, sha256: str, place: Place | None) -> State:
    """A symbolic link whose bytes are not those that are wanted, as far as their status says."""
    text = os.readlink(path)
    if place is not None and place.target and text == place.target:
        return State.SEALED  # a layout's own: what it leads to is another place of the same file, and judged there
    if not leads_into(store, text) and not leads_below(store, text):
        return State.LINKED
    try:
        behind = os.stat(path)
    except OSError:
        return State.OUTDATED
    if os.path.basename(text) != sha256:
        return State.OUTDATED if sha256 else State.UNVERIFIED
    return State.MODIFIED if behind.st_mtime_ns % 10**9 or seal.was_judged(store, behind) else State.UNVERIFIED


def leads_into(store: Store, text: str) -> bool:
    """Whether a symbolic link with this text is one of ours: it leads to a blob of the store."""
    folder, _, name = text.rpartition("/blobs/sha256/")
    return name.isalnum() and folder in (store.path, os.path.realpath(store.path))


def leads_below(store: Store, text: str) -> bool:
    """Whether a symbolic link with this text leads to a file of a store below."""
    if not store.below:
        return False
    folder, _, name = text.rpartition("/blobs/sha256/")
    tops = {top for below in store.below for top in (below.path, os.path.realpath(below.path))}
    return name.isalnum() and folder in tops


def _has_no_seal(store: Store, status: os.stat_result, wanted: Wanted) -> bool:
    """Whether a file of ours has lost its seal rather than had it broken: whole seconds, as archives keep them."""
    whole = status.st_mtime_ns % 10**9 == 0 and wanted.size in (None, status.st_size)
    return whole and not seal.was_judged(store, status)


def _judge_tree(store: Store, records: RecordIndex, path: str, sha256: str) -> State:
    """The folder that an archive is unpacked into."""
    state = look_at_tree(store, path, sha256)
    if state is not State.UNSEALED:
        return state
    from orchestrator.store import tree_records

    listing = tree_records.read(store, sha256)
    if not records.is_our_tree(path):
        if records.previous_tree(path, sha256):
            return State.OUTDATED
        return State.UNVERIFIED if tree_records.has_sizes(path, listing) else State.FOREIGN
    if all(each["sha256"] != sha256 for each in records.ours(path)):
        return State.OUTDATED
    for name in tree_records.broken(store, path, listing):
        try:
            status = os.lstat(f"{path}/{name}")
        except OSError:
            return State.MODIFIED
        if status.st_mtime_ns % 10**9 or status.st_size != listing[name][0] or seal.was_judged(store, status):
            return State.MODIFIED
    return State.UNVERIFIED if listing else State.MODIFIED


def look_at_tree(store: Store, path: str, sha256: str) -> State:
    """Judge the folder that an archive of this digest was unpacked into, by its files' status."""
    from orchestrator.store import tree_records  # only for whoever has one

    try:
        if not os.listdir(path):
            # Its frameworks take an empty folder for none, too; a user's link to one is something.
            return State.UNSEALED if os.path.islink(path) else State.ABSENT
    except FileNotFoundError:
        return State.UNSEALED if os.path.islink(path) else State.ABSENT
    except OSError:
        return State.OBSTRUCTED
    listing = tree_records.read(store, sha256)
    return State.SEALED if listing and not tree_records.broken(store, path, listing) else State.UNSEALED


def look_at_marks(store: Store, want: Wanted) -> list[tuple[str, State]]:
    """Judge marks by what they say: one that orch wrote and that says something else is to be written again."""
    from orchestrator.store import extra_files  # few layouts have any

    found = ((mark.path, extra_files.state(store, want.manifest, mark)) for mark in extra_files.of(store, want))
    states = {"absent": State.ABSENT, "outdated": State.OUTDATED}
    return [(path, states.get(state, State.SEALED)) for path, state in found]


def scan(store: Store, wanted: Iterable[Wanted], records: RecordIndex | None = None) -> list[FileState]:
    """Judge every place of every file wanted: one `lstat` each, and none below a folder that is not there."""
    found = []
    there: set[str] = set()  # folders in which a file was missed
    gone: set[str] = set()
    sizes: dict[str, int] = {}
    records = records or RecordIndex(store)

    def look(want: Wanted, path: str, place: Place | None) -> State:
        folder = path.rpartition("/")[0]
        if folder in gone:
            return State.ABSENT
        state = look_at(store, path, want.sha256, want.size, sizes, is_blob=place is None)
        if place is None and store.read_only and state is State.SEALED and not _is_believed(store):
            return State.UNVERIFIED
        if state is State.ABSENT and folder not in there:
            (there if os.path.isdir(folder or "/") else gone).add(folder)
        return judge(store, records, want, path, place) if state is State.UNSEALED else state

    for want in wanted:
        states = [
            (p.path, judge(store, records, want, p.path, p) if p.unpack else look(want, p.path, p)) for p in want.places
        ]
        if not states:
            path = store.blob(want.sha256 or want.key)
            states = [(path, look(want, path, None))]
        if want.extra_files:
            states += look_at_marks(store, want)
        true_size = next((sizes[path] for path, _ in states if path in sizes), None) if sizes else None
        found.append(FileState(want, tuple(states), true_size))
    return found


@lru_cache(maxsize=4)  # asked once a file
def _is_believed(store: Store) -> bool:
    """Whether the seals in a store that is only read are proof: nobody but who is trusted may write there."""
    from orchestrator.store.below import look

    return look(store.path, shared=store.shared)[0]


def replaced_models(
    records: RecordIndex, todo: Iterable[FileState]
) -> tuple[dict[tuple[str, str], list[FileState]], list[tuple[Wanted, str]]]:
    """Find the models, by (manifest, name), of which a place may hold an earlier version: those switch whole.

    Returns:
        The files of each of them that are not present; and each file of which it is known without reading which
        version (a digest) stands at a place.
    """
    by_model: dict[tuple[str, str], list[FileState]] = {}
    for file_state in todo:
        by_model.setdefault((file_state.wanted.manifest, file_state.wanted.model), []).append(file_state)
    models: dict[tuple[str, str], list[FileState]] = {}
    known: list[tuple[Wanted, str]] = []
    for key, file_states in by_model.items():
        found = [(each.wanted, old) for each in file_states if (old := _previous(records, each)) is not None]
        if found:
            models[key] = file_states
            known += [(wanted, old) for wanted, old in found if old]
    return models, known


def _previous(records: RecordIndex, file_state: FileState) -> str | None:
    """The digest of the earlier version at one of a file's places; "" where that must be read first, None for none."""
    sha256, found = file_state.wanted.sha256, None
    for path, state in file_state.states:
        if state in (State.SEALED, State.ABSENT) or not os.path.exists(path):
            continue
        place = next((place for place in file_state.wanted.places if place.path == path), None)
        if place is None:
            continue  # a layout's mark, or the blob
        if state is State.OUTDATED and os.path.islink(path):
            return os.path.basename(os.readlink(path))
        if state is State.OUTDATED and not place.unpack:
            return records.previous(path, os.lstat(path), sha256)
        mine = (digest for made in records.ours(path) for digest in (made["sha256"], made.get("old", "")))
        earlier = next((digest for digest in mine if digest not in ("", sha256)), "")
        if state is State.OUTDATED:
            return earlier
        if earlier:
            found = ""  # ours, and touched: it may be the earlier version
    return found


def warn_of_size(wanted: Wanted, true_size: int, emit: Callable[[Event], None]) -> None:
    """Tell that a manifest's `size:` is not that of the bytes whose digest it has: file, line and the right number."""
    from orchestrator.events import Noticed
    from orchestrator.transfer.explain import size_line

    name = f"{wanted.model}/{wanted.file}" if wanted.file else wanted.model
    said = f"warning: {size_line(wanted)}: {name}: `size: {wanted.size}` is wrong"
    emit(Noticed(f"{said}; the file with this sha256 has {true_size} bytes: write `size: {true_size}`"))


class RecordIndex:
    """Who made a place: the records of the store, read once and only when something is not in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[str, list[tuple[str, records.PlaceRecord]]] | None = None

    def of(self, path: str) -> list[tuple[str, records.PlaceRecord]]:
        """The records of one place, also by its folder's real name: (record file, what was made)."""
        made = self._read()
        found = made.get(path, [])
        if made:
            folder, name = os.path.split(path)
            real = f"{os.path.realpath(folder)}/{name}"
            if real != path:
                found = [*found, *made.get(real, [])]
        return found

    def all(self) -> dict[str, list[tuple[str, records.PlaceRecord]]]:
        """All recorded places."""
        return self._read()

    def ours(self, path: str) -> list[records.PlaceRecord]:
        """What we made at a place; a user's file that was adopted is none of it."""
        return [made for _, made in self.of(path) if made["link"] != ADOPTED]

    def is_adopted(self, path: str) -> bool:
        """Whether what stands at a place was there before us."""
        return any(made["link"] == ADOPTED for _, made in self.of(path))

    def is_ours(self, path: str, status: os.stat_result, sha256: str) -> bool:
        """Whether the very file with this `lstat` is ours: by its inode, as the record or a blob has it.

        A path that once was ours makes nothing ours.
        """
        if path.startswith(self._store.path + "/"):
            return True
        made = self.ours(path)
        digests = {sha256, *(each["sha256"] for each in made)} - {""}
        if any(is_inode(self._store.blob(digest), status) for digest in digests):
            return True
        if self.has_inode(path, status):
            return True
        # A copy of which the record has no inode: it was made by a run that was killed, or by an older version.
        return any("inode" not in each and seal.fits(self._store, status, each["sha256"], None) for each in made)

    def previous(self, path: str, status: os.stat_result, sha256: str) -> str:
        """The digest of an earlier pin for which we made the file with this `lstat`, that seal whole; else ""."""
        for made in self.ours(path):
            for digest in (made["sha256"], made.get("old", "")):
                if digest not in ("", sha256) and seal.fits(self._store, status, digest, None):
                    return digest
        return ""

    def taken_for(self, path: str, manifest: str) -> str:
        """Which other manifests put a file at a place, as the end of a sentence; "" where the records name none."""
        from orchestrator.store import records

        others = [r.manifest for r in records.records(self._store) if path in r.places and r.manifest != manifest]
        return f"; it is taken: {' and '.join(others)} put a file there too" if others else ""

    def has_inode(self, path: str, status: os.stat_result) -> bool:
        """Whether a record of a place names the very inode with this `lstat` as one that we made."""
        from orchestrator.store import records  # hashes and JSON, which a run with all in place has no use for

        return any(records.is_inode(made, status, path) for made in self.ours(path))

    def is_our_tree(self, path: str) -> bool:
        """Whether the very folder at a place is ours: by its inode, as the record has it.

        Where the record has none, one whole file of its archive makes the folder ours.
        """
        from orchestrator.store import tree_records

        made = self.ours(path)
        try:
            status = os.lstat(path)
        except OSError:
            return False
        if not made or not stat.S_ISDIR(status.st_mode):
            return False  # a link to a folder is its user's
        if self.has_inode(path, status):
            return True
        digests = {digest for each in made if "inode" not in each for digest in (each["sha256"], each.get("old", ""))}
        listings = [tree_records.read(self._store, digest) for digest in digests - {""}]
        return any(tree_records.is_whole(self._store, path, name, listings) for listing in listings for name in listing)

    def previous_tree(self, path: str, sha256: str) -> str:
        """The digest of an earlier pin of whose archive all files stand at a place, each seal whole; else ""."""
        from orchestrator.store import tree_records

        for made in self.ours(path):
            for digest in (made["sha256"], made.get("old", "")):
                if digest not in ("", sha256) and tree_records.has_all(self._store, path, digest):
                    return digest
        return ""

    def _read(self) -> dict[str, list[tuple[str, records.PlaceRecord]]]:
        if self._made is None:
            from orchestrator.store import records

            found: dict[str, list[tuple[str, records.PlaceRecord]]] = {}
            for record, place, made in records.made(self._store):
                found.setdefault(place, []).append((record, made))
            self._made = found  # whole, in one step: another thread may be reading
        return self._made


def is_inode(path: str, status: os.stat_result) -> bool:
    """Whether `path` itself is that file."""
    try:
        other = os.lstat(path)
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
