"""The system's limits on one process, open files and threads: raise them, or work on fewer files at once."""

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

OPEN_FILES = 4096  # not more: children inherit the limit, and some loop over every descriptor that they may have
_EACH = 20  # descriptors of one file in work: its probe, program, checksum program, folder and lock
_OURS = 16  # descriptors besides: the standard ones, the store's locks, the run log, a module being imported
_STACK_BYTES = 1 << 20
_M_ARENA_MAX = -8  # mallopt(3)


def raise_own() -> None:
    """Raise this process's soft limit on open files; give threads small stacks where memory is limited.

    Only for orch's own process, and not for a program that imports orch: children inherit the limit.
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
    """Return how many of `wanted` files can be in work at once with the descriptors left to us; at least 1."""
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
    """Start as many of these threads, in their order, as the system allows.

    Returns:
        How many were started, at least one.

    Raises:
        OSError: not even one could be started (EAGAIN).
    """
    for number, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError:  # "can't start new thread"
            if number == 0:
                raise OSError(errno.EAGAIN, "cannot start a thread") from None
            return number
    return len(threads)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], name: str, most: int | None = None
) -> list[Result]:
    """Call `work` for all items at once, in threads called `name`; for fewer at once where the limits demand it.

    `most` is for how many at once (None: all).

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: what `work` raised for the first failed item, in the order of the items.
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

    count = files_at_once(len(items) if most is None else min(most, len(items)))
    threads = [threading.Thread(target=take, name=name, daemon=True) for _ in range(count - 1)]
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
