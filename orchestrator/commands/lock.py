"""`orch lock`: resolve what has no sha256, download it once if necessary, and record it in the lock file."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from orchestrator import workspace
from orchestrator.commands.locked_manifest import LockedManifest, changes, fits, is_needed, open_locked, save, select
from orchestrator.engine.bugs import foreseen
from orchestrator.engine.run import sync
from orchestrator.errors import DigestError, OrchError, Stopped, TransferError
from orchestrator.events import Finished, Foreseen, GaveUp, Noticed, Summary
from orchestrator.faults import Fault
from orchestrator.hubs import sanity
from orchestrator.hubs.publisher import ENDPOINTS
from orchestrator.hubs.resolve import LIST, MANIFEST, SIGNED, ListedModel, LockError, bare, listed
from orchestrator.hubs.sanity import INDEX, INDEX_BYTES, missing_of_index, missing_shards, named_digest
from orchestrator.manifest import wanted as wanted_of
from orchestrator.manifest.lockfile import LockedFile, LockedModel, fingerprint
from orchestrator.signatures import signature_path
from orchestrator.store import blobs
from orchestrator.summary import fold
from orchestrator.text import shown
from orchestrator.transfer.reading import told
from orchestrator.transfer.run_context import Options
from orchestrator.verify import check, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.hubs.resolve import ListedModel
    from orchestrator.hubs.sanity import Missing
    from orchestrator.manifest import File, Manifest, Model
    from orchestrator.model import Host, Wanted
    from orchestrator.store import Store
    from orchestrator.transfer.run_context import FirstSeen
    from orchestrator.workspace import Workspace


class Asked(msgspec.Struct, frozen=True):
    """What is asked of a lock: `only` these models, `update` these anew (empty: all; None: none), or just say it.

    `sha1_pieces`: also the hashes that a torrent needs, of each large file that lies in the store.
    """

    only: tuple[str, ...] = ()
    update: tuple[str, ...] | None = None
    dry_run: bool = False
    sha1_pieces: bool = False


class LockItem(msgspec.Struct):
    """One model being locked: as it is written, as it is listed, and what of it must be fetched, by file."""

    locked: LockedManifest
    model: Model
    listed: ListedModel
    to_fetch: dict[str, Wanted] = {}
    unseen: list[Wanted] = []


def lock(
    context: Context,
    space: Workspace,
    emit: Callable[[Event], None],
    asked: Asked,
    *,
    options: Options | None = None,
    confirm: Callable[[int], bool] = lambda _: True,
) -> Summary:
    """Resolve what the manifests of `space` (opened without `resolve`) do not pin, and write their locks.

    A model that fails keeps what its lock said of it; the others are written. `confirm` is asked, with how many
    changes there are, before an update is written.

    Returns:
        The summary: present was known, placed was resolved without a byte fetched, fetched came over the wire.

    Raises:
        ManifestError: a lock that cannot be read or written, a name that no manifest knows.
    """
    return _Locking(context, space, emit, asked, options or Options()).run(confirm)


class _Locking:
    """One run of `orch lock`."""

    def __init__(
        self, context: Context, space: Workspace, emit: Callable[[Event], None], asked: Asked, options: Options
    ) -> None:
        self._context, self._space, self._emit, self._asked, self._options = context, space, emit, asked, options
        self._began = context.monotonic()
        self._all_locked = [open_locked(manifest, space.reader) for manifest in space.manifests]
        self._chosen = select(self._all_locked, asked.only)
        self._anew = select(self._all_locked, asked.update) if asked.update is not None else {}
        self._site, self._extra = workspace.site(context), workspace.hub_mirror(context)
        self._store = workspace.store_of(context, space)
        self._failed: list[GaveUp] = []
        self._findings: dict[str, FirstSeen] = {}
        self._summary = Summary(ok=True, exit_code=0, models=len(self._chosen))

    def run(self, confirm: Callable[[int], bool]) -> Summary:
        try:
            items = self._list()
            if self._asked.dry_run:
                self._foresee(items)
                return self._end()
            items = self._look(items)
            self._fetch(items)
            found = self._entries(items)
        except Stopped:
            return self._end(stopped=True)
        if self._context.stop.is_set():
            return self._end(stopped=True)
        told = 0
        for locked, models in zip(self._all_locked, found, strict=True):
            for change in changes(locked.lock.models, models):
                self._emit(change)
                told += 1
        if self._asked.update is not None and told and not confirm(told):
            self._emit(Noticed("nothing was written"))
            return self._end()
        self._warn_of_first(found)
        for locked, models in zip(self._all_locked, found, strict=True):
            if save(locked, models):
                self._summary = replace(self._summary, changed=True)
                self._emit(Noticed(f"{locked.path}: written"))
                if os.path.lexists(signature_path(locked.path)):
                    self._emit(
                        Noticed(f"its signature is no longer valid; sign it again: `orch sign {locked.manifest.file}`")
                    )
        return self._end()

    # What there is to do.

    def _list(self) -> list[LockItem]:
        """Ask hubs and publishers about all models that the lock does not know as they are now."""
        items = []
        for locked in self._all_locked:
            for model in locked.manifest.models:
                key, known = (locked.manifest.file, model.name), locked.known(model)
                if key not in self._chosen or not is_needed(model) or (fits(model, known) and key not in self._anew):
                    continue
                try:
                    item = LockItem(locked, model, listed(self._context, model, self._space.hosts))
                    self._aim(item, known)
                except Exception as error:
                    why = foreseen(self._context, self._store.path, error)
                    self._fail(model.name, "", self._with_mirror(locked.manifest, model, why))
                    continue
                items.append(item)
        return items

    def _with_mirror(self, manifest: Manifest, model: Model, error: OrchError) -> OrchError:
        """The error of a hub that is out of reach, with its mirror that could be asked, where one is known.

        It is not asked by itself: `mirrors:` give bytes, which are checked; what a hub says they are checked against.
        """
        if model.repo is None or not isinstance(error, TransferError) or error.fault != "network":
            return error
        variable = ENDPOINTS[model.repo.hub]
        site = workspace.site(self._context)
        mirrors = (*(site.mirrors if site else ()), *manifest.mirrors)
        urls = [url for each in mirrors if each.origin == dict(workspace.HUBS)[variable] for url in each.urls]
        if not urls or self._context.environ.get(variable):
            return error
        hint = f"check the network and the proxy; or, to trust its mirror's checksums: `{variable}={urls[0]} orch lock`"
        return TransferError(error.message, hint, error.fault, code=error.code)

    def _aim(self, item: LockItem, known: LockedModel | None) -> None:
        """Find out which of a model's files must be fetched: those of which neither lock nor source says enough."""
        still = fits(item.model, known)
        files = must_fetch(self._context, self._store, item.listed, known, self._space.hosts, fits=still)
        item.to_fetch = {w.file: w for w in self._wanted(item, files)}
        item.unseen = list(self._wanted(item, unseen(self._store, item.listed, known)))

    def _wanted(self, item: LockItem, files: list[File]) -> tuple[Wanted, ...]:
        model = replace(item.listed.model, files=tuple(bare(file) for file in files))
        return wanted_of(replace(item.locked.manifest, models=(model,)), self._site, self._extra)

    def _look(self, items: list[LockItem]) -> list[LockItem]:
        """Look at the heads of what is not fetched now, and leave out the models whose files cannot be whole."""
        files = [w for item in items for w in item.unseen]
        faults = dict(zip(map(id, files), sanity.of_sources(self._context, self._space.hosts, files), strict=True))
        whole = []
        for item in items:
            bad = next((w for w in item.unseen if faults[id(w)]), None)
            if bad is None:
                whole.append(item)
            else:
                self._fail(item.model.name, "", bad_header(item.model.name, bad.file, faults[id(bad)]))
        return whole

    def _foresee(self, items: list[LockItem]) -> None:
        sizes = (w.size or 0 for item in items for w in item.to_fetch.values())
        self._summary = replace(self._summary, bytes_to_fetch=sum(sizes))  # the counts are of what would be
        for item in items:
            for w in item.to_fetch.values():
                why = f"known by {' '.join(map(str, w.pins))}" if w.pins else "its checksum is not known"
                self._emit(Foreseen(w.model, w.file, "fetch", w.size, w.sources[-1].url, "", why))
            self._count(fetched=len(item.to_fetch), placed=len(item.listed.model.files) - len(item.to_fetch))
            known = item.locked.known(item.model)
            commit, new = known.commit if known else "", item.listed.commit
            if commit != new:
                self._emit(Noticed(f"{item.model.name}: {commit[:12] or 'nothing'} -> {new[:12]}"))

    def _fetch(self, items: list[LockItem]) -> None:
        """Fetch what has to be, through the pipeline of every sync, into the store."""
        files = [w for item in items for w in item.to_fetch.values()]
        if not files:
            return

        def emit(event: Event) -> None:
            if not isinstance(event, Finished) or event.how == "fetched":
                self._emit(event)

        run = workspace.run_context(self._context, self._space, emit, self._options)
        done = sync(replace(run, findings=self._findings), files)
        self._failed += done.failed
        self._count(fetched=done.fetched, placed=done.present + done.placed)
        self._summary = replace(self._summary, bytes_fetched=done.bytes_fetched, bytes_reused=done.bytes_reused)

    # What comes of it.

    def _entries(self, items: list[LockItem]) -> list[dict[str, LockedModel]]:
        """The models of each lock as they are to be written: what failed or was not asked for stays as it was."""
        asked = self._asked.sha1_pieces
        ledger = LockEntries(self._context, self._store, self._findings, self._emit, sha1_pieces=asked)
        lost = {(f.model, f.file) for f in self._failed}
        found = []
        for locked in self._all_locked:
            names = {model.name for model in locked.manifest.models}
            gone = set() if self._asked.only else locked.lock.models.keys() - names
            models = {name: known for name, known in locked.lock.models.items() if name not in gone}
            mine = {item.model.name: item for item in items if item.locked is locked}
            for model in locked.manifest.models:
                item, known = mine.get(model.name), locked.known(model)
                if (locked.manifest.file, model.name) not in self._chosen:
                    continue
                try:
                    if item is None:
                        made = self._kept(ledger, model, known)
                    elif any((model.name, path) in lost for path in item.to_fetch):
                        continue
                    else:
                        files = ledger.files(item.listed, known, item.to_fetch)
                        made = LockedModel(fingerprint(model), files, item.listed.commit, item.listed.license)
                        self._count(placed=len(item.listed.model.files) - len(item.to_fetch))
                except Exception as error:
                    self._fail(model.name, "", foreseen(self._context, self._store.path, error))
                    continue
                if made is not None:
                    models[model.name] = made
            found.append(models)
        if ledger.unread:
            few = f"{len(ledger.unread)} of the files are" if len(ledger.unread) > 1 else f"{ledger.unread[0]} is"
            self._emit(Noticed(f"{few} not in the store: `orch sync`, then `orch lock --pieces` again"))
        return found

    def _warn_of_first(self, found: Iterable[Mapping[str, LockedModel]]) -> None:
        """Say once of which new entries nobody but their first download knows the digest."""
        new = [
            (f"{name}/{path}", entry.sha256)
            for locked, models in zip(self._all_locked, found, strict=True)
            for name, model in models.items()
            for path, entry in model.files.items()
            if entry.source == FIRST
            and (
                (old := locked.lock.models.get(name)) is None
                or path not in old.files
                or old.files[path].sha256 != entry.sha256
            )
        ]
        if not new:
            return
        label, sha256 = new[0]
        said = f"{label}: its checksum {sha256} is that of the first download: compare it with the publisher's"
        if len(new) > 1:
            said = f"{len(new):,} checksums are of first downloads ({label}, ...): compare them with the publisher's"
        self._emit(Noticed(f"warning: {said}"))

    def _kept(self, ledger: LockEntries, model: Model, known: LockedModel | None) -> LockedModel | None:
        """A model that needs nothing: with the sizes and pieces of those of its files that lie in the store."""
        if is_needed(model) and not fits(model, known):
            return None  # it could not be listed
        self._count(present=len(known.files) if known and model.repo else len(model.files))
        if known is not None and fits(model, known):
            return replace(known, files={path: ledger.enriched(path, entry) for path, entry in known.files.items()})
        files = ledger.pinned(model.files, known)
        return LockedModel(fingerprint(model), files) if files else None

    def _fail(self, model: str, file: str, error: OrchError) -> None:
        hint = error.hint
        if isinstance(error, DigestError):
            hint += f", or take it out: `orch remove {shlex.quote(model)}`"
        told = GaveUp(model, file, (), error.fault, int(error.exit_code), error.message, hint, code=error.code)
        self._failed.append(told)
        self._emit(told)

    def _count(self, *, present: int = 0, placed: int = 0, fetched: int = 0) -> None:
        s = self._summary
        self._summary = replace(s, present=s.present + present, placed=s.placed + placed, fetched=s.fetched + fetched)

    def _end(self, *, stopped: bool = False) -> Summary:
        s, failed = self._summary, tuple(sorted(self._failed, key=lambda f: (f.model, f.file)))
        code = (self._context.stop.code if stopped else None) or fold(f.exit_code for f in failed)
        files = s.present + s.placed + s.fetched + len(failed)
        seconds = self._context.monotonic() - self._began
        return replace(s, ok=code == 0, exit_code=code, files=files, failed=failed, seconds=seconds)


