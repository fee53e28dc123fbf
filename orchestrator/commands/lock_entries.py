"""The lines of a lock: what each file is, where its digest came from, and what speaks against it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.errors import DigestError
from orchestrator.events import Noticed
from orchestrator.faults import Fault
from orchestrator.hubs import headers
from orchestrator.hubs.resolve import LIST, MANIFEST, LockError
from orchestrator.hubs.sanity import INDEX, INDEX_BYTES, missing_of_index, missing_shards, named_digest
from orchestrator.manifest.lockfile import LockedFile
from orchestrator.store import aliases, blobs
from orchestrator.verify import check, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.context import World
    from orchestrator.events import Event
    from orchestrator.hubs.resolve import Listed
    from orchestrator.manifest import File
    from orchestrator.manifest.lockfile import LockedModel
    from orchestrator.model import Host, Wanted
    from orchestrator.store import Store
    from orchestrator.transfer.context import Finding

FIRST = "first download"
BY_NAME = "first download, as its name says"
BY_GIT = "hub API, its git blob"


def must_fetch(
    world: World, store: Store, found: Listed, known: LockedModel | None, hosts: Mapping[str, Host], *, fits: bool
) -> list[File]:
    """The files whose bytes must be had: no sha256 is known, or nothing says how long they are.

    `fits`: what is `known` was resolved from the model as it is now. Indexes of shards are small, and say which files
    a model needs.
    """
    todo = []
    for file in found.model.files:
        if file.sha256:
            unknown = file.size is None and found.told.get(file.name) == LIST
            index = file.name.endswith(INDEX) and (file.size or 0) <= INDEX_BYTES
            if (unknown or index) and blobs.blob_state(store, file.sha256, file.size) != "sealed":
                todo.append(file)
        elif not _is_still(world, file, known.files.get(file.name) if known else None, hosts, fits=fits):
            todo.append(file)
    return todo


def _is_still(world: World, file: File, entry: LockedFile | None, hosts: Mapping[str, Host], *, fits: bool) -> bool:
    """Whether what a lock says of a file without sha256 is proved to be of the same bytes still.

    By its git blob, by the same weak pins, or, where its digest was the first seen, by its source's ETag and length.
    """
    if entry is None or file.size not in (None, entry.size):
        return False
    if file.git:
        return entry.git == file.git
    if file.pins:
        return fits
    if not entry.etag or not entry.source.startswith(FIRST):
        return False
    seen = version(world, file, hosts)
    return not isinstance(seen, Fault) and seen == (entry.etag, entry.size)


def version(world: World, file: File, hosts: Mapping[str, Host]) -> tuple[str, int | None] | Fault:
    """The ETag (empty where it proves nothing) and the length that a file's URL has now."""
    if not file.url.startswith("http"):
        return "", None
    from orchestrator.sources.http import look
    from orchestrator.sources.route import reach
    from orchestrator.transfer.revalidate import is_proof

    way = reach(file.url, world.environ, hosts)
    seen = look(file.url, proxy=way.proxy, ca=way.ca, user_agent=way.user_agent, bearer=way.bearer, stop=world.stop)
    return seen if isinstance(seen, Fault) else (seen.etag if is_proof(seen.etag) else "", seen.length)


