"""Unpacked archives: what is in each, kept under the archive's digest, so that one stat a file judges a tree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orchestrator.store import seal
from orchestrator.store.layout import disk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    from orchestrator.store.layout import Store

# A file's path below the tree -> its size in bytes and its sha256.
Listing: TypeAlias = "Mapping[str, tuple[int, str]]"


def read(store: Store, sha256: str) -> Listing:
    """What the archive of this digest holds; nothing where that is not known (or the listing is damaged)."""
    try:
        with open(_path(store, sha256), "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, tuple[int, str]])
    except (OSError, msgspec.DecodeError):
        return {}


def write(store: Store, sha256: str, listing: Listing) -> None:
    """Keep what an archive holds, before its first tree appears.

    Raises:
        StoreError: the disk said no.
    """
    if read(store, sha256) == listing:
        return
    path = _path(store, sha256)
    with disk(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.new"
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(listing, order="deterministic"))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)


def broken(store: Store, folder: str, listing: Listing) -> list[str]:
    """The files of a tree that are missing or whose seal is broken; one stat a file."""
    found = []
    for name, (size, sha256) in listing.items():
        try:
            if seal.fits(store, os.stat(f"{folder}/{name}"), sha256, size):
                continue
        except OSError:
            pass
        found.append(name)
    return found


def _path(store: Store, sha256: str) -> str:
    return f"{store.places}/trees/{sha256}.json"
