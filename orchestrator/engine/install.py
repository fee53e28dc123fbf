"""Install one digest everywhere it is wanted: judge what stands there, have the blob, place it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator.engine import weak_pins
from orchestrator.engine.inspect import quarantine_file
from orchestrator.engine.scan import RecordIndex, State, blob_size, judge, leads_into, warn_of_size
from orchestrator.errors import HeldError, OrchError, PlacementError, Stopped, StoreError
from orchestrator.events import Finished, Noticed, Placed, Replaced
from orchestrator.files import place_error, reason, store_error
from orchestrator.formats import wrong_file
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.store import blobs, quarantine, records, seal
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.context import Context
    from orchestrator.engine.scan import FileState
    from orchestrator.model import Artifact, Wanted
    from orchestrator.store import Store
    from orchestrator.store.records import Sharer
    from orchestrator.transfer.context import RunContext
    from orchestrator.transfer.download import Receipt

POINTER_BYTES = 1024  # git-lfs's own limit for what may be a pointer


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


class Install:
    """The work on one artifact, in one thread."""

    def __init__(
        self, run: RunContext, records: RecordIndex, artifact: Artifact, file_states: list[FileState], *, force: bool
    ) -> None:
        self.run, self.records, self.artifact, self.file_states, self.force = run, records, artifact, file_states, force
        self.results: list[tuple[Wanted, str | OrchError]] = []
        self._receipt: Receipt
        self._was_condemned = False

    def install(
        self, fetch: Callable[[RunContext, Artifact, Receipt], None], receipt: Receipt
    ) -> list[tuple[Wanted, str | OrchError]]:
        """Do all of it and say of each file `placed`, `fetched` or its error; `receipt` counts the bytes.

        Raises:
            StoreError, Stopped: the run's end; all other errors are results.
        """
        self._receipt = receipt
        judged = [(file_state.wanted, *self._judge(file_state)) for file_state in self.file_states]
        todo = [(wanted, due, error) for wanted, due, error in judged if due or error is None]
        self.results += [(wanted, error) for wanted, due, error in judged if not due and error is not None]
        wanting = [wanted for wanted, due, _ in todo if due or not wanted.places]
        mending = records.to_repair(self.run.store, self.artifact.key)
        fetched = False
        if wanting or self._was_condemned or mending:
            try:
                fetched = self._have_blob(fetch, receipt)
            except OrchError as failure:
                if isinstance(failure, StoreError) and not isinstance(failure, UnreadableError):
                    raise
                self.results += [(w, e or (failure if w in wanting else "placed")) for w, _, e in todo]
                return self.results
            self._repair_others(mending)
        for wanted, due, error in todo:
            how = "fetched" if fetched and wanted in wanting else "placed"
            fetched = fetched and how != "fetched"
            error = self._place(wanted, due) or error
            self.results.append((wanted, error or how))
            if error is None:
                size = os.stat(self.run.store.blob(self.artifact.sha256)).st_size if wanting else wanted.size or 0
                came = (receipt.backend, receipt.source) if how == "fetched" else ("", "")
                self.run.emit(Finished(wanted.model, wanted.file, how, *came, size, receipt.seconds))
        return self.results

    def _judge(self, file_state: FileState) -> tuple[list[Due], OrchError | None]:
        """Look into what stands unsealed; give the places that must be made, and why one cannot be."""
        wanted, dues, failure = file_state.wanted, list[Due](), None
        if file_state.true_size is not None:
            warn_of_size(wanted, file_state.true_size, self.run.emit)
        links = {place.path: place for place in wanted.places}
        for path, state in file_state.states:
            is_mark = wanted.places and path not in links and path != self.run.store.blob(self.artifact.key)
            if state is State.SEALED or is_mark:  # a layout's marks are made last
                continue
            try:
                place = links.get(path)
                due = (
                    self._judge_tree(wanted, place, state)
                    if place is not None and place.unpack
                    else self._judge_file(wanted, path, place, read=state is State.WRONG)
                )
            except (PlacementError, UnreadableError) as error:
                failure = failure or error
                continue
            if due is not None and place is not None:
                dues.append(due)
        return dues, failure

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
            raise _foreign(path, "something else stands there, of another kind")
        if state is State.OUTDATED:
            return Due(spot, over, self._previous(path))
        before = _status(path)
        if before is None:
            return self._displace(wanted, spot, over, f"a link to {os.readlink(path)}, where nothing is", "")
        verdict = None if read else self._read(path, before)
        if verdict is not None and verdict.is_good:
            self._learn(verdict.sha256)
            if wanted.allow and place is not None:
                from orchestrator.placement import allow

                allow.check(path, wanted, run.context.stop)
            self._take_in(wanted, path, before)
            return None
        found = verdict.sha256 if verdict is not None else ""
        recorded = self.records.ours(path)
        if found and any(found in (made["sha256"], made.get("old")) for made in recorded):
            return Due(spot, over, found)  # an earlier version that was only touched
        if not self.artifact.is_unpinned and self._is_ours(path, read=read):
            try:
                quarantine_file(run, self.records, self.artifact, self.file_states, wanted, path)
            except OSError as error:
                raise _cannot(run.store, path, error) from error
            self._was_condemned = True
            return Due(spot, link.stamp(path))  # a link of ours still stands
        return self._displace(wanted, spot, over, _called(path), found)

    def _previous(self, path: str) -> str:
        """The digest of the version that stands at a place, for whom it is told to."""
        if os.path.islink(path):
            return os.path.basename(os.readlink(path))
        return self.records.previous(path, os.lstat(path), self.artifact.sha256)

    def _is_ours(self, path: str, *, read: bool) -> bool:
        status = os.lstat(path)
        if os.path.islink(path):
            return leads_into(self.run.store, os.readlink(path))
        if self.records.is_ours(path, status, self.artifact.sha256):
            return True
        # Read, and wrong under a whole seal: bytes that rot in a copy of what we made, wherever it was moved from.
        mine = [made["sha256"] for made in self.records.ours(path)]
        return read and any(seal.fits(self.run.store, status, sha256, None) for sha256 in mine)

    def _read(self, path: str, before: os.stat_result) -> check.Verdict | None:
        """Judge the bytes; None where their number alone says that they are others.

        Raises:
            PlacementError, UnreadableError: the disk does not give them.
        """
        true_size = blob_size(self.run.store, self.artifact.sha256)
        if true_size is not None and before.st_size != true_size:
            return None
        verdict = weak_pins.prove(self.run.context, self.artifact, path)
        if verdict.error is not None:
            raise _cannot(self.run.store, path, verdict.error)
        return verdict

    def _learn(self, sha256: str) -> None:
        blobs.learn(self.run.store, sha256, self.artifact.pins)
        self.artifact = msgspec.structs.replace(self.artifact, sha256=sha256)

    def _displace(self, wanted: Wanted, place: Place, over: link.Stamp | None, what: str, found: str) -> Due:
        """Say why what stands at a place, and is not ours, may make room.

        Raises:
            PlacementError: it may not.
        """
        path = place.path
        if not os.path.islink(path) and is_pointer_to(path, wanted):
            self.run.emit(Noticed(f"{path}: a Git LFS pointer to the very file that is wanted is replaced by it"))
            return Due(place, over, displaced="a Git LFS pointer to the file that was wanted", found=found)
        if self.force:
            self.run.emit(Noticed(f"{path}: {what} is replaced (--force), and kept in quarantine"))
            return Due(place, over, displaced="replaced (--force)", found=found)
        if self.artifact.is_unpinned:
            raise _foreign(path, "a file stands there, and no digest says whether it is the one that is wanted")
        raise _foreign(
            path,
            f"{what} stands there with other bytes{check.diagnose_file(path, wrong_file.expected_file(wanted)).after}",
        )

    def _judge_tree(self, wanted: Wanted, place: Place, state: State) -> Due | None:
        """Look into what stands unsealed where an archive is to be unpacked."""
        path = place.path
        if state is State.ABSENT:
            return Due(place)
        if state is State.OBSTRUCTED:
            raise _foreign(path, "something else stands there, of another kind")
        if state is not State.FOREIGN:
            from orchestrator.engine import inspect  # few files are archives to be unpacked

            return None if inspect.check_tree(self.run, wanted, path) is State.SEALED else Due(place)
        if not self.force:
            raise _foreign(path, "a foreign folder stands there, with something in it")
        self.run.emit(Noticed(f"{path}: a foreign folder is replaced (--force)"))
        return Due(place)

    def _take_in(self, wanted: Wanted, path: str, before: os.stat_result) -> None:
        """Seal right bytes; a user's own file also goes into the store (reflink or copy) and is recorded.

        Of a user's file nothing but the mtime's nanoseconds changes; of what a link leads to nothing at all.
        """
        run, sha256 = self.run, self.artifact.sha256
        after = os.stat(path)
        if (before.st_mtime_ns, before.st_ino, before.st_size) != (after.st_mtime_ns, after.st_ino, after.st_size):
            raise _foreign(path, "something is writing into it just now")
        linked = os.path.islink(path)
        ours = self._is_ours(path, read=False)
        is_blob = path == run.store.blob(sha256)
        if not linked and not is_blob and blobs.blob_state(run.store, sha256, wanted.size) == "absent":
            self._copy_in(path)
        seal.attest(run.store, path, sha256, touch=ours or not linked, read_only=ours)
        self._record_right(wanted, path, ours=ours)
        if not ours:
            self._receipt.bytes_reused += after.st_size
        run.emit(Noticed(f"{path}: bytes are right, {'sealed again' if ours else 'adopted'}"))
        if wanted.size not in (None, after.st_size):
            warn_of_size(wanted, after.st_size, run.emit)

    def _record_right(self, wanted: Wanted, path: str, *, ours: bool) -> None:
        """Record what was found right: a copy of what we made there stays ours, all else is its owner's."""
        run, sha256 = self.run, self.artifact.sha256
        if path not in {place.path for place in wanted.places}:
            return
        mode = records.ADOPTED
        if not os.path.islink(path) or ours:
            mode = next((made["link"] for made in self.records.ours(path) if made["sha256"] == sha256), mode)
        how = records.ADOPTED if mode == records.ADOPTED else "found"
        made = records.seen(path, sha256, mode, how)
        records.record(run.store, run.context.hostname, wanted.manifest, {path: made}, run.context.stop)

    def _copy_in(self, path: str) -> None:
        """Give the store its own copy of right bytes; where there is no room the place alone must do."""
        run, sha256 = self.run, self.artifact.sha256
        from orchestrator.store import partials

        try:
            partial = partials.acquire(run.store, sha256)
        except HeldError:
            return  # another orch is fetching them: it will bring them
        try:
            partial.empty()
            try:
                blobs.copy(path, partial.file)
            except OSError as error:
                run.emit(Noticed(f"{path}: no copy in the store ({reason(error)})"))
                return
            if check.check(run.context, [(sha256, partial.file)])[0].is_good:
                blobs.commit(run.store, [(partial.file, sha256)])
        finally:
            partial.discard()

    def _have_blob(self, fetch: Callable[[RunContext, Artifact, Receipt], None], receipt: Receipt) -> bool:
        """Make sure of the blob; true when its bytes came over the wire now."""
        run, artifact = self.run, self.artifact
        state = blobs.blob_state(run.store, artifact.sha256, artifact.size)
        if state == "broken":
            if self._judge_file(artifact.wanted[0], run.store.blob(artifact.sha256), None) is None:
                return False
            state = "absent"
        if state == "absent":
            for file_state in self.file_states:
                for path in file_state.good:
                    if os.path.isfile(path):
                        self._copy_in(path)
                        if blobs.blob_state(run.store, artifact.sha256, artifact.size) == "sealed":
                            return False
        if state == "sealed":
            return False
        fetch(run, artifact, receipt)
        self.artifact = msgspec.structs.replace(artifact, sha256=receipt.sha256)
        return bool(receipt.backend)

    def _repair_others(self, before: Sequence[Sharer]) -> None:
        """Make again the places of any manifest that shared a condemned inode, in this run or a killed one."""
        run, key = self.run, self.artifact.key
        mine = {path for file_state in self.file_states for path, _ in file_state.states}
        for sharer in dict.fromkeys((*before, *records.to_repair(run.store, key))):
            over = link.stamp(sharer.path)
            if sharer.path in mine or (over is not None and over[:2] != (sharer.dev, sharer.inode)):
                continue
            try:
                made = Place(sharer.path, _as_link(sharer.link))
                how = link.put(run.context, run.store, self.artifact.sha256, made, over)
            except PlacementError as error:
                run.emit(
                    Noticed(f"{sharer.path}: it shared the wrong bytes, and cannot be made again: {error.message}")
                )
                continue
            whose = os.path.basename(sharer.record)
            run.emit(Noticed(f"{sharer.path}: put right too ({how}); it shared the wrong bytes ({whose})"))
        records.end_repair(run.store, key)

    def _place(self, wanted: Wanted, dues: Sequence[Due]) -> PlacementError | None:
        """Make the places of one file; gives the first error, and goes on."""
        run, sha256 = self.run, self.artifact.sha256
        if not dues:
            return None
        failure: PlacementError | None = None
        try:
            if wanted.allow:
                from orchestrator.placement import allow

                allow.check(run.store.blob(sha256), wanted, run.context.stop)
        except PlacementError as error:
            return error
        # A layout's symlink is known by what it points to.
        recorded = {
            due.place.path: records.PlaceRecord(sha256=sha256, link=due.place.link.value)
            for due in dues
            if not due.place.target
        }
        if recorded:
            self._record(wanted, recorded)
        made: dict[str, str] = {}
        for due in dues:
            try:
                made[due.place.path] = how = self._put(wanted, due)
            except PlacementError as error:
                failure = failure or error
                continue
            run.emit(Placed(wanted.model, wanted.file, due.place.path, how))
            if due.old not in ("", sha256):
                run.emit(Replaced(wanted.model, wanted.file, due.place.path, due.old, sha256))
        records.finish(run.store, run.context.hostname, wanted.manifest, made, run.context.stop)
        return failure

    def _record(self, wanted: Wanted, made: dict[str, records.PlaceRecord]) -> None:
        run = self.run
        if told := records.record(run.store, run.context.hostname, wanted.manifest, made, run.context.stop):
            run.emit(Noticed(told))

    def _put(self, wanted: Wanted, due: Due) -> str:
        """Make one place; what is displaced has a second name in quarantine before it loses its own.

        Raises:
            PlacementError: it was not made; what stood there still does.
            StoreError: what stands there cannot be kept, and is left.
        """
        run, path, kept = self.run, due.place.path, ""
        if due.displaced and not due.place.unpack:
            about = {"model": wanted.model, "expected": self.artifact.expected, "why": due.displaced}
            kept = quarantine.secure(run.store, path, due.found or "unread", about)
        try:
            how = link.put(
                run.context,
                run.store,
                self.artifact.sha256,
                due.place,
                due.over,
                force=self.force,
                tell=lambda line: run.emit(Noticed(line)),
            )
        except PlacementError:
            if kept:
                quarantine.release(kept)
            raise
        if kept:
            back = f"orch quarantine restore {os.path.basename(kept)} --store {run.store.path} --to PATH"
            run.emit(Noticed(f"{path}: what stood there is kept in {kept}; to have it back: `{back}`"))
        return how


