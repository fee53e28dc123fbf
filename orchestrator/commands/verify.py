"""Read every byte again: places and blobs of a manifest, or the files of a list. Seals are not used."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import checksums, events
from orchestrator.commands.status import RefusedDownloads
from orchestrator.engine import weak_pins
from orchestrator.engine.run import execute
from orchestrator.engine.scan import FileState, RecordIndex, State, scan, warn_of_size
from orchestrator.errors import DigestError, ManifestError, PlacementError, Problem, Stopped, TransferError
from orchestrator.files import place_error, store_error
from orchestrator.formats import wrong_file
from orchestrator.model import Pin, Place, Wanted
from orchestrator.store import blobs
from orchestrator.store.verification_log import VerificationLog
from orchestrator.summary import INTERRUPTED
from orchestrator.transfer.reading import Part, Several
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.checksums import Checksums, Entry
    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.model import Unresolved
    from orchestrator.store import Store
    from orchestrator.transfer.run_context import RunContext


File = tuple[str, str, "os.stat_result | None"]  # sha256, path, the status that it has before it is read
BATCH = 256  # files a sha256sum: few processes, and news now and then


class _Batch(NamedTuple):
    """Files that one program reads: those wanted, what is due to be read of them, and (sha256, path) of that.

    `due` has each (wanted, sha256, path, the status before it is read); what was asked for and is no blob is not read.
    """

    wanted: list[tuple[Wanted, list[File]]]
    due: list[tuple[Wanted, str, str, os.stat_result | None]]
    asked: set[tuple[str, str]]


class VerifiedFiles(NamedTuple):
    """What was read of one wanted file: the paths that are wrong or absent; whether anything was read at all.

    `unknown` are the paths that stand there and could not be read, with the disk's error; `found` the digests that
    wrong ones have, as far as they were computed; `true_size` what right bytes take where `size:` says otherwise;
    `size` is that of the file that stands there, in bytes.
    """

    wanted: Wanted
    wrong: tuple[str, ...]
    was_read: bool
    unknown: tuple[tuple[str, OSError], ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    true_size: int | None = None
    size: int | None = None

    @property
    def event(self) -> Event:
        """What to tell of a file that is right."""
        w = self.wanted
        size = w.size or self.size or 0
        if self.was_read:
            return events.Verified(w.model, w.file, w.sha256, size)
        return events.Finished(w.model, w.file, "present", size_bytes=size)


def verify(
    run: RunContext,
    wanted: Sequence[Wanted],
    unresolved: Sequence[Unresolved] = (),
    *,
    max_age_s: float | None = None,
) -> Summary:
    """Read every place, and the blob behind it, with `sha256sum -c`; nothing is changed.

    With `max_age_s` a file that this machine read so short a time ago, and that is as it was, is not read again.

    Returns:
        The summary: 0, 6 wrong bytes, 5 missing, 1 both.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, wanted)
    run.counts.begin(wanted, unresolved, run.emit)
    unread, records, refused = iter(wanted), RecordIndex(run.store), RefusedDownloads(run.store)
    try:
        for found in read(run, wanted, max_age_s):
            next(unread)
            if found.true_size is not None:
                warn_of_size(found.wanted, found.true_size, run.emit)
            if found.wrong:
                run.fail(found.wanted, refused.explained(found.wanted, _error(run.store, records, found)))
            elif found.unknown:
                run.fail(found.wanted, unread_error(run.store, *found.unknown[0]))
            else:
                run.counts.present += 1
                run.emit(found.event)
    except Stopped:
        give_up(run, unread)
    return run.counts.summary(run.context.monotonic() - began, stopped=run.context.stop.code)


def give_up(run: RunContext, unread: Iterable[Wanted]) -> None:
    """Tell the files that a stop left unread."""
    for w in unread:
        run.fail(w, TransferError("interrupted before this file was read", "run `orch verify` again", INTERRUPTED))


