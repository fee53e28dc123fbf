"""The doors: text to a `Manifest` or all its problems, and a `Manifest` to the files it wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator import urls
from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest import validate
from orchestrator.manifest.types import Document, SiteDocument
from orchestrator.manifest.values import Manifest, Prefix, Site
from orchestrator.manifest.yaml_reader import YamlError, plain, without_own
from orchestrator.model import Role, Source, Wanted
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import File, Problems


def parse(
    text: str, file: str, home: str = "", *, root: str | None = None, lock: Lock | None = None, resolve: bool = True
) -> Manifest:
    """The manifest that `text` is; `file` is its absolute path, `home` the folder that `~/` means.

    `root`, an absolute path, stands in for the text's own. What the text does not pin comes from `lock`; without
    `resolve` it stays as it is: files without sha256, repositories without files.

    Raises `ManifestError` with every problem in the text, in the order of lines, and nothing else.
    """
    found: Problems = []
    try:
        entry = msgspec.convert(without_own(plain(text)), Document, strict=False)
    except (YamlError, msgspec.ValidationError) as refusal:
        # Not worth its price, nor jsonschema's import, unless something is wrong.
        from orchestrator.manifest.diagnose import of_manifest

        raise ManifestError(of_manifest(text, file, home, str(refusal), lock, resolve=resolve)) from None
    if root is not None:
        entry = msgspec.structs.replace(entry, root=root)
    manifest = validate.manifest(entry, file, home, found, lock=lock, resolve=resolve)
    if found:
        from orchestrator.manifest.diagnose import located

        raise ManifestError(located(text, file, found))
    return manifest


def parse_site(text: str, file: str, home: str = "") -> Site:
    """The site file that `text` is; `file` and `home` as in `parse`. Raises `ManifestError`."""
    found: Problems = []
    try:
        entry = msgspec.convert(without_own(plain(text)), SiteDocument, strict=False)
    except (YamlError, msgspec.ValidationError) as refusal:
        from orchestrator.manifest.diagnose import of_site

        raise ManifestError(of_site(text, file, home, str(refusal))) from None
    site = validate.site(entry, file, home, found)
    if found:
        from orchestrator.manifest.diagnose import located

        raise ManifestError(located(text, file, found))
    return site


def prefix(origin: str, mirrors: Sequence[str], named: str) -> Prefix:
    """A prefix rule from elsewhere than a manifest; `named` says from where, such as `HF_ENDPOINT`.

    Raises `ManifestError` with `named` in the place of the file.
    """
    try:
        return Prefix(urls.prefix(origin), tuple(urls.prefix(url) for url in mirrors))
    except UrlError as problem:
        hint = urls.instead(problem) or "give a URL such as `https://mirror.example.org/weights/`"
        raise ManifestError((Problem(named, 0, "", str(problem)),), hint) from None


def wanted(manifest: Manifest, site: Site | None, extra_mirrors: tuple[Prefix, ...] = ()) -> tuple[Wanted, ...]:
    """The files of `manifest`, in its order, each with its sources in the order of trying.

    That is: the site file's prefix mirrors, the file's own mirrors, the manifest's prefix mirrors, then
    `extra_mirrors`, the URL itself; a URL that was already named is dropped.
    """
    first = site.mirrors if site else ()
    later = (*manifest.mirrors, *extra_mirrors)
    return tuple(
        Wanted(
            manifest.file,
            model.name,
            file.name,
            file.sha256,
            file.size,
            _sources(file, first, later),
            file.places,
            model.tags,
            file.pins,
            file.extra_files,
            file.pieces,
            manifest.allow,
        )
        for model in manifest.models
        for file in model.files
    )


def _sources(file: File, first: tuple[Prefix, ...], later: tuple[Prefix, ...]) -> tuple[Source, ...]:
    origin = Source(file.url, Role.ORIGIN)
    if not (first or later or file.mirrors):
        return (origin,)
    sources = [Source(url, Role.SITE) for url in _rewritten(file.url, first)]
    sources += [Source(url, Role.MIRROR) for url in file.mirrors]
    sources += [Source(url, Role.PREFIX) for url in _rewritten(file.url, later)]
    unique: dict[str, Source] = {}
    for source in (*sources, origin):
        unique.setdefault(source.url, source)
    return tuple(unique.values())


def _rewritten(url: str, rules: tuple[Prefix, ...]) -> list[str]:
    return [base + url[len(rule.origin) :] for rule in rules if url.startswith(rule.origin) for base in rule.urls]
