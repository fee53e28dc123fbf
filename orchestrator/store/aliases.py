"""What weaker digests turned out to be: `blobs/<kind>/<hex>` is a symlink to the blob of the same bytes.

A link may lead to a blob that is not there yet, or was dropped: that the two digests belong together stays true.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.store.store import disk, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.model import Pin
    from orchestrator.store.store import Store

_TO = "../sha256/"


def find(store: Store, pins: Sequence[Pin]) -> str:
    """Give the sha256 that all of `pins` are known to belong to; empty where one is unknown, or they differ."""
    found = {_read(store, pin) for pin in pins}
    return found.pop() if len(found) == 1 else ""


def learn(store: Store, sha256: str, pins: Iterable[Pin]) -> None:
    """Remember that bytes whose digests were all computed are known by these pins too.

    A pin that is remembered already stays as it is: of two contents with one md5 the first one seen counts.

    Raises:
        StoreError: the disk said no.
    """
    for pin in pins:
        path = store.alias(pin)
        with disk(path), suppress(FileExistsError):
            try:
                os.symlink(_TO + sha256, path)
            except FileNotFoundError:
                make_folder(os.path.dirname(path))
                os.symlink(_TO + sha256, path)


def _read(store: Store, pin: Pin) -> str:
    try:
        target = os.readlink(store.alias(pin))
    except OSError:
        return ""
    sha256 = target.removeprefix(_TO)
    return sha256 if len(sha256) == 64 and sha256.isalnum() and sha256.islower() | sha256.isdigit() else ""
