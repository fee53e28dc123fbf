"""The layout of ModelScope's cache: `$MODELSCOPE_CACHE/models/ORG--NAME/snapshots/REVISION/PATH`.

modelscope_hub 0.5.1, config.py:116-118 (MODELSCOPE_CACHE, else ~/.cache/modelscope; modelscope 1.40.2 hub/__init__.py:
20-22 also reads MS_CACHE_HOME), _download.py:920-975 (the layout; no revision is `master`) and :1520-1600 (offline:
`master`, `main`, or the only one). SDKs up to 1.37 have another layout with an index, which is not supported. The
client unlinks a wrong file before it writes a new one, so any link is safe.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.frameworks.huggingface import decoded
from orchestrator.model import Link, Place

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import File, Model

NAME = "modelscope"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE: dict[str, str] = {}
MASTER = "master"  # the revision that a client asks for by default
_FILE_URL = re.compile(r"https?://[^/]+/models/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(?:\?.*)?")


def cache(context: Context) -> str:
    """The folder of ModelScope's cache."""
    named = context.environ.get("MODELSCOPE_CACHE") or context.environ.get("MS_CACHE_HOME")
    return base.folder(context, named or "~/.cache/modelscope")


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Put the files into a snapshot of the model's repository, or of the one that their URLs name.

    Raises:
        LayoutError: there is a value, or a file does not come from ModelScope.
    """
    flat.refuse_value(NAME, value)
    places = []
    for file in model.files:
        repo, revision, path = _hub_file(model, file)
        snapshot = f"{cache(context)}/models/{repo.replace('/', '--')}/snapshots/{revision}"
        places.append((Place(f"{snapshot}/{path}", model.link),))
    return LayoutResult(tuple(places))


def variables(context: Context) -> dict[str, str]:
    """MODELSCOPE_CACHE, with the folder in use."""
    return {"MODELSCOPE_CACHE": cache(context)}


def _hub_file(model: Model, file: File) -> tuple[str, str, str]:
    """A file's repository (`ORG/NAME`), the revision as a client names it, and the path in the repository."""
    if model.repo is not None:
        if model.repo.hub != "modelscope":
            raise LayoutError(f"a repository of {model.repo.hub} is not in ModelScope's cache")
        return model.repo.name, model.repo.revision or MASTER, file.name
    match = next((m for url in (file.url, *file.mirrors) if (m := _FILE_URL.fullmatch(url))), None)
    if match is None:
        raise LayoutError(
            f"{file.url} is not a file of ModelScope (`https://HUB/models/ORG/NAME/resolve/REVISION/PATH`)"
        )
    repo, revision, path = (decoded(part) for part in match.groups())
    return repo, revision, path
