"""The locks of a store: shared by runs that add to it, exclusive for one that removes; and the guards of partials.

Each is a flock, by which processes on one host wait for each other and which their programs inherit, and a lease beside
it, which decides where locks prove nothing: on file systems without them, and between hosts.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import HeldError, Stopped
from orchestrator.store import lease
from orchestrator.store.store import NO_LOCKS, disk, hold, judge_store, locked, open_lock

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context
    from orchestrator.store.store import Store


POLL_S = 0.2
LONGER = "wait for it: leave out --no-wait, or give a longer --lock-wait"
# A child that another thread starts shares our open files, and their locks, from its fork to its exec: during that
# time a guard that nobody holds looks held. On a slow disk 3 of 80 syncs gave up ten files, "another orch (unknown)".
_FORK_S, _FORK_POLL_S = 2.0, 0.01
_LEASE = ".lease"
_OLD_S = 3600.0  # a lease that changed since is not even looked at by one who only joins: most live
_USER, _ALONE = ".turn-", ".turn-alone"  # the leases of runs that use a store, and of the one that removes from it


@contextmanager
def shared(context: Context, store: Store, tell: Callable[[str], None], *, wait_s: float = math.inf) -> Iterator[None]:
    """Hold the store's lock, shared with other runs that add to it; `tell` gets one line if we have to wait.

    Raises:
        HeldError: a run that removes something from the store has held it for `wait_s`.
        StoreError: the lock file cannot be made or opened.
        Stopped: a stop was asked for while waiting.
    """
    with _store_lock(context, store, fcntl.LOCK_SH, tell, wait_s=wait_s):
        yield


@contextmanager
def exclusive(
    context: Context, store: Store, tell: Callable[[str], None], *, wait_s: float = math.inf
) -> Iterator[None]:
    """Hold the store's lock alone, to remove something from it; `tell` gets one line if we have to wait.

    Raises:
        HeldError: another run has used the store for `wait_s`.
        StoreError: as `shared`, or somebody could change the store who is not trusted.
        Stopped: as `shared`.
    """
    judge_store(store.path, shared=store.shared)
    with _store_lock(context, store, fcntl.LOCK_EX, tell, wait_s=wait_s):
        yield


@contextmanager
def _store_lock(
    context: Context, store: Store, kind: int, tell: Callable[[str], None], *, wait_s: float
) -> Iterator[None]:
    mode = os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY  # as NFS requires
    with disk(store.path):
        fd = open_lock(f"{store.path}/.turn", mode)
    mine: lease.Lease | None = None
    told, end_s = False, context.monotonic() + wait_s
    try:
        while True:
            with disk(store.path):
                who = _lock_turn(fd, kind)
                if not who:
                    mine, who = (_join if kind == fcntl.LOCK_SH else _exclude)(store, mine)
            if not who:
                break
            who = f"{store.path} is in use by {who}"
            if context.monotonic() >= end_s:
                raise HeldError(who, LONGER)
            if not told:
                tell(f"waiting: {who}")
                told = True
            if context.sleep(POLL_S):
                raise Stopped("stopped while waiting for another orch")
        yield
    finally:
        if mine is not None:
            mine.close(unlink=True)
        os.close(fd)


def _lock_turn(fd: int, kind: int) -> str:
    """Take the flock of a store where there are any; who has it where somebody does."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return ", ".join(map(_command_of, holders(fd))) or "another orch"
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return ""


def _join(store: Store, _: lease.Lease | None) -> tuple[lease.Lease | None, str]:
    """Say that we use a store, then look whether somebody removes something from it; who that is."""
    mine = lease.create(f"{store.path}/{_USER}{os.urandom(8).hex()}")
    found = lease.look(f"{store.path}/{_ALONE}", store.state)
    if found is None or not found.is_alive:
        _users(store, _OLD_S)  # who never prunes would keep the leases of all runs that were killed
        return mine, ""
    if mine is not None:
        mine.close(unlink=True)
    return None, f"another orch ({found.who})"


