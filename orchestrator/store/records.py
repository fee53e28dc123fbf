"""Records of what orch placed where: written before a place is made, not read by a sync with nothing to do."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from orchestrator.folders import read_regular
from orchestrator.store.store import disk, locked, replace_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Container, Iterator, Mapping, Sequence

    from orchestrator.store.store import Store

ADOPTED = "adopted"  # the `link` of a file that stood there before orch: it is its owner's
MARK = "mark"  # the `link` of a small text that a framework wants beside its weights; its record has no inode
PREVIOUS_MOST = 8  # versions before that one place remembers: what is older is nobody's way back
_LATEST_S = 1 << 37  # the year 6325: a time that is later is none
_REPAIR = "mending-"
_MOST_BYTES = 1 << 28  # a manifest of 100,000 files has a record of 30 MB
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading a damaged record may raise
_NO_RECORD = (errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.ENXIO)  # of `read_regular`: it is no file that we wrote


class _PlaceEntry(TypedDict):
    sha256: str
    link: str


class PlaceRecord(_PlaceEntry, total=False):
    """What stands at one place: its digest, the link mode that was asked for, how it was made, and the inode.

    `dev`, `inode`, `size` (bytes) and `mtime_ns` are those of the place itself once it stood there; `old` is the
    digest of the version that stands there until then. Records of older versions have neither. `born_ns` is the time
    of birth: a number of an inode is given again to the next file, often at once. `previous` are the digests that the
    place held before, newest first, each with the time of its replacement in whole seconds since the epoch; at most
    `PREVIOUS_MOST`, and none that an older orch replaced.
    """

    how: str
    old: str
    dev: int
    inode: int
    size: int
    mtime_ns: int
    born_ns: int
    previous: tuple[tuple[str, int], ...]


class RecordFile(NamedTuple):
    """The record of one manifest: its host and its places; `problem` says why it cannot be read, "" where it can."""

    file: str
    host: str
    manifest: str
    places: dict[str, PlaceRecord]
    problem: str = ""


class Sharer(NamedTuple):
    """A place that shared an inode with wrong bytes and must be made again: its record's file, its path, its link."""

    record: str
    path: str
    link: str
    dev: int
    inode: int


def record(
    store: Store, host: str, manifest: str, made: Mapping[str, PlaceRecord], stop: threading.Event | None = None
) -> str:
    """Add places to a manifest's record; the file is only written when that changes it.

    A manifest that makes no place (`to: store`) has a record as well: by it `orch prune` knows what is wanted.
    A record that is damaged is kept aside, under a name that ends in `.damaged`.

    Returns:
        A warning for the user where the record was damaged, else "".

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for while another orch was writing.
    """
    path = _path(store, manifest)
    with _writing(store, path, stop):
        problem = ""
        try:
            known = _item(path)
        except _DAMAGE as error:
            known, problem = {}, f"{type(error).__name__}: {error}"
        merged = {**known, **{place: _merged(known.get(place), entry) for place, entry in made.items()}}
        if merged == known and not problem and (known or os.path.exists(path)):
            return ""
        kept = _keep_aside(path) if problem else ""
        _write(path, {"host": host, "manifest": manifest, "places": merged})
    told = f"warning: the record of what {manifest} placed was damaged ({problem}); it is kept as {kept}"
    return told if problem else ""


def _merged(known: PlaceRecord | None, new: PlaceRecord) -> PlaceRecord:
    """Merge what is recorded of a place with what is new: until the new file stands there, the old one stays known."""
    if known is None:
        return new
    whole = "inode" in new or new["link"] in (ADOPTED, MARK)
    merged = new.copy() if whole or known["link"] == ADOPTED else PlaceRecord(**{**known, **new})
    if not whole and known["link"] != ADOPTED and known["sha256"] != new["sha256"]:
        merged["old"] = known["sha256"]
    merged.pop("previous", None)
    if previous := _previous(known, new):
        merged["previous"] = previous
    return merged


def _previous(known: PlaceRecord, new: PlaceRecord) -> tuple[tuple[str, int], ...]:
    """List the digests that a place held before `new`, each with the time of its replacement.

    A version counts as replaced once that is about to happen, and again when the new file stands there.
    """
    if MARK in (known["link"], new["link"]):
        return ()  # a framework's small file, of which no blob is kept
    replaced = known["sha256"] if known["sha256"] != new["sha256"] else ""
    if not replaced and "inode" in new:
        replaced = known.get("old", "")
    previous = [each for each in known.get("previous", ()) if each[0] not in (replaced, new["sha256"])]
    if replaced not in ("", new["sha256"]):
        previous.insert(0, (replaced, int(time.time())))
    return tuple(previous[:PREVIOUS_MOST])


