"""OpenAI's CLIP: `~/.cache/clip/NAME`, whatever the environment says.

clip/clip.py at d05afc4: :120 (`download_root`, else ~/.cache/clip) and :43-72 (the URL's basename; the whole file is
hashed at each load, and one that is wrong is opened "wb", through any link: so it shares no inode with the store).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import World
    from orchestrator.frameworks.base import Laid
    from orchestrator.manifest.values import Model

NAME = "clip"
SAFE = (Link.REFLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def lay(world: World, model: Model, value: str) -> Laid:
    """Each file by its URL's last name."""
    flat.refuse_value(NAME, value)
    return flat.laid(model, base.folder(world, "~/.cache/clip"), private=True)


def variables(world: World) -> dict[str, str]:  # noqa: ARG001 - it reads none
    """None."""
    return {}