def read(run: RunContext, wanted: Sequence[Wanted], max_age_s: float | None) -> Iterator[VerifiedFiles]:
    """Read all files, many by one program, and say of each wanted one what is wrong.

    Those without sha256 are read by their other pins, each time.

    Raises:
        NoBackendError: there is no sha256sum on this machine.
        Stopped: a stop was asked for.
    """
    context, store = run.context, run.store
    reads = VerificationLog(context.state, context.now())
    batches: list[_Batch] = []
    for start in range(0, len(wanted), BATCH):
        batch = [(w, files_of(store, w)) for w in wanted[start : start + BATCH]]
        due, asked = [], set()
        for w, files in batch:
            for sha256, path, status in files:
                age_s = reads.age_s(status, sha256) if status and sha256 and max_age_s is not None else None
                if age_s is None or max_age_s is None or age_s > max_age_s:
                    asked.add((sha256, path))
                    if not _is_no_blob(store, w, path):
                        due.append((w, sha256, path, status))
        batches.append(_Batch(batch, due, asked))
    size = sum(status.st_size for _, due, _ in batches for *_, status in due if status)
    progress = Several(context, run.emit, "verifying", size)
    for batch, due, asked in batches:
        with progress.batch([Part(w.model, w.file, s.st_size if s else 0) for w, _, _, s in due]) as telling:
            verdicts = weak_pins.check_weak(telling, [(w, sha256, path) for w, sha256, path, _ in due])
        judged = list(zip(due, verdicts, strict=True))
        right = {(s, path): status for (_, s, path, status), verdict in judged if verdict.is_good}
        unknown = {(s, path): v.error for (_, s, path, _), v in judged if v.error is not None and _stands(path)}
        reads.add((status, s) for (s, _), status in right.items() if status and s)
        computed = {(s, path): v.sha256 for (_, s, path, _), v in judged if v.is_wrong}
        for w, files in batch:
            sizes = [status.st_size for s, path, status in files if status and (s, path) in right and s == w.sha256]
            mine = [(sha256, path) for sha256, path, _ in files if (sha256, path) in asked]
            yield VerifiedFiles(
                w,
                tuple(path for s, path in mine if (s, path) not in right and (s, path) not in unknown),
                bool(mine),
                tuple((path, unknown[s, path]) for s, path in mine if (s, path) in unknown),
                tuple((path, computed[s, path]) for s, path in mine if (s, path) in computed),
                next((size for size in sizes if w.size not in (None, size)), None),
                next((status.st_size for s, _, status in files if status and s == w.sha256), None),
            )
    progress.end()


def files_of(store: Store, wanted: Wanted) -> list[File]:
    """What is to be read for one wanted file: each inode once, and each file of its trees."""
    blob = store.blob(wanted.key)
    paths = [place.path for place in wanted.places if not place.unpack]
    leaves: list[tuple[str, str]] = []
    for place in wanted.places:
        if place.unpack:
            from orchestrator.store import tree_records

            listing = tree_records.read(store, wanted.sha256)
            leaves += [(digest, f"{place.path}/{name}") for name, (_, digest) in listing.items()]
            if not listing:
                leaves.append((wanted.sha256, place.path))  # which no folder can have
    if not _is_no_blob(store, wanted, blob) or not (paths or leaves):
        paths.append(blob)
    seen: dict[object, File] = {}
    for sha256, path in (*((wanted.sha256, path) for path in paths), *leaves):
        try:
            status = os.stat(path)
            seen.setdefault((sha256, status.st_dev, status.st_ino), (sha256, path, status))
        except OSError:
            seen.setdefault(path, (sha256, path, None))
    return list(seen.values())


def _is_no_blob(store: Store, wanted: Wanted, path: str) -> bool:
    """Whether it is the path of a blob, and none is there, or something else: a link, say, or another user's file."""
    return path == store.blob(wanted.key) and blobs.status(store, wanted.key) is None


def unread_error(store: Store, path: str, error: OSError) -> OrchError:
    """The failure of a file that the disk does not give: it may be right."""
    in_store = path.startswith(store.path + "/")
    return store_error(error, path) if in_store else PlacementError(*_words(path, error))


def _words(path: str, error: OSError) -> tuple[str, str]:
    told = place_error(error, path)
    return f"{path}: it cannot be read: {error.strerror or error}", told.hint


