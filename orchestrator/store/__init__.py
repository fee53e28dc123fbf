"""Our directory: blobs, partials, quarantine, records of places. Every byte in it is under its digest."""

from __future__ import annotations

from orchestrator.store.store import Store, open_store

__all__ = ["Store", "open_store"]
