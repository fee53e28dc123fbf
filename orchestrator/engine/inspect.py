"""Read files whose state `lstat` cannot tell: adopt right bytes, move wrong ones to quarantine.

Others may write into the folders of places: what stands there is opened once, then read, sealed and compared by its
descriptor; of a name nothing but the name is removed, by its folder's descriptor.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator.engine import doubled, weak_pins
from orchestrator.engine.opened import Facts, OpenedFile, facts, is_at, open_file, open_in_tree
from orchestrator.engine.scan import (
    RecordIndex,
    State,
    blob_size,
    is_inode,
    judge,
    leads_below,
    leads_into,
    obstacle,
    warn_of_size,
)
from orchestrator.errors import HeldError, OrchError, PlacementError, Stopped, StoreError
from orchestrator.events import Finished, Mismatched, Noticed, Verified
from orchestrator.files import place_error, reason, store_error, temporary
from orchestrator.folders import Folders
from orchestrator.formats import lfs, wrong_file
from orchestrator.model import Link, Place
from orchestrator.placement import allow, link
from orchestrator.store import blobs, partials, quarantine, records, seal, tree_records
from orchestrator.store.records import Sharer
from orchestrator.store.store import disk
from orchestrator.transfer import repair
from orchestrator.transfer.adopt import resume_hint
from orchestrator.transfer.partial import PartialState
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.model import Artifact, Wanted
    from orchestrator.store import Store
    from orchestrator.transfer.repair import Damage
    from orchestrator.transfer.run_context import RunContext


_TOLD_COPY = "the store takes a copy of what is here already; to have no second copy: `orch sync --adopt move`"


class UnreadableError(StoreError):
    """A blob that the disk does not give: it may be right. The files that need it fail, the others go on."""


class Due(NamedTuple):
    """A place that must be made: over what was judged there (None: over nothing); the version that it holds now.

    `displaced` says why what stands there, and is not ours, must make room: it goes to quarantine.
    """

    place: Place
    over: link.Stamp | None = None
    old: str = ""
    displaced: str = ""
    found: str = ""


class Inspection:
    """Reads what stands at all places of one artifact, and its blob, in one thread.

    `judged_folders` are those of places, as far as this run knows them, and takes more of them. `artifact`
    has its sha256 once right bytes were read; `was_quarantined` says whether wrong bytes of ours were taken
    away, `reused_bytes` how many bytes of files that were here before us are right.
    """

    def __init__(
        self,
        run: RunContext,
        records: RecordIndex,
        artifact: Artifact,
        file_states: Sequence[FileState],
        *,
        judged_folders: link.JudgedFolders,
    ) -> None:
        self.run, self.records, self.artifact, self.file_states = run, records, artifact, file_states
        self.folders, self._judged_folders = Folders(run.store.trusted), judged_folders
        self.was_quarantined = False
        self.reused_bytes = 0

    def dues(self, file_state: FileState) -> tuple[list[Due], OrchError | None]:
        """Give the places of one file that must be made, and why one cannot be.

        Raises:
            StoreError, Stopped: the run's end.
        """
        wanted, found, failure = file_state.wanted, list[Due](), None
        if file_state.true_size is not None:
            warn_of_size(wanted, file_state.true_size, self.run.emit)
        links = {place.path: place for place in wanted.places}
        for path, state in file_state.states:
            is_mark = wanted.places and path not in links and path != self.run.store.blob(self.artifact.key)
            if state is State.SEALED or is_mark:  # a layout's marks are made last
                continue
            try:
                place = links.get(path)
                if place is not None:
                    link.judge_folder(self.run.store, place, self._judged_folders, absent=state is State.ABSENT)
                due = (
                    self._judge_tree(wanted, place, state)
                    if place is not None and place.unpack
                    else self._judge_file(wanted, path, place, read=state is State.WRONG)
                )
            except (PlacementError, UnreadableError) as error:
                failure = failure or error
                continue
            if due is not None and place is not None:
                found.append(due)
        for path in file_state.doubled:
            try:
                link.judge_folder(self.run.store, links[path], self._judged_folders)
                doubled.make_link(self.run, wanted, path)
            except PlacementError as error:
                failure = failure or error
        return found, failure

    def has_blob(self) -> bool:
        """Whether the store has the bytes: there already, sealed again, or taken in from a place that is right.

        Raises:
            PlacementError, StoreError, Stopped.
        """
        run, artifact = self.run, self.artifact
        state = blobs.blob_state(run.store, artifact.sha256, artifact.size)
        if state == "broken":
            if self._judge_file(artifact.wanted[0], run.store.blob(artifact.sha256), None) is None:
                return True
            state = "absent"
        if state == "absent":
            for file_state in self.file_states:
                for path in file_state.good:
                    with suppress(OSError, PlacementError), open_file(self.folders, path) as opened:
                        self._copy_in(opened)
                        if blobs.blob_state(run.store, artifact.sha256, artifact.size) == "sealed":
                            return True
        return state == "sealed"

    def _judge_file(self, wanted: Wanted, path: str, place: Place | None, *, read: bool = False) -> Due | None:
        """Read a file that is not sealed: right bytes are sealed, ours with wrong bytes go, a stranger's stay.

        `read` says that it was read, and is wrong, whatever its seal says.

        Returns:
            What is to be made; None where it is right.
        """
        run, spot = self.run, place or Place(path)
        if spot.target and os.path.islink(path) and os.readlink(path) == spot.target:
            return None  # a layout's own link: what it leads to is another place of the same file
        over = link.stamp(path)
        state = judge(run.store, self.records, wanted, path, place)
        if state is State.SEALED and not read:
            return None  # it was mended meanwhile: it shared its inode with another place
        if state is State.ABSENT:
            return Due(spot)
        if state is State.UNKNOWN:
            raise _unknown(path)
        if state is State.OBSTRUCTED:
            raise obstacle(path)
        if state is State.OUTDATED:
            return Due(spot, over, self._previous(path))
        if _status(path) is None:
            return self._displace(wanted, spot, over, f"a link to {os.readlink(path)}, where nothing is", "")
        with _opened(run, self.folders, path) as opened:
            return self._judge_opened(wanted, spot, opened, is_place=place is not None, read=read)

    def _judge_opened(
        self, wanted: Wanted, spot: Place, opened: OpenedFile, *, is_place: bool, read: bool
    ) -> Due | None:
        """Read a file for `_judge_file`."""
        run, path, over = self.run, opened.path, opened.stamp
        verdict = None if read else self._read(opened)
        if leads_below(run.store, opened.text):
            return self._judge_below(wanted, spot, opened, verdict)
        if verdict is not None and verdict.is_good:
            self._learn(verdict.sha256)
            if wanted.allow and is_place:
                named = msgspec.structs.replace(wanted, file=wanted.file or os.path.basename(path))
                allow.check(opened.content, named, run.context.stop)
            self._take_in(wanted, opened)
            return None
        found = verdict.sha256 if verdict is not None else ""
        recorded = self.records.ours(path)
        if found and any(found in (made["sha256"], made.get("old")) for made in recorded):
            return Due(spot, over, found)  # an earlier version that was only touched
        if not self.artifact.is_unpinned and self._is_ours(opened, read=read):
            try:
                quarantine_file(self, wanted, opened)
            except OSError as error:
                raise _cannot(run.store, path, error) from error
            self.was_quarantined = True
            return Due(spot, link.stamp(path))  # a link of ours still stands
        return self._displace(wanted, spot, over, _called(opened), found, opened.content)

    def _judge_below(
        self, wanted: Wanted, spot: Place, opened: OpenedFile, verdict: check.Verdict | None
    ) -> Due | None:
        """Judge a link of ours into a store below, where nothing is changed: wrong bytes there are told."""
        run, over = self.run, opened.stamp
        if verdict is not None and verdict.is_good:
            opened.attest(run.store, verdict.sha256, ours=False)
            return None
        found = (verdict.sha256 if verdict is not None else "") or check.digest(opened.content, run.context.stop)
        run.emit(Mismatched(wanted.model, wanted.file, opened.text, self.artifact.expected, found, ""))
        if run.below is not None:
            run.below.condemn(opened.text)
        return Due(spot, over)

    def _previous(self, path: str) -> str:
        """The digest of the version that stands at a place, for whom it is told to."""
        if os.path.islink(path):
            return os.path.basename(os.readlink(path))
        return self.records.previous(path, os.lstat(path), self.artifact.sha256)

    def _is_ours(self, opened: OpenedFile, *, read: bool) -> bool:
        if opened.text:
            return leads_into(self.run.store, opened.text)
        if self.records.is_ours(opened.path, opened.own, self.artifact.sha256):
            return True
        # Read, and wrong under a whole seal: bytes that rot in a copy of what we made, wherever it was moved from.
        mine = [made["sha256"] for made in self.records.ours(opened.path)]
        return read and any(seal.fits(self.run.store, opened.own, sha256, None) for sha256 in mine)

    def _read(self, opened: OpenedFile) -> check.Verdict | None:
        """Judge the bytes; None where their number alone says that they are others.

        Raises:
            PlacementError, UnreadableError: the disk does not give them.
        """
        true_size = blob_size(self.run.store, self.artifact.sha256)
        if true_size is not None and opened.status.st_size != true_size:
            return None
        first = self.artifact.wanted[0]
        with self.run.reading("verifying", first.model, first.file, opened.status.st_size) as context:
            verdict = weak_pins.prove(context, self.artifact, opened.content)
        if verdict.error is not None:
            raise _cannot(self.run.store, opened.path, verdict.error)
        return verdict

    def _learn(self, sha256: str) -> None:
        blobs.learn(self.run.store, sha256, self.artifact.pins)
        self.artifact = msgspec.structs.replace(self.artifact, sha256=sha256)

    def _displace(
        self, wanted: Wanted, place: Place, over: link.Stamp | None, what: str, found: str, content: str = ""
    ) -> Due:
        """Say why what stands at a place, and is not ours, may make room; `content` is a path of the open file.

        Raises:
            PlacementError: it may not.
        """
        path = place.path
        if content and not os.path.islink(path) and is_pointer_to(content, wanted):
            self.run.emit(Noticed(f"{path}: a Git LFS pointer to this file is replaced by the file"))
            return Due(place, over, displaced="a Git LFS pointer to the file that was wanted", found=found)
        if self.run.options.force:
            self.run.emit(Noticed(f"{path}: {what} is replaced (--force), and kept in quarantine"))
            return Due(place, over, displaced="replaced (--force)", found=found)
        taken = self.records.taken_for(path, wanted.manifest)
        if self.artifact.is_unpinned:
            words = "an existing file is in the way, and no checksum tells whether it is the right one"
            raise _foreign(path, f"{words}{taken}")
        why = check.diagnose_file(content, wrong_file.expected_file(wanted)).after if content else ""
        raise _foreign(path, f"{what} is in the way, with other bytes{why}{taken}", _help(wanted, path))

    def _judge_tree(self, wanted: Wanted, place: Place, state: State) -> Due | None:
        """Look into what stands unsealed where an archive is to be unpacked."""
        path = place.path
        if state is State.ABSENT:
            return Due(place)
        if state is State.OBSTRUCTED:
            raise obstacle(path)
        if state is State.OUTDATED:
            return self._due_tree(place, self._previous_tree(path))
        if self.records.is_our_tree(path):
            checked = check_tree(self, wanted, path, read=state is State.WRONG)
            return None if checked is State.SEALED else self._due_tree(place)
        if state is State.UNVERIFIED and self._take_in_tree(wanted, path):
            return None
        if not self.run.options.force:
            if os.path.islink(path):
                raise _foreign(path, f"a link to {os.readlink(path)} that orch did not make is in the way")
            raise _foreign(path, "a folder that orch did not make is in the way, and it is not empty")
        self.run.emit(Noticed(f"{path}: a folder that orch did not make is replaced (--force)"))
        return self._due_tree(place)

    def _due_tree(self, place: Place, old: str = "") -> Due:
        """A tree that must be made: over the folder there, where that is the very one that we made."""
        over = link.stamp(place.path)
        is_ours = over is not None and self.records.has_inode(place.path, os.lstat(place.path))
        return Due(place, over if is_ours else None, old)

    def _take_in_tree(self, wanted: Wanted, path: str) -> bool:
        """Seal and record a folder that is not the one that we made, where all its files are right.

        Of a user's files nothing but the mtime's nanoseconds changes; of what a link leads to nothing at all.

        Raises:
            PlacementError: the disk does not give them, or something writes into them.
        """
        run = self.run
        files = read_tree(run, wanted, path)
        if files is None:
            return False
        if wanted.allow:
            each = msgspec.structs.replace(wanted, places=())  # judged by its own bytes, as in the archive
            for name in tree_records.read(run.store, wanted.sha256):
                with _opened(run, self.folders, f"{path}/{name}") as opened:
                    named = msgspec.structs.replace(each, file=each.file or os.path.basename(name))
                    allow.check(opened.content, named, run.context.stop)
        _attest_tree(run, self.folders, path, files)
        self._record_right(wanted, path, ours=False)
        run.emit(Noticed(f"{path}: bytes are right, adopted"))
        return True

    def _previous_tree(self, path: str) -> str:
        made = (made["sha256"] for made in self.records.ours(path))
        return next((sha256 for sha256 in made if sha256 != self.artifact.sha256), "")

    def _take_in(self, wanted: Wanted, opened: OpenedFile) -> None:
        """Seal right bytes; a user's own file also goes into the store (reflink or copy) and is recorded.

        Of a user's file nothing but the mtime's nanoseconds changes; of what a link leads to nothing at all.
        """
        run, sha256, path, size = self.run, self.artifact.sha256, opened.path, opened.status.st_size
        if not opened.is_unchanged():
            raise _foreign(path, "a program is writing to it just now")
        ours = self._is_ours(opened, read=False)
        is_blob = path == run.store.blob(sha256)
        if not opened.text and not is_blob and blobs.blob_state(run.store, sha256, wanted.size) == "absent":
            run.emit(Verified(wanted.model, wanted.file, sha256, size))
            if self._move_in(wanted, opened):
                self.reused_bytes += size
                run.emit(Noticed(f"{path}: bytes are right, moved into the store; the place is a hard link now"))
                return
            if self._copy_in(opened):
                self._tell_copy(wanted, opened)
        opened.attest(run.store, sha256, ours=ours)
        self._record_right(wanted, path, ours=ours)
        if not ours:
            self.reused_bytes += size
        run.emit(Noticed(f"{path}: bytes are right, {'recorded as verified' if ours else 'adopted'}"))
        if wanted.size not in (None, size):
            warn_of_size(wanted, size, run.emit)

    def _record_right(self, wanted: Wanted, path: str, *, ours: bool) -> None:
        """Record what was found right: a copy of what we made there stays ours, all else is its owner's."""
        place = next((place for place in wanted.places if place.path == path), None)
        if place is None:
            return
        mode = records.ADOPTED
        if not os.path.islink(path) or ours:
            made = (each["link"] for each in self.records.ours(path) if each["sha256"] == self.artifact.sha256)
            mode = next(made, mode)
        found = "unpacked" if place.unpack else "found"
        self._record(wanted, path, mode, records.ADOPTED if mode == records.ADOPTED else found)

    def _record(self, wanted: Wanted, path: str, mode: str, how: str) -> None:
        """Record what stands at a place, by its inode."""
        run = self.run
        made = records.seen(path, self.artifact.sha256, mode, how)
        records.record(run.store, run.context.hostname, wanted.manifest, {path: made}, run.context.stop)

    def _move_in(self, wanted: Wanted, opened: OpenedFile) -> bool:
        """Let a user's right file become the blob, of which its place is a hard link then (`adopt: move`).

        Only where the manifest or the command asks for it, where the place may be a hard link, and of a file that
        is ours by its owner and has no other name: nobody else may write into a blob.

        Returns:
            Whether it is done. If not, the store gets a copy, as without `adopt: move`.
        """
        run, sha256, path, status = self.run, self.artifact.sha256, opened.path, opened.status
        place = next((place for place in wanted.places if place.path == path), None)
        if place is None or not doubled.is_moved(run, wanted) or not doubled.may_be_link(place, status):
            return False
        # Not a partial: a program could be told to go on with one, and would write into the user's file.
        name = temporary(os.path.dirname(run.store.blob(sha256)))
        try:
            os.link(opened.at, name, follow_symlinks=False)
        except OSError as error:  # the store is on another file system
            run.emit(Noticed(f"{path}: copied into the store, not moved ({reason(error)})"))
            return False
        try:
            if facts(os.lstat(name)) != facts(status):
                raise _foreign(path, "a program is writing to it just now")
            self._record(wanted, path, Link.HARD.value, "found")  # before, so that a kill leaves it ours
            blobs.commit(run.store, [(name, sha256)])
            self._record(wanted, path, Link.HARD.value, "found")  # with the seal's time
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        return True

    def _tell_copy(self, wanted: Wanted, opened: OpenedFile) -> None:
        """Say once a run that files are on the disk twice now, where that can be helped."""
        run, status = self.run, opened.status
        place = next((place for place in wanted.places if place.path == opened.path), None)
        if place is None or doubled.is_moved(run, wanted) or not doubled.may_be_link(place, status):
            return
        if os.stat(run.store.path).st_dev == status.st_dev and _TOLD_COPY not in run.told:
            run.told.add(_TOLD_COPY)
            run.emit(Noticed(_TOLD_COPY))

    def _copy_in(self, opened: OpenedFile) -> bool:
        """Give the store its own copy of right bytes; where there is no room the place alone must do.

        Returns:
            Whether it takes room on the disk: a reflink takes none.
        """
        run, sha256, path = self.run, self.artifact.sha256, opened.path
        try:
            partial = partials.acquire(run.store, sha256)
        except HeldError:
            return False  # another orch is fetching them: it will bring them
        copied = False

        def copying(done_bytes: int) -> None:
            nonlocal copied
            copied = True
            context.reading(done_bytes)

        try:
            partial.empty()
            first = self.artifact.wanted[0]
            with run.reading("copying", first.model, first.file, opened.status.st_size, passes=2) as context:
                try:
                    blobs.copy(opened.fd, partial.file, None, copying)
                except OSError as error:
                    run.emit(Noticed(f"{path}: no copy in the store ({reason(error)})"))
                    return False
                if check.check(context, [(sha256, partial.file)])[0].is_good:
                    blobs.commit(run.store, [(partial.file, sha256)])
        finally:
            partial.discard()
        return copied


