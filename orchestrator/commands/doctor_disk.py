"""What a store's disk can do: tried on small files beside it, which go again."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.commands.doctor_check import FAIL, PASS, WARN, Check
from orchestrator.engine.disk_space import existing_parent, human
from orchestrator.errors import ExitCode
from orchestrator.store import blobs

if TYPE_CHECKING:
    from collections.abc import Iterator

LOW_BYTES, LOW_INODES = 1 << 30, 1000
_NS = 123_456_789


def store_checks(path: str) -> Iterator[Check]:
    """May it be made, may it be trusted, what can its disk do, is there room?"""
    if not path.isprintable():
        yield _failed(f"{path!r} has control characters in its name", "choose another one: --store DIR")
        return
    parent = existing_parent(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        yield _failed(f"{path} is not a folder", "choose another one: --store DIR")
        return
    if not os.access(parent, os.W_OK | os.X_OK):
        yield _failed(f"{path} cannot be {'written' if parent == path else 'made'}", f"ls -ld {parent}")
        return
    if parent == path and os.stat(path).st_mode & stat.S_IWOTH:
        yield _failed(f"{path} can be written by everyone, so its bytes prove nothing", f"chmod o-w {path}")
    else:
        yield Check("store", PASS, f"{path}  {'exists' if parent == path else 'will be made'}")
    try:
        folder = tempfile.mkdtemp(prefix=".orch-doctor-", dir=parent)
    except OSError as error:
        yield _failed(f"{parent}: {error.strerror}", f"df -h {parent}; df -i {parent}")
        return
    try:
        yield from _disk(folder)
    except OSError as error:
        yield _failed(f"{parent}: {error.strerror or error}", f"df -h {parent}; df -i {parent}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from _free(parent)


def _failed(message: str, hint: str) -> Check:
    return Check("store", FAIL, message, hint, ExitCode.STORE)


def _disk(folder: str) -> Iterator[Check]:
    """Rename, links and nanoseconds.

    Raises:
        OSError: not even a file can be written, or renamed.
    """
    first, second = f"{folder}/a", f"{folder}/b"
    with open(first, "wb") as file:
        file.write(b"x" * 65536)
        file.flush()
        os.fsync(file.fileno())
    os.rename(first, second)
    yield Check("rename", PASS, "works")
    try:
        os.link(second, first)
        yield Check("hard link", PASS, "works")
    except OSError as error:
        yield Check("hard link", WARN, f"{error.strerror}: places will be copies", "`link: symlink` saves the room")
    cloned = False
    with suppress(OSError):
        cloned = blobs.clone(second, f"{folder}/c")
    yield Check("reflink", PASS, "works" if cloned else "not on this file system; hard links or copies do")
    os.utime(second, ns=(0, 10**18 + _NS))
    kept = os.stat(second).st_mtime_ns % 10**9 == _NS
    seals = "kept" if kept else "not kept: seals stand in the local state of this host"
    yield Check("nanoseconds", PASS if kept else WARN, seals, "" if kept else "another disk: --store DIR")


def _free(parent: str) -> Iterator[Check]:
    status = os.statvfs(parent)
    size, inodes = status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None
    low = size < LOW_BYTES
    yield Check("space", WARN if low else PASS, f"{human(size)} free", f"df -h {parent}" if low else "")
    low = inodes is not None and inodes < LOW_INODES
    told = "no limit" if inodes is None else f"{inodes} free"
    yield Check("inodes", WARN if low else PASS, told, f"df -i {parent}" if low else "")
