"""The extra files of a layout: small texts that a client wants beside the weights, as huggingface's `refs/main`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from orchestrator.model import ExtraFile

if TYPE_CHECKING:
    from orchestrator.model import Wanted
    from orchestrator.store.records import PlaceRecord
    from orchestrator.store.store import Store

LINK = "mark"  # the `link` of such a file in the records of places
_MOST_BYTES = 1 << 16


def of(store: Store, wanted: Wanted) -> list[ExtraFile]:
    """The extra files of one wanted file; for an archive, one for each of its files once it was unpacked."""
    if not any(extra_file.each for extra_file in wanted.extra_files):
        return list(wanted.extra_files)
    from orchestrator.store import tree_records

    found: list[ExtraFile] = []
    for extra_file in wanted.extra_files:
        if extra_file.each:
            before, _, after = extra_file.path.rpartition("*")
            found += [
                ExtraFile(f"{before}{name}{after}", extra_file.text) for name in tree_records.read(store, wanted.sha256)
            ]
        else:
            found.append(extra_file)
    return found


def state(store: Store, manifest: str, extra_file: ExtraFile) -> Literal["there", "absent", "outdated", "other"]:
    """The state of an extra file, by one small read.

    Returns:
        `there`: it has its text (or any, where none is wanted). `absent`. `outdated`: orch wrote it for this manifest,
        and it has another text now, because the lockfile has a newer commit or a client changed it. `other`: a file of
        somebody else, which stays.
    """
    had = read_text(extra_file.path)
    if had is None:
        return "absent"
    if had == extra_file.text or not extra_file.text:
        return "there"
    return "outdated" if _is_ours(store, manifest, extra_file.path, had) else "other"


def _is_ours(store: Store, manifest: str, path: str, had: str) -> bool:
    """Whether this manifest made the extra file, and its text now is not one that another manifest wrote."""
    from orchestrator.store import records  # it imports hashes and JSON: only where a text differs

    if path not in records.of(store, manifest) or os.path.islink(path):
        return False
    said = record_of(had)
    others = (entry for _, place, entry in records.made(store) if place == path)
    return records.of(store, manifest)[path] == said or said not in others


def record_of(text: str) -> PlaceRecord:
    """The record of an extra file with this text, as the records of places keep it."""
    import hashlib

    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "link": LINK}


def read_text(path: str) -> str | None:
    """Read an extra file: None where nothing is there, a lone NUL where it cannot be read as a text."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "\0" if os.path.islink(path) else None
    except OSError:
        return "\0"  # which no extra file has
    try:
        return os.read(fd, _MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return "\0"
    finally:
        os.close(fd)