def _opened(run: RunContext, folders: Folders, path: str) -> OpenedFile:
    """Open what stands at a path.

    Raises:
        PlacementError, UnreadableError: it is no file, or cannot be read.
    """
    try:
        return open_file(folders, path)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise obstacle(path) from error
        raise _cannot(run.store, path, error) from error


def quarantine_file(inspection: Inspection, wanted: Wanted, opened: OpenedFile) -> list[Sharer]:
    """Take a wrong file of ours away, together with every place and blob that is the same inode.

    It goes to quarantine; or, where its pieces are known and nothing here has the right bytes, only its bad pieces
    do, and the rest becomes a partial that asks for those. Of a link of ours the blob behind it is meant; no other
    link is followed. What goes is written down first, so that a kill loses none of the places.

    Returns:
        The places of any manifest that shared its inode.

    Raises:
        StoreError: the disk said no.
        PlacementError, OSError: the place cannot be read or changed.
        Stopped: a stop was asked for.
    """
    run, artifact, path = inspection.run, inspection.artifact, opened.path
    store, sha256, status = run.store, artifact.sha256, opened.status
    subject, blob = store.blob(os.path.basename(opened.text)) if opened.text else path, store.blob(artifact.key)
    needed = not _is_elsewhere(run, artifact, inspection.file_states, status)
    with run.reading("hashing", wanted.model, wanted.file, status.st_size) as context:
        damage = repair.examine(opened.content, artifact, context.stop, context.reading) if needed else None
        found = damage.found if damage else check.digest(opened.content, context.stop, context.reading)
    words = damage.words if damage else check.diagnose_file(opened.content, wrong_file.expected_file(wanted)).words
    shared = _sharers(inspection.records, sha256, status)
    about = {
        "expected": artifact.expected,
        "source": f"written into: {path}",
        "model": wanted.model,
        "why": "it was changed since it was verified",
    }
    victim = blob if is_inode(blob, status) else subject
    names = _Names(inspection.folders, victim, {subject, *(each.path for each in shared)} - {victim}, opened)
    shared = [each for each in shared if each.path != path]
    if shared:
        records.begin_repair(store, artifact.key, shared, run.context.stop)
    folder = _donate(run, artifact, names, damage, about) if damage else ""
    if not folder:
        at = names.at_victim()
        folder = quarantine.move_in(store, at, found, {**about, "place": path}, kind=quarantine.DISPLACED)
    _unlink(run, names)
    run.emit(Mismatched(wanted.model, wanted.file, path, artifact.expected, found, folder, words))
    return shared