FIRST = "first download"
BY_NAME = "first download, as its name says"
BY_GIT = "hub API, its git blob"


def must_fetch(
    context: Context,
    store: Store,
    found: ListedModel,
    known: LockedModel | None,
    hosts: Mapping[str, Host],
    *,
    fits: bool,
) -> list[File]:
    """The files whose bytes must be had: no sha256 is known, or nothing says how long they are.

    `fits`: what is `known` was resolved from the model as it is now. Indexes of shards are small, and say which files
    a model needs.
    """
    todo = []
    for file in found.model.files:
        if file.sha256:
            unknown = file.size is None and found.digest_sources.get(file.name) in (LIST, SIGNED)
            index = file.name.endswith(INDEX) and (file.size or 0) <= INDEX_BYTES
            if (unknown or index) and blobs.blob_state(store, file.sha256, file.size) != "sealed":
                todo.append(file)
        elif not _is_still(context, file, known.files.get(file.name) if known else None, hosts, fits=fits):
            todo.append(file)
    return todo


def _is_still(context: Context, file: File, entry: LockedFile | None, hosts: Mapping[str, Host], *, fits: bool) -> bool:
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
    seen = version(context, file, hosts)
    return not isinstance(seen, Fault) and seen == (entry.etag, entry.size)


def version(context: Context, file: File, hosts: Mapping[str, Host]) -> tuple[str, int | None] | Fault:
    """The ETag (empty where it proves nothing) and the length that a file's URL has now."""
    if not file.url.startswith("http"):
        return "", None
    from orchestrator.sources.http import ask_source
    from orchestrator.sources.route import route_to
    from orchestrator.transfer.revalidate import is_proof

    way = route_to(file.url, context.environ, hosts)
    seen = ask_source(
        file.url, proxy=way.proxy, ca=way.ca, user_agent=way.user_agent, bearer=way.bearer, stop=context.stop
    )
    return seen if isinstance(seen, Fault) else (seen.etag if is_proof(seen.etag) else "", seen.length)


