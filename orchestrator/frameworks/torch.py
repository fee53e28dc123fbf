"""torch.hub and torchvision: `$TORCH_HOME/hub/checkpoints/NAME`.

torch 2.13.0, torch/hub.py:184-191 (`_get_torch_home`: TORCH_HOME, else $XDG_CACHE_HOME/torch, else ~/.cache/torch) and
:880-890 (`load_state_dict_from_url`: the name is the basename of the URL's path, percent-encoding kept, or `file_name`,
which is the value here). What stands there is loaded unseen and never written into (:739: a new file, moved), so any
link is safe.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "torch"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def home(context: Context) -> str:
    """Torch's own folder."""
    return base.folder(context, context.environ.get("TORCH_HOME", posixpath.join(base.caches(context), "torch")))


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name; a value is the `file_name` that the code gives it."""
    return flat.layout(model, f"{home(context)}/hub/checkpoints", value)


def variables(context: Context) -> dict[str, str]:
    """TORCH_HOME."""
    return {"TORCH_HOME": home(context)}