class Ledger:
    """Makes the entries of one run, from what was found and what lies in the store."""

    def __init__(
        self, world: World, store: Store, findings: Mapping[str, Finding], emit: Callable[[Event], None]
    ) -> None:
        self._world, self._store, self._findings, self._emit = world, store, findings, emit

    def files(self, found: Listed, known: LockedModel | None, fetched: Mapping[str, Wanted]) -> dict[str, LockedFile]:
        """The entries of a model that was listed and whose missing digests were fetched.

        Raises:
            LockError: a shard is missing, or a file is not what it begins as.
            DigestError: a first download that its own name contradicts.
        """
        made: dict[str, LockedFile] = {}
        for file in found.model.files:
            old = known.files.get(file.name) if known else None
            if file.name in fetched:
                made[file.name] = self._fetched(found, file, fetched[file.name])
            elif file.sha256:
                entry = self._told(found, file, old)
                if entry is not None:
                    made[file.name] = entry
            elif old is not None:
                made[file.name] = old
        self._judge(found, made)
        return {path: self.enriched(entry) for path, entry in made.items()}

    def pinned(self, files: Iterable[File], known: LockedModel | None) -> dict[str, LockedFile]:
        """The entries of files that the manifest pins, so far as more is known of them than it says."""
        made = {}
        for file in files:
            old = known.files.get(file.name) if known else None
            entry = old if old is not None and old.sha256 == file.sha256 else None
            if entry is None and blobs.blob_state(self._store, file.sha256, file.size) == "sealed":
                size = os.stat(self._store.blob(file.sha256)).st_size
                entry = LockedFile(file.sha256, size, MANIFEST)
            if entry is not None:
                made[file.name] = self.enriched(entry)
        return made

    def enriched(self, entry: LockedFile) -> LockedFile:
        """An entry with its pieces' hashes, where they are worth some and its bytes lie in the store."""
        if entry.pieces or pieces.piece_bytes(entry.size) is None:
            return entry
        if blobs.blob_state(self._store, entry.sha256, entry.size) != "sealed":
            return entry
        found = check.digests(self._store.blob(entry.sha256), pieces=True, stop=self._world.stop)
        return replace(entry, pieces=found.pieces) if found.sha256 == entry.sha256 else entry

    def _fetched(self, found: Listed, file: File, wanted: Wanted) -> LockedFile:
        finding = self._findings.get(wanted.key)
        sha256 = finding.digests.sha256 if finding else file.sha256 or aliases.find(self._store, wanted.pins)
        if finding is not None:
            digests, etag = finding.digests, finding.etag
        else:
            digests, etag = check.digests(self._store.blob(sha256), pieces=True, stop=self._world.stop), ""
        if file.sha256:
            source, etag = found.told[file.name], ""
        elif file.git:
            source, etag = BY_GIT, ""
        elif file.pins:
            source, etag = f"publisher's {', '.join(pin.kind for pin in file.pins)}", ""
        else:
            source = BY_NAME if named_digest(file.name) and sha256.startswith(named_digest(file.name)) else FIRST
        etag = found.etags.get(file.name, etag)
        return LockedFile(sha256, digests.size, source, file.git, etag, digests.pieces)

    def _told(self, found: Listed, file: File, old: LockedFile | None) -> LockedFile | None:
        """The entry of a file whose sha256 somebody said; None where nobody says how long it is."""
        size = file.size
        if size is None and old is not None and old.sha256 == file.sha256:
            size = old.size
        if size is None and blobs.blob_state(self._store, file.sha256, None) == "sealed":
            size = os.stat(self._store.blob(file.sha256)).st_size
        if size is None:
            return None
        etag = found.etags.get(file.name, "")
        kept = old.pieces if old is not None and old.sha256 == file.sha256 else ""
        return LockedFile(file.sha256, size, found.told[file.name], file.git, etag, kept)

    def _judge(self, found: Listed, made: Mapping[str, LockedFile]) -> None:
        """Hold the files against what their names, their headers and each other say."""
        name, files = found.model.name, {file.name: file for file in found.model.files}
        if missing := missing_shards(files):
            raise _incomplete(name, missing, "the names of the others call for it")
        for path, entry in made.items():
            blob = self._store.blob(entry.sha256)
            if path.endswith(INDEX) and entry.size <= INDEX_BYTES and os.path.exists(blob):
                with open(blob, "rb") as index:
                    lacking = missing_of_index(path, index.read(), files)
                if lacking:
                    raise _incomplete(name, lacking, f"{path} calls for it")
            if path.endswith(headers.SUFFIX) and (fault := headers.of_file(blob, entry.size)):
                raise bad_header(name, path, fault)
            self._judge_name(name, files[path], entry)

    def _judge_name(self, model: str, file: File, entry: LockedFile) -> None:
        """Some well-known files have lying names: what is pinned, or known to be right otherwise, is only told."""
        prefix = named_digest(file.name)
        if not prefix or entry.sha256.startswith(prefix):
            return
        told = f"{model}/{file.name}: its name says {prefix}, its bytes are {entry.sha256[:12]}"
        if entry.source.startswith(FIRST) and file.size is None:
            hint = "if its publisher means this file, say so: `sha256:` or `size:` in the manifest"
            raise DigestError(told, f"{hint} ({entry.sha256}, {entry.size} bytes)")
        self._emit(Noticed(f"warning: {told}"))


def unseen(store: Store, found: Listed, known: LockedModel | None) -> list[File]:
    """The safetensors files that are new and will not be fetched: their heads tell whether they are whole."""
    return [
        file
        for file in found.model.files
        if file.sha256
        and file.size is not None
        and file.name.endswith(headers.SUFFIX)
        and (known is None or file.name not in known.files or known.files[file.name].sha256 != file.sha256)
        and blobs.blob_state(store, file.sha256, file.size) != "sealed"
    ]


def bad_header(model: str, path: str, fault: str) -> LockError:
    """The error for a safetensors file that cannot be whole."""
    return LockError(f"{model}/{path}: {fault}", "it was cut off, or is another file: ask whoever published it")


def _incomplete(model: str, missing: tuple[str, ...], why: str) -> LockError:
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return LockError(f"{model}: {missing[0]}{more} is missing: {why}", "look at `include`, `exclude` or `files`")