class LockEntries:
    """Makes the entries of one run, from what was found and what lies in the store.

    `unread` are the names of the files whose `sha1_pieces` were asked for, and whose bytes are not in the store.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        findings: Mapping[str, FirstSeen],
        emit: Callable[[Event], None],
        *,
        sha1_pieces: bool = False,
    ) -> None:
        self._context, self._store, self._findings, self._emit = context, store, findings, emit
        self._sha1_pieces = sha1_pieces
        self.unread: list[str] = []

    def files(
        self, found: ListedModel, known: LockedModel | None, fetched: Mapping[str, Wanted]
    ) -> dict[str, LockedFile]:
        """The entries of a model that was listed and whose missing digests were fetched.

        Raises:
            LockError: a shard is missing.
            DigestError: a file is not what it begins as, or a first download that its own name contradicts.
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
        return {path: self.enriched(path, entry) for path, entry in made.items()}

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
                made[file.name] = self.enriched(file.name, entry)
            elif self._sha1_pieces and (file.size is None or pieces.torrent_piece_bytes(file.size)):
                self.unread.append(file.name or file.url.rpartition("/")[2])
        return made

    def enriched(self, path: str, entry: LockedFile) -> LockedFile:
        """An entry with its pieces' hashes, where they are worth some and its bytes lie in the store."""
        short = not entry.pieces and pieces.piece_bytes(entry.size) is not None
        sha1 = self._sha1_pieces and not entry.sha1_pieces and pieces.torrent_piece_bytes(entry.size) is not None
        if not (short or sha1):
            return entry
        if blobs.blob_state(self._store, entry.sha256, entry.size) != "sealed":
            if sha1:
                self.unread.append(path or entry.sha256[:12])
            return entry
        blob = self._store.blob(entry.sha256)
        with told(self._context, self._emit, "hashing", path or entry.sha256[:12], "", entry.size) as context:
            found = check.digests(blob, pieces=short, sha1_pieces=sha1, stop=context.stop, reading=context.reading)
        if found.sha256 != entry.sha256:
            return entry
        own = (entry.pieces or found.pieces, entry.sha1_pieces or found.sha1_pieces)
        return replace(entry, pieces=own[0], sha1_pieces=own[1])

    def _fetched(self, found: ListedModel, file: File, wanted: Wanted) -> LockedFile:
        finding = self._findings.get(wanted.key)
        sha256 = finding.digests.sha256 if finding else file.sha256 or blobs.find(self._store, wanted.pins)
        if finding is not None:
            digests, etag = finding.digests, finding.etag
        else:
            blob, etag = self._store.blob(sha256), ""
            with told(self._context, self._emit, "hashing", wanted.model, wanted.file, wanted.size) as context:
                digests = check.digests(blob, pieces=True, stop=context.stop, reading=context.reading)
        if file.sha256:
            source, etag = found.digest_sources[file.name], ""
        elif file.git:
            source, etag = BY_GIT, ""
        elif file.pins:
            source, etag = f"publisher's {', '.join(pin.kind for pin in file.pins)}", ""
        else:
            source = BY_NAME if named_digest(file.name) and sha256.startswith(named_digest(file.name)) else FIRST
        etag = found.etags.get(file.name, etag)
        return LockedFile(sha256, digests.size, source, file.git, etag, digests.pieces)

    def _told(self, found: ListedModel, file: File, old: LockedFile | None) -> LockedFile | None:
        """The entry of a file whose sha256 somebody said; None where nobody says how long it is."""
        size = file.size
        if size is None and old is not None and old.sha256 == file.sha256:
            size = old.size
        if size is None and blobs.blob_state(self._store, file.sha256, None) == "sealed":
            size = os.stat(self._store.blob(file.sha256)).st_size
        if size is None:
            return None
        etag = found.etags.get(file.name, "")
        kept = (old.pieces, old.sha1_pieces) if old is not None and old.sha256 == file.sha256 else ()
        return LockedFile(file.sha256, size, found.digest_sources[file.name], file.git, etag, *kept)

    def _judge(self, found: ListedModel, made: Mapping[str, LockedFile]) -> None:
        """Hold the files against what their names, their headers and each other say."""
        name, files = found.model.name, {file.name: file for file in found.model.files}
        if missing := missing_shards(files):
            raise _incomplete(name, missing, "the names of the other files require it")
        for path, entry in made.items():
            blob = self._store.blob(entry.sha256)
            if path.endswith(INDEX) and entry.size <= INDEX_BYTES and os.path.exists(blob):
                with open(blob, "rb") as index:
                    lacking = missing_of_index(path, index.read(), files)
                if lacking:
                    raise _incomplete(name, lacking, f"{path} requires it")
            if path.endswith(sanity.SUFFIX) and (fault := sanity.of_file(blob, entry.size)):
                raise bad_header(name, path, fault)
            self._judge_name(name, files[path], entry)

    def _judge_name(self, model: str, file: File, entry: LockedFile) -> None:
        """Some well-known files have lying names: what is pinned, or known to be right otherwise, is only told."""
        prefix = named_digest(file.name)
        if not prefix or entry.sha256.startswith(prefix):
            return
        told = f"{model}/{file.name}: its name says {prefix}, its bytes are {entry.sha256[:12]}"
        if entry.source.startswith(FIRST) and file.size is None:
            hint = "if this is the right file, put its `sha256:` or `size:` into the manifest"
            raise DigestError(told, f"{hint} ({entry.sha256}, {entry.size} bytes)")
        self._emit(Noticed(f"warning: {told}"))


def unseen(store: Store, found: ListedModel, known: LockedModel | None) -> list[File]:
    """The safetensors files that are new and will not be fetched: their heads tell whether they are whole."""
    return [
        file
        for file in found.model.files
        if file.sha256
        and file.size is not None
        and file.name.endswith(sanity.SUFFIX)
        and (known is None or file.name not in known.files or known.files[file.name].sha256 != file.sha256)
        and blobs.blob_state(store, file.sha256, file.size) != "sealed"
    ]


def bad_header(model: str, path: str, fault: str) -> DigestError:
    """The error for a safetensors file that cannot be whole."""
    return DigestError(
        f"{model}/{path}: {fault}", "it is truncated, or another file: ask its publisher", code="lock-failed"
    )


def _incomplete(model: str, missing: Missing, why: str) -> LockError:
    more = f" (and {missing.number - 1} more)" if missing.number > 1 else ""
    message = f"{model}: {shown(missing.first)}{more} is missing: {why}"
    return LockError(message, "look at `include`, `exclude` or `files`")
