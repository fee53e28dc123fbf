"""Records of installed files: written before a place is made, not read by a sync with nothing to do.

The record of one manifest is a JSON file. A small one is written whole each time. Beside a large one, what is new is
appended to a journal, a line of JSON for each change, which `fold` merges into the file at the end of a run. The file
says how many journals were merged into it, and only the journal of that number counts: a kill between the two steps of
`fold` repeats nothing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import msgspec

from orchestrator.files import sync_folder
from orchestrator.folders import read_regular
from orchestrator.store.locks import alone_with
from orchestrator.store.store import disk, open_file, replace_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence

    from orchestrator.store.store import Store

ADOPTED = "adopted"  # the `link` of a file that stood there before orch: it is its owner's
MARK = "mark"  # the `link` of a small text that a framework wants beside its weights; its record has no inode
PREVIOUS_MOST = 8  # versions before that one place remembers: what is older is nobody's way back
_LATEST_S = 1 << 37  # the year 6325: a time that is later is none
_REPAIR = "mending-"
_MOST_BYTES = 1 << 30  # a manifest of 1,000,000 files has a record of 0.3 GB
_WHOLE_BYTES = 1 << 17  # some 400 places: a larger record gets a journal
_AT_ONCE = 1000  # places that are written at once
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
    """The record of one manifest: its host and its places; `problem` says why it cannot be read, "" where it can.

    `journals` is how many journals are merged into the places here.
    """

    file: str
    host: str
    manifest: str
    places: dict[str, PlaceRecord]
    problem: str = ""
    journals: int = 0


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
            if (known := _large(path)) is not None:
                known.add(made)
                return ""
            whole = _load(path)
        except FileNotFoundError:
            whole = None
        except _DAMAGE as error:
            whole, problem = None, f"{type(error).__name__}: {error}"
        places = whole.places if whole is not None else {}
        merged = {**places, **{place: _merged(places.get(place), entry) for place, entry in made.items()}}
        if whole is not None and merged == places:
            return ""
        kept = _keep_aside(path) if problem else ""
        for stale in _journals(path) if whole is None else ():
            os.unlink(stale)  # of a record that somebody removed
        _write(RecordFile(path, host, manifest, merged, journals=whole.journals if whole is not None else 0))
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
    store: Store, host: str, manifest: str, made: Mapping[str, PlaceRecord], stop: threading.Event | None = None
) -> None:
    """Record inode, size and time of places that were just made; `made` says how each was, by path.

    Raises:
        StoreError, Stopped: as `record`.
    """
    if made:
        found = {path: seen(path, each["sha256"], each["link"], each["how"]) for path, each in made.items()}
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
    statx = _statx()  # AT_FDCWD, AT_SYMLINK_NOFOLLOW
    if statx is None or statx(-100, os.fsencode(path), 0x100, 0x800, answer):
        return None
    if not struct.unpack_from("I", answer, 0)[0] & 0x800:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", answer, 80)
    return int(seconds * 10**9 + nanoseconds)


@cache
def _statx() -> Callable[..., int] | None:
    """The call of the C library, looked up once: that takes longer than the call; None of an older one."""
    import ctypes

    try:
        found: Callable[..., int] = ctypes.CDLL(None).statx
    except AttributeError:
        return None
    return found


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


def fold(store: Store, manifest: str, stop: threading.Event | None = None) -> None:
    """Merge the journal of a manifest's record into its file; nothing where there is none, or the record is damaged.

    Raises:
        StoreError: the disk said no; the journal still counts.
        Stopped: a stop was asked for while another orch was writing.
    """
    path = _path(store, manifest)
    with _writing(store, path, stop), suppress(*_DAMAGE):
        known = _large(path)
        if known is not None and known.journal_bytes:
            known.fold()
        _known_here.pop(path, None)


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
            _write(record._replace(places=left))


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
        replace_file(path, json.dumps({"places": list(todo)}).encode("ascii"))


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
    import hashlib  # imported here: it loads OpenSSL, 4 MB, and a plan mostly asks no record

    return f"{store.places}/{hashlib.sha256(os.fsencode(manifest)).hexdigest()}.json"


@contextmanager
def _writing(store: Store, path: str, stop: threading.Event | None) -> Iterator[None]:
    """Hold the lock of all records of this store."""
    with disk(path), alone_with(f"{store.places}/.guard", stop or store.stop):
        yield


def _write(record: RecordFile) -> None:
    """Write a record whole: what stood in its journal stands in its file from then on."""
    content: dict[str, object] = {"host": record.host, "manifest": record.manifest, "places": record.places}
    if record.journals:
        content["journals"] = record.journals
    # No indent: that would be encoded in Python, at 70 us a place.
    text = json.dumps(content, sort_keys=True)
    # surrogateescape in names becomes \udcXX escapes, which are ASCII.
    replace_file(record.file, text.encode("ascii"))
    _drop_journals(record.file, record.journals)


def _keep_aside(path: str) -> str:
    """Rename a damaged record to a name that is free, and give that name."""
    from orchestrator import files

    for number in range(1, 1000):
        kept = f"{path}.damaged" if number == 1 else f"{path}.damaged-{number}"
        with suppress(FileExistsError):
            files.rename_new(path, kept)
            for journal in _journals(path):
                os.rename(journal, f"{kept}{journal.removeprefix(path)}")
            return kept
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), kept)


class _File(msgspec.Struct, frozen=True):
    """The file of a record; what stands in its entries is left as it is."""

    host: str
    manifest: str
    places: dict[str, msgspec.Raw]
    journals: int = 0


class _Known:
    """What this process knows of a large record: each place's entry as JSON, 300 bytes where a dict takes 900."""

    def __init__(self, path: str) -> None:
        status = os.lstat(path)
        text, self._number, journal = _read(path)
        self._path, self._base = path, _version(status)
        file = _file(text)
        self._host, self._manifest = file.host, file.manifest
        self._places: dict[str, bytes | msgspec.Raw] = dict(file.places)
        self._good_bytes = self.journal_bytes = 0
        for line in _lines(journal):
            self._places.update(_raw_entries(line))
            self._good_bytes += len(line)
        self.journal_bytes = len(journal)

    def is_current(self, status: os.stat_result) -> bool:
        """Whether nobody else has written since; `status` is the file's."""
        if _version(status) != self._base:
            return False
        try:
            return os.lstat(_journal(self._path, self._number)).st_size == self.journal_bytes
        except FileNotFoundError:
            return not self.journal_bytes

    def get(self, place: str) -> PlaceRecord | None:
        """What is recorded of a place."""
        raw = self._places.get(place)
        return None if raw is None else _entry(msgspec.json.decode(raw))

    def add(self, made: Mapping[str, PlaceRecord]) -> None:
        """Append what is new of some places to the journal, durably.

        Raises:
            OSError: it cannot be written; a part of the line may be there, which nobody reads.
        """
        new: dict[str, bytes] = {}
        for place, entry in made.items():
            known = self.get(place)
            if (merged := _merged(known, entry)) != known:
                new[place] = msgspec.json.encode(merged)
        if not new:
            return
        line = b"{%s}\n" % b", ".join(
            b"%s: %s" % (json.dumps(place).encode("ascii"), raw) for place, raw in new.items()
        )
        journal = _journal(self._path, self._number)
        fd = open_file(journal, os.O_RDWR | os.O_CREAT)
        with open(fd, "r+b", buffering=0) as file:
            file.truncate(self._good_bytes)  # the end of a write that a kill or a full disk cut off
            file.seek(self._good_bytes)
            left = memoryview(line)
            while left:
                left = left[file.write(left) :]
            os.fsync(fd)
        if not self._good_bytes:
            sync_folder(os.path.dirname(journal))
        self._good_bytes = self.journal_bytes = self._good_bytes + len(line)
        self._places.update(new)

    def fold(self) -> None:
        """Write the whole into the file, and remove the journal. Raises OSError."""
        head = {"host": self._host, "journals": self._number + 1, "manifest": self._manifest}
        text = json.dumps(head).encode("ascii")[:-1]
        replace_file(self._path, b'%s, "places": {' % text, self._parts(sorted(self._places)), b"}}")
        _drop_journals(self._path, self._number + 1)

    def _parts(self, places: Sequence[str]) -> Iterator[bytes]:
        """The entries of all places as JSON, some at a time: of many they would take as much memory as is in use."""
        for begin in range(0, len(places), _AT_ONCE):
            some = places[begin : begin + _AT_ONCE]
            entries = (b"%s: %s" % (json.dumps(each).encode("ascii"), bytes(self._places[each])) for each in some)
            yield (b", " if begin else b"") + b", ".join(entries)


