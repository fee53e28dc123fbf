"""OpenAI's CLIP: `~/.cache/clip/NAME`, whatever the environment says.

clip/clip.py at d05afc4: :120 (`download_root`, else ~/.cache/clip) and :43-72 (the URL's basename; the whole file is
hashed at each load, and one that is wrong is opened "wb", through any link: so it shares no inode with the store).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.model import Link
from orchestrator.placement import flat, roots

if TYPE_CHECKING:
    from orchestrator.manifest.values import Model
    from orchestrator.placement.base import Laid
    from orchestrator.world import World

NAME = "clip"
SAFE = (Link.REFLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def lay(world: World, model: Model, value: str) -> Laid:
    """Each file by its URL's last name."""
    flat.refuse_value(NAME, value)
    return flat.laid(model, roots.folder(world, "~/.cache/clip"), private=True)


def variables(world: World) -> dict[str, str]:  # noqa: ARG001 - it reads none
    """None."""
    return {}
