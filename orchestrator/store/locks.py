"""The locks of a store: shared by runs that add to it, exclusive for one that removes; and the guards of partials."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestrator.errors import HeldError, Stopped
from orchestrator.store.store import disk, hold, judge_store, open_lock

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context
    from orchestrator.store.store import Store


POLL_S = 0.2
# A child that another thread starts shares our open files, and their locks, from its fork to its exec: during that
# time a guard that nobody holds looks held. On a slow disk 3 of 80 syncs gave up ten files, "another orch (unknown)".
_FORK_S, _FORK_POLL_S = 2.0, 0.01
_SIGNATURE = re.compile("pid [0-9]{1,10}")


@contextmanager
def shared(context: Context, store: Store, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the store's lock, shared with other runs that add to it; `tell` gets one line if we have to wait.

    Raises:
        StoreError: the lock file cannot be made or opened.
        Stopped: a stop was asked for while waiting.
    """
    with _store_lock(context, store, fcntl.LOCK_SH, tell, wait=True):
        yield


@contextmanager
def exclusive(context: Context, store: Store, tell: Callable[[str], None], *, wait: bool) -> Iterator[None]:
    """Hold the store's lock alone, to remove something from it; `tell` gets one line if we have to wait.

    Raises:
        HeldError: another run uses the store, and `wait` is false.
        StoreError: as `shared`, or somebody could change the store who is not trusted.
        Stopped: as `shared`.
    """
    judge_store(store.path, shared=store.shared)
    with _store_lock(context, store, fcntl.LOCK_EX, tell, wait=wait):
        yield


@contextmanager
def _store_lock(
    context: Context, store: Store, kind: int, tell: Callable[[str], None], *, wait: bool
) -> Iterator[None]:
    mode = os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY  # as NFS requires
    with disk(store.path):
        fd = open_lock(f"{store.path}/.turn", mode)
    try:
        told = False
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                who = f"{store.path} is in use by {', '.join(map(_command_of, holders(fd))) or 'another orch'}"
            if not wait:
                raise HeldError(who, "wait for it, or leave out --no-wait")
            if not told:
                tell(f"waiting: {who}")
                told = True
            if context.sleep(POLL_S):
                raise Stopped("stopped while waiting for another orch")
        yield
    finally:
        os.close(fd)


def holders(fd: int) -> list[int]:
    """The ids of the processes on this host that hold a flock on an open file; empty where the kernel does not tell."""
    status = os.fstat(fd)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = []
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                # `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`; whoever waits has a `->` before FLOCK.
                words = line.split()
                if words[1] == "FLOCK" and words[5] == file and int(words[4]) > 0:
                    found.append(int(words[4]))
    except (OSError, ValueError, IndexError):
        return []
    return sorted(set(found) - {os.getpid()})


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    # What follows the interpreter and the script, or `-m orchestrator`: the command as its user typed it.
    for number, word in enumerate(words):
        if word == "orchestrator" or os.path.basename(word) == "orch":
            return f"`orch {' '.join(words[number + 1 :]).strip()}` (pid {pid})"
    return f"pid {pid}"


@contextmanager
def alone(parent: str, stop: threading.Event | None = None) -> Iterator[bool]:
    """Hold the flock on the folder that has the partials of one digest.

    Yields:
        Whether the folder is still there: its last writer may have removed it before we had the lock.

    Raises:
        Stopped: a stop was asked for while another process held it.
    """
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        hold(fd, fcntl.LOCK_EX, stop)
        try:
            still_there = os.path.samestat(os.lstat(parent), os.fstat(fd))
        except FileNotFoundError:
            still_there = False
        yield still_there
    finally:
        os.close(fd)


def writer_folders(parent: str) -> list[str]:
    """The writers' folders in `parent`; symbolic links are ignored.

    Raises:
        OSError: it is missing, no folder, or a link.
    """
    if stat.S_ISLNK(os.lstat(parent).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent)
    with os.scandir(parent) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def take_guard(folder: str) -> int:
    """Lock the guard file of one writer's folder: the lock is free exactly when the writer and its children have ended.

    Returns:
        The descriptor that holds the lock.

    Raises:
        HeldError: another process writes there.
        OSError: it is no folder (or a link to one), or the disk failed.
    """
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fd = open_lock(f"/proc/self/fd/{at}/guard")
    finally:
        os.close(at)
    try:
        _lock(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> None:
    end = time.monotonic() + _FORK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = ""
            with suppress(OSError):
                written = os.pread(fd, 64, 0).decode("ascii", "replace")
                holder = written if _SIGNATURE.fullmatch(written) else "unknown" if written else ""
            if holder or time.monotonic() > end:
                message = f"another orch ({holder or 'unknown'}) is fetching this"
                raise HeldError(message, "wait for it, or leave out --no-wait") from None
            time.sleep(_FORK_POLL_S)


def sign_guard(guard_fd: int) -> None:
    """Write our process id into a guard that we hold."""
    os.ftruncate(guard_fd, 0)
    os.pwrite(guard_fd, f"pid {os.getpid()}".encode(), 0)
