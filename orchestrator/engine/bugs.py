"""Unexpected errors, as errors that people can read: a disk's by its errno, a bug with its traceback kept."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from orchestrator.errors import BugError, OrchError
from orchestrator.files import place_error, store_error
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context

KEPT = 20  # files of tracebacks, the newest
MOST_BYTES = 256 << 10  # in one of them: one cause may meet a hundred thousand files
MOST_LETTERS = 500  # of an exception's own words, which may quote foreign bytes
REPORT = "please report it"
_paths: dict[str, str] = {}  # by folder: all tracebacks of one process go into one file


def foreseen(context: Context, store: str, error: Exception, places: Sequence[str] = ()) -> OrchError:
    """Say what an exception means to who reads it; `places` are the paths that were to be made.

    Only what is no trouble of the machine is a bug: its traceback is kept in the local state, and the hint names it.
    """
    if isinstance(error, OrchError):
        return error
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "memory")
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        error = OSError(errno.EAGAIN, "cannot start another thread", "threads")
    if isinstance(error, OSError):
        at = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        place = next((path for path in places if at and _beside(at, path)), None)
        return place_error(error, place) if place is not None else store_error(error, store)
    return bug(context, error)


def bug(context: Context, error: Exception) -> BugError:
    """Keep the traceback of an unforeseen error and name its file."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" at {os.path.basename(last.tb_frame.f_code.co_filename)}:{last.tb_lineno}" if last is not None else ""
    message = f"this is a bug in orch: {type(error).__name__}: {shown(str(error)[:MOST_LETTERS])}{where}"
    path = _keep(context, error)
    return BugError(message, f"{REPORT}, with {path}" if path else REPORT)


def _beside(path: str, place: str) -> bool:
    """Whether a path is the place, in it, or in its folder."""
    return path == place or path.startswith(f"{place}/") or os.path.dirname(path) == os.path.dirname(place)


def _keep(context: Context, error: Exception) -> str:
    """Append the traceback to this process's file of them; empty where the local state cannot be written."""
    import traceback

    folder = f"{context.state}/bugs"
    path = _paths.setdefault(folder, f"{folder}/{int(context.now())}-{os.getpid()}.txt")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.path.exists(path):
            for name in sorted(os.listdir(folder), key=_age)[: -KEPT + 1 or None]:
                os.unlink(f"{folder}/{name}")
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            if file.tell() < MOST_BYTES:
                file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return ""
    return path


def _age(name: str) -> tuple[int, str]:
    first = name.partition("-")[0]
    return (int(first) if first.isascii() and first.isdigit() else 0, name)
