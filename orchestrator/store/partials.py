"""Partials: one writer's unfinished bytes in a folder of its own, held by a guard that its program inherits.

`acquire` takes the partial of one file, `acquire_batch` a folder for many small files.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from orchestrator.errors import HeldError
from orchestrator.files import write_atomic
from orchestrator.store import locks
from orchestrator.store.intake import make_own
from orchestrator.store.store import disk, file_mode, make_folder, open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.store.store import Store

Taken = TypeVar("Taken")


@dataclass(slots=True)
class Info:
    """What is known of a partial's bytes, kept beside them in `info.json`.

    `backend` wrote them last; `length` is what the source said; `etags` maps a source's URL to the ETag under
    which it gave bytes, `modified` to its Last-Modified then; `sources` are the URLs that gave any, in order;
    `piece_bytes` of the last job. `repaired`: it was a wrong file, of which the bad pieces are to be fetched again.
    `adopted` is the path, inode and time of change (nanoseconds) of the user's unfinished download that its bytes are,
    or are to be. `condemned` maps a source's URL to when (seconds since the epoch) it gave wrong bytes of this file,
    and how they were wrong.
    """

    backend: str = ""
    length: int | None = None
    piece_bytes: int = 0
    etags: dict[str, str] = field(default_factory=dict)
    modified: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    repaired: bool = False
    adopted: tuple[str, int, int] | None = None
    condemned: dict[str, tuple[float, str]] = field(default_factory=dict)


class WriterFolder:
    """One writer's folder: held by a flock on its guard, which is free once the writer and its programs are gone."""

    def __init__(self, folder: str, guard_fd: int) -> None:
        self.folder = folder
        self.guard_fd = guard_fd

    def close(self) -> None:
        """Let the guard go; the bytes stay for the next writer."""
        os.close(self.guard_fd)

    def discard(self) -> None:
        """Remove the folder, and its parent where nobody else is in it."""
        parent = os.path.dirname(self.folder)
        with suppress(OSError), locks.alone(parent):
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rmdir(parent)
        os.close(self.guard_fd)


class Partial(WriterFolder):
    """The unfinished bytes of one file; `release` closes or discards it, as is useful.

    Whatever changes it raises OSError where the disk says no.
    """

    def __init__(self, folder: str, guard_fd: int) -> None:
        super().__init__(folder, guard_fd)
        self.file = f"{folder}/f"  # short: programs add suffixes of up to 12 bytes
        self._saved = read_whole(f"{folder}/info.json")
        self.info = self._read_info()

    @property
    def have(self) -> int:
        """Size of the file in bytes; says nothing about holes."""
        try:
            return os.stat(self.file).st_size
        except FileNotFoundError:  # any other error is the disk's: unreadable bytes are not none
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
        self._put(suffix, content)
        self._tidy(suffix if content is not None else None)

    def change_writer(self, backend: str, piece_bytes: int, suffix: str | None, state: bytes | None) -> None:
        """Make `backend` the writer, with its own state file (None: none).

        The new state is whole on the disk before the old one goes, and the name of the writer changes in between:
        a run that ends anywhere leaves bytes that one of the two still claims.
        """
        self._put(suffix, state)
        self.info.backend, self.info.piece_bytes = backend, piece_bytes
        self.save_info()
        self._tidy(suffix if state is not None else None)

    def _put(self, suffix: str | None, content: bytes | None) -> None:
        if suffix and content is not None:
            write_atomic(self.file + suffix, content)
            self.keep_sidecar(content)

    def _tidy(self, suffix: str | None) -> None:
        keep = {"f", "guard", "info.json", "stdout", "stderr", *((f"f{suffix}", "good") if suffix else ())}
        for name in os.listdir(self.folder):
            if name not in keep:
                os.unlink(f"{self.folder}/{name}")

    def save_info(self) -> None:
        """Write `info.json` whole or not at all, on the disk when this returns; not where it says so already."""
        content = msgspec.json.encode(self.info)
        if content != self._saved:
            write_atomic(f"{self.folder}/info.json", content, mode=file_mode(self.folder))
            self._saved = content

    def _read_info(self) -> Info:
        try:
            return msgspec.json.decode(self._saved or b"{}", type=Info)
        except (msgspec.MsgspecError, ValueError):
            return Info()

    def empty(self) -> None:
        """Forget all bytes, but not who gave wrong ones: the next attempt starts from the first."""
        if os.path.lexists(self.file):
            os.unlink(self.file)
        self.write_sidecar(None, None)
        self.info = Info(condemned=self.info.condemned)
        self.save_info()

    def release(self) -> None:
        """Close what has anything in it that a later run can use, and discard the rest."""
        if self.have or self.info.condemned:
            self.close()
        else:
            self.discard()


