"""torch.hub and torchvision: `$TORCH_HOME/hub/checkpoints/NAME`; what stands there is loaded unseen.

torch/hub.py: `_get_torch_home` (TORCH_HOME, else $XDG_CACHE_HOME/torch, else ~/.cache/torch) and
`load_state_dict_from_url` (the name is the URL path's last part, percent-encoding kept, no query).
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from orchestrator.model import Link, Place
from orchestrator.placement.base import Laid

if TYPE_CHECKING:
    from orchestrator.manifest.values import Model
    from orchestrator.world import World

NAME = "torch"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)


def home(world: World) -> str:
    """Torch's own folder."""
    caches = world.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = world.environ.get("TORCH_HOME") or posixpath.join(caches, "torch")
    if named == "~" or named.startswith("~/"):
        named = world.home + named[1:]
    return posixpath.normpath(posixpath.join(world.cwd, named))


def lay(world: World, model: Model, value: str) -> Laid:  # noqa: ARG001 - torch needs no name
    """Each file by its URL's last name."""
    folder = f"{home(world)}/hub/checkpoints"
    return Laid(tuple((Place(f"{folder}/{posixpath.basename(_path(f.url))}", model.link),) for f in model.files))


def variables(world: World) -> dict[str, str]:
    """TORCH_HOME."""
    return {"TORCH_HOME": home(world)}


def _path(url: str) -> str:
    return url.partition("?")[0]
