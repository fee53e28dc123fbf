"""Partials: one writer's unfinished bytes in a folder of its own, held by a guard the child inherits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import msgspec

from orchestrator.store import guards
from orchestrator.store.layout import disk, make_folder, make_own, open_file

if TYPE_CHECKING:
    from orchestrator.store.layout import Store


@dataclass(slots=True)
class Info:
    """What is known of a partial's bytes, kept beside them in `info.json`.

    `backend` wrote them last; `length` is what the source said; `etags` maps a source's URL to the ETag under
    which it gave bytes; `sources` are the URLs that gave any, in order; `piece_bytes` of the last job. `mended`:
    it was a wrong file, of which the bad pieces are to be fetched again.
    """

    backend: str = ""
    length: int | None = None
    piece_bytes: int = 0
    etags: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    mended: bool = False


class Partial:
    """One writer's folder; `close` lets the guard go, `discard` removes the folder as well."""

    def __init__(self, folder: str, guard_fd: int) -> None:
        self.folder = folder
        self.guard_fd = guard_fd
        self.file = f"{folder}/f"  # short: programs add suffixes of up to 12 bytes
        self.info = self._read_info()

    @property
    def have(self) -> int:
        """Size of the file in bytes; says nothing about holes."""
        try:
            return os.stat(self.file).st_size
        except OSError:
            return 0

    def sidecar(self, suffix: str | None) -> bytes | None:
        """The program's state file, or None where there is none."""
        return read_whole(self.file + suffix) if suffix else None

    def kept_sidecar(self) -> bytes | None:
        """The last good copy of the state file (a full disk empties aria2c's)."""
        return read_whole(f"{self.folder}/good")

    def keep_sidecar(self, content: bytes) -> None:
        """Keep a good copy, written over the old one in place, so that a full disk has the room already."""
        fd = open_file(f"{self.folder}/good", os.O_WRONLY)
        try:
            _grow(fd, len(content))
            os.pwrite(fd, content, 0)
            os.ftruncate(fd, len(content))
        finally:
            os.close(fd)

    def write_sidecar(self, suffix: str | None, content: bytes | None) -> None:
        """Leave just this state file beside the partial: foreign and outdated ones go."""
        keep = {"f", "guard", "info.json", "stdout", "stderr"}
        for name in os.listdir(self.folder):
            if name not in keep:
                os.unlink(f"{self.folder}/{name}")
        if suffix and content is not None:
            with open(self.file + suffix, "wb") as file:
                file.write(content)
            self.keep_sidecar(content)

    def save_info(self) -> None:
        """Write `info.json` whole or not at all."""
        temporary = f"{self.folder}/info.new"
        with open(temporary, "w", encoding="ascii", opener=open_file) as file:
            json.dump(asdict(self.info), file)
        os.rename(temporary, f"{self.folder}/info.json")

    def _read_info(self) -> Info:
        try:
            return msgspec.json.decode(read_whole(f"{self.folder}/info.json") or b"{}", type=Info)
        except (msgspec.MsgspecError, ValueError):
            return Info()

    def empty(self) -> None:
        """Forget all bytes: the next attempt starts from the first."""
        if os.path.lexists(self.file):
            os.unlink(self.file)
        self.write_sidecar(None, None)
        self.info = Info()
        self.save_info()

    def close(self) -> None:
        """Let the guard go; the bytes stay for the next writer."""
        os.close(self.guard_fd)

    def discard(self) -> None:
        """Remove the folder, and its parent where nobody else is in it."""
        parent = os.path.dirname(self.folder)
        with suppress(OSError), guards.alone(parent):
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rmdir(parent)
        os.close(self.guard_fd)


def acquire(store: Store, key: str) -> Partial:
    """Take the right to write the bytes of `key` (a sha256, or an artifact's).

    Gives a new folder, or a dead writer's, adopted by renaming it.

    The guard is a flock that the child inherits: it is free exactly when the last of them is gone. Who scans
    and takes, or removes, is alone by a short flock on the digest's folder.

    Raises:
        HeldError: another live orch (or its child) on this host is fetching this now.
        StoreError: the disk said no.
    """
    parent = store.partials(key)
    with disk(parent):
        while True:
            make_folder(parent, private=True)
            with guards.alone(parent, store.stop) as still_there:
                if still_there:
                    return _take(parent)


def _take(parent: str) -> Partial:
    dead: list[tuple[str, int]] = []
    try:
        for name in os.listdir(parent):
            folder = f"{parent}/{name}"
            if os.path.islink(folder):
                continue  # planted: what it leads to is not ours to tidy
            try:
                dead.append((folder, guards.take(folder)))
            except PermissionError:
                continue  # another user's, of a store that is not shared: not ours to take over
    except BaseException:
        for _, fd in dead:
            os.close(fd)
        raise
    mine = f"{parent}/{secrets.token_hex(8)}"
    if not dead:
        make_folder(mine, private=True)
        return _enter(mine, guards.take(mine))
    dead.sort(key=lambda entry: _allocated(f"{entry[0]}/f"))
    best, guard = dead.pop()
    for folder, fd in dead:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)
    os.rename(best, mine)
    for name in set(os.listdir(mine)) - {"guard"}:
        make_own(f"{mine}/{name}")
    return _enter(mine, guard)


def _enter(folder: str, guard_fd: int) -> Partial:
    guards.sign(guard_fd)
    return Partial(folder, guard_fd)


def _grow(fd: int, size: int) -> None:
    """Have all the room before the first byte, or none: a write that ends half-way would spoil what was there."""
    before = os.fstat(fd).st_size
    if before >= size:
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.ftruncate(fd, before)
        raise


def _allocated(path: str) -> int:
    try:
        return os.stat(path).st_blocks
    except OSError:
        return -1


def read_whole(path: str) -> bytes | None:
    """Read a small file; None where it is not there, or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