def _sharers(known: RecordIndex, sha256: str, status: os.stat_result) -> list[Sharer]:
    """The places of all manifests that are this inode, and are recorded as such."""
    return [
        Sharer(record, place, made["link"], status.st_dev, status.st_ino)
        for place, entries in known.all().items()
        for record, made in entries
        if made["sha256"] == sha256 and made["link"] != records.ADOPTED
        if is_inode(place, status) and ("inode" not in made or records.is_inode(made, status, place))
    ]


def _is_elsewhere(
    run: RunContext, artifact: Artifact, file_states: Collection[FileState], status: os.stat_result
) -> bool:
    """Whether the right bytes stand here in another inode: then nothing need be fetched."""
    blob, sha256 = run.store.blob(artifact.key), artifact.sha256
    states = [state for file_state in file_states for state in file_state.states]
    good = [path for file_state in file_states for path in file_state.good]
    if (blob, State.WRONG) not in states and blobs.blob_state(run.store, sha256, artifact.size) == "sealed":
        good.append(blob)
    return any(os.path.isfile(path) and not is_inode(os.path.realpath(path), status) for path in good)


class _Names(NamedTuple):
    """The names of one inode with wrong bytes: the one that is moved, and the others, which go."""

    folders: Folders
    victim: str
    others: Collection[str]
    opened: OpenedFile

    @property
    def status(self) -> os.stat_result:
        """That of the file."""
        return self.opened.status

    def at_victim(self) -> str:
        """The path of the name that is moved, by its folder's descriptor.

        Raises:
            PlacementError: it is another file by now.
        """
        folder, name = self.folders.in_folder(self.victim)
        if not is_at(folder.at(name), self.status):
            raise _foreign(self.victim, "it was changed just now")
        return folder.at(name)


