"""PURE: manifests and their lock files, read from text into typed values or a list of problems with their lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.manifest.clash import clash_problems, clashes
from orchestrator.manifest.parse import parse, parse_site, prefix, wanted
from orchestrator.manifest.paths import lock_path
from orchestrator.manifest.types import schema
from orchestrator.manifest.values import File, Manifest, Model, Prefix, Site

if TYPE_CHECKING:
    from orchestrator.manifest.positions import locate

__all__ = [
    "File",
    "Manifest",
    "Model",
    "Prefix",
    "Site",
    "clash_problems",
    "clashes",
    "locate",
    "lock_path",
    "parse",
    "parse_site",
    "prefix",
    "schema",
    "wanted",
]


def __getattr__(name: str) -> Any:
    if name == "locate":  # imported on first use (PEP 562): only an error needs lines
        from orchestrator.manifest.positions import locate

        return locate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
