"""OpenAI's CLIP: `~/.cache/clip/NAME`, whatever the environment says.

clip/clip.py at d05afc4: :120 (`download_root`, else ~/.cache/clip) and :43-72 (the URL's basename; the whole file is
hashed at each load, and one that is wrong is opened "wb", through any link: so it shares no inode with the store).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "clip"
SAFE = (Link.REFLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name."""
    flat.refuse_value(NAME, value)
    return flat.layout(model, base.folder(context, "~/.cache/clip"), private=True)


def variables(context: Context) -> dict[str, str]:  # noqa: ARG001 - it reads none
    """None."""
    return {}
