"""Distinguish a full disk, and limits of this process, from faults of sources and programs."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.faults import Fault, Kind
from orchestrator.files import reason, store_error
from orchestrator.text import size_text

if TYPE_CHECKING:
    from orchestrator.store import Store

FULL_BYTES = 1 << 20
FEW_FILES = 64  # open files: with fewer programs fail in ways of their own
_UNEXPLAINED = (Kind.NETWORK, Kind.STALLED, Kind.BROKEN, Kind.UNRESUMABLE)  # as programs say it that were not told why


def refine_fault(fault: Fault, folder: str, longest: int) -> Fault:
    """Make a fault the disk's where a full disk or a limit explains it, whatever the program made of it.

    `longest` is the size of the longest file that the program wrote in `folder`, in bytes.

    Raises:
        OSError: the folder is gone.
    """
    if fault.slow or fault.errno or fault.kind not in (*_UNEXPLAINED, Kind.DISK):
        return fault
    number = _number(folder, longest)
    if not number and fault.kind is Kind.DISK and _has_few_descriptors():
        number = errno.EMFILE  # there is room: the program could open no file
    if not number:
        return fault
    why = os.strerror(number).lower()
    message = fault.message if why in fault.message.lower() else f"{fault.message} ({why})"
    return replace(fault, kind=Kind.DISK, message=message, errno=number)


def check_limit(store: Store, name: str, size: int | None) -> None:
    """Check that a file of `size` bytes may be written at all: some programs try for ever (setrlimit(2)).

    Raises:
        StoreError: this process may write no file of that size.
    """
    limit = _limit()
    if size is not None and limit is not None and size > limit:
        error = store_error(OSError(errno.EFBIG, os.strerror(errno.EFBIG)), store.path)
        raise StoreError(f"{name}: {size} bytes, and this process may write files of {limit} bytes at most", error.hint)


def lack_of_room(store: Store, size_bytes: int) -> str:
    """What is missing on the store's disk for the rest of a file, in words; empty where there is room.

    For a file of which only its source has told the size; other files may still fit.
    """
    status = os.statvfs(store.path)
    free_bytes = status.f_bavail * status.f_frsize
    if size_bytes <= free_bytes:
        return ""
    return f"{size_text(size_bytes)} required, {size_text(free_bytes)} free in {store.path}"


def no_room(store: Store, name: str, lack: str) -> StoreError:
    """The error of one file for which there is no room; `lack` is of `lack_of_room`."""
    hint = store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), store.path).hint
    return StoreError(f"{name}: {lack}", hint, of_one_file=True)


def fault_of(error: OSError, folder: str) -> Fault:
    """The fault of a disk that said no to us, in `folder` where the error does not say where."""
    return Fault(Kind.DISK, f"{error.filename or folder}: {reason(error)}", errno=error.errno or 0)


def full(store: Store, name: str, fault: Fault) -> StoreError:
    """Make the error for people out of a fault of the disk."""
    path, message = store.path, f"{name}: {fault.message}"
    if fault.errno:
        known = store_error(OSError(fault.errno, os.strerror(fault.errno)), path)
        return StoreError(message, fault.hint or known.hint, of_one_file=known.of_one_file)
    freeing = f"`orch prune`, or all it can: `orch prune --keep 0s`; `df -h {path}; df -i {path}; quota`"
    hint = f"free some space ({freeing}), or use another disk: --store DIR"
    return StoreError(message, fault.hint or hint)


def _number(folder: str, longest: int) -> int:
    """The errno that writing there gives now; 0 where it would do."""
    limit = _limit()
    if limit is not None and longest >= limit:
        return errno.EFBIG
    status = os.statvfs(folder)
    if status.f_bavail * status.f_frsize < FULL_BYTES or (status.f_files and not status.f_favail):
        return errno.ENOSPC
    return errno.EROFS if status.f_flag & os.ST_RDONLY else 0


def _has_few_descriptors() -> bool:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit != resource.RLIM_INFINITY and limit < FEW_FILES


def _limit() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
