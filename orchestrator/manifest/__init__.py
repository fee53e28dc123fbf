"""Manifests: text in, typed values or every problem with its line out. Pure: it opens no file."""

from __future__ import annotations

from orchestrator.manifest.clash import clash_problems, clashes
from orchestrator.manifest.lines import locate
from orchestrator.manifest.resolve import parse, parse_site, prefix, wanted
from orchestrator.manifest.schema import schema
from orchestrator.manifest.values import File, Manifest, Model, Prefix, Site

__all__ = [
    "File",
    "Manifest",
    "Model",
    "Prefix",
    "Site",
    "clash_problems",
    "clashes",
    "locate",
    "parse",
    "parse_site",
    "prefix",
    "schema",
    "wanted",
]