def _donate(run: RunContext, artifact: Artifact, names: _Names, damage: Damage, about: Mapping[str, str]) -> str:
    """Make a wrong file the partial of its digest, with its bad pieces missing.

    Returns:
        Where the bad pieces lie now; "" where the partial is another orch's, or has as much already.
    """
    store = run.store
    try:
        partial = partials.acquire(store, artifact.key)
    except HeldError:
        return ""
    try:
        if PartialState(partial, artifact.size).good_bytes() >= damage.pieces.size - damage.bad_bytes:
            return ""
        bad = " ".join(f"{start}-{end}" for start, end in damage.bad)
        note = {**about, "bad": bad, "place": names.victim}
        content = names.opened.content
        folder = quarantine.keep_ranges(store, content, damage.found, damage.bad, note, kind=quarantine.DISPLACED)
        _unlink(run, names)  # nobody may see it change, and it can be moved only if nobody else has it
        with disk(store.path):
            at = names.at_victim()
            repair.request_pieces(partial, damage, at)
            if is_at(at, names.status):
                os.unlink(at)
        return folder
    finally:
        partial.release()


def _unlink(run: RunContext, names: _Names) -> None:
    """Remove the other names of one inode; what else stands there by now stays, what cannot be removed is told."""
    for path in names.others:
        if is_inode(path, names.status):
            try:
                folder, name = names.folders.in_folder(path)
                if is_at(folder.at(name), names.status):
                    os.unlink(folder.at(name))
            except (OSError, PlacementError) as error:
                why = reason(error) if isinstance(error, OSError) else error.message
                run.emit(Noticed(f"{path}: it has the same wrong bytes and cannot be removed ({why})"))


