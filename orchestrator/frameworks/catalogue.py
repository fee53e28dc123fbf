"""Find a framework's layout by its name, and give a model the places where its frameworks look."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.frameworks import flat
from orchestrator.frameworks.base import LayoutError
from orchestrator.manifest.paths import absolute
from orchestrator.model import Link

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.context import Context
    from orchestrator.frameworks import (
        comfyui,
        huggingface,
        kagglehub,
        modelscope,
        open_clip,
        sentence_transformers,
        tfhub,
        ultralytics,
    )
    from orchestrator.frameworks.base import Layout
    from orchestrator.manifest.values import Model
    from orchestrator.model import ExtraFile, Place

    # mypy checks each module and each row against the Protocol here: `import_module` tells it nothing.
    _CHECKED: tuple[Layout, ...] = (
        comfyui,
        huggingface,
        kagglehub,
        modelscope,
        open_clip,
        sentence_transformers,
        tfhub,
        ultralytics,
        *flat.FLAT.values(),
    )


def by_name(framework: str) -> Layout:
    """Return the layout of a framework that `for:` may name: its row in `flat.FLAT`, else its own module."""
    if row := flat.FLAT.get(framework):
        return row
    layout: Layout = import_module(f"orchestrator.frameworks.{framework.replace('-', '_')}")
    return layout


def reads_no_variable(context: Context, frameworks: Iterable[str]) -> list[str]:
    """Return those of `frameworks`, sorted, that read no environment variable, so that nothing can redirect them.

    Raises:
        LayoutError: a variable of one of them has a value that it could not use.
    """
    return [name for name in sorted(set(frameworks)) if not by_name(name).variables(context)]


def with_layouts(context: Context, model: Model) -> Model:
    """Return `model` with the places of its frameworks added behind those of `to:`.

    The frameworks' extra files are attached to the model's last file.

    Raises:
        LayoutError: a framework has no place for it, or the model insists on a link mode that is not safe there.
    """
    places: list[tuple[Place, ...]] = [file.places for file in model.files]
    extra_files: dict[str, ExtraFile] = {}
    for framework, value in model.layouts:
        layout = by_name(framework)
        if model.link is not Link.AUTO and model.link not in layout.SAFE:
            safe = ", ".join(("auto", *(link.value for link in layout.SAFE)))
            raise LayoutError(f"`link: {model.link.value}` is not safe with {framework}: {safe} are")
        result = layout.layout(context, model, value)
        places = [tuple(dict.fromkeys((*had, *more))) for had, more in zip(places, result.places, strict=True)]
        extra_files.update((extra.path, extra) for extra in result.extra_files)
    files = [replace(file, places=at) for file, at in zip(model.files, places, strict=True)]
    if extra_files:
        files[-1] = replace(files[-1], extra_files=tuple(extra_files.values()))
    return replace(model, files=tuple(files))


# Every variable that names a cache, not only XDG_CACHE_HOME: one that the user has set would win over it.
_BELOW_CACHES = {
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


def below(context: Context, folder: str) -> Context:
    """Return `context` with every framework's cache variable set below `folder` (`--caches`).

    A relative `folder` begins at the working folder. Frameworks that read no variable stay where they are.
    """
    folder = absolute(folder, context.cwd).rstrip("/")
    caches = {name: folder + path or "/" for name, path in _BELOW_CACHES.items()}
    return dataclasses.replace(context, environ={**context.environ, **caches})
