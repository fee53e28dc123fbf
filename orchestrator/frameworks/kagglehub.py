"""kagglehub: `$KAGGLEHUB_CACHE/models/OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/`, and `VERSION.complete` beside it.

kagglehub 1.0.3, config.py:18,60-63 (KAGGLEHUB_CACHE as it is, else ~/.cache/kagglehub) and cache.py:190-201 (the path),
:244-266 (the marks: one for the whole version, one below `.complete/VERSION/` for each file), :45-49 (a hit is mark and
path, unseen). A handle without a version asks the API first (http_resolver.py:208), so it must have one. Nothing is
written into, so any link is safe.
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
_WANTS = "kagglehub needs the versioned handle: `for: {kagglehub: OWNER/MODEL/FRAMEWORK/VARIATION/VERSION}`"
_HANDLE = re.compile(r"((?:[^/]+/){4})([1-9][0-9]*)")
_ARCHIVE = re.compile(r"\.(?:tar|tgz|tbz2|txz|zip|tar\.(?:gz|bz2|xz)|archive)", re.I)


def cache(context: Context) -> str:
    """kagglehub's own folder."""
    named = context.environ.get("KAGGLEHUB_CACHE")
    return base.folder(context, "~/.cache/kagglehub") if named is None else base.unexpanded(context, named)


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """The version's folder: one archive is unpacked into it, files stand in it by their paths."""
    match = _HANDLE.fullmatch(value)
    if match is None:
        raise LayoutError(_WANTS)
    variation, version = f"{cache(context)}/models/{flat.relative(value[: match.end(1) - 1])}", match[2]
    whole = ExtraFile(f"{variation}/{version}.complete")
    if _is_archive(model):
        each_of_it = ExtraFile(f"{variation}/.complete/{version}/*.complete", each=True)
        return LayoutResult(((Place(f"{variation}/{version}", model.link, unpack=True),),), (each_of_it, whole))
    places = tuple((Place(f"{variation}/{version}/{file.name}", model.link),) for file in model.files)
    each = tuple(ExtraFile(f"{variation}/.complete/{version}/{file.name}.complete") for file in model.files)
    return LayoutResult(places, (*each, whole))


def variables(context: Context) -> dict[str, str]:
    """KAGGLEHUB_CACHE."""
    return {"KAGGLEHUB_CACHE": cache(context)}


def _is_archive(model: Model) -> bool:
    """Whether the model is the bundle of a version: a lone URL of an archive, not one of `files:`."""
    if model.many or model.repo is not None or len(model.files) != 1:
        return False
    name = model.files[0].name
    return model.unpack or _ARCHIVE.fullmatch(name[name.find(".") :] if "." in name else "") is not None
