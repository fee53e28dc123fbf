"""facenet-pytorch: `$TORCH_HOME/checkpoints/NAME`, torch's home without its `hub`.

facenet_pytorch 2.6.0, models/inception_resnet_v1.py:322-331 (the folder, the URL's basename, loaded unseen if there)
and :333-340 (TORCH_HOME, else $XDG_CACHE_HOME/torch, else ~/.cache/torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import flat, torch

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "facenet"
SAFE = torch.SAFE
OFFLINE: dict[str, str] = {}
variables = torch.variables


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name."""
    flat.refuse_value(NAME, value)
    return flat.layout(model, f"{torch.home(context)}/checkpoints")
