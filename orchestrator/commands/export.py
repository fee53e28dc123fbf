"""`orch export`: write the files of a manifest for other tools: SHA256SUMS, Metalink 4, aria2's input file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import msgspec

from orchestrator.checksums import sums_line
from orchestrator.errors import ManifestError, Problem
from orchestrator.files import place_error, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.model import Wanted
    from orchestrator.store import Store
    from orchestrator.workspace import Workspace

_ARIA2 = ("http://", "https://", "ftp://")


class ExportEntry(msgspec.Struct, frozen=True, gc=False):
    """One file of an export.

    `paths` are its places, relative to `root` where they are below it. `name` is a path that is always relative.
    `url` is the manifest's `url:`, and no mirror.
    """

    wanted: Wanted
    url: str
    root: str
    paths: tuple[str, ...]
    name: str


def entries(space: Workspace, store: Store) -> list[ExportEntry]:
    """List the wanted files, in their order, each with its paths.

    Raises:
        ManifestError: a file has no sha256 yet.
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
    entries = []
    for w in space.wanted:
        root = roots[w.manifest]
        places = [place.path for place in w.places if not place.unpack] or [store.blob(w.sha256)]
        paths = tuple(_below(root, path) for path in places)
        inside = next((path for path in paths if not os.path.isabs(path)), None)
        name = inside or f"{w.model.replace('/', '_')}/{w.file}"
        entries.append(ExportEntry(w, urls[w.manifest, w.model, w.file], root, paths, name))
    return entries


def _below(root: str, path: str) -> str:
    top = root.rstrip("/") + "/"
    return path[len(top) :] if path.startswith(top) else path


def sha256sums(files: Sequence[ExportEntry]) -> str:
    """Write one line for each place, for `sha256sum -c` in the manifest's root."""
    return "".join(dict.fromkeys(sums_line(entry.wanted.sha256, path) for entry in files for path in entry.paths))


def metalink(files: Sequence[ExportEntry]) -> str:
    """Write Metalink 4 (RFC 5854): each file once, with size, sha-256 and all its sources, best first."""
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
    """Write the input for `aria2c --input-file`: for each file a line of its sources, then its options.

    Raises:
        ManifestError: aria2c does not support the scheme of any source of a file.
    """
    lines = []
    for entry in _once(files):
        w = entry.wanted
        urls = [source.url for source in w.sources if source.url.startswith(_ARIA2)]
        if not urls:
            problem = Problem(w.manifest, 0, f"models > {w.model}", f"{w.file}: aria2c supports none of its sources")
            raise ManifestError((problem,), "choose others: --only NAME, or another form: --format metalink")
        lines += ["\t".join(urls), f"  dir={entry.root}", f"  out={entry.name}", f"  checksum=sha-256={w.sha256}"]
    return "\n".join((*lines, ""))


def _once(files: Sequence[ExportEntry]) -> list[ExportEntry]:
    """Each name once: files that several models place at one path have the same digest."""
    return list({entry.name: entry for entry in reversed(files)}.values())[::-1]


def encoded(text: str, form: str) -> bytes:
    """Encode an export: XML as UTF-8, names in the other forms as the file system has them."""
    return text.encode("utf-8", "surrogateescape") if form == "metalink" else os.fsencode(text)


def write_output(path: str, content: bytes) -> None:
    """Write an export into a file, atomically.

    Raises:
        PlacementError: it cannot be written.
    """
    try:
        write_atomic(path, content)
    except OSError as error:
        raise place_error(error, path) from error


FORMS: dict[str, Callable[[Sequence[ExportEntry]], str]] = {
    "sha256sums": sha256sums,
    "metalink": metalink,
    "aria2": aria2,
}
