"""`orch adopt`: take existing files into the store, if a manifest has their digest; also unfinished downloads."""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.backends.aria2c import SIDECAR
from orchestrator.engine import weak_pins
from orchestrator.engine.opened import OpenedFile, facts, open_file
from orchestrator.errors import HeldError, PlacementError, StoreError
from orchestrator.events import Noticed
from orchestrator.files import reason, temporary
from orchestrator.folders import Folders
from orchestrator.model import Artifact, Link, Place, Wanted
from orchestrator.store import blobs, intake, locks, open_store, quarantine, records
from orchestrator.store.store import disk
from orchestrator.text import counted, size_text
from orchestrator.transfer.adopt import SUFFIXES, Find, adopt_found, by_length, digest_in, find_best
from orchestrator.urls import UrlError, last_name
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.transfer.run_context import RunContext

UNFINISHED = "unfinished"
MOST_READ_BYTES = 64 << 30  # of files that are read only since a size is unknown: a minute or two
_NAMED = 3  # files that a message calls by name


class Adopted(NamedTuple):
    """A file that the store has now: `how` is hard, reflink or copy; or unfinished, of which `size_bytes` are here."""

    model: str
    file: str
    path: str
    sha256: str
    size_bytes: int
    how: str


def adopt(
    run: RunContext, artifacts: Sequence[Artifact], folder: str, *, copy: bool = False, dry_run: bool = False
) -> Iterator[Adopted]:
    """Take files below a folder into the store, whose digest the manifests want and the store lacks (`lacking`).

    Only files of the right size are read; where the manifest gives none, those with one of the file's names or its
    digest in the name, and then all others, up to `MOST_READ_BYTES` of them. A file that is this user's alone gets no
    second copy: a reflink where the file system can, else the file becomes the blob, too (a hard link, read-only);
    anything else is copied. Of what is not here whole the best unfinished file with one of its names, or its digest in
    the name, becomes the partial that the next download goes on with; else one that aria2c says to be of its length,
    which no other wanted file has.

    Args:
        run: the store, and where to tell what was left alone.
        artifacts: what to look for.
        folder: where to look, with all folders below it; links are not followed.
        copy: copy also what could be linked, and change nothing about the files.
        dry_run: read, and change nothing.

    Raises:
        StoreError: the store cannot be written.
        NoBackendError, Stopped: as `verify.check`.
    """
    store, context = run.store, run.context
    if dry_run:
        yield from _Adoption(run, copy=copy, dry_run=True).run(artifacts, folder)
        return
    open_store(store.path, store.state, shared=store.shared)
    with locks.shared(context, store, lambda why: run.emit(Noticed(why)), wait_s=run.lock_wait_s):
        yield from _Adoption(run, copy=copy, dry_run=False).run(artifacts, folder)


def lacking(run: RunContext, wanted: Sequence[Wanted]) -> list[Artifact]:
    """The contents with a digest that the manifests want and the store does not have."""
    by_key: dict[str, list[Wanted]] = {}
    for each in weak_pins.with_known_sha256(run.store, wanted):
        by_key.setdefault(each.key, []).append(each)
    found = []
    for group in by_key.values():
        first = group[0]
        size = next((each.size for each in group if each.size is not None), None)
        artifact = Artifact(first.sha256, size, first.sources, tuple(group), first.pins)
        if not artifact.is_unpinned and blobs.blob_state(run.store, first.sha256, size) == "absent":
            found.append(artifact)
    return found


class _Files(NamedTuple):
    """Paths of files: by size in bytes, by name, by a sha256 in the name, and unfinished ones of aria2c by length.

    `begun`: all those that aria2c has not finished.
    """

    by_size: dict[int, list[str]]
    by_name: dict[str, list[str]]
    by_digest: dict[str, list[str]]
    by_length: dict[int, list[str]]
    begun: frozenset[str]


