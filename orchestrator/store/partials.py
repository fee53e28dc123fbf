"""Partials: one writer's unfinished bytes in a folder of its own, held by a guard that its program inherits.

`acquire` takes the partial of one file, `acquire_batch` a folder for many small files.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from orchestrator.errors import HeldError, Stopped
from orchestrator.folders import Folder, read_regular
from orchestrator.store import locks
from orchestrator.store.intake import make_own
from orchestrator.store.store import disk, make_folder, open_file, open_there, replace_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from orchestrator.store.store import Store

Taken = TypeVar("Taken")
_MOST_BYTES = 1 << 26  # of a state file: aria2's has a bit for each piece, 128 KiB for a file of 1 TiB
_MOST_LENGTH = 1 << 63
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO)


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


def _info_of(content: bytes | None) -> Info:
    """Decode the content of `info.json`; where it is damaged nothing is known."""
    try:
        info = msgspec.json.decode(content or b"{}", type=Info)
    except (ValueError, RecursionError):
        return Info()
    return info if all(0 <= number < _MOST_LENGTH for number in (info.length or 0, info.piece_bytes)) else Info()


class WriterFolder:
    """One writer's folder: held by a flock on its guard, which is free once the writer and its programs are gone."""

    def __init__(self, folder: str, guard_fd: int, stop: threading.Event | None = None) -> None:
        """Take the folder whose guard this process holds; what works in it goes by its descriptor.

        Raises:
            OSError: it is gone, or another folder is there by now.
        """
        self.folder = folder
        self.guard_fd = guard_fd
        self._stop = stop
        self._open = _open_guarded(folder, guard_fd)

    def close(self) -> None:
        """Let the guard go; the bytes stay for the next writer."""
        self._open.close()
        os.close(self.guard_fd)

    def discard(self) -> None:
        """Remove the folder, and its parent where nobody else is in it; once a stop was asked for it may stay."""
        parent = os.path.dirname(self.folder)
        with suppress(OSError, Stopped), locks.alone(parent, self._stop):
            self.clear()
            os.rmdir(self.folder)
            os.rmdir(parent)
        self.close()

    def clear(self) -> None:
        """Remove all that is in the folder.

        Raises:
            OSError: the disk said no.
        """
        for name in os.listdir(self._open.at()):
            self._remove(name)

    def _remove(self, name: str) -> None:
        path = self._open.at(name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)


