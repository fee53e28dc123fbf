"""Get things without a manifest: what is not known of them is found out, then the lines for a manifest are synced."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from orchestrator import manifest as manifests
from orchestrator import urls, workspace
from orchestrator.commands.add import free_name
from orchestrator.commands.lock import FIRST, LockEntries, must_fetch, version
from orchestrator.engine.run import sync
from orchestrator.engine.scan import State, obstacle, scan
from orchestrator.errors import ManifestError, OrchError, PlacementError, Problem
from orchestrator.events import Finished, GaveUp
from orchestrator.faults import Fault
from orchestrator.formats import lfs
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import with_layouts
from orchestrator.hubs.resolve import MANIFEST, listed
from orchestrator.manifest.edit import Draft, block, insert
from orchestrator.model import Pin, Trust
from orchestrator.sources import by_digest
from orchestrator.store import blobs
from orchestrator.summary import fold
from orchestrator.transfer.run_context import Options, RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.manifest import File, Manifest, Model
    from orchestrator.manifest.lockfile import LockedFile
    from orchestrator.model import Wanted
    from orchestrator.transfer.run_context import FirstSeen

FILE = "orch get"  # in the place of a manifest's path, in records too: no manifest wants it


class Got(msgspec.Struct, frozen=True):
    """How it ended, and the lines for a manifest whose `root:` is the current folder; none where it failed."""

    summary: Summary
    lines: tuple[str, ...] = ()
    first_seen: tuple[tuple[str, str], ...] = ()  # names of files, and their digests that nobody vouches for
    not_asked: tuple[tuple[str, str], ...] = ()  # names and URLs of files that the store had


def place(context: Context, text: str) -> str:
    """A path as people type it (`../x`, an existing folder) as `to:` says it, below the current folder."""
    if text == "store":
        return text
    path = os.path.normpath(os.path.join(context.cwd, text))
    ending = "/" if text.endswith("/") or os.path.isdir(path) else ""
    inside = path == context.cwd or path.startswith(context.cwd.rstrip("/") + "/")
    return (os.path.relpath(path, context.cwd) if inside else path) + ending


def to_of(draft: Draft) -> list[str]:
    """The paths of a draft's `to:`."""
    to = draft.entry.get("to")
    return [to] if isinstance(to, str) else list(to) if isinstance(to, list) else []


def get(
    context: Context,
    drafts: Sequence[Draft],
    emit: Callable[[Event], None],
    *,
    store: str | None = None,
    options: Options | None = None,
) -> Got:
    """Fetch, verify and place what each draft is: a URL, with or without a digest, or a hub's repository.

    One's failure does not stop the others, once it is known what all of them are.

    Raises:
        ManifestError: one cannot stand in a manifest, two go to one place, or a framework has no place for one.
        HubError, LockError, DigestError, TransferError: what one is cannot be found out.
        PlacementError: something that orch did not make is in the way of a file whose digest is not known.
    """
    return _Getting(context, _named_apart(drafts), emit, store, options or Options()).run()


