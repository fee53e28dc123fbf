"""Quarantine: wrong bytes, kept for a look under their found digest, oldest out first."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.store.layout import disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.model import Range
    from orchestrator.store.layout import Store

LIMIT_BYTES = 10 * 1024**3


def banish(store: Store, path: str, found: str, about: dict[str, str]) -> str:
    """Move wrong bytes out of the way: `path` goes to quarantine/<found>/bytes with `about` beside it.

    Returns:
        The folder they lie in now.

    Raises:
        StoreError: they could not be moved; `path` is then still there.
    """
    folder = f"{store.quarantine}/{found}"
    with disk(folder):
        os.makedirs(folder, exist_ok=True)
        target = f"{folder}/bytes"
        try:
            os.rename(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # st_dev would not tell: two mounts may share it and still not rename
                raise
            if os.stat(path).st_size <= LIMIT_BYTES:
                _copy(path, target)
            os.unlink(path)
        _describe(folder, found, about)
    _make_room(store, keep=found)
    return folder


def keep(store: Store, path: str, found: str, bad: Sequence[Range], about: dict[str, str]) -> str:
    """Copy just the bad ranges of a file, to where they lie in it: quarantine/<found>/bytes is sparse.

    Returns:
        The folder they lie in now.

    Raises:
        StoreError: the disk said no.
    """
    folder = f"{store.quarantine}/{found}"
    with disk(folder):
        os.makedirs(folder, exist_ok=True)
        with open(path, "rb") as source, open(f"{folder}/bytes", "wb") as target:
            for begin, end in bad:
                start = begin
                source.seek(start)
                target.seek(start)
                while start < end and (block := source.read(min(1 << 20, end - start))):
                    start += target.write(block)
            target.truncate(os.fstat(source.fileno()).st_size)
        _describe(folder, found, about)
    _make_room(store, keep=found)
    return folder


def _describe(folder: str, found: str, about: dict[str, str]) -> None:
    with open(f"{folder}/about.json", "w", encoding="utf-8") as file:
        json.dump({"found": found, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **about}, file)


def _copy(path: str, target: str) -> None:
    try:
        shutil.copyfile(path, target)
    except OSError:
        with suppress(OSError):
            os.unlink(target)
        raise


def _make_room(store: Store, keep: str) -> None:
    """Drop the oldest until the rest fits into LIMIT_BYTES; the newest stays whatever its size."""
    entries: list[tuple[float, int, str]] = []
    for name in os.listdir(store.quarantine):
        folder = f"{store.quarantine}/{name}"
        with suppress(OSError):  # gone meanwhile, or bytes too large to keep
            kept = os.stat(f"{folder}/bytes")
            entries.append((os.stat(folder).st_mtime, min(kept.st_size, kept.st_blocks * 512), name))  # some are sparse
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= LIMIT_BYTES:
            return
        if name != keep:
            shutil.rmtree(f"{store.quarantine}/{name}", ignore_errors=True)
            total -= size
