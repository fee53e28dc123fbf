"""Lets torchvision be imported beside a torch for which its C++ library was not built: its two operators, by name."""

from __future__ import annotations

from importlib.util import find_spec

import torch

_vision = find_spec("torchvision")
_folders = _vision.submodule_search_locations if _vision is not None else None
try:
    torch.ops.load_library(f"{(_folders or [''])[0]}/_C.so")  # it registers them, and an operator can be only once
except OSError:
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