def _named_apart(drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts, each with a place and a name of its own.

    The place is the current folder; a repository's files go into a folder of their own there.
    """
    named: dict[str, Draft] = {}
    for draft in drafts:
        if not {"to", "for"} & set(draft.entry):
            url = str(draft.entry.get("url", ""))
            here = f"{draft.name}/" if "repo" in draft.entry else urls.last_name(urls.normal(url))
            draft = replace(draft, entry={**draft.entry, "to": here})
        name = free_name(draft.name, named)
        named[name] = replace(draft, name=name)
    return list(named.values())


class _Item(msgspec.Struct):
    """One of the things to get: `facts` are the files that it is about, once they are known."""

    draft: Draft
    facts: list[_Fact] = []


class _Getting:
    """One `get`: `how` says of each file, by (model, file), what became of it before its place was known."""

    def __init__(
        self,
        context: Context,
        drafts: Sequence[Draft],
        emit: Callable[[Event], None],
        store: str | None,
        options: Options,
    ) -> None:
        self._context, self._emit, self._options = context, emit, options
        self._items = {draft.name: _Item(draft) for draft in drafts}
        self._site, self._extra = workspace.site(context), workspace.hub_mirror(context)
        self._store = workspace.store_at(context, self._site, workspace.store_path(context, self._site, store))
        self._hosts = dict(self._site.hosts) if self._site else {}
        self._how: dict[tuple[str, str], str] = {}
        self._came: set[tuple[str, str]] = set()  # over the wire

    def run(self) -> Got:
        first = self._find_out()
        known = {name: item for name, item in self._items.items() if item.facts}
        if first is not None and (not known or self._context.stop.is_set()):
            return Got(first)
        drafts = [self._final(item) for item in known.values()]
        manifest = self._laid_out(self._parse(drafts, resolve=True))
        mirrors = [url for url in (self._site.below if self._site else ()) if "://" in url]
        wanted = by_digest.with_mirrors(manifests.wanted(manifest, self._site, self._extra), mirrors)
        summary = self._sync(wanted, again=first is not None)
        failed = {each.model for each in summary.failed}
        if first is not None:
            summary = self._together(first, summary, known)
        good = [item for name, item in known.items() if name not in failed]
        lines = [line for item in good for line in block(self._final(item))]  # now with all sizes
        if lines and (outside := _outside(item.draft for item in good)):
            lines.insert(0, f"  # at the top of the manifest: allow_absolute: {json.dumps(outside)}")
        seen = [(fact.name, fact.sha256) for item in good for fact in item.facts if fact.said.startswith(FIRST)]
        known_urls = [(item.draft.name, item.facts[0]) for item in good if "url" in item.draft.entry]
        here = [(f.name, f.url) for name, f in known_urls if not f.said and (name, f.name) not in self._came]
        return Got(summary, tuple(lines), tuple(seen), tuple(here))

    def _find_out(self) -> Summary | None:
        """Ask the hubs or publishers, and fetch into the store what has no sha256; None where nothing was fetched.

        Those things of which that failed have no facts then.
        """
        drafts = [item.draft for item in self._items.values()]
        manifest = self._parse(drafts, resolve=False)
        _refuse_one_place(manifest.models)
        # A framework that has no place for a file says so before anything is fetched.
        self._laid_out(replace(manifest, models=tuple(model for model in manifest.models if model.repo is None)))
        found = {model.name: listed(self._context, model, self._hosts) for model in manifest.models}
        unknown = []
        for each in found.values():
            files = must_fetch(self._context, self._store, each, None, self._hosts, fits=False)
            bare = [replace(f, places=(), pins=(*f.pins, Pin("git", f.git)) if f.git else f.pins) for f in files]
            unknown.append(replace(each.model, files=tuple(bare)))
            self._refuse_what_is_there(manifest, replace(each.model, files=tuple(files)))
        wanted = manifests.wanted(replace(manifest, models=tuple(unknown)), self._site, self._extra)
        findings: dict[str, FirstSeen] = {}
        first = self._sync(wanted, findings) if wanted else None
        failed = {each.model for each in first.failed} if first is not None else set()
        made = LockEntries(self._context, self._store, findings, self._emit)
        for name, each in found.items():
            if name not in failed:
                try:
                    entries = made.files(each, None, {w.file: w for w in wanted if w.model == name})
                except OrchError as error:
                    if first is None:
                        raise
                    first = self._given_up(first, each.model, error)
                    continue
                self._items[name].facts = [_fact(file, entries.get(file.name)) for file in each.model.files]
        return first

    def _given_up(self, summary: Summary, model: Model, error: OrchError) -> Summary:
        """Tell that what came is not what its name says; the summary with that."""
        file = "" if model.many or model.repo is not None else model.files[0].name
        code = int(error.exit_code)
        told = GaveUp(model.name, file, (), error.fault, code, error.message, error.hint, code=error.code)
        self._emit(told)
        gone = [self._how.pop(key) for key in list(self._how) if key[0] == model.name]
        failed = (*summary.failed, told)
        return replace(
            summary,
            ok=False,
            exit_code=fold(each.exit_code for each in failed),
            files=summary.files - len(gone) + 1,
            present=summary.present - gone.count("present"),
            placed=summary.placed - gone.count("placed"),
            fetched=summary.fetched - gone.count("fetched"),
            failed=failed,
        )

    def _refuse_what_is_there(self, manifest: Manifest, model: Model) -> None:
        """Look at the places of files that must be fetched to know their digests, as a sync would at known ones.

        A file of the length that its source tells may be the right one: that is known once the bytes are here.

        Raises:
            PlacementError: a file that orch did not make stands at one, and has another length.
        """
        if self._options.force or self._options.offline:
            return
        for each in manifests.wanted(replace(manifest, models=(model,)), self._site, self._extra):
            there = [place for place in each.places if os.path.lexists(place.path) and not place.unpack]
            if not there:
                continue
            size = each.size
            if size is None:
                file = next(file for file in model.files if file.name == each.file)
                seen = version(self._context, file, self._hosts)
                size = None if isinstance(seen, Fault) else seen[1]
            for state in scan(self._store, [replace(each, size=size, places=tuple(there))]):
                for path, what in state.states:
                    if what in (State.FOREIGN, State.OBSTRUCTED) and not _is_pointer(path):
                        raise _in_the_way(path, what, size)

    def _sync(
        self, wanted: Sequence[Wanted], findings: dict[str, FirstSeen] | None = None, *, again: bool = False
    ) -> Summary:
        def emit(event: Event) -> None:
            if isinstance(event, Finished):
                if event.how == "fetched":
                    self._came.add((event.model, event.file))
                if again and event.how == "placed" and (event.model, event.file) in self._came:
                    return  # it was told when it came
                if not again:
                    self._how[event.model, event.file] = event.how
                if findings is not None and event.how == "placed":
                    return  # it is in the store, and what becomes of its place is told then
            self._emit(event)

        run = RunContext(
            self._context,
            self._store,
            emit,
            hosts=self._hosts,
            options=self._options,
            findings=findings,
            rate_rules=workspace.rate_rules((self._site.limits if self._site else (),), self._options),
            peers=self._site.peers if self._site else (),
            trust=Trust(("/",), urls.SCHEMES),  # no manifest asks for it, but who runs the command
        )
        return sync(run, wanted)

    def _together(self, first: Summary, second: Summary, known: Collection[str]) -> Summary:
        """One summary of both: what came over the wire before its place was known is fetched, not placed.

        Of what is not `known`, something failed, and nothing was placed.
        """
        came = sum(how == "fetched" for (model, _), how in self._how.items() if model in known)
        came = min(came, second.placed)
        left = [how for (model, _), how in self._how.items() if model not in known]
        failed = (*first.failed, *second.failed)
        code = second.exit_code if self._context.stop.is_set() else fold(each.exit_code for each in failed)
        return replace(
            second,
            ok=code == 0,
            exit_code=code,
            models=len(self._items),
            files=second.files + len(left) + len(first.failed),
            present=second.present + left.count("present"),
            placed=second.placed - came + left.count("placed"),
            fetched=second.fetched + came + left.count("fetched"),
            failed=failed,
            bytes_fetched=first.bytes_fetched + second.bytes_fetched,
            bytes_reused=first.bytes_reused + second.bytes_reused,
            seconds=first.seconds + second.seconds,
            changed=first.changed or second.changed,
            warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        )

    def _final(self, item: _Item) -> Draft:
        """The draft with each file's URL, sha256 and size: it needs no lock, and no hub."""
        draft, facts = item.draft, item.facts
        rest = {key: value for key, value in draft.entry.items() if key not in _ASKED}
        if "repo" in draft.entry:
            files = [{"path": fact.name, **self._pins(fact)} for fact in facts]
            return replace(draft, entry={"files": files, **rest})
        return replace(draft, entry={**self._pins(facts[0]), **rest}, digest_source=facts[0].said)

    def _pins(self, fact: _Fact) -> dict[str, object]:
        size = fact.size
        if size is None and blobs.blob_state(self._store, fact.sha256, None) == "sealed":
            size = os.stat(self._store.blob(fact.sha256)).st_size
        return {"url": fact.url, "sha256": fact.sha256, **({"size": size} if size is not None else {})}

    def _parse(self, drafts: Sequence[Draft], *, resolve: bool) -> Manifest:
        text = insert(f"version: 1\nallow_absolute: {json.dumps(_outside(drafts))}\nmodels: {{}}\n", drafts)
        return manifests.parse(text, FILE, self._context.home, root=self._context.cwd, resolve=resolve)

    def _laid_out(self, manifest: Manifest) -> Manifest:
        try:
            return replace(manifest, models=tuple(with_layouts(self._context, model) for model in manifest.models))
        except LayoutError as error:
            raise ManifestError((Problem("", 0, "--for", str(error)),), "leave it out, or say --to PATH") from None


def _outside(drafts: Iterable[Draft]) -> list[str]:
    """The folders of absolute places."""
    found: set[str] = set()
    for draft in drafts:
        found.update(os.path.dirname(path.rstrip("/")) for path in to_of(draft) if path.startswith("/"))
    return sorted(found)


def _is_pointer(path: str) -> bool:
    """Whether a Git LFS pointer stands at a path: which file it is of is known with the digest."""
    try:
        with open(path, "rb") as file:
            return lfs.is_exact(file.read(lfs.LARGEST))
    except OSError:
        return False


def _in_the_way(path: str, state: State, size: int | None) -> PlacementError:
    if state is State.OBSTRUCTED:
        return PlacementError(obstacle(path).message, "move it away, or name another file: -o PATH", "foreign")
    hint = "move it away, replace it (--force), or name another file: -o PATH"
    is_bytes = f"{os.stat(path).st_size} bytes, the new one {size}"
    return PlacementError(f"{path}: an existing file is in the way ({is_bytes})", hint, "foreign")


def _refuse_one_place(models: Iterable[Model]) -> None:
    """Refuse files that would go to one place, before anything is fetched.

    Raises:
        ManifestError: there are two.
    """
    taken: dict[str, Model] = {}
    for model in models:
        for path in {place.path for file in model.files for place in file.places}:
            if (other := taken.setdefault(path, model)) is not model:
                why = f"{other.files[0].url} and {model.files[0].url} would be the same file"
                raise ManifestError((Problem(path, 0, "", why),), "get them one by one, each with -o PATH")


class _Fact(msgspec.Struct, frozen=True):
    """What one file is; `said` is whence its digest is, where the user did not give it."""

    name: str
    url: str
    sha256: str
    size: int | None
    said: str


_ASKED = ("repo", "include", "exclude", "url", "sha256", "size")


def _fact(file: File, entry: LockedFile | None) -> _Fact:
    if entry is None:
        return _Fact(file.name, file.url, file.sha256, file.size, "")
    return _Fact(file.name, file.url, entry.sha256, entry.size, "" if entry.source == MANIFEST else entry.source)
