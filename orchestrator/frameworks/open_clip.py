"""open_clip: most of its weights are a hub's and stand in that cache; those with a URL of their own in CLIP's folder.

open_clip_torch 3.3.0, open_clip/pretrained.py:900-930 (a tag's `hf_hub` is preferred to its `url`), :870-895 (from the
hub's cache) and :790-833 (`cache_dir`, else ~/.cache/clip; the URL's basename; a wrong one is opened "wb").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import clip, flat, huggingface

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "open_clip"
SAFE = clip.SAFE
OFFLINE = huggingface.OFFLINE
variables = huggingface.variables


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """A repository's files, and those whose URLs are a hub's, in its cache; others by their URLs' last names."""
    flat.refuse_value(NAME, value)
    if huggingface.is_of_hub(model):
        return huggingface.layout(context, model, value)
    return clip.layout(context, model, value)