def finish(
    store: Store, host: str, manifest: str, made: Mapping[str, str], stop: threading.Event | None = None
) -> None:
    """Record inode, size and time of places that were just made; `made` says how each was, by path.

    Raises:
        StoreError, Stopped: as `record`.
    """
    known = of(store, manifest)
    found = {
        place: seen(place, known[place]["sha256"], known[place]["link"], how)
        for place, how in made.items()
        if place in known
    }
    if found:
        record(store, host, manifest, found, stop)


def seen(place: str, sha256: str, link: str, how: str) -> PlaceRecord:
    """Describe a place that stands, by its `lstat`, as its record has it."""
    made: PlaceRecord = {"sha256": sha256, "link": link, "how": how}
    with suppress(OSError):
        status = os.lstat(place)
        made["dev"], made["inode"] = status.st_dev, status.st_ino
        made["size"], made["mtime_ns"] = status.st_size, status.st_mtime_ns
        if (born := born_ns(place)) is not None:
            made["born_ns"] = born
    return made


def born_ns(path: str) -> int | None:
    """Read when the file at `path` itself was made (statx(2), STATX_BTIME), in ns since the epoch; None: unknown."""
    import ctypes
    import struct

    answer = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(None).statx(-100, os.fsencode(path), 0x100, 0x800, answer)  # AT_FDCWD, AT_SYMLINK_NOFOLLOW
    except AttributeError:  # an older libc
        return None
    if failed or not struct.unpack_from("I", answer, 0)[0] & 0x800:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", answer, 80)
    return int(seconds * 10**9 + nanoseconds)


def is_inode(made: PlaceRecord, status: os.stat_result, path: str) -> bool:
    """Whether a record names this very inode.

    The numbers of devices change with a boot on some file systems: then size and mtime must be the same as well; of a
    folder, which gets another mtime with each file, the time of birth must be.
    """
    if made.get("inode") != status.st_ino:
        return False
    if "born_ns" in made:
        born = born_ns(path)
        if born not in (None, made["born_ns"]):
            return False  # another file, that was given the number of ours
        if born is not None and stat.S_ISDIR(status.st_mode):
            return True
    return made.get("dev") == status.st_dev or (made.get("size"), made.get("mtime_ns")) == (
        status.st_size,
        status.st_mtime_ns,
    )


def of(store: Store, manifest: str) -> dict[str, PlaceRecord]:
    """Read the places of one manifest, by path; none where its record is damaged."""
    with suppress(OSError, *_DAMAGE):
        return _item(_path(store, manifest))
    return {}


def read(store: Store, manifest: str, unless: Container[str] = ()) -> RecordFile | None:
    """Read the record of one manifest, without the places in `unless`; None where there is none."""
    path = _path(store, manifest)
    return _record_file(path, unless) if os.path.exists(path) else None


def forget(store: Store, manifest: str, gone: Collection[str], stop: threading.Event | None = None) -> None:
    """Take places from a manifest's record; it stays, by what else it names, and where it names nothing any more.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for while another orch was writing.
    """
    path = _path(store, manifest)
    with _writing(store, path, stop):
        record = _record_file(path)
        left = {place: entry for place, entry in record.places.items() if place not in gone}
        if not record.problem and left != record.places:
            _write(path, {"host": record.host, "manifest": record.manifest, "places": left})


def made(store: Store) -> Iterator[tuple[str, str, PlaceRecord]]:
    """Go through the places of all records that can be read: (record file, path, what was made there)."""
    for path in _files(store):
        with suppress(OSError, *_DAMAGE):
            for place, entry in _item(path).items():
                yield path, place, entry


def records(store: Store) -> list[RecordFile]:
    """Read all records, damaged ones too."""
    return [_record_file(file) for file in _files(store)]


def _record_file(file: str, unless: Container[str] = ()) -> RecordFile:
    """Read one record; with its `problem` where it is damaged, or is not there."""
    try:
        return _load(file, unless)
    except (OSError, *_DAMAGE) as error:
        return RecordFile(file, "", "", {}, str(error) or type(error).__name__)