def _exclude(store: Store, mine: lease.Lease | None) -> tuple[lease.Lease | None, str]:
    """Say that we remove something from a store, then look who uses it; the leases of dead ones go."""
    mine = mine or lease.take(f"{store.path}/{_ALONE}")
    if mine is None:
        found = lease.look(f"{store.path}/{_ALONE}", store.state)
        return None, f"another orch ({found.who if found else 'unknown'})"
    living = _users(store)
    return mine, f"another orch ({', '.join(sorted(set(living)))})" if living else ""


def _users(store: Store, unchanged_s: float = 0.0) -> list[str]:
    """Who uses a store, by the leases that have not changed for so long; those of dead ones go."""
    living = []
    for name in os.listdir(store.path):
        path = f"{store.path}/{name}"
        if not name.startswith(_USER) or name.startswith(_ALONE):
            continue
        with suppress(FileNotFoundError):
            if unchanged_s and time.time() - os.lstat(path).st_mtime < unchanged_s:
                continue
            found = lease.look(path, store.state)
            if found is not None and found.is_alive:
                living.append(found.who)
            elif found is not None:
                os.unlink(path)
    return living


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
    """Be alone in the folder that has the partials of one digest, by a flock on it and a lease in it.

    Yields:
        Whether the folder is still there: its last writer may have removed it before we had the lock.

    Raises:
        OSError: the disk said no.
        Stopped: a stop was asked for while another process held it.
    """
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        _hold(fd, stop)
        still_there = False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(parent), os.fstat(fd)):
                stack.enter_context(lease.held(f"{parent}/{_LEASE}", stop))
                still_there = True
        yield still_there


@contextmanager
def alone_with(path: str, stop: threading.Event | None) -> Iterator[None]:
    """Hold a lock file of the store alone, and a lease beside it. Raises as `alone`."""
    with locked(path, stop), lease.held(f"{path}{_LEASE}", stop):
        yield


def _hold(fd: int, stop: threading.Event | None) -> None:
    try:
        hold(fd, fcntl.LOCK_EX, stop)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def writer_folders(parent: str) -> list[str]:
    """The writers' folders in `parent`; symbolic links are ignored.

    Raises:
        OSError: it is missing, no folder, or a link.
    """
    if stat.S_ISLNK(os.lstat(parent).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent)
    with os.scandir(parent) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


class Guard(NamedTuple):
    """The guard of one writer's folder, locked by this process.

    `is_proven`: no process that wrote into the folder before can write any more.
    """

    folder: str
    fd: int
    is_proven: bool = True


def find_holder(folder: str, state: str) -> HeldError | None:
    """Look who writes into a folder, and take nothing; None where nobody does. `state` is that of the store.

    Raises:
        OSError: as `take_guard`.
    """
    with _entered(folder) as at:
        found = lease.look(f"{at}/guard", state)
    return _held_by(found) if found is not None and found.is_alive else None


def take_guard(folder: str) -> Guard:
    """Lock the guard of one writer's folder, which is free once the writer and its programs have ended.

    One that has no guard gets one. Whoever calls this is alone in the folder's parent.

    Raises:
        HeldError: another process writes there, or seems to.
        OSError: it is not a folder (or a link to one), or the disk failed.
    """
    end = time.monotonic() + _FORK_S
    while True:
        with _entered(folder) as at:
            found = lease.look(f"{at}/guard")
            if found is None:
                fd = lease.create_file(f"{at}/guard")
                if fd is not None:
                    return Guard(folder, fd)
            elif not found.is_alive:
                fd = open_lock(f"{at}/guard")
                if lease.try_lock(fd, fcntl.LOCK_EX) is not False:
                    lease.lock_beside(fd)
                    return Guard(folder, fd, found.is_proven)
                os.close(fd)  # somebody looks at it
            elif found.is_signed or not found.is_locked:
                raise _held_by(found)
        if time.monotonic() > end:
            raise _held_by(found)
        time.sleep(_FORK_POLL_S)


@contextmanager
def _entered(folder: str) -> Iterator[str]:
    """A path to a folder that no link leads away from."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield f"/proc/self/fd/{at}"
    finally:
        os.close(at)


def _held_by(found: lease.Finding | None) -> HeldError:
    who = found.who if found is not None else "unknown"
    return HeldError(f"another orch ({who}) is downloading this", LONGER)