def acquire(store: Store, key: str) -> Partial:
    """Take the right to write the bytes of `key` (a sha256, or an artifact's).

    The guard is a flock that the program inherits: it is free exactly when writer and programs are gone. Whoever
    takes a folder, or removes it, is alone by a short flock on the key's folder.

    Returns:
        The partial, in a new folder or in a dead writer's, which is renamed.

    Raises:
        HeldError: another live orch (or its child) on this host is fetching this now.
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    return _take_alone(store, store.partials(key), _take)


def _take_alone(store: Store, parent: str, take: Callable[[str], Taken]) -> Taken:
    """Make a folder of writers where there is none, and `take` something in it while no other orch does."""
    with disk(parent):
        while True:
            make_folder(parent, private=True)
            with locks.alone(parent, store.stop) as still_there:
                if still_there:
                    return take(parent)


def _guard_dead(parent: str, dead: list[tuple[str, int]], held: Callable[[str, HeldError], None]) -> None:
    """Take the guards of all folders whose writers are gone, into `dead`; `held` is told of each that is in use."""
    for folder in locks.writer_folders(parent):
        try:
            dead.append((folder, locks.take_guard(folder)))
        except PermissionError:
            continue  # another user's, of a store that is not shared: not ours to take over
        except HeldError as error:
            held(folder, error)


def _make_writer_folder(parent: str) -> tuple[str, int]:
    folder = f"{parent}/{secrets.token_hex(8)}"
    make_folder(folder, private=True)
    return folder, locks.take_guard(folder)


def _refuse(_: str, error: HeldError) -> None:
    raise error


def _take(parent: str) -> Partial:
    guarded: list[tuple[str, int]] = []
    try:
        _guard_dead(parent, guarded, _refuse)
        guarded.sort(key=lambda entry: _allocated(f"{entry[0]}/f"))
        if guarded:
            mine = f"{parent}/{secrets.token_hex(8)}"
            os.rename(guarded[-1][0], mine)
            for name in set(os.listdir(mine)) - {"guard"}:
                make_own(f"{mine}/{name}")
        else:
            guarded.append(_make_writer_folder(parent))
            mine = guarded[-1][0]
        locks.sign_guard(guarded[-1][1])
        partial = Partial(mine, guarded[-1][1])
        for folder, fd in guarded[:-1]:
            partial.info.condemned = {**Partial(folder, fd).info.condemned, **partial.info.condemned}
        if len(guarded) > 1:
            partial.save_info()
    except BaseException:
        for _, fd in guarded:  # or this process would wait for itself
            os.close(fd)
        raise
    for folder, fd in guarded[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)
    return partial


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


class BatchFolder(WriterFolder):
    """The unfinished bytes of many small files, each under its digest."""

    def file(self, key: str) -> str:
        """Where the bytes of an artifact go, by its key."""
        return f"{self.folder}/{key}"

    def sizes(self) -> dict[str, int]:
        """What lies here, by name: the size of each file in bytes, by one listing."""
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}


def acquire_batch(store: Store, sizes: Mapping[str, int]) -> tuple[BatchFolder | None, dict[str, HeldError]]:
    """Take the right to write the bytes of these keys, whose sizes (bytes) are known.

    Whole files of dead writers' batches move in, and are proof of nothing yet.

    Returns:
        The folder for all that nobody else is fetching (None where that is nothing), and who has the rest.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    return _take_alone(store, store.bundles, lambda parent: _take_batch(parent, sizes))


def _take_batch(parent: str, sizes: Mapping[str, int]) -> tuple[BatchFolder | None, dict[str, HeldError]]:
    held: dict[str, HeldError] = {}
    dead: list[tuple[str, int]] = []
    try:
        _guard_dead(
            parent, dead, lambda folder, error: held.update(dict.fromkeys(sizes.keys() & _wanted_of(folder), error))
        )
        mine = {key: size for key, size in sizes.items() if key not in held}
        batch = _make_batch(parent, mine) if mine else None
        if batch is not None:
            for folder, _ in dead:
                _inherit_files(folder, batch, mine)
    finally:
        for _, fd in dead:
            os.close(fd)
    return batch, held


def _make_batch(parent: str, keys: Mapping[str, int]) -> BatchFolder:
    batch = BatchFolder(*_make_writer_folder(parent))
    try:
        locks.sign_guard(batch.guard_fd)
        with open(f"{batch.folder}/wanted", "w", encoding="ascii", opener=open_file) as file:
            file.write("\n".join(keys))
    except BaseException:
        batch.close()
        raise
    return batch


def _wanted_of(folder: str) -> frozenset[str]:
    try:
        with open(f"{folder}/wanted", encoding="ascii", errors="replace") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def _inherit_files(folder: str, batch: BatchFolder, sizes: Mapping[str, int]) -> None:
    """Take over the whole files that a dead writer left; where nothing useful stays behind, its folder goes."""
    others = False
    for entry in list(os.scandir(folder)):  # all at once: it changes under us
        size = sizes.get(entry.name)
        if size is None:
            others = others or _is_digest(entry.name)
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size == size:
            os.rename(entry.path, batch.file(entry.name))
            make_own(batch.file(entry.name))
        else:
            os.unlink(entry.path)  # so small that the rest of it is not worth a resume
    if not others:
        shutil.rmtree(folder, ignore_errors=True)


def batch_remains(store: Store) -> dict[str, int]:
    """All keys that some batch wants, and the bytes that lie there: what need not be asked of the disk again."""
    found: dict[str, int] = {}
    try:
        folders = [entry.path for entry in os.scandir(store.bundles)]
    except OSError:
        return found
    for folder in folders:
        for key in _wanted_of(folder):
            found.setdefault(key, 0)
        with suppress(OSError):
            found.update((e.name, e.stat().st_blocks * 512) for e in os.scandir(folder) if _is_digest(e.name))
    return found


def _is_digest(name: str) -> bool:
    """Whether a name is a digest, or the key of a file of which only a weaker one is known."""
    return len(name) == 64 or name.startswith(("sha512-", "sha1-", "md5-", "git-"))
