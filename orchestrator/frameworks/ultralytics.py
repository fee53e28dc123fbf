"""The layout of Ultralytics: the folder that its setting `weights_dir` names.

ultralytics 8.4.190, utils/downloads.py:602-607 (a file of that name in the working folder, else in `weights_dir`),
utils/__init__.py:982-985 (settings.json below $YOLO_CONFIG_DIR/Ultralytics, else $XDG_CONFIG_HOME/Ultralytics, else
~/.config/Ultralytics) and :1418-1426 (until it is set: `weights` in the working folder, or in the git repository that
holds the package). Where YOLO_CONFIG_DIR is set and holds no settings yet, orch writes a settings.json with a
`weights_dir` beside it: the client keeps that and adds the rest (:1458-1478). Weights are only read, so any link is
safe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.frameworks import base, flat
from orchestrator.frameworks.base import LayoutResult
from orchestrator.model import ExtraFile, Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import Model

NAME = "ultralytics"
SAFE = (Link.HARD, Link.REFLINK, Link.SYMLINK, Link.COPY)
OFFLINE = {"YOLO_OFFLINE": "true"}


class _Settings(msgspec.Struct):
    weights_dir: str = ""


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Put each file into the folder of weights by its URL's last name.

    Raises:
        LayoutError: there is a value, or a URL ends in no file name.
    """
    flat.refuse_value(NAME, value)
    weights, extra_files = _weights(context)
    return LayoutResult(flat.layout(model, weights).places, extra_files)


def variables(context: Context) -> dict[str, str]:
    """YOLO_CONFIG_DIR where it is set: the settings in it say where the weights are."""
    named = context.environ.get("YOLO_CONFIG_DIR")
    return {"YOLO_CONFIG_DIR": base.folder(context, named)} if named else {}


def _weights(context: Context) -> tuple[str, tuple[ExtraFile, ...]]:
    """The folder of weights, and the settings file that orch has to write for it, if any."""
    named = context.environ.get("YOLO_CONFIG_DIR")
    parent = named or context.environ.get("XDG_CONFIG_HOME", "~/.config")
    path = f"{base.folder(context, parent)}/Ultralytics/settings.json"
    text = context.read(path)
    try:
        weights_dir = msgspec.json.decode(text or "{}", type=_Settings).weights_dir
    except msgspec.DecodeError:
        weights_dir = ""  # the client replaces a damaged settings file by its defaults
    if weights_dir or text or not named:
        return base.unexpanded(context, weights_dir or "weights"), ()
    weights = f"{base.folder(context, named)}/weights"
    return weights, (ExtraFile(path, msgspec.json.encode({"weights_dir": weights}).decode()),)
