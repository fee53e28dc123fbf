"""PURE: detect what a file is by its bytes, never by its name, and say what is wrong with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.formats.detect import HEAD_BYTES, Detected, describe, formats_of, identify
    from orchestrator.formats.safetensors import header_bytes, safetensors_fault
    from orchestrator.formats.zip_directory import TAIL_BYTES, directory

__all__ = [
    "HEAD_BYTES",
    "TAIL_BYTES",
    "Detected",
    "describe",
    "directory",
    "formats_of",
    "header_bytes",
    "identify",
    "safetensors_fault",
]
_ROOMS = {
    "TAIL_BYTES": "zip_directory",
    "directory": "zip_directory",
    "header_bytes": "safetensors",
    "safetensors_fault": "safetensors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Import a module when one of its names is first used (PEP 562): archives and pickles bring many imports along.
    return getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'detect')}"), name)
