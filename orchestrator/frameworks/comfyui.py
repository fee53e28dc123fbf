"""The layout of ComfyUI: `BASE/models/KIND/NAME`; the value in `for:` is KIND (checkpoints, loras ...) or KIND/NAME.

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
from orchestrator.urls import split

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import Model

NAME = "comfyui"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE: dict[str, str] = {}
_NEEDS_VALUE = "comfyui needs the kind of model: `for: {comfyui: checkpoints}` (or loras, vae, embeddings/NAME.pt ...)"
# folder_paths.py at 1df2885, :11 (supported_pt_extensions), and what ComfyUI's nodes load besides.
_ENDINGS = (
    *(".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"),
    *(".gguf", ".onnx", ".yaml", ".json", ".zip"),
)
# An older name of a kind: the folder that ComfyUI reads for it now.
_RENAMED = {"unet": "diffusion_models", "clip": "text_encoders"}


def base_folder(context: Context) -> str:
    """ComfyUI's base folder: by a variable, else comfy-cli's default workspace, else ~/comfy/ComfyUI."""
    for name in ("COMFYUI_FOLDERS_BASE_PATH", "COMFYUI_PATH"):
        if named := context.environ.get(name):
            return base.unexpanded(context, named)
    settings = context.read(f"{base.folder(context, '~/.config/comfy-cli')}/config.ini")
    workspace = re.search(r"^default_workspace\s*[=:]\s*(\S.*?)\s*$", settings, re.M | re.I)
    return base.folder(context, workspace[1] if workspace else "~/comfy/ComfyUI")


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Put each file into the folder of its kind, by its URL's last name or by the file name that the value gives.

    Raises:
        LayoutError: there is no value, it names one file for several, or it leads out of the folder.
    """
    kind, _, rest = value.rstrip("/").partition("/")
    if not kind:
        raise LayoutError(_NEEDS_VALUE)
    kind = _RENAMED.get(kind, kind)
    if rest and not value.endswith("/") and _is_file(rest, model):
        return flat.layout(model, f"{base_folder(context)}/models/{flat.relative(kind)}", rest)
    return flat.layout(model, f"{base_folder(context)}/models/{flat.relative(f'{kind}/{rest}' if rest else kind)}")


def _is_file(path: str, model: Model) -> bool:
    """Whether a path has the ending of a model file: one that ComfyUI loads, or that of the model's own URL.

    `SD1.5` has none: it is a folder.
    """
    name = path.rpartition("/")[2].lower()
    names = (split(file.url).path.rpartition("/")[2].lower() for file in model.files)
    own = tuple(f".{last.rpartition('.')[2]}" for last in names if "." in last)
    return name.endswith((*_ENDINGS, *own))


def variables(context: Context) -> dict[str, str]:
    """COMFYUI_FOLDERS_BASE_PATH where it is set, else COMFYUI_PATH."""
    if context.environ.get("COMFYUI_FOLDERS_BASE_PATH"):
        return {"COMFYUI_FOLDERS_BASE_PATH": base_folder(context)}
    return {"COMFYUI_PATH": base_folder(context)}
