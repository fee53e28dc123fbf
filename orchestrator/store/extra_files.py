"""What stands where a layout wants a mark: a small text beside the weights, as huggingface's `refs/main`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from orchestrator.model import ExtraFile

if TYPE_CHECKING:
    from orchestrator.model import Wanted
    from orchestrator.store.records import PlaceRecord
    from orchestrator.store.store import Store

LINK = "mark"  # what the record of places says of it
_LONGEST = 1 << 16


def of(store: Store, wanted: Wanted) -> list[ExtraFile]:
    """The marks that one file wants, those for each file of its archive included, once that was unpacked."""
    if not any(mark.each for mark in wanted.extra_files):
        return list(wanted.extra_files)
    from orchestrator.store import tree_records

    found: list[ExtraFile] = []
    for mark in wanted.extra_files:
        if mark.each:
            before, _, after = mark.path.rpartition("*")
            found += [
                ExtraFile(f"{before}{name}{after}", mark.text) for name in tree_records.read(store, wanted.sha256)
            ]
        else:
            found.append(mark)
    return found


def state(store: Store, manifest: str, mark: ExtraFile) -> Literal["there", "absent", "outdated", "other"]:
    """Say what stands at a mark's path; a mark that says what it should costs one small read.

    `outdated`: orch wrote one there for this very manifest, and it says something else by now, because the lock
    has a newer commit or because a client has moved it. `other`: somebody else's, which stays. A mark without
    text is there where anything is.
    """
    had = text(mark.path)
    if had is None:
        return "absent"
    if had == mark.text or not mark.text:
        return "there"
    return "outdated" if _is_ours(store, manifest, mark.path, had) else "other"


def _is_ours(store: Store, manifest: str, path: str, had: str) -> bool:
    """Whether this manifest made the mark, and what it says now is not what another manifest wants of it."""
    from orchestrator.store import records  # and with it hashes and JSON: only where a mark says something else

    if path not in records.of(store, manifest) or os.path.islink(path):
        return False
    said = made(had)
    others = (entry for _, place, entry in records.made(store) if place == path)
    return records.of(store, manifest)[path] == said or said not in others


def made(text: str) -> PlaceRecord:
    """What the record of places says of a mark with this text."""
    import hashlib

    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "link": LINK}


def text(path: str) -> str | None:
    """What stands there; None where nothing does, and what no mark says where it is no small text."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "\0" if os.path.islink(path) else None
    except OSError:
        return "\0"  # no mark says that
    try:
        return os.read(fd, _LONGEST).decode("utf-8", "replace")
    except OSError:
        return "\0"
    finally:
        os.close(fd)
