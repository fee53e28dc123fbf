"""ComfyUI: `BASE/models/TYPE/NAME`, where TYPE (checkpoints, loras, vae ...) is the value, or TYPE/NAME is.

ComfyUI itself reads no variable: its base is its own folder, or `--base-directory` (folder_paths.py at 1df2885, :12-20;
the types :22-78; `unet` and `clip` by their newer names :118-121). comfyui-manager 4.3 (common/context.py:10-20) reads
COMFYUI_FOLDERS_BASE_PATH, else COMFYUI_PATH; comfy-cli 1.23.0 has the workspace of `comfy set-default` (config.ini;
workspace_manager.py:298-301), else ~/comfy/ComfyUI (constants.py:26-30). Weights are only read, so any link is safe.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import Model

NAME = "comfyui"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE: dict[str, str] = {}
_WANTS = "comfyui needs the kind of model: `for: {comfyui: checkpoints}` (or loras, vae, embeddings/NAME.pt ...)"
# folder_paths.py at 1df2885, :11 (supported_pt_extensions), and what its nodes load besides.
_ENDINGS = (
    *(".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"),
    *(".gguf", ".onnx", ".yaml", ".json", ".zip"),
)
_NEWER = {"unet": "diffusion_models", "clip": "text_encoders"}


def base_folder(context: Context) -> str:
    """ComfyUI's base folder."""
    for name in ("COMFYUI_FOLDERS_BASE_PATH", "COMFYUI_PATH"):
        if named := context.environ.get(name):
            return base.unexpanded(context, named)
    settings = context.read(f"{base.folder(context, '~/.config/comfy-cli')}/config.ini")
    chosen = re.search(r"^default_workspace\s*[=:]\s*(\S.*?)\s*$", settings, re.M | re.I)
    return base.folder(context, chosen[1] if chosen else "~/comfy/ComfyUI")


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name in the folder of its kind; or, where the value names a file, by that."""
    kind, _, rest = value.rstrip("/").partition("/")
    if not kind:
        raise LayoutError(_WANTS)
    kind = _NEWER.get(kind, kind)
    if rest and not value.endswith("/") and _is_file(rest, model):
        return flat.layout(model, f"{base_folder(context)}/models/{flat.relative(kind)}", rest)
    return flat.layout(model, f"{base_folder(context)}/models/{flat.relative(f'{kind}/{rest}' if rest else kind)}")


def _is_file(path: str, model: Model) -> bool:
    """Whether a path ends as a model's file does: as ComfyUI lists them, or as its own URL. (`SD1.5` is none.)"""
    name = path.rpartition("/")[2].lower()
    urls = (file.url.partition("?")[0].rpartition("/")[2].lower() for file in model.files)
    own = tuple(f".{last.rpartition('.')[2]}" for last in urls if "." in last)
    return name.endswith((*_ENDINGS, *own))


def variables(context: Context) -> dict[str, str]:
    """COMFYUI_PATH, or the variable that says it better."""
    if context.environ.get("COMFYUI_FOLDERS_BASE_PATH"):
        return {"COMFYUI_FOLDERS_BASE_PATH": base_folder(context)}
    return {"COMFYUI_PATH": base_folder(context)}
