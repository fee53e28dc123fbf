"""The store, orch's own directory: blobs, partials, quarantine, and the records of installed files."""

from __future__ import annotations

from orchestrator.store.store import Store, open_store

__all__ = ["Store", "open_store"]
