"""The layout of open_clip: a hub's files in the hub's cache, files with another URL in CLIP's folder.

open_clip_torch 3.3.0, open_clip/pretrained.py:900-930 (a tag's `hf_hub` is preferred to its `url`), :870-895 (from the
hub's cache) and :790-833 (`cache_dir`, else ~/.cache/clip; the URL's basename; a wrong file is opened "wb").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import flat, huggingface

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

_CLIP = flat.FLAT["clip"]
NAME = "open_clip"
SAFE = _CLIP.SAFE
OFFLINE = huggingface.OFFLINE
variables = huggingface.variables


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Put a repository's files, and those whose URLs are a hub's, into the hub's cache; others into CLIP's folder."""
    flat.refuse_value(NAME, value)
    if huggingface.is_of_hub(model):
        return huggingface.layout(context, model, value)
    return _CLIP.layout(context, model, value)
