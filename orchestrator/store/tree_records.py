"""Unpacked archives: what is in each, kept under the archive's digest, so that one stat a file judges a tree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orchestrator.files import write_atomic
from orchestrator.store import seal
from orchestrator.store.store import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from orchestrator.store.store import Store

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
        write_atomic(path, msgspec.json.encode(listing, order="deterministic"))


def standing_in(store: Store, folder: str) -> list[Listing]:
    """The listings of all archives of which a file stands in `folder`, by its name and its seal."""
    try:
        names = sorted(os.listdir(f"{store.places}/trees"))
    except OSError:
        return []
    known = [read(store, name.removesuffix(".json")) for name in names if name.endswith(".json")]
    return [listing for listing in known if any(is_whole(store, folder, name, [listing]) for name in listing)]


def is_whole(store: Store, folder: str, name: str, listings: Iterable[Listing]) -> bool:
    """Whether `name` in `folder` is itself, behind no link, a file of one of these listings, by its seal."""
    path = f"{folder}/{name}"
    try:
        status = os.lstat(path)
    except OSError:
        return False
    for listing in listings:
        size, sha256 = listing.get(name, (0, ""))
        if sha256 and seal.fits(store, status, sha256, size):
            return not is_behind_link(folder, name)
    return False


def is_behind_link(folder: str, name: str) -> bool:
    """Whether a symbolic link stands on the way from `folder`, itself included, to the file `name` in it."""
    path = folder
    for part in name.split("/"):
        if os.path.islink(path):
            return True
        path = f"{path}/{part}"
    return os.path.islink(path)


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
