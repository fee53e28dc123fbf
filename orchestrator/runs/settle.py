"""One digest made so, everywhere it is wanted: judge what stands there, have the blob, place it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orchestrator import nature, verify
from orchestrator.errors import OrchError, PlacementError, StoreError
from orchestrator.events import Finished, Noticed, Placed
from orchestrator.files import place_error, store_error
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.runs import weak
from orchestrator.runs.condemn import condemn
from orchestrator.runs.standing import State, look_at
from orchestrator.store import aliases, blobs, places, seal

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.model import Artifact, Wanted
    from orchestrator.runs.standing import Records, Standing
    from orchestrator.transfer.kit import Kit
    from orchestrator.transfer.loop import Receipt


class Settling:
    """The work on one artifact, in one thread."""

    def __init__(
        self, kit: Kit, records: Records, artifact: Artifact, standings: list[Standing], *, force: bool
    ) -> None:
        self.kit, self.records, self.artifact, self.standings, self.force = kit, records, artifact, standings, force
        self.results: list[tuple[Wanted, str | OrchError]] = []
        self._receipt: Receipt
        self._was_condemned = False
        self._over: dict[str, link.Stamp] = {}  # what was judged at places that are to be made anew
        self.to_mend: list[tuple[str, str, str]] = []  # (record file, place, link) of places that shared a bad inode

    def run(
        self, fetch: Callable[[Kit, Artifact, Receipt], None], receipt: Receipt
    ) -> list[tuple[Wanted, str | OrchError]]:
        """Do all of it and say of each file `placed`, `fetched` or its error; `receipt` counts the bytes.

        Raises:
            StoreError, Stopped: the run's end; all other errors are results.
        """
        self._receipt = receipt
        todo: list[tuple[Wanted, list[Place]]] = []
        for standing in self.standings:
            try:
                todo.append((standing.wanted, self._judge(standing)))
            except PlacementError as error:
                self.results.append((standing.wanted, error))
        wanting = [wanted for wanted, absent in todo if absent or not wanted.places]
        fetched = False
        if wanting or self._was_condemned:
            try:
                fetched = self._have_blob(fetch, receipt)
            except StoreError:
                raise
            except OrchError as error:
                self.results += [(w, error if w in wanting else "placed") for w, _ in todo]
                return self.results
        self._mend_others()
        for wanted, absent in todo:
            how = "fetched" if fetched and wanted in wanting else "placed"
            fetched = fetched and how != "fetched"
            try:
                self._place(wanted, absent)
            except PlacementError as error:
                self.results.append((wanted, error))
                continue
            self.results.append((wanted, how))
            size = os.stat(self.kit.store.blob(self.artifact.sha256)).st_size if wanting else wanted.size or 0
            came = (receipt.backend, receipt.source) if how == "fetched" else ("", "")
            self.kit.emit(Finished(wanted.model, wanted.file, how, *came, size, receipt.seconds))
        return self.results

    def _judge(self, standing: Standing) -> list[Place]:
        """Look into what stands unsealed; give the places that must be made."""
        wanted, absent = standing.wanted, []
        links = {place.path: place for place in wanted.places}
        for path, state in standing.states:
            was = state
            if state in (State.UNSEALED, State.WRONG):
                if path in links and links[path].unpack:
                    state = self._judge_tree(wanted, path)
                else:
                    state = self._judge_file(wanted, path, read=state is State.WRONG)
            if state is State.OBSTRUCTED:
                raise _foreign(path, "something else stands there, of another kind")
            if state is State.ABSENT and path in links:
                absent.append(links[path])
                if was is not State.ABSENT and (stands := link.stamp(path)):
                    self._over[path] = stands
        return absent

    def _judge_file(self, wanted: Wanted, path: str, *, read: bool = False) -> State:
        """Hash an unsealed file: right bytes are sealed, ours with wrong bytes go, a stranger's stay.

        `read` says that it was read, and is wrong, whatever its seal says.
        """
        kit = self.kit
        state = look_at(kit.store, path, self.artifact.sha256, wanted.size)
        # Else it was mended meanwhile: it shared its inode with another place.
        if state is not State.UNSEALED and not (read and state is State.SEALED):
            return state
        ours = self.records.is_ours(path, self.artifact.sha256)
        before = os.stat(path)
        fits = not read and (wanted.size is None or before.st_size == wanted.size)
        verdict = weak.prove(kit.world, self.artifact, path) if fits else None
        if verdict is not None and verdict.error is not None:
            in_store = path.startswith(kit.store.path + "/")
            raise store_error(verdict.error, path) if in_store else place_error(verdict.error, path)
        if verdict is not None and verdict.is_good:
            sha256 = verdict.sha256
            aliases.learn(kit.store, sha256, self.artifact.pins)
            self.artifact = msgspec.structs.replace(self.artifact, sha256=sha256)
            if wanted.allow and path in {place.path for place in wanted.places}:
                from orchestrator.placement import gate

                gate.check(path, wanted, kit.world.stop)
            self._take_in(wanted, path, before, ours=ours)
            return State.SEALED
        if ours and not self.artifact.is_blind:
            self.to_mend += condemn(kit, self.records, self.artifact, self.standings, wanted, path)
            self._was_condemned = True
            return State.ABSENT
        if self.force:
            kit.emit(Noticed(f"{path}: a foreign file is replaced (--force)"))
            return State.ABSENT
        if self.artifact.is_blind:
            raise _foreign(path, "a file stands there, and no digest says whether it is the one that is wanted")
        what = verify.look_into(path, nature.wish(wanted))
        raise _foreign(path, f"a foreign file stands there with other bytes{what.after}")

    def _judge_tree(self, wanted: Wanted, path: str) -> State:
        """Look into what stands unsealed where an archive is to be unpacked."""
        from orchestrator.runs import grove  # few files are archives to be unpacked

        if self.records.is_ours(path, self.artifact.sha256):
            return grove.judge(self.kit, wanted, path)
        if not self.force:
            raise _foreign(path, "a foreign folder stands there, with something in it")
        self.kit.emit(Noticed(f"{path}: a foreign folder is replaced (--force)"))
        return State.ABSENT

    def _take_in(self, wanted: Wanted, path: str, before: os.stat_result, *, ours: bool) -> None:
        """Seal right bytes again; a user's own file also goes into the store (reflink or copy) and is recorded."""
        kit, sha256 = self.kit, self.artifact.sha256
        after = os.stat(path)
        if (before.st_mtime_ns, before.st_ino) != (after.st_mtime_ns, after.st_ino):
            raise _foreign(path, "something is writing into it just now")
        if path != kit.store.blob(sha256) and blobs.blob_state(kit.store, sha256, wanted.size) == "absent":
            self._copy_in(path)
        try:
            seal.seal(kit.store, path, sha256, read_only=ours)
        except OSError as error:
            raise PlacementError(f"cannot seal {path}: {error.strerror}", f"look at it: `ls -l {path}`") from error
        if not ours:
            places.record(kit.store, kit.world.hostname, wanted.manifest, {path: {"sha256": sha256, "link": "adopted"}})
            self._receipt.bytes_reused += after.st_size
        kit.emit(Noticed(f"{path}: bytes are right, {'sealed again' if ours else 'adopted'}"))

    def _copy_in(self, path: str) -> None:
        """Give the store its own copy of right bytes; where there is no room the place alone must do."""
        kit, sha256 = self.kit, self.artifact.sha256
        from orchestrator.store import partials

        partial = partials.acquire(kit.store, sha256)
        try:
            partial.empty()
            try:
                blobs.copy(path, partial.file)
            except OSError as error:
                kit.emit(Noticed(f"{path}: no copy in the store ({error.strerror})"))
                return
            if verify.check(kit.world, [(sha256, partial.file)])[0].is_good:
                blobs.commit(kit.store, [(partial.file, sha256)])
        finally:
            partial.discard()

    def _have_blob(self, fetch: Callable[[Kit, Artifact, Receipt], None], receipt: Receipt) -> bool:
        """Make sure of the blob; true when its bytes came over the wire now."""
        kit, artifact = self.kit, self.artifact
        state = blobs.blob_state(kit.store, artifact.sha256, artifact.size)
        if state == "broken":
            first = artifact.wanted[0]
            if self._judge_file(first, kit.store.blob(artifact.sha256)) is State.SEALED:
                return False
            state = "absent"
        if state == "absent":
            for standing in self.standings:
                for path in standing.good:
                    if os.path.isfile(path):
                        self._copy_in(path)
                        if blobs.blob_state(kit.store, artifact.sha256, artifact.size) == "sealed":
                            return False
        if state == "sealed":
            return False
        fetch(kit, artifact, receipt)
        self.artifact = msgspec.structs.replace(artifact, sha256=receipt.sha256)
        return bool(receipt.backend)

    def _mend_others(self) -> None:
        """Put right the places of any manifest that shared a condemned inode."""
        mine = {path for standing in self.standings for path, _ in standing.states}
        for record, place, made in self.to_mend:
            if place in mine or os.path.lexists(place):
                continue
            how = link.put(self.kit.world, self.kit.store, self.artifact.sha256, Place(place, _as_link(made)))
            self.kit.emit(
                Noticed(f"{place}: put right too ({how}); it shared the wrong bytes ({os.path.basename(record)})")
            )

    def _place(self, wanted: Wanted, absent: list[Place]) -> None:
        kit = self.kit
        if wanted.allow and absent:
            from orchestrator.placement import gate

            gate.check(kit.store.blob(self.artifact.sha256), wanted, kit.world.stop)
        for place in absent:
            if not place.target:  # a layout's symlink is known by what it points to
                made = {place.path: places.Made(sha256=self.artifact.sha256, link=place.link.value)}
                places.record(kit.store, kit.world.hostname, wanted.manifest, made)
            how = link.put(
                kit.world,
                kit.store,
                self.artifact.sha256,
                place,
                self._over.get(place.path),
                force=self.force,
                tell=lambda line: kit.emit(Noticed(line)),
            )
            kit.emit(Placed(wanted.model, wanted.file, place.path, how))


def _foreign(path: str, why: str) -> PlacementError:
    hint = f"move it away, or let it be replaced: --force (`ls -l {path}`)"
    return PlacementError(f"{path}: {why}", hint, "foreign")


def _as_link(made: str) -> Link:
    return Link(made) if made in {mode.value for mode in Link} else Link.AUTO
