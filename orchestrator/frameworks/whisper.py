"""openai-whisper: `$XDG_CACHE_HOME/whisper/NAME`.

openai-whisper 20250625, whisper/__init__.py:130-132 ($XDG_CACHE_HOME as it is, else ~/.cache) and :54-95 (the URL's
basename; the whole file is hashed at each load, and one that is wrong is opened "wb", through any link: so it shares no
inode with the store).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base, flat
from orchestrator.model import Link

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.frameworks.base import LayoutResult
    from orchestrator.manifest.values import Model

NAME = "whisper"
SAFE = (Link.REFLINK, Link.COPY)
OFFLINE: dict[str, str] = {}


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Each file by its URL's last name."""
    flat.refuse_value(NAME, value)
    return flat.layout(model, f"{_caches(context)}/whisper", private=True)


def variables(context: Context) -> dict[str, str]:
    """XDG_CACHE_HOME, which others read as well."""
    return {"XDG_CACHE_HOME": _caches(context)}


def _caches(context: Context) -> str:
    named = context.environ.get("XDG_CACHE_HOME")
    return base.folder(context, "~/.cache") if named is None else base.unexpanded(context, named)
