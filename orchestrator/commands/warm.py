"""`orch warm`: read weights into the page cache before they are needed, and verify them, as far as memory goes."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import scan
from orchestrator.errors import DigestError, Stopped, TransferError
from orchestrator.files import place_error
from orchestrator.summary import interrupted
from orchestrator.transfer.reading import Part, Several
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.events import Summary
    from orchestrator.model import Unresolved, Wanted
    from orchestrator.transfer.run_context import RunContext

_SPARED = 0.1  # of the free memory is left to others
_BATCH_BYTES, _BATCH_FILES = 1 << 30, 256  # of one sha256sum: a stop and the report come between two
_PROT_READ, _MAP_SHARED = 1, 1  # mmap(2)


class _Due(NamedTuple):
    """A file to be read: its sha256, its path and size."""

    wanted: Wanted
    sha256: str
    path: str
    size_bytes: int


def warm(
    run: RunContext, wanted: Sequence[Wanted], unresolved: Sequence[Unresolved] = (), *, free_bytes: int | None = None
) -> Summary:
    """Read every file that is in place, in the manifest's order, and say how much of it is in memory then.

    A file that is in memory already is not read. One for which there is no room is left out and told, and smaller ones
    behind it still come.

    Args:
        run: the run.
        wanted: the files.
        unresolved: models that need `orch lock` first.
        free_bytes: how much may be read at most; None: what this machine and this control group have free.

    Returns:
        The summary: 0, 5 where something is missing, 6 where bytes are wrong.
    """
    began, counts = run.context.monotonic(), run.counts
    wanted = weak_pins.with_known_sha256(run.store, wanted)
    counts.begin(wanted, unresolved, run.emit)
    left = _free_bytes(run.context.read) if free_bytes is None else free_bytes
    due: list[_Due] = []
    waiting = list(wanted)
    try:
        for state in scan(run.store, wanted):
            if run.context.stop.is_set():
                raise Stopped("stopped")
            waiting.remove(state.wanted)
            if not state.present:
                run.fail(
                    state.wanted, TransferError(f"{state.wanted.model}: not in place", "run `orch sync`", "absent")
                )
                continue
            counts.present += 1
            for each in _files(run, state):
                needed = each.size_bytes - (resident_bytes(each.path) or 0)
                if 0 < needed <= left:
                    left -= needed
                    due.append(each)
                else:
                    _tell(run, each)
        _read(run, due)
    except Stopped:
        for w in waiting:
            run.fail(w, interrupted())
    return counts.summary(run.context.monotonic() - began, stopped=run.context.stop.code)


def _files(run: RunContext, state: FileState) -> list[_Due]:
    """The files of one wanted file that somebody will read: one of each inode."""
    w = state.wanted
    found: dict[tuple[int, int], _Due] = {}
    pairs = [(w.sha256, path) for path in state.good]
    for place in w.places:
        if place.unpack:
            from orchestrator.store import tree_records

            pairs += [
                (digest, f"{place.path}/{name}") for name, (_, digest) in tree_records.read(run.store, w.sha256).items()
            ]
    for sha256, path in pairs or [(w.sha256, run.store.blob(w.sha256))]:
        with suppress(OSError):
            status = os.stat(path)
            found.setdefault((status.st_dev, status.st_ino), _Due(w, sha256, path, status.st_size))
    return list(found.values())


def _read(run: RunContext, due: Sequence[_Due]) -> None:
    """Let `sha256sum -c` read the files, some at a time, with the disk ahead of it."""
    batch: list[_Due] = []
    progress = Several(run.context, run.emit, "reading", sum(each.size_bytes for each in due))
    for number, each in enumerate(due):
        batch.append(each)
        is_full = len(batch) == _BATCH_FILES or sum(one.size_bytes for one in batch) >= _BATCH_BYTES
        if not is_full and number + 1 < len(due):
            continue
        for one in batch:
            with suppress(OSError):
                fd = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(fd)
        parts = [Part(one.wanted.model, one.wanted.file, one.size_bytes) for one in batch]
        with progress.batch(parts) as context:
            verdicts = check.check(context, [(one.sha256, one.path) for one in batch])
        for one, verdict in zip(batch, verdicts, strict=True):
            if verdict.is_good:
                _tell(run, one)
                continue
            run.counts.present -= 1
            if verdict.error is not None:
                run.fail(one.wanted, place_error(verdict.error, one.path))
            else:
                hint = "download it again: `orch verify --repair`"
                run.fail(one.wanted, DigestError(f"{one.path}: wrong bytes", hint, "corrupt"))
        batch = []
    progress.end()


def _tell(run: RunContext, each: _Due) -> None:
    resident = resident_bytes(each.path)
    run.emit(events.Warmed(each.wanted.model, each.wanted.file, each.path, each.size_bytes, resident))


def resident_bytes(path: str) -> int | None:
    """How many bytes of a file are in memory (mincore(2)); None where the kernel does not tell.

    Since Linux 5.2 it tells that only of files that this user owns or may write, and calls all others resident.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            return 0
        at = libc.mmap(None, size, _PROT_READ, _MAP_SHARED, fd, 0)
    finally:
        os.close(fd)
    if at in (None, ctypes.c_void_p(-1).value):
        return None
    try:
        pages = -(-size // mmap.PAGESIZE)
        vector = (ctypes.c_ubyte * pages)()
        if libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), vector):
            return None
        return min(size, sum(page & 1 for page in bytes(vector)) * mmap.PAGESIZE)
    finally:
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))


def _free_bytes(read: Callable[[str], str]) -> int:
    """The memory that files may take: what is available on this machine, and in this control group (cgroup v2)."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", read("/proc/meminfo"))
    free = int(found[1]) << 10 if found else 0
    group = re.search(r"^0::(/.*)$", read("/proc/self/cgroup"), re.M)
    folder = f"/sys/fs/cgroup{group[1]}" if group else ""
    while folder.startswith("/sys/fs/cgroup"):
        limit = read(f"{folder}/memory.max").strip()
        cached = re.search(r"^file (\d+)$", read(f"{folder}/memory.stat"), re.M)
        used = read(f"{folder}/memory.current").strip()
        if limit.isdigit() and used.isdigit():  # the cache in a group gives way to what is read now
            free = min(free, int(limit) - int(used) + (int(cached[1]) if cached else 0))
        folder = os.path.dirname(folder)
    return max(0, int(free * (1 - _SPARED)))
