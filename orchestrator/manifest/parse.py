"""Parse a manifest or a site file from its text, and list the files that a manifest wants."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator import urls
from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest import plain_yaml, validate
from orchestrator.manifest.plain_yaml import YamlError
from orchestrator.manifest.trust import refusals
from orchestrator.manifest.types import Document, ModelEntry, SiteDocument, without_own_keys
from orchestrator.manifest.values import Manifest, Prefix, Site
from orchestrator.model import Role, Source, Wanted
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import File, Problems
    from orchestrator.model import Trust


def parse(
    text: str,
    file: str,
    home: str = "",
    *,
    root: str | None = None,
    lock: Lock | None = None,
    resolve: bool = True,
    trust: Trust | None = None,
) -> Manifest:
    """Parse a manifest.

    Args:
        text: the manifest as YAML.
        file: its absolute path.
        home: the absolute folder that `~/` means; "" where none is known.
        root: an absolute path to use instead of the text's own `root:`.
        lock: gives what the text does not pin.
        resolve: if false, what the text does not pin stays open: files without sha256, repositories without files.
        trust: of the site file; None for a text that the user wrote just now.

    Raises:
        ManifestError: with every problem of the text, in the order of lines.
    """
    problems: Problems = []
    try:
        entry = msgspec.convert(without_own_keys(_read(text, _model_entry)), Document, strict=False)
    except (YamlError, msgspec.ValidationError) as refusal:
        # Imported here: it takes time, as does jsonschema, and only a wrong manifest needs it.
        from orchestrator.manifest.diagnose import of_manifest

        raise ManifestError(of_manifest(text, file, home, str(refusal), lock, resolve=resolve)) from None
    if root is not None:
        entry = msgspec.structs.replace(entry, root=root)
    manifest = validate.manifest(entry, file, home, problems, lock=lock, resolve=resolve)
    if trust is not None and not problems:
        problems += refusals(manifest, trust, root_is_given=root is not None)
    if problems:
        from orchestrator.manifest.diagnose import with_lines

        raise ManifestError(with_lines(text, file, problems))
    return manifest


def _read(text: str, model: Callable[[Any], object] | None = None) -> object:
    """Read YAML; `model` is as of `yaml_reader.load`.

    Raises:
        YamlError: it is not a manifest's.
    """
    data = plain_yaml.read(text, model)
    if data is not None:
        return data
    from orchestrator.manifest import yaml_reader  # imported here: libyaml takes 10 ms to import

    return yaml_reader.load(text, model)


def _model_entry(data: object) -> ModelEntry:
    """Check the keys of one model.

    Raises:
        msgspec.ValidationError: one is wrong.
    """
    return msgspec.convert(without_own_keys(data), ModelEntry, strict=False)


def parse_site(text: str, file: str, home: str = "") -> Site:
    """Parse a site file; `file` and `home` are as in `parse`.

    Raises:
        ManifestError: with every problem of the text, in the order of lines.
    """
    problems: Problems = []
    try:
        entry = msgspec.convert(without_own_keys(_read(text)), SiteDocument, strict=False)
    except (YamlError, msgspec.ValidationError) as refusal:
        from orchestrator.manifest.diagnose import of_site

        raise ManifestError(of_site(text, file, home, str(refusal))) from None
    site = validate.site(entry, file, home, problems)
    if problems:
        from orchestrator.manifest.diagnose import with_lines

        raise ManifestError(with_lines(text, file, problems))
    return site


def prefix(origin: str, mirrors: Sequence[str], named: str) -> Prefix:
    """Make a prefix rule that comes from elsewhere than a manifest.

    Args:
        origin: the beginning of the URLs meant.
        mirrors: what to put in its place, best first.
        named: where the rule comes from, such as `HF_ENDPOINT`.

    Raises:
        ManifestError: a URL cannot be used; `named` stands in the place of the file.
    """
    try:
        return Prefix(urls.prefix(origin), tuple(urls.prefix(url) for url in mirrors))
    except UrlError as problem:
        lacking = [url for url in (origin, *mirrors) if re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?(/[\w./-]*)?", url)]
        usual = (
            f"did you mean `https://{lacking[0]}`?" if lacking else "give a URL such as `https://mirror.example.org/`"
        )
        hint = urls.instead(problem) or usual
        raise ManifestError((Problem(named, 0, "", str(problem)),), hint) from None


def wanted(manifest: Manifest, site: Site | None, extra_mirrors: tuple[Prefix, ...] = ()) -> tuple[Wanted, ...]:
    """List the files of a manifest, in its order, each with its sources in the order of trying.

    The order is: the site file's prefix mirrors, the file's own mirrors, the manifest's prefix mirrors,
    `extra_mirrors`, the file's URL. Of a URL that is named twice, the first counts.
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
            model.adopt,
            model.share,
            file.sha1_pieces,
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
