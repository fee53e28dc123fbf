"""The JSON Schema of manifests, made from the very types that judge them."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.manifest.types import Document, SiteDocument

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLES = {
    "Document": "manifest",
    "SiteDocument": "site file",
    "ModelEntry": "model",
    "FileEntry": "file",
    "PrefixEntry": "prefix mirror",
    "HostEntry": "host",
    "Defaults": "defaults",
    "Link": "link",
}
# Where the team may have keys of its own.
OPEN = ("Document", "SiteDocument", "ModelEntry")


def schema(of: type[Document | SiteDocument] = Document) -> dict[str, Any]:
    """JSON Schema (Draft 2020-12) of a manifest, or of a site file."""
    (start,), rooms = msgspec.json.schema_components((of,), ref_template="#/$defs/{name}")
    for name, room in rooms.items():
        room["title"] = TITLES[name]
        if name in OPEN:
            room["patternProperties"] = {"^x-": True}
    return {"$schema": DIALECT, "title": rooms[of.__name__]["title"], **start, "$defs": rooms}
