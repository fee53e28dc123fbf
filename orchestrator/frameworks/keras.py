"""Keras 3: `$KERAS_HOME/models/NAME`, and below another folder what `get_file` is asked for there.

keras 3.15.1, src/backend/config.py:277-284 (KERAS_HOME, else ~/.keras) and src/utils/file_utils.py:302-345 (`~` is
expanded; the name is `fname`, else the basename of the URL's path; `cache_subdir` is `models` for applications). A file
whose hash does not fit is downloaded over and, when that fails, removed (:352-403), through any link: so it shares no
inode with the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "keras"
SAFE = (Link.REFLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def home(context: Context) -> str:
    """Keras's own folder."""
    return base.folder(context, context.environ.get("KERAS_HOME", "~/.keras"))


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name; a value is `fname`, or `cache_subdir/fname`."""
    return home_layout(home(context), model, value)


def home_layout(folder: str, model: Model, value: str) -> LayoutResult:
    """The same below a known folder: tf_keras has another one."""
    return flat.layout(model, folder if "/" in value else f"{folder}/models", value, private=True)


def variables(context: Context) -> dict[str, str]:
    """KERAS_HOME."""
    return {"KERAS_HOME": home(context)}