def check_tree(inspection: Inspection, wanted: Wanted, folder: str, *, read: bool = False) -> State:
    """Hash the files of a tree whose seals are broken: wrong ones go to quarantine.

    Args:
        read: hash the others, too, because one of them was read and is wrong, whatever its seal says.

    Returns:
        SEALED if all was right, ABSENT if the tree must be made anew.

    Raises:
        StoreError, Stopped, OSError.
    """
    run = inspection.run
    listing = tree_records.read(run.store, wanted.sha256)
    state = State.SEALED if listing else State.ABSENT
    old = tree_records.standing_in(run.store, folder)
    broken = tree_records.broken(run.store, folder, listing)
    rotten: dict[str, check.Verdict] = {}
    if read:
        whole = [name for name in listing if name not in broken]
        verdicts = check.check(run.context, [(listing[name][1], f"{folder}/{name}") for name in whole])
        rotten = {name: verdict for name, verdict in zip(whole, verdicts, strict=True) if not verdict.is_good}
    for name in (*broken, *rotten):
        path, (_, sha256) = f"{folder}/{name}", listing[name]
        if not os.path.lexists(path):
            run.emit(Noticed(f"{path} is missing: the archive is unpacked again"))
            state = State.ABSENT
        elif not os.path.isfile(path) or (name not in rotten and tree_records.is_whole(run.store, folder, name, old)):
            state = State.ABSENT  # an earlier archive's, which the new one replaces; or nothing that can be read
        else:
            try:
                opened = open_in_tree(inspection.folders, folder, name)
            except OSError as error:
                raise place_error(error, path) from error
            with opened:
                verdict = rotten.get(name) or check.check(run.context, [(sha256, opened.content)])[0]
                if verdict.error is not None:
                    raise place_error(verdict.error, path)
                if not verdict.is_good:
                    _quarantine_in_tree(run, wanted, opened, sha256, verdict.sha256)
                    state = State.ABSENT
                    continue
                opened.attest(run.store, sha256, ours=not opened.is_behind_link)
                if not opened.is_behind_link:
                    run.emit(Noticed(f"{path}: bytes are right, recorded as verified"))
    return state


