"""What the system lets one process have: open files and threads; we ask for more, or do with less."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")

OPEN_FILES = 4096  # sane for children as well: some programs walk through all that they might have
_EACH = 20  # a file in work, a program asked: its look, its program, the judge behind it, its folder and its lock
_OURS = 16  # the standard ones, the store's locks, the record of runs, a module that is being imported
_STACK_BYTES = 1 << 20
_M_ARENA_MAX = -8  # mallopt(3)


def raise_own() -> None:
    """Raise this process's soft limit on open files towards its hard one; make threads cheap where memory is limited.

    For a process that is ours alone: children inherit it.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        import ctypes

        threading.stack_size(_STACK_BYTES)  # 8 MiB otherwise
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # glibc reserves 64 MiB a thread


def files_at_once(wanted: int) -> int:
    """How many of `wanted` may be in work at once with the open files that this process may still have; at least 1."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = 3
    return max(1, min(wanted, (soft - used - _OURS) // _EACH))


def start(threads: Sequence[threading.Thread]) -> int:
    """Start as many of these threads as the system lets us have, at least one.

    Returns:
        How many run.

    Raises:
        OSError: not even one (EAGAIN).
    """
    for number, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError:  # "can't start new thread"
            if number == 0:
                raise OSError(errno.EAGAIN, "cannot start a thread") from None
            return number
    return len(threads)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], name: str) -> list[Result]:
    """Do `work` for all items at once, each in a thread called `name`; for fewer at once where not so many can be.

    Raises:
        Exception: what the first of the items, in their order, raised.
    """
    left, done = list(range(len(items)))[::-1], {}
    errors: dict[int, BaseException] = {}

    def take() -> None:
        while True:
            try:
                at = left.pop()
            except IndexError:
                return
            try:
                done[at] = work(items[at])
            except BaseException as error:
                errors[at] = error

    threads = [threading.Thread(target=take, name=name, daemon=True) for _ in range(files_at_once(len(items)) - 1)]
    started = 0
    if threads:
        with suppress(OSError):
            started = start(threads)
    take()
    for thread in threads[:started]:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [done[at] for at in range(len(items))]
