"""The layout of TensorFlow Hub's cache: an archive's content in `$TFHUB_CACHE_DIR/<sha1 of the handle>/`.

tensorflow_hub 0.16.1, resolver.py:81-110 (TFHUB_CACHE_DIR where it is not empty, as it is, else the system's temporary
folder: Python's tempfile, TMPDIR TEMP TMP /tmp), compressed_module_resolver.py:33-38 (the sha1 of the handle exactly as
the code writes it) and resolver.py:368-375 (a folder with anything in it is used unchecked).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.frameworks import base
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import Link, Place

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.manifest.values import Model

NAME = "tfhub"
SAFE = (Link.COPY,)  # an archive's files have no blobs of their own to link to
OFFLINE: dict[str, str] = {}
_VARIABLE = "TFHUB_CACHE_DIR"
_NEEDS_VALUE = "tfhub needs the handle as the code that loads it writes it: `for: {tfhub: https://tfhub.dev/...}`"


def cache(context: Context) -> str:
    """The folder that holds all modules.

    Raises:
        LayoutError: TFHUB_CACHE_DIR is a URL.
    """
    if named := context.environ.get(_VARIABLE):
        if "://" in named:
            raise LayoutError(f"{_VARIABLE} is not a folder of this machine: {named}")
        return base.unexpanded(context, named)
    temporary = next((t for name in ("TMPDIR", "TEMP", "TMP") if (t := context.environ.get(name))), "/tmp")  # noqa: S108
    return f"{base.unexpanded(context, temporary)}/tfhub_modules"


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Unpack the model's archive into the folder that the sha1 of the handle names.

    Raises:
        LayoutError: there is no handle, or the model has several files.
    """
    if not value:
        raise LayoutError(_NEEDS_VALUE)
    if len(model.files) != 1:
        raise LayoutError("tfhub needs one archive for each handle")
    import hashlib  # imported here: only a model with a handle needs it

    name, folder = hashlib.sha1(value.encode(), usedforsecurity=False).hexdigest(), cache(context)
    # In the temporary folder anyone may have made it first, and could exchange what is in it.
    own = None if context.environ.get(_VARIABLE) else (folder, _VARIABLE)
    return LayoutResult(((Place(f"{folder}/{name}", model.link, unpack=True, own=own),),))


def variables(context: Context) -> dict[str, str]:
    """TFHUB_CACHE_DIR, with the folder in use."""
    return {_VARIABLE: cache(context)}
