"""The listings of unpacked archives, stored by the archive's digest: with them one stat for each file checks a tree."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import msgspec

from orchestrator.folders import read_regular
from orchestrator.store import seal
from orchestrator.store.store import disk, make_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from orchestrator.store.store import Store

# A file's path below the tree -> its size in bytes and its sha256.
Listing: TypeAlias = "Mapping[str, tuple[int, str]]"
_MOST_BYTES = 1 << 28
_DIGEST = re.compile("[0-9a-f]{64}")


def read(store: Store, sha256: str) -> Listing:
    """The listing of the archive of this digest; empty where it is unknown or damaged."""
    try:
        listing = msgspec.json.decode(read_regular(_path(store, sha256), _MOST_BYTES), type=dict[str, tuple[int, str]])
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = all(_is_inside(name) and _DIGEST.fullmatch(digest) for name, (_, digest) in listing.items())
    return listing if is_ours else {}


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the tree, as all names do that we wrote."""
    return bool(name) and "\0" not in name and not {"", ".", ".."}.intersection(name.split("/"))


def write(store: Store, sha256: str, listing: Listing) -> None:
    """Write an archive's listing, before its first tree is placed.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    if read(store, sha256) == listing:
        return
    path = _path(store, sha256)
    with disk(path):
        make_folder(os.path.dirname(path))
        replace_file(path, msgspec.json.encode(listing, order="deterministic"))


def standing_in(store: Store, folder: str) -> list[Listing]:
    """The listings of all archives of which at least one whole file is in `folder`, by its name and seal."""
    try:
        names = sorted(os.listdir(f"{store.places}/trees"))
    except OSError:
        return []
    known = [read(store, name.removesuffix(".json")) for name in names if name.endswith(".json")]
    return [listing for listing in known if any(is_whole(store, folder, name, [listing]) for name in listing)]


def is_whole(store: Store, folder: str, name: str, listings: Iterable[Listing]) -> bool:
    """Whether the file `name` in `folder` is one of these listings' file, by its seal, and behind no link."""
    path = f"{folder}/{name}"
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return is_of(store, status, name, listings) and not is_behind_link(folder, name)


def is_of(store: Store, status: os.stat_result, name: str, listings: Iterable[Listing]) -> bool:
    """Whether the file with this `lstat` is the file `name` of one of these listings, by its seal."""
    files = (listing[name] for listing in listings if name in listing)
    return any(seal.fits(store, status, sha256, size) for size, sha256 in files)


def is_behind_link(folder: str, name: str) -> bool:
    """Whether `folder`, the file `name` in it, or a folder between them is a symbolic link."""
    path = folder
    for part in name.split("/"):
        if os.path.islink(path):
            return True
        path = f"{path}/{part}"
    return os.path.islink(path)


def broken(store: Store, folder: str, listing: Listing) -> list[str]:
    """The names of a tree's files that are missing or whose seal is broken, by one stat a file."""
    found = []
    for name, (size, sha256) in listing.items():
        try:
            if seal.fits(store, os.stat(f"{folder}/{name}"), sha256, size):
                continue
        except OSError:
            pass
        found.append(name)
    return found


def has_all(store: Store, folder: str, sha256: str) -> bool:
    """Whether all files of the archive of this digest are in `folder`, by their seals, none of them behind a link."""
    listing = read(store, sha256)
    return bool(listing) and all(is_whole(store, folder, name, [listing]) for name in listing)


def has_sizes(folder: str, listing: Listing) -> bool:
    """Whether `folder` has all files of a listing, by their names and sizes; links are followed."""
    for name, (size, _) in listing.items():
        try:
            status = os.stat(f"{folder}/{name}")
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
    return bool(listing)


def _path(store: Store, sha256: str) -> str:
    return f"{store.places}/trees/{sha256}.json"
