"""Who may write where: a guard that a writer's children inherit, and a short moment alone in a folder."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestrator.errors import HeldError
from orchestrator.store.layout import hold, open_lock

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

# A child that another thread starts has all that we have open, locks too, from its fork to its exec: for so long a
# guard that nobody holds looks held. Seen on a slow disk: 3 of 80 syncs gave up ten files, "another orch (unknown)".
_FORK_S, _POLL_S = 2.0, 0.01


@contextmanager
def alone(parent: str, stop: threading.Event | None = None) -> Iterator[bool]:
    """Hold the flock on a folder of writers; false where its last writer removed it before we had it.

    Raises:
        Stopped: a stop was asked for while another held it.
    """
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        hold(fd, fcntl.LOCK_EX, stop)
        try:
            still_there = os.path.samestat(os.stat(parent), os.fstat(fd))
        except FileNotFoundError:
            still_there = False
        yield still_there
    finally:
        os.close(fd)


def writers(parent: str) -> list[str]:
    """The folders below `parent`: a link that somebody put among them is no writer's, and is not followed."""
    with os.scandir(parent) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def take(folder: str) -> int:
    """Take the guard of one writer's folder: a flock, free exactly when the writer and its children are gone.

    Raises:
        HeldError: somebody is writing there.
        OSError: it is no folder (a link to one is none), or the disk said no.
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
                holder = os.pread(fd, 64, 0).decode("ascii", "replace")
            if holder or time.monotonic() > end:
                message = f"another orch ({holder or 'unknown'}) is fetching this"
                raise HeldError(message, "wait for it, or leave out --no-wait") from None
            time.sleep(_POLL_S)


def sign(guard_fd: int) -> None:
    """Say in a guard who has it now."""
    os.ftruncate(guard_fd, 0)
    os.pwrite(guard_fd, f"pid {os.getpid()}".encode(), 0)