def _quarantine_in_tree(run: RunContext, wanted: Wanted, opened: OpenedFile, sha256: str, found: str) -> None:
    """Take a wrong file of a tree away; what a link leads to is not ours, whoever made the link."""
    path, where = opened.path, ""
    if not opened.is_behind_link:
        about = {"expected": sha256, "source": f"written into: {path}", "model": wanted.model, "place": path}
        where = quarantine.move_in(run.store, opened.at, found, about, kind=quarantine.DISPLACED)
    run.emit(Mismatched(wanted.model, wanted.file, path, sha256, found, where))


def prove_unwritten(run: RunContext, todo: Sequence[FileState]) -> list[FileState]:
    """Where nothing can be done, find out by reading which files are right as they stand: those are present.

    An image's user cannot write its store, nor need to. What is found is kept in the local state, where that can be.

    Returns:
        The others, and those that a stop left unread.
    """
    records, folders = RecordIndex(run.store), Folders(run.store.trusted)
    left: list[FileState] = []
    rest = iter(todo)
    for file_state in rest:
        wanted = file_state.wanted
        try:
            right = all(_is_right(run, records, folders, wanted, each) for each in file_state.states)
        except (OrchError, Stopped):  # no sha256sum, or a stop: what was not read is not known
            left += [file_state, *rest]
            break
        if not right:
            left.append(file_state)
            continue
        if run.counts.book(wanted, "present"):
            run.emit(Finished(wanted.model, wanted.file, "present", size_bytes=wanted.size or 0))
    return left


