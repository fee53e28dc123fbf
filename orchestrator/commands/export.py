"""What a manifest wants, for other tools: sums for `sha256sum -c`, Metalink 4, aria2's input file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import msgspec

from orchestrator.checksums import sums_line
from orchestrator.errors import ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.model import Wanted
    from orchestrator.store import Store
    from orchestrator.workspace import Workspace

_ARIA2 = ("http://", "https://", "ftp://")


class ExportEntry(msgspec.Struct, frozen=True, gc=False):
    """One file: `paths` are where it must be, below `root` relative to it; `name` is a relative one in any case.

    `url` is the manifest's own, whatever mirrors there are.
    """

    wanted: Wanted
    url: str
    root: str
    paths: tuple[str, ...]
    name: str


def entries(space: Workspace, store: Store) -> list[ExportEntry]:
    """The files that are wanted, in their order, each with its names.

    Raises:
        ManifestError: a model has no sha256 yet.
    """
    unknown = [Problem(u.manifest, 0, f"models > {u.model}", u.message) for u in space.unresolved]
    unknown += [
        Problem(w.manifest, 0, f"models > {w.model}", f"{w.file}: its sha256 is not known yet")
        for w in space.wanted
        if not w.sha256
    ]
    if unknown:
        raise ManifestError(tuple(unknown), "run `orch lock` first, or choose others: --only NAME")
    roots = {manifest.file: manifest.root for manifest in space.manifests}
    urls = {(m.file, model.name, f.name): f.url for m in space.manifests for model in m.models for f in model.files}
    found = []
    for w in space.wanted:
        root = roots[w.manifest]
        places = [place.path for place in w.places if not place.unpack] or [store.blob(w.sha256)]
        paths = tuple(_below(root, path) for path in places)
        inside = next((path for path in paths if not os.path.isabs(path)), None)
        name = inside or f"{w.model.replace('/', '_')}/{w.file}"
        found.append(ExportEntry(w, urls[w.manifest, w.model, w.file], root, paths, name))
    return found


def _below(root: str, path: str) -> str:
    top = root.rstrip("/") + "/"
    return path[len(top) :] if path.startswith(top) else path


def sha256sums(files: Sequence[ExportEntry]) -> str:
    """A line a place, in the form that `sha256sum -c` reads when it is started in the manifest's root."""
    return "".join(dict.fromkeys(sums_line(entry.wanted.sha256, path) for entry in files for path in entry.paths))


def metalink(files: Sequence[ExportEntry]) -> str:
    """Metalink 4 (RFC 5854): each file once, with size, sha-256 and all its sources, best first."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<metalink xmlns="urn:ietf:params:xml:ns:metalink">']
    for entry in _once(files):
        w = entry.wanted
        lines.append(f"  <file name={quoteattr(entry.name)}>")
        if w.size is not None:
            lines.append(f"    <size>{w.size}</size>")
        lines.append(f'    <hash type="sha-256">{w.sha256}</hash>')
        lines += [
            f'    <url priority="{number}">{escape(source.url)}</url>' for number, source in enumerate(w.sources, 1)
        ]
        lines.append("  </file>")
    return "\n".join((*lines, "</metalink>", ""))


def aria2(files: Sequence[ExportEntry]) -> str:
    """Input for `aria2c --input-file`: a line of sources a file, then its options.

    Raises:
        ManifestError: a file has no source that aria2c speaks the scheme of.
    """
    lines = []
    for entry in _once(files):
        w = entry.wanted
        urls = [source.url for source in w.sources if source.url.startswith(_ARIA2)]
        if not urls:
            problem = Problem(w.manifest, 0, f"models > {w.model}", f"{w.file}: aria2c speaks none of its sources")
            raise ManifestError((problem,), "choose others: --only NAME, or another form: --format metalink")
        lines += ["\t".join(urls), f"  dir={entry.root}", f"  out={entry.name}", f"  checksum=sha-256={w.sha256}"]
    return "\n".join((*lines, ""))


def _once(files: Sequence[ExportEntry]) -> list[ExportEntry]:
    """Each name once: what several models place at one path has one digest."""
    return list({entry.name: entry for entry in reversed(files)}.values())[::-1]


def encoded(text: str, form: str) -> bytes:
    """An export as bytes: names as the file system has them, XML as it says of itself, whatever the terminal's are."""
    return text.encode("utf-8", "surrogateescape") if form == "metalink" else os.fsencode(text)


FORMS: dict[str, Callable[[Sequence[ExportEntry]], str]] = {
    "sha256sums": sha256sums,
    "metalink": metalink,
    "aria2": aria2,
}