_known_here: dict[str, _Known] = {}  # the large records that this process writes, by path; used under their lock only


def _large(path: str) -> _Known | None:
    """A record that is so large that what is new goes into its journal; None where it is small or not there.

    Raises:
        As `_load`.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if status.st_size <= _WHOLE_BYTES:
        return None
    known = _known_here.get(path)
    if known is None or not known.is_current(status):
        known = _known_here[path] = _Known(path)
    return known


def _journal(path: str, number: int) -> str:
    return f"{path}.{number}.journal"


def _journals(path: str) -> list[str]:
    folder, name = os.path.split(path)
    wanted = re.compile(rf"{name}\.\d+\.journal")
    return [f"{folder}/{each}" for each in os.listdir(folder) if wanted.fullmatch(each)]


def _drop_journals(path: str, merged: int) -> None:
    """Remove the journals before number `merged`: the last, and one that a kill left."""
    for number in range(max(0, merged - 2), merged):
        with suppress(FileNotFoundError):
            os.unlink(_journal(path, number))


def _read(path: str) -> tuple[bytes, int, bytes]:
    """Read a record's file, the number of its journal, and that journal; empty where there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or no regular file.
    """
    while True:
        status = os.lstat(path)
        text = _regular(path)
        number = _file(text).journals
        try:
            return text, number, _regular(_journal(path, number))
        except FileNotFoundError:  # or it was merged since
            if _version(os.lstat(path)) == _version(status):
                return text, number, b""


def _regular(path: str) -> bytes:
    try:
        return read_regular(path, _MOST_BYTES)
    except OSError as error:
        if error.errno not in _NO_RECORD:
            raise
        raise ValueError(error.strerror) from error


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _file(text: bytes) -> _File:
    """Decode the file of a record. Raises as `_load`."""
    try:
        return msgspec.json.decode(text, type=_File)
    except msgspec.MsgspecError:  # of names that are no text: \udcXX
        whole = json.loads(text)
        places = {str(place): msgspec.Raw(json.dumps(entry).encode()) for place, entry in whole["places"].items()}
        return _File(str(whole["host"]), str(whole["manifest"]), places, int(whole.get("journals", 0)))


def _lines(journal: bytes) -> list[bytes]:
    """The whole lines of a journal: what has no end was cut off, and nothing was placed yet by it."""
    return [line for line in journal.splitlines(keepends=True) if line.endswith(b"\n")]


def _raw_entries(line: bytes) -> dict[str, bytes]:
    return {str(place): json.dumps(entry, sort_keys=True).encode("ascii") for place, entry in json.loads(line).items()}


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
    text, number, journal = _read(path)
    whole = json.loads(text)
    places = {str(place): _entry(entry) for place, entry in whole["places"].items() if place not in unless}
    for line in _lines(journal):
        new = json.loads(line)
        places.update({str(place): _entry(entry) for place, entry in new.items() if place not in unless})
    return RecordFile(path, str(whole["host"]), str(whole["manifest"]), places, journals=number + bool(journal))


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
