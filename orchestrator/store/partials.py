"""Partials: one writer's unfinished bytes in a folder of its own, held by a guard: a lock that its program inherits.

`acquire` takes the partial of one file, `acquire_batch` a folder for many small files.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from orchestrator.errors import HeldError, Stopped
from orchestrator.files import NewFile
from orchestrator.folders import Folder, read_regular
from orchestrator.store import blobs, lease, locks, relay
from orchestrator.store.intake import copy_data, make_own
from orchestrator.store.store import (
    disk,
    file_mode,
    make_folder,
    open_file,
    open_there,
    open_to_read,
    replace_file,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator.store.locks import Guard
    from orchestrator.store.store import Store

Taken = TypeVar("Taken")
_MOST_BYTES = 1 << 26  # of a state file: aria2's has a bit for each piece, 128 KiB for a file of 1 TiB
_MOST_LENGTH = 1 << 63
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO)


@dataclass(slots=True)
class Info:
    """What is known of a partial's bytes, kept beside them in `info.json`.

    `backend` wrote them last; `length` is what the source said; `etags` maps a source's URL to the ETag under which it
    gave bytes, `modified` to its Last-Modified then; `sources` are the URLs that gave any, in order; `rangeless`
    those that last said that they support no ranges; `piece_bytes` of the last job. `repaired`: it was a wrong
    file, of which the bad pieces are to be fetched again. `adopted` is the path, inode and time of change
    (nanoseconds) of the user's unfinished download that its bytes are, or are to be. `condemned` maps a source's
    URL to when (seconds since the epoch) it gave wrong bytes of this file, and how they were wrong.
    """

    backend: str = ""
    length: int | None = None
    piece_bytes: int = 0
    etags: dict[str, str] = field(default_factory=dict)
    modified: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    rangeless: list[str] = field(default_factory=list)
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


def info(folder: str) -> Info:
    """Read what is known of a partial that may be another's; where it cannot be read nothing is known."""
    return _info_of(read_whole(f"{folder}/info.json"))


class WriterFolder:
    """One writer's folder: held by its guard, a lock that is free once writer and programs are gone, and a lease."""

    def __init__(self, folder: str, guard_fd: int, stop: threading.Event | None = None) -> None:
        """Take the folder whose guard this process holds; what works in it goes by its descriptor.

        Raises:
            OSError: it is gone, or another folder is there by now.
        """
        self.folder = folder
        self.guard_fd = guard_fd
        self._stop = stop
        self._is_discarded = False
        self._open = _open_guarded(folder, guard_fd)
        lease.sign(guard_fd)
        self._lease = lease.Lease(f"{folder}/guard", guard_fd)

    def is_lost(self) -> bool:
        """Whether another orch took the folder over, which it does where this process seemed dead for a long time."""
        return not self._is_discarded and self._lease.is_lost()

    def is_known_lost(self) -> bool:
        """Whether that was noticed already; asks nothing of the disk."""
        return self._lease.is_known_lost

    def close(self) -> None:
        """Let the guard go; the bytes stay for the next writer."""
        self._open.close()
        self._lease.close()

    def discard(self) -> None:
        """Remove the folder, and its parent where nobody else is in it; once a stop was asked for it may stay."""
        parent = os.path.dirname(self.folder)
        if self._lease.is_lost():  # what is left of it is the other's
            self.close()
            return
        self._is_discarded = True
        with suppress(OSError, Stopped):
            with locks.alone(parent, self._stop):
                self.clear()
                os.rmdir(self.folder)
            os.rmdir(parent)
        self.close()

    def clear(self) -> None:
        """Remove all that is in the folder.

        Raises:
            OSError: the disk said no.
        """
        _clear(self._open)


def _clear(folder: Folder) -> None:
    for name in os.listdir(folder.at()):
        _remove(folder, name)


def _remove(folder: Folder, name: str) -> None:
    path = folder.at(name)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        import shutil  # here and below: it loads three libraries of compression, and mostly a file is removed

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
            _remove(self._open, name)

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
        if self.is_lost() or self.have or self.info.condemned:
            self.close()
        else:
            self.discard()