def prove_unwritten(run: RunContext, todo: Sequence[FileState]) -> list[FileState]:
    """Where nothing can be done, find out by reading which files are right as they stand: those are present.

    An image's user cannot write its store, nor need to. What is found is kept in the local state, where that can be.

    Returns:
        The others, and those that a stop left unread.
    """
    records = RecordIndex(run.store)
    left: list[FileState] = []
    rest = iter(todo)
    for file_state in rest:
        wanted = file_state.wanted
        try:
            right = all(_is_right(run, records, wanted, *each) for each in file_state.states)
        except (OrchError, Stopped):  # no sha256sum, or a stop: what was not read is not known
            left += [file_state, *rest]
            break
        if not right:
            left.append(file_state)
            continue
        run.counts.count("present")
        run.emit(Finished(wanted.model, wanted.file, "present", size_bytes=wanted.size or 0))
    return left


def _is_right(run: RunContext, records: RecordIndex, wanted: Wanted, path: str, state: State) -> bool:
    """Whether what stands at one place is right, sealed or not."""
    context, store = run.context, run.store
    if state is State.SEALED:
        return True
    place = next((place for place in wanted.places if place.path == path), None)
    if place is not None and place.unpack:
        return state is State.UNVERIFIED and _is_tree_right(context, store, wanted, path)
    if state not in (State.UNVERIFIED, State.LINKED, State.MODIFIED, State.FOREIGN):
        return False
    if judge(store, records, wanted, path, place) is State.SEALED:
        return True
    verdict = weak_pins.prove(context, wanted, path)
    if not verdict.is_good:
        return False
    seal.attest(store, path, verdict.sha256, touch=not os.path.islink(path))
    return True


