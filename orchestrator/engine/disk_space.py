"""Before the first byte: do bytes and inodes fit on every file system, may the folders be written?"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator.engine.scan import State
from orchestrator.errors import StoreError
from orchestrator.model import Link
from orchestrator.store import partials
from orchestrator.text import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.model import Source
    from orchestrator.store import Store

INODES_PER_FILE = 8  # a partial's folder holds its state beside the bytes
SLACK_BYTES = 256 << 10  # what the program and we write beside the bytes


class Need(msgspec.Struct, gc=False):
    """What a run will ask of one file system; `folder` is a path on it that exists.

    `unsized` are files that come there whose size nobody says: `size_bytes` is without them.
    """

    folder: str
    size_bytes: int = 0
    inodes: int = 0
    unsized: int = 0

    def free(self) -> tuple[int, int]:
        """Free bytes and inodes for us now (a file system without inode limits says 0 of 0: plenty)."""
        status = os.statvfs(self.folder)
        inodes = status.f_favail if status.f_files else 1 << 60
        return status.f_bavail * status.f_frsize, inodes


def needs(
    store: Store, file_states: Sequence[FileState], lacking: set[str], copied: Collection[str] = ()
) -> list[Need]:
    """Add up, per file system, the bytes to fetch and to copy, and the files of unknown size.

    `lacking` are the keys without a sealed blob. They are taken from the set as they are met: there may be a million.
    `copied` are those that come from a store below, beside what was begun to be fetched of them.
    """
    found: dict[int, Need] = {}
    known: dict[str, Need] = {}

    def on(path: str) -> Need:
        folder = path.rpartition("/")[0]
        need = known.get(folder)
        if need is None:
            parent = existing_parent(path)
            need = known[folder] = found.setdefault(os.stat(parent).st_dev, Need(parent))
        return need

    begun = Begun(store)
    here = on(f"{store.path}/blobs")
    sealed, copy, auto = State.SEALED, Link.COPY, Link.AUTO  # each look-up in an Enum takes 50 ns
    for file_state in file_states:
        if file_state.may_be_right:
            continue  # what is right once it is read asks nothing of the disk
        wanted = file_state.wanted
        key, size = wanted.key, wanted.size or 0
        if key in lacking:
            lacking.remove(key)
            have = begun.copied_bytes(key) if key in copied else begun.fetched_bytes(key)
            if wanted.pieces and any(state is State.WRONG for _, state in file_state.states):
                have = size  # it is mended where it lies
            here.size_bytes += max(0, size - have)
            here.unsized += wanted.size is None
            here.inodes += INODES_PER_FILE
        # The states are those of the places, in their order; of the blob where it wants none.
        for place, (path, state) in zip(wanted.places, file_state.states, strict=False):
            if state is not sealed and not place.target:
                there = on(path)
                there.inodes += 1
                shares = place.link is not copy and not place.private and not place.unpack
                if not shares or (place.link is auto and there is not here):
                    there.size_bytes += size
                    there.unsized += wanted.size is None and there is not here
    return list(found.values())


def check_room(asked: Sequence[Need]) -> None:
    """See that everything fits.

    Raises:
        StoreError: it does not; says where, how much is asked and how much is free.
    """
    for need in asked:
        size, inodes = need.free()
        if need.size_bytes and need.size_bytes + SLACK_BYTES > size:
            raise StoreError(
                f"{need.folder}: {size_text(need.size_bytes)} required, {size_text(size)} free",
                f"free some space (`df -h {need.folder}`; `orch prune`, or all it can: `orch prune --keep 0s`), "
                "or choose another disk: --store DIR, or less: --only NAME",
            )
        if need.inodes > inodes:
            raise StoreError(
                f"{need.folder}: {need.inodes} inodes required, {inodes} free",
                f"remove some small files, or choose another disk (--store DIR): `df -i {need.folder}`",
            )


def with_partials(store: Store) -> set[str]:
    """The keys of what somebody began to fetch: one listing instead of a look a file."""
    try:
        return {name.removeprefix("sha256-") for name in os.listdir(f"{store.path}/partial")}
    except OSError:
        return set()


class Begun:
    """What is here of downloads that did not end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._alone = with_partials(store)
        self._bundled = partials.batch_remains(store)

    def fetched_bytes(self, key: str, is_usable: Callable[[str], bool] | None = None) -> int:
        """How many bytes of a file are in a partial of its own, or beside others that one program downloads.

        `is_usable` says of the folder of a partial whether it counts; None: each does.
        """
        if key not in self._alone:
            return self._bundled.get(key, 0)
        return partial_bytes(self._store, key, is_usable=is_usable)

    def resumable_bytes(self, key: str, sources: Sequence[Source]) -> int:
        """How many of a file's bytes its next download can go on with: none where no source supports ranges."""
        urls = {source.url for source in sources}
        return self.fetched_bytes(key, lambda folder: not urls.issubset(partials.info(folder).rangeless))

    def copied_bytes(self, key: str) -> int:
        """How many bytes of a file were copied up from a store below."""
        if key not in self._alone:
            return 0
        from orchestrator.transfer.copy_up import COPY  # imported here: few runs copy anything up

        return partial_bytes(self._store, key, COPY)


def partial_bytes(store: Store, key: str, name: str = "f", *, is_usable: Callable[[str], bool] | None = None) -> int:
    """Allocated bytes of the largest partial of this key whose folder `is_usable`: the disk has room for them."""
    parent, most = store.partials(key), 0
    with suppress(OSError):
        for folder in os.listdir(parent):
            with suppress(OSError):
                have = os.stat(f"{parent}/{folder}/{name}").st_blocks * 512
                most = have if have > most and (is_usable is None or is_usable(f"{parent}/{folder}")) else most
    return most


def existing_parent(path: str) -> str:
    """The nearest folder at or above `path` that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path