def acquire(store: Store, key: str) -> Partial:
    """Take the right to write the bytes of `key` (a sha256, or an artifact's).

    The guard is a flock that the program inherits, so that it is free exactly when writer and programs are gone, and a
    lease, which decides where a flock proves nothing. Whoever takes a folder, or removes it, is alone in the key's.

    Returns:
        The partial, in a new folder or in a dead writer's, which is renamed; or copied, where that one may wake up.

    Raises:
        HeldError: another living orch (or its child) is downloading this now.
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    parent = store.partials(key)
    with disk(parent):
        for _, held in _held_folders(parent, store.state):
            raise held
    relay.withdraw(store.relay, key)  # a killed run left it: a partial with a second name would have to be copied
    return _take_alone(store, parent, lambda parent: _take(parent, store.stop))


def _take_alone(store: Store, parent: str, take: Callable[[str], Taken]) -> Taken:
    """Make a folder of writers where there is none, and `take` something in it while no other orch does."""
    with disk(parent):
        while True:
            make_folder(parent, private=True)
            with locks.alone(parent, store.stop) as still_there:
                if still_there:
                    return take(parent)


def _held_folders(parent: str, state: str) -> Iterator[tuple[str, HeldError]]:
    """The folders that living writers have, and who these are: waiting for them costs others nothing."""
    try:
        folders = locks.writer_folders(parent)
    except FileNotFoundError:
        return
    for folder in folders:
        try:
            held = locks.find_holder(folder, state)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            continue
        if held is not None:
            yield folder, held


def _guard_dead(parent: str, dead: list[Guard], held: Callable[[str, HeldError], None]) -> None:
    """Take the guards of all folders whose writers are gone, into `dead`; `held` is told of each that is in use.

    What is not ours to take over is left: a folder of another user, of a store that is not shared, or without a guard.
    """
    for folder in locks.writer_folders(parent):
        try:
            dead.append(locks.take_guard(folder))
        except HeldError as error:
            held(folder, error)
        except FileNotFoundError:  # moved away by one who judged its writer dead as well
            continue
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def _make_writer_folder(parent: str) -> Guard:
    folder = f"{parent}/{os.urandom(8).hex()}"
    make_folder(folder, private=True)
    return locks.take_guard(folder)


def _refuse(_: str, error: HeldError) -> None:
    raise error


def _take(parent: str, stop: threading.Event | None) -> Partial:
    guarded: list[Guard] = []
    mine: Guard | None = None
    try:
        _guard_dead(parent, guarded, _refuse)
        guarded.sort(key=lambda guard: _allocated(f"{guard.folder}/f"))
        best = guarded.pop() if guarded else None
        if best is not None:
            guarded.append(best := _moved(best))  # from now on its holder knows that it lost it
        if best is not None and best.is_proven:
            mine = guarded.pop()
            _own_all(mine.folder, mine.fd)
        else:
            mine = _make_writer_folder(parent)
            if best is not None:
                _copy_all(best.folder, mine.folder)
        partial = Partial(mine.folder, mine.fd, stop)
    except BaseException:
        for guard in guarded:  # or this process would wait for itself
            os.close(guard.fd)
        if mine is not None:
            lease.release(mine.fd)
        raise
    try:
        for dead in guarded:
            known = info(dead.folder).condemned
            partial.info.condemned = {**known, **partial.info.condemned}
        if guarded:
            partial.save_info()
    except BaseException:
        partial.close()
        for guard in guarded:
            os.close(guard.fd)
        raise
    for dead in guarded:
        _remove_dead(dead)
    return partial


def _moved(guard: Guard) -> Guard:
    folder = f"{os.path.dirname(guard.folder)}/{os.urandom(8).hex()}"
    os.rename(guard.folder, folder)
    return guard._replace(folder=folder)


def _copy_all(source: str, target: str) -> None:
    """Copy a writer's files to a folder of ours: he may wake up, and write on into his. The bytes come last."""
    for name in sorted(set(os.listdir(source)) - {"guard"}, key=lambda name: name == "f"):
        _copy(f"{source}/{name}", f"{target}/{name}")