def _stands(path: str) -> bool:
    """Whether a file stands there, although it could not be read; of a folder nobody wants the bytes."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _error(store: Store, records: RecordIndex, found: VerifiedFiles) -> OrchError:
    wanted = found.wanted
    trees = [place.path for place in wanted.places if place.unpack]
    doubted = [folder for folder in trees if any(_is_below(path, folder) for path in found.wrong)]
    outdated = [folder for folder in doubted if _has_previous_tree(store, records, folder, found)]
    wrong = [path for path in found.wrong if not any(_is_below(path, folder) for folder in outdated)]
    if not wrong:
        return _outdated(outdated[0])
    standing = [path for path in wrong if os.path.exists(path) and not _is_no_blob(store, wanted, path)]
    path = next(iter(standing), wrong[0])  # wrong bytes are graver than none
    if not standing:
        hint = "run `orch sync`" if wanted.sources else "download it from where the list is from"
        return TransferError(f"{path}: absent", hint, "absent")
    has = dict(found.found).get(path, "")
    if has and any(has in (made["sha256"], made.get("old")) for made in records.ours(path)):
        return _outdated(path)
    what = check.diagnose_file(path, wrong_file.expected_file(wanted))
    if any(records.is_adopted(place) for place in (path, *(tree for tree in trees if _is_below(path, tree)))):
        hint = "move it away, or replace it: `orch sync --force`"
        message = f"{path}: a file that orch did not make, with other bytes than when it was adopted{what.after}"
        return PlacementError(message, hint, "foreign")
    hint = "download it again: `orch verify --repair`" if wanted.sources else what.hint
    return DigestError(f"{path}: wrong bytes{what.after}", hint or "download it again from its source", "corrupt")


def _outdated(path: str) -> OrchError:
    return TransferError(f"{path}: has the previous version", "run `orch sync`: it replaces it", "outdated")


def _has_previous_tree(store: Store, records: RecordIndex, folder: str, found: VerifiedFiles) -> bool:
    """Whether the folder of an archive has all files of one that we unpacked there before, and none of them is wrong.

    Files that the archive that is wanted does not have were not read: their seals are believed.
    """
    from orchestrator.store import tree_records

    sha256, computed = found.wanted.sha256, dict(found.found)
    wrong = {path for path in found.wrong if _is_below(path, folder) and path != folder}
    wanted = tree_records.read(store, sha256)
    digests = {digest for made in records.ours(folder) for digest in (made["sha256"], made.get("old", ""))}
    for listing in (tree_records.read(store, digest) for digest in digests - {"", sha256}):
        unread = [
            name for name, entry in listing.items() if f"{folder}/{name}" not in wrong and entry != wanted.get(name)
        ]
        names = {f"{folder}/{name}": digest for name, (_, digest) in listing.items()}
        if (
            listing
            and all(computed.get(path) == names[path] if path in names else not os.path.lexists(path) for path in wrong)
            and all(tree_records.is_whole(store, folder, name, [listing]) for name in unread)
        ):
            return True
    return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


TOLD = 3  # lines that are told of a file that is no list; the others are counted
_ENDING = re.compile(r"(?i)\.(sha256|sha512|sha1|md5)(sums?)?(\.txt)?$")


def read_bytes(path: str) -> bytes:
    """Read a list, as far as one may go.

    Raises:
        ManifestError: it is missing or unreadable.
    """
    try:
        with open(path, "rb") as file:
            return file.read(checksums.MOST_BYTES + 1)
    except OSError as error:
        problem = Problem(path, 0, "", (error.strerror or str(error)).lower())
        is_gone = isinstance(error, FileNotFoundError)
        hint = f"check its name: `ls {os.path.dirname(path)}`" if is_gone else f"look at it: `ls -l {path}`"
        raise ManifestError((problem,), hint) from error


def read_text(path: str) -> str:
    """Read a list as text.

    Raises:
        ManifestError: it is missing, unreadable, or no text.
    """
    try:
        return checksums.decode(read_bytes(path))
    except checksums.ChecksumsError as error:
        raise ManifestError((Problem(path, 0, "", error.message),), error.hint) from None


def refusal(path: str, odd: Sequence[tuple[int, str]], hint: str) -> ManifestError:
    """The error for the lines of `path`, (number from 1, why) each, that are none: the first few, and how many more."""
    problems = [Problem(path, number, "", why) for number, why in odd[:TOLD]]
    if len(odd) > TOLD:
        problems.append(Problem(path, 0, "", f"and {len(odd) - TOLD:,} more such lines"))
    return ManifestError(tuple(problems), hint)


def alone(path: str) -> str:
    """The name of the file that a digest without a name is of, by its list's: `w.pth` of `w.pth.sha256`; or ""."""
    name = _ENDING.sub("", os.path.basename(path))
    return name if name != os.path.basename(path) else ""


