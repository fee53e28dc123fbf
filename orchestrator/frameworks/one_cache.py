"""One folder for all caches: an environment in which each framework's lies in it as it would in XDG_CACHE_HOME."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.manifest.paths import absolute

if TYPE_CHECKING:
    from orchestrator.context import World

# Each of them, also where XDG_CACHE_HOME would do: what stands in the user's environment has the first word.
_BELOW = {
    "XDG_CACHE_HOME": "",
    "TORCH_HOME": "/torch",
    "KERAS_HOME": "/keras",
    "TFHUB_CACHE_DIR": "/tfhub_modules",
    "HF_HOME": "/huggingface",
    "HF_HUB_CACHE": "/huggingface/hub",
    "SENTENCE_TRANSFORMERS_HOME": "/huggingface/hub",
    "KAGGLEHUB_CACHE": "/kagglehub",
    "MODELSCOPE_CACHE": "/modelscope",
    "COMFYUI_FOLDERS_BASE_PATH": "/comfyui",
    "YOLO_CONFIG_DIR": "/ultralytics",
}


def below(world: World, folder: str) -> World:
    """`world` with the variables of all frameworks that read one; a relative `folder` begins at the working folder."""
    folder = absolute(folder, world.cwd).rstrip("/")
    named = {name: folder + path or "/" for name, path in _BELOW.items()}
    return replace(world, environ={**world.environ, **named})
