"""tf_keras (Keras 2): `~/.keras/models/NAME`, whatever KERAS_HOME says.

tf_keras 2.21.0, src/utils/data_utils.py:269-276 (`cache_dir` is ~/.keras, no variable is read). It downloads over a
file whose hash does not fit, as Keras 3 does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, keras

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "tf_keras"
SAFE = keras.SAFE
OFFLINE: dict[str, str] = {}


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name; a value is `fname`, or `cache_subdir/fname`."""
    return keras.home_layout(base.folder(context, "~/.keras"), model, value)


def variables(context: Context) -> dict[str, str]:  # noqa: ARG001 - it reads none
    """None."""
    return {}