def _is_right(
    run: RunContext, records: RecordIndex, folders: Folders, wanted: Wanted, found: tuple[str, State]
) -> bool:
    """Whether what stands at one place is right, sealed or not."""
    store, (path, state) = run.store, found
    if state is State.SEALED:
        return True
    place = next((place for place in wanted.places if place.path == path), None)
    if place is not None and place.unpack:
        return state is State.UNVERIFIED and _is_tree_right(run, folders, wanted, path)
    if state not in (State.UNVERIFIED, State.LINKED, State.MODIFIED, State.FOREIGN):
        return False
    if judge(store, records, wanted, path, place) is State.SEALED:
        return True
    with _opened(run, folders, path) as opened:
        verdict = weak_pins.prove(run.context, wanted, opened.content)
        if verdict.is_good and place is None:  # a blob of a store that nobody here may write
            seal.attest(store, opened.content, verdict.sha256, touch=False, name=path)
        elif verdict.is_good:
            opened.attest(store, verdict.sha256, ours=False)
    return verdict.is_good


def read_tree(run: RunContext, wanted: Wanted, folder: str) -> dict[str, tuple[str, Facts]] | None:
    """Hash the files of an archive that stand unsealed in a folder.

    Returns:
        By name the digest of each, and what tells that it is still the one that was read, where all are right; None
        where one is wrong, or the archive's files are not known.

    Raises:
        PlacementError: the disk does not give one, or something writes into it.
    """
    listing = tree_records.read(run.store, wanted.sha256)
    files = {name: listing[name][1] for name in tree_records.broken(run.store, folder, listing)}
    before = [_status(f"{folder}/{name}") for name in files]
    verdicts = check.check(run.context, [(sha256, f"{folder}/{name}") for name, sha256 in files.items()])
    for name, verdict in zip(files, verdicts, strict=True):
        if verdict.error is not None:
            raise place_error(verdict.error, f"{folder}/{name}")
    if not listing or not all(verdict.is_good for verdict in verdicts):
        return None
    found = {}
    for (name, sha256), first in zip(files.items(), before, strict=True):
        now = _status(f"{folder}/{name}")
        if first is None or now is None or facts(first) != facts(now):
            raise _foreign(folder, "a program is writing to it just now")
        found[name] = (sha256, facts(now))
    return found