def _copy(source: str, target: str) -> None:
    """Copy a regular file, which appears whole; nothing else, and nothing that cannot be read."""
    try:
        fd = open_to_read(source)
    except OSError as error:
        if error.errno not in (*_NOT_OURS, errno.ENOENT):
            raise
        return
    folder = os.path.dirname(target)
    try:
        with NewFile(folder) as new:
            os.fchmod(new.fd, file_mode(folder))
            if not blobs.clone_into(fd, new.fd):
                copy_data(fd, new.fd)
            new.publish(target, replace=True)
    finally:
        os.close(fd)


def _remove_dead(guard: Guard) -> None:
    try:
        inside = _open_guarded(guard.folder, guard.fd)
    except OSError:
        os.close(guard.fd)
        return
    with inside, suppress(OSError):
        _clear(inside)
        os.rmdir(guard.folder)
    os.close(guard.fd)


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
    with disk(store.bundles):
        held = _wanted_of_living(_held_folders(store.bundles, store.state), sizes)
    if held and len(held) == len(sizes):
        return None, held
    return _take_alone(store, store.bundles, lambda parent: _take_batch(parent, sizes, store.stop))


def _wanted_of_living(living: Iterable[tuple[str, HeldError]], sizes: Mapping[str, int]) -> dict[str, HeldError]:
    """Which of these keys living writers want, and who these are."""
    return {key: held for folder, held in living for key in sizes.keys() & _wanted_of(folder)}


def _take_batch(
    parent: str, sizes: Mapping[str, int], stop: threading.Event | None
) -> tuple[BatchFolder | None, dict[str, HeldError]]:
    living: list[tuple[str, HeldError]] = []
    dead: list[Guard] = []
    try:
        _guard_dead(parent, dead, lambda folder, error: living.append((folder, error)))
        held = _wanted_of_living(living, sizes)
        mine = {key: size for key, size in sizes.items() if key not in held}
        batch = _make_batch(parent, mine, stop) if mine else None
        if batch is not None:
            for guard in dead:
                with _open_guarded(guard.folder, guard.fd) as inside:
                    _inherit_files(inside, batch, mine, is_proven=guard.is_proven)
    finally:
        for guard in dead:
            os.close(guard.fd)
    return batch, held


def _make_batch(parent: str, keys: Mapping[str, int], stop: threading.Event | None) -> BatchFolder:
    guard = _make_writer_folder(parent)
    try:
        batch = BatchFolder(guard.folder, guard.fd, stop)
    except BaseException:
        lease.release(guard.fd)
        raise
    try:
        with open(f"{batch.folder}/wanted", "w", encoding="ascii", opener=open_file) as file:
            file.write("\n".join(keys))
    except BaseException:
        batch.close()
        raise
    return batch


def _wanted_of(folder: str) -> frozenset[str]:
    return frozenset((read_whole(f"{folder}/wanted") or b"").decode("ascii", "replace").split())


def _inherit_files(folder: Folder, batch: BatchFolder, sizes: Mapping[str, int], *, is_proven: bool) -> None:
    """Take over the whole files that a dead writer left; where nothing useful stays behind, its folder goes.

    They are copied where it is not proven that he is dead: he may write on.
    """
    others = False
    with os.scandir(folder.at()) as entries:
        found = list(entries)  # all at once: it changes under us
    for entry in found:
        size = sizes.get(entry.name)
        if size is None:
            others = others or _is_digest(entry.name)
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size == size:
            if is_proven:
                os.rename(entry.path, batch.file(entry.name))
                make_own(batch.file(entry.name))
            else:
                _copy(entry.path, batch.file(entry.name))
                os.unlink(entry.path)
        elif not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)  # so small that the rest of it is not worth a resume
    if not others:
        import shutil

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