class Partial(WriterFolder):
    """The unfinished bytes of one file; `release` closes or discards it, as is useful.

    Whatever changes it raises OSError where the disk says no.
    """

    def __init__(self, folder: str, guard_fd: int, stop: threading.Event | None = None) -> None:
        super().__init__(folder, guard_fd, stop)
        self.file = f"{folder}/f"  # short: programs add suffixes of up to 12 bytes
        self._saved = read_whole(self._open.at("info.json"))
        self.info = _info_of(self._saved)

    @property
    def have(self) -> int:
        """Size of the file in bytes; says nothing about holes."""
        try:
            return os.lstat(self.file).st_size
        except FileNotFoundError:  # any other error is the disk's: unreadable bytes are not none
            return 0

    def sidecar(self, suffix: str | None) -> bytes | None:
        """The program's state file, or None where there is none."""
        return read_whole(self._open.at(f"f{suffix}")) if suffix else None

    def kept_sidecar(self) -> bytes | None:
        """The last good copy of the state file (a full disk empties aria2c's)."""
        return read_whole(self._open.at("good"))

    def keep_sidecar(self, content: bytes) -> None:
        """Keep a good copy, written over the old one in place, so that a full disk has the room already."""
        fd = open_file(self._open.at("good"), os.O_WRONLY)
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
            replace_file(self._open.at(f"f{suffix}"), content)
            self.keep_sidecar(content)

    def _tidy(self, suffix: str | None) -> None:
        keep = {"f", "guard", "info.json", "stdout", "stderr", *((f"f{suffix}", "good") if suffix else ())}
        for name in set(os.listdir(self._open.at())) - keep:
            self._remove(name)

    def save_info(self) -> None:
        """Write `info.json` whole or not at all, on the disk when this returns; not where it says so already."""
        content = msgspec.json.encode(self.info)
        if content != self._saved:
            replace_file(self._open.at("info.json"), content)
            self._saved = content

    def open_file(self) -> int:
        """Open the file to read and write it; no link is followed."""
        return open_there(self._open.at("f"), os.O_RDWR)

    def remove_file(self) -> None:
        """Remove the file, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(self._open.at("f"))

    def empty(self) -> None:
        """Forget all bytes, but not who gave wrong ones: the next attempt starts from the first."""
        self.remove_file()
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
    return _take_alone(store, store.partials(key), lambda parent: _take(parent, store.stop))


def _take_alone(store: Store, parent: str, take: Callable[[str], Taken]) -> Taken:
    """Make a folder of writers where there is none, and `take` something in it while no other orch does."""
    with disk(parent):
        while True:
            make_folder(parent, private=True)
            with locks.alone(parent, store.stop) as still_there:
                if still_there:
                    return take(parent)


def _guard_dead(parent: str, dead: list[tuple[str, int]], held: Callable[[str, HeldError], None]) -> None:
    """Take the guards of all folders whose writers are gone, into `dead`; `held` is told of each that is in use.

    What is not ours to take over is left: a folder of another user, of a store that is not shared, or without a guard.
    """
    for folder in locks.writer_folders(parent):
        try:
            dead.append((folder, locks.take_guard(folder)))
        except HeldError as error:
            held(folder, error)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def _make_writer_folder(parent: str) -> tuple[str, int]:
    folder = f"{parent}/{secrets.token_hex(8)}"
    make_folder(folder, private=True)
    return folder, locks.take_guard(folder)


def _refuse(_: str, error: HeldError) -> None:
    raise error


def _take(parent: str, stop: threading.Event | None) -> Partial:
    guarded: list[tuple[str, int]] = []
    try:
        _guard_dead(parent, guarded, _refuse)
        guarded.sort(key=lambda entry: _allocated(f"{entry[0]}/f"))
        if guarded:
            mine = f"{parent}/{secrets.token_hex(8)}"
            os.rename(guarded[-1][0], mine)
            _own_all(mine, guarded[-1][1])
        else:
            guarded.append(_make_writer_folder(parent))
            mine = guarded[-1][0]
        locks.sign_guard(guarded[-1][1])
        partial = Partial(mine, guarded[-1][1], stop)
        for folder, _ in guarded[:-1]:
            known = _info_of(read_whole(f"{folder}/info.json")).condemned
            partial.info.condemned = {**known, **partial.info.condemned}
        if len(guarded) > 1:
            partial.save_info()
    except BaseException:
        for _, fd in guarded:  # or this process would wait for itself
            os.close(fd)
        raise
    for folder, fd in guarded[:-1]:
        _remove_dead(folder, fd)
    return partial


def _remove_dead(folder: str, guard_fd: int) -> None:
    try:
        dead = WriterFolder(folder, guard_fd)
    except OSError:
        os.close(guard_fd)
        return
    with suppress(OSError):
        dead.clear()
        os.rmdir(folder)
    dead.close()


def _own_all(folder: str, guard_fd: int) -> None:
    with _open_guarded(folder, guard_fd) as inside:
        for name in set(os.listdir(inside.at())) - {"guard"}:
            make_own(inside.at(name))


def _open_guarded(folder: str, guard_fd: int) -> Folder:
    """Open the folder whose guard this process holds.

    Raises:
        OSError: it is gone, or another folder is there by now.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = Folder(folder, os.open(folder, flags))
    try:
        if os.path.samestat(os.lstat(opened.at("guard")), os.fstat(guard_fd)):
            return opened
    except BaseException:
        opened.close()
        raise
    opened.close()
    raise OSError(errno.ESTALE, "another folder is there by now", folder)


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
        return os.lstat(path).st_blocks
    except OSError:
        return -1


