"""Records of what orch placed where: written before the rename, never read when all is well."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from orchestrator.store.layout import disk, hold, open_file, open_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.store.layout import Store


class Made(TypedDict):
    """What stands at one place: the digest and how it was made there."""

    sha256: str
    link: str


class Record(NamedTuple):
    """What one manifest made from this store: which host it is on, and its places; `problem` where it is damaged."""

    file: str
    host: str
    manifest: str
    places: dict[str, Made]
    problem: str = ""


def record(store: Store, host: str, manifest: str, made: Mapping[str, Made]) -> None:
    """Add places to a manifest's record; the file is only written when that changes it.

    A manifest that makes no place (`to: store`) has a record as well: by it `orch prune` knows what is wanted.

    Raises:
        StoreError: the disk said no.
    """
    path = _path(store, manifest)
    with disk(path), open(f"{store.places}/.guard", "r+b", opener=open_lock) as guard:
        hold(guard.fileno(), fcntl.LOCK_EX, store.stop)
        old = _read(path)
        merged = {**old, **made}
        if merged == old and (old or os.path.exists(path)):
            return
        with open(f"{path}.new", "w", encoding="utf-8", opener=open_file) as file:
            # Not json.dump(), nor an indent: those encode in Python, at 70 us a place.
            file.write(json.dumps({"host": host, "manifest": manifest, "places": merged}, sort_keys=True))
        os.rename(f"{path}.new", path)


def of(store: Store, manifest: str) -> dict[str, Made]:
    """What was made for one manifest, by place."""
    return _read(_path(store, manifest))


def made(store: Store) -> Iterator[tuple[str, str, Made]]:
    """Go through all records: (manifest, place, what was made there)."""
    try:
        names = sorted(os.listdir(store.places))
    except OSError:
        return
    for name in names:
        if name.endswith(".json"):
            path = f"{store.places}/{name}"
            for place, entry in _read(path).items():
                yield path, place, entry


def records(store: Store) -> list[Record]:
    """All records, damaged ones too."""
    try:
        files = [f"{store.places}/{name}" for name in sorted(os.listdir(store.places)) if name.endswith(".json")]
    except OSError:
        return []
    found = []
    for file in files:
        try:
            with open(file, encoding="utf-8") as text:
                whole = json.load(text)
            for made in whole["places"].values():  # of which one that is none would be read as empty
                _ = made["sha256"], made["link"]
            found.append(Record(file, str(whole["host"]), str(whole["manifest"]), _read(file)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found.append(Record(file, "", "", {}, str(error) or type(error).__name__))
    return found


def _path(store: Store, manifest: str) -> str:
    return f"{store.places}/{hashlib.sha256(os.fsencode(manifest)).hexdigest()}.json"


def _read(path: str) -> dict[str, Made]:
    """Read one record; a damaged or missing one is empty: it is only a hint to who made a place."""
    try:
        with open(path, encoding="utf-8") as file:
            places = json.load(file)["places"]
        return {str(k): {"sha256": str(v["sha256"]), "link": str(v["link"])} for k, v in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
