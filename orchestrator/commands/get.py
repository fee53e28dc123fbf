"""One thing without a manifest: what is not known of it is found out, then the lines for a manifest are synced."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from orchestrator import manifest as manifests
from orchestrator import urls, workspace
from orchestrator.commands.lock import FIRST, LockEntries, must_fetch
from orchestrator.engine.run import sync
from orchestrator.errors import ManifestError, Problem
from orchestrator.events import Finished
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import with_layouts
from orchestrator.hubs.resolve import MANIFEST, listed
from orchestrator.manifest.edit import Draft, block, insert
from orchestrator.model import Pin
from orchestrator.store import blobs
from orchestrator.transfer.run_context import Options, RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.manifest import File, Manifest
    from orchestrator.manifest.lockfile import LockedFile
    from orchestrator.model import Wanted
    from orchestrator.transfer.run_context import FirstSeen

FILE = "orch get"  # in the place of a manifest's path, in records too: no manifest wants it


class Got(msgspec.Struct, frozen=True):
    """How it ended, and the lines for a manifest whose `root:` is the current folder; none where it failed."""

    summary: Summary
    lines: tuple[str, ...] = ()
    first_seen: tuple[str, ...] = ()  # digests that nobody vouches for


def place(context: Context, text: str) -> str:
    """A path as people type it (`../x`, an existing folder) as `to:` says it, below the current folder."""
    if text == "store":
        return text
    path = os.path.normpath(os.path.join(context.cwd, text))
    ending = "/" if text.endswith("/") or os.path.isdir(path) else ""
    inside = path == context.cwd or path.startswith(context.cwd.rstrip("/") + "/")
    return (os.path.relpath(path, context.cwd) if inside else path) + ending


def get(
    context: Context,
    draft: Draft,
    emit: Callable[[Event], None],
    *,
    store: str | None = None,
    options: Options | None = None,
) -> Got:
    """Fetch, verify and place what `draft` is: a URL, with or without a digest, or a hub's repository.

    Raises:
        ManifestError: it cannot stand in a manifest, or a framework has no place for it.
        HubError, LockError, DigestError, TransferError: what it is cannot be found out.
    """
    if not {"to", "for"} & set(draft.entry):  # the current folder; a repository's files in one of their own
        here = f"{draft.name}/" if "repo" in draft.entry else urls.last_name(urls.normal(str(draft.entry["url"])))
        draft = replace(draft, entry={**draft.entry, "to": here})
    return _Getting(context, draft, emit, store, options or Options()).run()


class _Getting:
    """One `get`: `facts` are the files that it is about, once they are known."""

    def __init__(
        self, context: Context, draft: Draft, emit: Callable[[Event], None], store: str | None, options: Options
    ) -> None:
        self._context, self._draft, self._emit, self._options = context, draft, emit, options
        self._site, self._extra = workspace.site(context), workspace.hub_mirror(context)
        self._store = workspace.store_at(context, self._site, workspace.store_path(context, self._site, store))
        self._hosts = dict(self._site.hosts) if self._site else {}
        self._facts: list[_Fact] = []

    def run(self) -> Got:
        first = self._find_out()
        if first is not None and not first.ok:
            return Got(first)
        manifest = self._laid_out(self._parse(self._final(), resolve=True))
        summary = self._sync(manifests.wanted(manifest, self._site, self._extra), again=first is not None)
        if first is not None:
            summary = _together(first, summary)
        if not summary.ok:
            return Got(summary)
        final = self._final()  # now with the sizes of those that only had a digest
        lines = block(final)
        if outside := self._outside():
            lines.insert(0, f"  # at the top of the manifest: allow_absolute: {json.dumps(outside)}")
        return Got(summary, tuple(lines), tuple(fact.sha256 for fact in self._facts if fact.said.startswith(FIRST)))

    def _find_out(self) -> Summary | None:
        """Ask the hub or the publisher, and fetch into the store what has no sha256; None where nothing was fetched."""
        manifest = self._parse(self._draft, resolve=False)
        if "repo" not in self._draft.entry:  # a framework that has no place for it says so before anything is fetched
            self._laid_out(manifest)
        found = listed(self._context, manifest.models[0], self._hosts)
        files = must_fetch(self._context, self._store, found, None, self._hosts, fits=False)
        bare = [replace(f, places=(), pins=(*f.pins, Pin("git", f.git)) if f.git else f.pins) for f in files]
        only = replace(manifest, models=(replace(found.model, files=tuple(bare)),))
        wanted = {w.file: w for w in manifests.wanted(only, self._site, self._extra)}
        findings: dict[str, FirstSeen] = {}
        first = self._sync(list(wanted.values()), findings) if wanted else None
        if first is None or first.ok:
            entries = LockEntries(self._context, self._store, findings, self._emit).files(found, None, wanted)
            self._facts = [_fact(file, entries.get(file.name)) for file in found.model.files]
        return first

    def _sync(
        self, wanted: Sequence[Wanted], findings: dict[str, FirstSeen] | None = None, *, again: bool = False
    ) -> Summary:
        def emit(event: Event) -> None:
            if not (again and isinstance(event, Finished) and event.how == "placed"):  # it was told when it came
                self._emit(event)

        run = RunContext(self._context, self._store, emit, hosts=self._hosts, options=self._options, findings=findings)
        return sync(run, wanted)

    def _final(self) -> Draft:
        """The draft with each file's URL, sha256 and size: it needs no lock, and no hub."""
        rest = {key: value for key, value in self._draft.entry.items() if key not in _ASKED}
        if "repo" in self._draft.entry:
            files = [{"path": fact.name, **self._pins(fact)} for fact in self._facts]
            return replace(self._draft, entry={"files": files, **rest})
        return replace(self._draft, entry={**self._pins(self._facts[0]), **rest}, digest_source=self._facts[0].said)

    def _pins(self, fact: _Fact) -> dict[str, object]:
        size = fact.size
        if size is None and blobs.blob_state(self._store, fact.sha256, None) == "sealed":
            size = os.stat(self._store.blob(fact.sha256)).st_size
        return {"url": fact.url, "sha256": fact.sha256, **({"size": size} if size is not None else {})}

    def _outside(self) -> list[str]:
        """The folders of absolute places."""
        to = self._draft.entry.get("to", ())
        paths = [to] if isinstance(to, str) else list(to) if isinstance(to, list) else []
        return sorted({os.path.dirname(path.rstrip("/")) for path in paths if path.startswith("/")})

    def _parse(self, draft: Draft, *, resolve: bool) -> Manifest:
        text = insert(f"version: 1\nallow_absolute: {json.dumps(self._outside())}\nmodels: {{}}\n", [draft])
        return manifests.parse(text, FILE, self._context.home, root=self._context.cwd, resolve=resolve)

    def _laid_out(self, manifest: Manifest) -> Manifest:
        try:
            return replace(manifest, models=tuple(with_layouts(self._context, model) for model in manifest.models))
        except LayoutError as error:
            raise ManifestError((Problem("", 0, "--for", str(error)),), "leave it out, or say --to PATH") from None


class _Fact(msgspec.Struct, frozen=True):
    """What one file is; `said` is whence its digest is, where the user did not give it."""

    name: str
    url: str
    sha256: str
    size: int | None
    said: str


_ASKED = ("repo", "include", "exclude", "url", "sha256")


def _fact(file: File, entry: LockedFile | None) -> _Fact:
    if entry is None:
        return _Fact(file.name, file.url, file.sha256, file.size, "")
    return _Fact(file.name, file.url, entry.sha256, entry.size, "" if entry.source == MANIFEST else entry.source)


def _together(first: Summary, second: Summary) -> Summary:
    """One summary of both: what came over the wire before its place was known is fetched, not placed."""
    came = min(first.fetched, second.placed)
    return replace(
        second,
        placed=second.placed - came,
        fetched=second.fetched + came,
        bytes_fetched=first.bytes_fetched + second.bytes_fetched,
        bytes_reused=first.bytes_reused + second.bytes_reused,
        seconds=first.seconds + second.seconds,
    )
