"""The layout of kagglehub's cache: `models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/`, `VERSION.complete` beside it.

kagglehub 1.0.3, config.py:18,60-63 (KAGGLEHUB_CACHE as it is, else ~/.cache/kagglehub) and cache.py:190-201 (the path),
:244-266 (the `.complete` files: one for the whole version, one below `.complete/VERSION/` for each file), :45-49 (a
file is cached if its path and its `.complete` file exist; the content is not checked). A handle without a version asks
the API first (http_resolver.py:208), so it must have one. The client writes into no file, so any link is safe.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import ExtraFile, Link, Place

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import Model

NAME = "kagglehub"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE: dict[str, str] = {}
_NEEDS_VALUE = "kagglehub needs the versioned handle: `for: {kagglehub: OWNER/MODEL/FRAMEWORK/VARIATION/VERSION}`"
_HANDLE = re.compile(r"((?:[^/]+/){4})([1-9][0-9]*)")
_ARCHIVE = re.compile(r"\.(?:tar|tgz|tbz2|txz|zip|tar\.(?:gz|bz2|xz)|archive)", re.I)


def cache(context: Context) -> str:
    """The folder of kagglehub's cache."""
    named = context.environ.get("KAGGLEHUB_CACHE")
    return base.folder(context, "~/.cache/kagglehub") if named is None else base.unexpanded(context, named)


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Unpack a lone archive into the version's folder, or put the files into it by their paths.

    Raises:
        LayoutError: the value is not a handle with a version.
    """
    match = _HANDLE.fullmatch(value)
    if match is None:
        raise LayoutError(_NEEDS_VALUE)
    variation, version = f"{cache(context)}/models/{flat.relative(value[: match.end(1) - 1])}", match[2]
    whole = ExtraFile(f"{variation}/{version}.complete")
    if _is_archive(model):
        each_member = ExtraFile(f"{variation}/.complete/{version}/*.complete", each=True)
        return LayoutResult(((Place(f"{variation}/{version}", model.link, unpack=True),),), (each_member, whole))
    places = tuple((Place(f"{variation}/{version}/{file.name}", model.link),) for file in model.files)
    each = tuple(ExtraFile(f"{variation}/.complete/{version}/{file.name}.complete") for file in model.files)
    return LayoutResult(places, (*each, whole))


def variables(context: Context) -> dict[str, str]:
    """KAGGLEHUB_CACHE, with the folder in use."""
    return {"KAGGLEHUB_CACHE": cache(context)}


def _is_archive(model: Model) -> bool:
    """Whether the model is the archive of a whole version: one `url:` of an archive, not a list of `files:`."""
    if model.many or model.repo is not None or len(model.files) != 1:
        return False
    name = model.files[0].name
    return model.unpack or _ARCHIVE.fullmatch(name[name.find(".") :] if "." in name else "") is not None