def nameless(path: str, entries: Sequence[Entry]) -> str:
    """Why the digests without a name cannot be of the file that `alone` names; "" where they can."""
    mine = {(entry.kind, entry.hex) for entry in entries if not entry.name}
    if not mine:
        return ""
    if not alone(path):
        return "a checksum without a file name: name the list after its file, NAME.sha256"
    return "several checksums without file names" if len({kind for kind, _ in mine}) < len(mine) else ""


def read_sums(path: str) -> tuple[Wanted, ...]:
    """Read a file of checksums, its names relative to it, as wanted files.

    Raises:
        ManifestError: it cannot be read, has a line that is none, or no line at all.
    """
    base = os.path.dirname(path)
    found: Checksums = checksums.parse(read_text(path))
    odd = [(line.line, line.why) for line in found.odd]
    first = next((entry for entry in found.entries if not entry.name), None)
    if first is not None and (why := nameless(path, found.entries)):
        odd.append((first.line, why))
    wanted = []
    for entry in found.entries:
        name = _name(base, path, entry)
        if not name:
            odd.append((entry.line, entry.doubt))
        place = Place(os.path.join(base, name))
        pins = () if entry.kind == "sha256" else (Pin(entry.kind, entry.hex),)
        sha256 = "" if pins else entry.hex
        wanted.append(Wanted(path, os.path.basename(path), name, sha256, None, (), (place,), pins=pins))
    if odd:
        raise refusal(path, sorted(odd), "correct these lines, or check the files by `sha256sum -c`")
    if not wanted:
        raise ManifestError((Problem(path, 0, "", "no checksum in this file"),), f"expected lines {checksums.SHAPES}")
    return tuple(dict.fromkeys(wanted))


def _name(base: str, path: str, entry: Entry) -> str:
    """The name by which a file stands there; "" where the line may mean something else, and none does."""
    names = (entry.name, entry.path) if entry.name else (alone(path),)
    there = next((name for name in names if os.path.lexists(os.path.join(base, name))), "")
    return there or ("" if entry.doubt else names[0])


def repair(
    run: RunContext,
    wanted: Sequence[Wanted],
    unresolved: Sequence[Unresolved] = (),
    *,
    max_age_s: float | None = None,
) -> Summary:
    """Read everything as `reread` does, then do for what is wrong or absent what a sync would. No pin is changed.

    Returns:
        The summary: 0 where all is right in the end, else what `sync` would end with.
    """
    began = run.context.monotonic()
    wanted = weak_pins.with_known_sha256(run.store, wanted)
    run.counts.begin(wanted, unresolved, run.emit)
    todo: list[FileState] = []
    unread, records = iter(wanted), RecordIndex(run.store)
    try:
        for found in read(run, wanted, max_age_s):
            next(unread)
            if found.unknown and not found.wrong:
                run.fail(found.wanted, unread_error(run.store, *found.unknown[0]))
                continue
            if found.true_size is not None:
                warn_of_size(found.wanted, found.true_size, run.emit)
            file_state = _standing(run.store, records, found)
            if file_state.present:
                blobs.protect(run.store, found.wanted.key)
                run.counts.present += 1
                run.emit(found.event)
            else:
                todo.append(file_state)
    except Stopped:
        give_up(run, (*(file_state.wanted for file_state in todo), *unread))
        todo = []
    if todo:
        execute(run, todo)
    return run.counts.summary(run.context.monotonic() - began, stopped=run.context.stop.code)


def _standing(store: Store, records: RecordIndex, found: VerifiedFiles) -> FileState:
    """What stands where, by what was read: an inode that is wrong is so at each of its names."""
    (file_state,) = scan(store, (found.wanted,), records)
    wrong = {_inode(path) for path in found.wrong if not _is_no_blob(store, found.wanted, path)} - {None}
    states = {path: _read(path, state, wrong) for path, state in file_state.states}
    doubted = (State.SEALED, State.UNVERIFIED, State.MODIFIED)
    for tree in (place.path for place in found.wanted.places if place.unpack and states[place.path] in doubted):
        if any(_is_below(path, tree) for path, _ in found.found):
            states[tree] = State.WRONG
    blob = store.blob(found.wanted.key)
    if _inode(blob) in wrong:
        states[blob] = State.WRONG
    return FileState(found.wanted, tuple(states.items()))


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