def read_whole(path: str) -> bytes | None:
    """Read a small file; None where it is not there, is no regular file, or cannot be read."""
    try:
        return read_regular(path, _MOST_BYTES)
    except OSError:
        return None


class BatchFolder(WriterFolder):
    """The unfinished bytes of many small files, each under its digest."""

    def file(self, key: str) -> str:
        """Where the bytes of an artifact go, by its key."""
        return f"{self.folder}/{key}"

    def sizes(self) -> dict[str, int]:
        """What lies here, by name: the size of each file in bytes, by one listing."""
        with os.scandir(self._open.at()) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}


def acquire_batch(store: Store, sizes: Mapping[str, int]) -> tuple[BatchFolder | None, dict[str, HeldError]]:
    """Take the right to write the bytes of these keys, whose sizes (bytes) are known.

    Whole files of dead writers' batches move in, and are proof of nothing yet.

    Returns:
        The folder for all that nobody else is fetching (None where that is nothing), and who has the rest.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    return _take_alone(store, store.bundles, lambda parent: _take_batch(parent, sizes, store.stop))


def _take_batch(
    parent: str, sizes: Mapping[str, int], stop: threading.Event | None
) -> tuple[BatchFolder | None, dict[str, HeldError]]:
    held: dict[str, HeldError] = {}
    dead: list[tuple[str, int]] = []
    try:
        _guard_dead(
            parent, dead, lambda folder, error: held.update(dict.fromkeys(sizes.keys() & _wanted_of(folder), error))
        )
        mine = {key: size for key, size in sizes.items() if key not in held}
        batch = _make_batch(parent, mine, stop) if mine else None
        if batch is not None:
            for folder, fd in dead:
                with _open_guarded(folder, fd) as inside:
                    _inherit_files(inside, batch, mine)
    finally:
        for _, fd in dead:
            os.close(fd)
    return batch, held


def _make_batch(parent: str, keys: Mapping[str, int], stop: threading.Event | None) -> BatchFolder:
    folder, guard_fd = _make_writer_folder(parent)
    try:
        batch = BatchFolder(folder, guard_fd, stop)
    except BaseException:
        os.close(guard_fd)
        raise
    try:
        locks.sign_guard(batch.guard_fd)
        with open(f"{batch.folder}/wanted", "w", encoding="ascii", opener=open_file) as file:
            file.write("\n".join(keys))
    except BaseException:
        batch.close()
        raise
    return batch


def _wanted_of(folder: str) -> frozenset[str]:
    return frozenset((read_whole(f"{folder}/wanted") or b"").decode("ascii", "replace").split())


def _inherit_files(folder: Folder, batch: BatchFolder, sizes: Mapping[str, int]) -> None:
    """Take over the whole files that a dead writer left; where nothing useful stays behind, its folder goes."""
    others = False
    with os.scandir(folder.at()) as entries:
        found = list(entries)  # all at once: it changes under us
    for entry in found:
        size = sizes.get(entry.name)
        if size is None:
            others = others or _is_digest(entry.name)
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size == size:
            os.rename(entry.path, batch.file(entry.name))
            make_own(batch.file(entry.name))
        elif not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)  # so small that the rest of it is not worth a resume
    if not others:
        shutil.rmtree(folder.path, ignore_errors=True)


def batch_remains(store: Store) -> dict[str, int]:
    """All keys that some batch wants, and the bytes that lie there: what need not be asked of the disk again."""
    found: dict[str, int] = {}
    try:
        folders = locks.writer_folders(store.bundles)
    except OSError:
        return found
    for folder in folders:
        for key in _wanted_of(folder):
            found.setdefault(key, 0)
        with suppress(OSError), os.scandir(folder) as entries:
            digests = (entry for entry in entries if _is_digest(entry.name))
            found.update((each.name, each.stat(follow_symlinks=False).st_blocks * 512) for each in digests)
    return found


def _is_digest(name: str) -> bool:
    """Whether a name is a digest, or the key of a file of which only a weaker one is known."""
    return len(name) == 64 or name.startswith(("sha512-", "sha1-", "md5-", "git-"))
