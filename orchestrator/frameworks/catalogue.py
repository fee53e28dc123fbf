"""The frameworks whose layouts are known, each imported when a manifest names it; a model laid out by them."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.frameworks.base import LayoutError
from orchestrator.manifest.paths import absolute
from orchestrator.model import Link

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.context import Context
    from orchestrator.frameworks.base import Layout
    from orchestrator.manifest.values import Model
    from orchestrator.model import ExtraFile, Place


def by_name(framework: str) -> Layout:
    """The layout of a framework that `for:` may name."""
    layout: Layout = import_module(f"orchestrator.frameworks.{framework.replace('-', '_')}")
    return layout


def reads_no_variable(context: Context, frameworks: Iterable[str]) -> list[str]:
    """Those that read no variable in this world, so that they look in one place only.

    Raises:
        LayoutError: what one of them reads cannot be.
    """
    return [name for name in sorted(set(frameworks)) if not by_name(name).variables(context)]


def with_layouts(context: Context, model: Model) -> Model:
    """`model` with the places that its frameworks look in, behind those of `to:`.

    Raises:
        LayoutError: a framework has no place for it.
    """
    places: list[tuple[Place, ...]] = [file.places for file in model.files]
    marks: dict[str, ExtraFile] = {}
    for framework, value in model.layouts:
        layout = by_name(framework)
        if model.link is not Link.AUTO and model.link not in layout.SAFE:
            safe = ", ".join(("auto", *(link.value for link in layout.SAFE)))
            raise LayoutError(f"`link: {model.link.value}` is not safe with {framework}: {safe} are")
        result = layout.layout(context, model, value)
        places = [tuple(dict.fromkeys((*had, *more))) for had, more in zip(places, result.places, strict=True)]
        marks.update((mark.path, mark) for mark in result.marks)
    files = [replace(file, places=at) for file, at in zip(model.files, places, strict=True)]
    if marks:
        files[-1] = replace(files[-1], marks=tuple(marks.values()))
    return replace(model, files=tuple(files))


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


def below(context: Context, folder: str) -> Context:
    """`world` with the variables of all frameworks that read one; a relative `folder` begins at the working folder."""
    folder = absolute(folder, context.cwd).rstrip("/")
    named = {name: folder + path or "/" for name, path in _BELOW.items()}
    return dataclasses.replace(context, environ={**context.environ, **named})