def _is_tree_right(context: Context, store: Store, wanted: Wanted, folder: str) -> bool:
    from orchestrator.store import tree_records

    listing = tree_records.read(store, wanted.sha256)
    names = [(listing[name][1], f"{folder}/{name}") for name in tree_records.broken(store, folder, listing)]
    if not listing or not all(verdict.is_good for verdict in check.check(context, names)):
        return False
    for sha256, path in names:
        seal.attest(store, path, sha256)
    return True


def is_pointer_to(path: str, wanted: Wanted) -> bool:
    """Whether a file is a Git LFS pointer to the very bytes that are wanted (git-lfs docs/spec.md)."""
    try:
        if os.stat(path).st_size > POINTER_BYTES:
            return False
        with open(path, "rb") as file:
            text = file.read(POINTER_BYTES)
    except OSError:
        return False
    lines = text.split(b"\n")
    sizes = [line.removeprefix(b"size ").strip() for line in lines if line.startswith(b"size ")]
    right = wanted.size is None or sizes == [str(wanted.size).encode()]
    oid = f"oid sha256:{wanted.sha256}".encode()
    return bool(wanted.sha256) and text.startswith(wrong_file.POINTER) and oid in map(bytes.strip, lines) and right


def _status(path: str) -> os.stat_result | None:
    """The status of what stands there, through a link; None where a link leads to nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(path)
    return None


def _called(path: str) -> str:
    """What people call a file that orch did not make."""
    if os.path.islink(path):
        return f"a link to {os.readlink(path)}, a foreign file,"
    return "a foreign file"


def _unknown(path: str) -> PlacementError:
    try:
        os.stat(path)
    except OSError as error:
        return place_error(error, path)
    return PlacementError(f"{path}: it changes just now", "run the same command again")


def _cannot(store: Store, path: str, error: OSError) -> OrchError:
    """The failure of a file that the disk does not give, or does not let go: nothing was moved."""
    if path.startswith(store.path + "/"):
        told = store_error(error, path)
        return UnreadableError(told.message, told.hint)
    return place_error(error, path)


def _foreign(path: str, why: str) -> PlacementError:
    hint = f"move it away, or let it be replaced: --force (`ls -l {path}`)"
    return PlacementError(f"{path}: {why}", hint, "foreign")


def _as_link(made: str) -> Link:
    return Link(made) if made in {mode.value for mode in Link} else Link.AUTO