class _Adoption:
    """One `adopt`: `digests` are those of the files that were read, by path."""

    def __init__(self, run: RunContext, *, copy: bool, dry_run: bool) -> None:
        self._run, self._copy, self._dry_run = run, copy, dry_run
        self._folders = Folders(run.store.trusted)
        self._digests: dict[str, str] = {}

    def run(self, artifacts: Sequence[Artifact], folder: str) -> Iterator[Adopted]:
        files = self._index(folder)
        left = []
        for artifact in artifacts:
            names = _names(artifact)
            named = [path for name in names for path in files.by_name.get(name, ())]
            named += [path for path in files.by_digest.get(artifact.sha256, ()) if not path.endswith(SUFFIXES)]
            others = files.by_size.get(artifact.size, ()) if artifact.size is not None else ()
            paths = dict.fromkeys((*(path for path in named if artifact.size is None or path in others), *others))
            adopted = next((made for path in paths if (made := self._try(artifact, path)) is not None), None)
            if adopted is not None:
                yield adopted
            else:
                left.append((artifact, names))
                for path in sorted(paths.keys() & self._digests.keys() & {*named} - files.begun):
                    why = f"has the name of {artifact.name}, but other bytes"
                    self._run.emit(Noticed(f"not adopted: {path}: {why}"))
        contents = self._contents([artifact for artifact, _ in left], files)
        for artifact, names in left.copy():
            path = contents.get(artifact.sha256)
            if path is not None and (made := self._try(artifact, path)) is not None:
                left.remove((artifact, names))
                yield made
        sizes = Counter(artifact.size for artifact, _ in left)
        for artifact, names in left:
            paths = dict.fromkeys(
                path for name in names for ending in ("", *SUFFIXES) for path in files.by_name.get(name + ending, ())
            )
            find = find_best(artifact, paths | dict.fromkeys(files.by_digest.get(artifact.sha256, ())))
            if find is None and artifact.size is not None and sizes[artifact.size] == 1:
                find = find_best(artifact, files.by_length.get(artifact.size, ()))
                find = find._replace(is_copied=True) if find is not None else None
            if find is not None and (self._dry_run or self._take_unfinished(artifact, find)):
                yield self._told(artifact, find.path, artifact.sha256, find.good_bytes, UNFINISHED)

    def _index(self, folder: str) -> _Files:
        """The regular files below a folder; not those of the store."""
        by_size: dict[int, list[str]] = {}
        by_name: dict[str, list[str]] = {}
        by_digest: dict[str, list[str]] = {}
        begun: list[str] = []
        own = os.path.realpath(self._run.store.path)
        for at, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if os.path.realpath(f"{at}/{name}") != own)
            for name in sorted(names):
                path = os.path.join(at, name)
                with suppress(OSError):
                    status = os.lstat(path)
                    if not stat.S_ISREG(status.st_mode) or not status.st_size:
                        continue
                    by_size.setdefault(status.st_size, []).append(path)
                    by_name.setdefault(name, []).append(path)
                    if digest := digest_in(name):
                        by_digest.setdefault(digest, []).append(path)
                    if name.endswith(SIDECAR):
                        begun.append(path.removesuffix(SIDECAR))
        return _Files(by_size, by_name, by_digest, by_length(begun), frozenset(begun))

    def _contents(self, left: Sequence[Artifact], files: _Files) -> dict[str, str]:
        """Read what was not read yet, for those of which no size is known: the path of each sha256 found."""
        unsized = [artifact for artifact in left if artifact.size is None and artifact.sha256]
        others = {
            path: size
            for size, paths in files.by_size.items()
            for path in paths
            if path not in self._digests and not path.endswith((*SUFFIXES, SIDECAR)) and path not in files.begun
        }
        if not unsized or not others:
            return {}
        more = f" and {len(unsized) - _NAMED} more" if len(unsized) > _NAMED else ""
        what = f"{', '.join(artifact.name for artifact in unsized[:_NAMED])}{more}: size unknown"
        amount = f"{counted(len(others), 'other file')}, {size_text(sum(others.values()))}"
        if sum(others.values()) > MOST_READ_BYTES:
            self._run.emit(Noticed(f"{what}, looked for by name only: {amount} are not read; name a smaller folder"))
            return {}
        self._run.emit(Noticed(f"{what}, so every file is read: {amount}"))
        found: dict[str, str] = {}
        for path in others:
            with suppress(OSError, PlacementError), open_file(self._folders, path) as opened:
                self._digests[path] = check.digest(opened.content, self._run.context.stop)
                found.setdefault(self._digests[path], path)
            if all(artifact.sha256 in found for artifact in unsized):
                break
        return found

    def _try(self, artifact: Artifact, path: str) -> Adopted | None:
        """Read one file, unless it is known to be another; take it in where it is right."""
        if artifact.sha256 and self._digests.get(path, artifact.sha256) != artifact.sha256:
            return None
        try:
            with open_file(self._folders, path) as opened:
                sha256 = self._digest(artifact, opened)
                if not sha256:
                    return None
                how = "" if self._dry_run else self._take_in(artifact, opened, sha256)
                return self._told(artifact, path, sha256, opened.status.st_size, how)
        except (OSError, PlacementError) as error:
            why = reason(error) if isinstance(error, OSError) else error.message
            self._run.emit(Noticed(f"not adopted: {path}: {why}"))
            return None

    def _digest(self, artifact: Artifact, opened: OpenedFile) -> str:
        """The sha256 of a file, if it is the one that is wanted, else ""; each is read once for all that it may be.

        Raises:
            OSError: the disk does not give it.
        """
        context, path = self._run.context, opened.path
        if artifact.pins:
            verdict = weak_pins.prove(context, artifact, opened.content)
            if verdict.error is not None:
                raise verdict.error
            return verdict.sha256 if verdict.is_good else ""
        if path not in self._digests:
            self._digests[path] = check.digest(opened.content, context.stop)
        return artifact.sha256 if self._digests[path] == artifact.sha256 else ""

    def _take_in(self, artifact: Artifact, opened: OpenedFile, sha256: str) -> str:
        """Make a right file a blob.

        Returns:
            How: reflink, hard or copy.

        Raises:
            PlacementError: something is writing into it. OSError, StoreError: the disk said no.
        """
        run, path = self._run, opened.path
        name = temporary(os.path.dirname(run.store.blob(sha256)))
        try:
            how = self._make(artifact, opened, name)
            if how != "copy" and not opened.is_unchanged():
                raise PlacementError(f"{path}: a program is writing to it just now")
            if how == "copy" and not check.check(run.context, [(sha256, name)])[0].is_good:
                raise PlacementError(f"{path}: its copy has other bytes: a program is writing to it")
            is_ours = how == "hard"
            if is_ours:  # before, so that a kill leaves a place ours
                self._record(artifact, path, sha256)
            blobs.commit(run.store, [(name, sha256)])
            if is_ours:
                self._record(artifact, path, sha256)  # with the seal's time
            blobs.learn(run.store, sha256, artifact.pins)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        return how

    def _make(self, artifact: Artifact, opened: OpenedFile, name: str) -> str:
        """Give the store the bytes under a temporary name, without a second copy where that is safe."""
        status, place = os.fstat(opened.fd), _place(artifact, opened.path)
        with disk(name), open(name, "xb") as new:
            if blobs.clone_into(opened.fd, new.fileno()):
                return "reflink"
        os.unlink(name)
        may_link = place is None or (place.link in (Link.AUTO, Link.HARD) and not place.private)
        if not self._copy and may_link and intake.is_ours_alone(status):
            with suppress(OSError):  # the store is on another file system
                os.link(opened.at, name, follow_symlinks=False)
                if facts(os.lstat(name)) == facts(status):
                    return "hard"
                os.unlink(name)
        with disk(name):
            blobs.copy(opened.fd, name, self._run.context.stop)
        return "copy"

    def _record(self, artifact: Artifact, path: str, sha256: str) -> None:
        """Record a file as what orch placed, where it stands at a place."""
        run = self._run
        for wanted in artifact.wanted:
            if any(place.path == path for place in wanted.places):
                made = {path: records.seen(path, sha256, Link.HARD.value, "found")}
                records.record(run.store, run.context.hostname, wanted.manifest, made, run.context.stop)

    def _take_unfinished(self, artifact: Artifact, find: Find) -> bool:
        """Make an unfinished file the partial; one that stands at the place itself goes to quarantine then."""
        run = self._run
        try:
            if not adopt_found(run, artifact, find):
                return False
        except HeldError:
            return False
        if find.is_copied and _place(artifact, find.path) is not None:
            why = "it was taken for an unfinished download of the file that was wanted"
            about = {"model": artifact.wanted[0].model, "expected": artifact.expected, "why": why, "place": find.path}
            where = "cannot be moved away"
            try:
                folder, name = self._folders.in_folder(find.path)
                kept = quarantine.move_in(run.store, folder.at(name), "unread", about, kind=quarantine.DISPLACED)
                where = f"is in {kept} (`orch quarantine`)"
            except (OSError, PlacementError, StoreError) as error:
                where += f": {error}"
            run.emit(Noticed(f"{find.path}: copied as an unfinished download; the file itself {where}"))
        return True

    def _told(self, artifact: Artifact, path: str, sha256: str, size_bytes: int, how: str) -> Adopted:
        first = artifact.wanted[0]
        return Adopted(first.model, first.file, path, sha256, size_bytes, how)


def _place(artifact: Artifact, path: str) -> Place | None:
    """The place that a path is, where it is one."""
    places = (place for wanted in artifact.wanted for place in wanted.places)
    return next((place for place in places if place.path == path), None)


def _names(artifact: Artifact) -> list[str]:
    """The names that files of this content may have: those of its places and of its sources."""
    found: dict[str, None] = {}
    for wanted in artifact.wanted:
        found.update((os.path.basename(place.path), None) for place in wanted.places if not place.unpack)
        for source in wanted.sources:
            with suppress(UrlError):
                found[last_name(source.url)] = None
    return list(found)
