"""Lets torchvision be imported beside a torch that cannot load its C++ library: its two operators, by name alone."""

from __future__ import annotations

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