def begin_repair(store: Store, key: str, sharers: Sequence[Sharer], stop: threading.Event | None = None) -> None:
    """Write down which places will be removed and must be made again, so that a kill loses none of them.

    Raises:
        StoreError, Stopped: as `record`.
    """
    path = f"{store.places}/{_REPAIR}{key}"
    with _writing(store, path, stop):
        todo = dict.fromkeys((*to_repair(store, key), *sharers))
        _write(path, {"places": list(todo)})


def to_repair(store: Store, key: str) -> list[Sharer]:
    """Read the places that a run removed and did not make again."""
    with suppress(OSError, *_DAMAGE):
        todo = json.loads(read_regular(f"{store.places}/{_REPAIR}{key}", _MOST_BYTES))["places"]
        return [Sharer(str(r), str(p), str(how), int(dev), int(ino)) for r, p, how, dev, ino in todo]
    return []


def end_repair(store: Store, key: str) -> None:
    """Forget the places that `begin_repair` wrote down: they stand again.

    Raises:
        StoreError: the disk said no.
    """
    path = f"{store.places}/{_REPAIR}{key}"
    with disk(path), suppress(FileNotFoundError):
        os.unlink(path)


def _files(store: Store) -> list[str]:
    try:
        return [f"{store.places}/{name}" for name in sorted(os.listdir(store.places)) if name.endswith(".json")]
    except OSError:
        return []


def _path(store: Store, manifest: str) -> str:
    return f"{store.places}/{hashlib.sha256(os.fsencode(manifest)).hexdigest()}.json"


@contextmanager
def _writing(store: Store, path: str, stop: threading.Event | None) -> Iterator[None]:
    """Hold the lock of all records of this store."""
    with disk(path), locked(f"{store.places}/.guard", stop or store.stop):
        yield


def _write(path: str, content: Mapping[str, object]) -> None:
    # No indent: that would be encoded in Python, at 70 us a place.
    text = json.dumps(content, sort_keys=True)
    # surrogateescape in names becomes \udcXX escapes, which are ASCII.
    replace_file(path, text.encode("ascii"))


def _keep_aside(path: str) -> str:
    """Rename a damaged record to a name that is free, and give that name."""
    from orchestrator import files

    for number in range(1, 1000):
        kept = f"{path}.damaged" if number == 1 else f"{path}.damaged-{number}"
        with suppress(FileExistsError):
            files.rename_new(path, kept)
            return kept
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), kept)


def _item(path: str) -> dict[str, PlaceRecord]:
    """Read the places of one record; one that is not there has none. Raises as `_load`."""
    try:
        return _load(path).places
    except FileNotFoundError:
        return {}


def _load(path: str, unless: Container[str] = ()) -> RecordFile:
    """Read one record, without the places in `unless`.

    Raises:
        OSError: it cannot be read.
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is damaged, or no regular file.
    """
    try:
        whole = json.loads(read_regular(path, _MOST_BYTES))
    except OSError as error:
        if error.errno not in _NO_RECORD:
            raise
        raise ValueError(error.strerror) from error
    places = {str(place): _entry(entry) for place, entry in whole["places"].items() if place not in unless}
    return RecordFile(path, str(whole["host"]), str(whole["manifest"]), places)


def _entry(entry: Mapping[str, object]) -> PlaceRecord:
    found: PlaceRecord = {"sha256": str(entry["sha256"]), "link": str(entry["link"])}
    if isinstance(how := entry.get("how"), str):
        found["how"] = how
    if isinstance(old := entry.get("old"), str):
        found["old"] = old
    facts = [fact for name in ("dev", "inode", "size", "mtime_ns") if isinstance(fact := entry.get(name), int)]
    if len(facts) == 4:
        found["dev"], found["inode"], found["size"], found["mtime_ns"] = facts
        if isinstance(born := entry.get("born_ns"), int):
            found["born_ns"] = born
    if previous := _previous_of(entry.get("previous")):
        found["previous"] = previous
    return found


def _previous_of(listed: object) -> tuple[tuple[str, int], ...]:
    """Read the versions before of one place; what is no pair of a digest and a time is left out."""
    pairs = [each for each in listed if isinstance(each, list) and len(each) == 2] if isinstance(listed, list) else []
    return tuple((str(digest), when) for digest, when in pairs if isinstance(when, int) and 0 < when < _LATEST_S)