def _attest_tree(run: RunContext, folders: Folders, folder: str, files: Mapping[str, tuple[str, Facts]]) -> None:
    """Seal right files of a folder; those behind a link are only remembered."""
    for name, (sha256, read) in files.items():
        try:
            opened = open_in_tree(folders, folder, name)
        except OSError as error:
            raise place_error(error, f"{folder}/{name}") from error
        with opened:
            if facts(opened.status) != read:
                raise _foreign(folder, "a program is writing to it just now")
            opened.attest(run.store, sha256, ours=False)


def _is_tree_right(run: RunContext, folders: Folders, wanted: Wanted, folder: str) -> bool:
    try:
        files = read_tree(run, wanted, folder)
        if files is None:
            return False
        _attest_tree(run, folders, folder, files)
    except PlacementError:
        return False
    return True


def is_pointer_to(path: str, wanted: Wanted) -> bool:
    """Whether a file is a Git LFS pointer to the very bytes that are wanted (git-lfs docs/spec.md)."""
    try:
        if os.stat(path).st_size > lfs.LARGEST:
            return False
        with open(path, "rb") as file:
            pointer = lfs.parse(file.read(lfs.LARGEST).decode(errors="replace"))
    except OSError:
        return False
    return pointer.is_whole and pointer.sha256 == wanted.sha256 and wanted.size in (None, pointer.size)


def _status(path: str) -> os.stat_result | None:
    """The status of what stands there, through a link; None where a link leads to nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(path)
    return None


def _called(opened: OpenedFile) -> str:
    """What people call a file that orch did not make."""
    return f"a link to {opened.text} that orch did not make" if opened.text else "a file that orch did not make"


def _unknown(path: str) -> PlacementError:
    try:
        os.stat(path)
    except OSError as error:
        return place_error(error, path)
    return PlacementError(f"{path}: it is being changed just now", "run the command again")


def _cannot(store: Store, path: str, error: OSError) -> OrchError:
    """The failure of a file that the disk does not give, or does not let go: nothing was moved."""
    if path.startswith(store.path + "/"):
        told = store_error(error, path)
        return UnreadableError(told.message, told.hint)
    return place_error(error, path)


_REPLACE = "move it away, or replace it: `orch sync --force`"


def _help(wanted: Wanted, path: str) -> str:
    """What helps where a file is in the way; `orch get` has no manifest (nor its path), but can save elsewhere."""
    if not os.path.isabs(wanted.manifest):
        return "move it away, replace it: `orch get --force`, or save to another path: -o PATH"
    return _REPLACE + resume_hint(path, wanted.size)


def _foreign(path: str, why: str, hint: str = _REPLACE) -> PlacementError:
    return PlacementError(f"{path}: {why}", hint, "foreign")
