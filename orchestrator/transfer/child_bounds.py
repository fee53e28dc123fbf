"""Kernel limits of a download program: the size of its files, and its memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.process import Bounds

if TYPE_CHECKING:
    from orchestrator.backends.base import Job

SLACK_BYTES = 4 << 20  # beyond a file's length: a program's state file and its words are bounded by the same limit
RESERVE_BYTES = 1 << 30  # of its disk a file of unknown length leaves so much to others, or the part RESERVE
RESERVE = 1 / 20
# Mapped, not used. Measured (VmPeak, 2 cores): aria2c 60 MiB with 64 connections and 84 MiB with 2,000 files, curl
# 29 MiB with 64 at once, wget 10 MiB; axel has a thread a connection, each with a stack of 8 MiB and, on a machine of
# many cores, an arena of 64 MiB: 1.5 GiB here for 64. aria2c keeps whatever a server calls its header.
_MEMORY_BYTES = {"aria2c": 1 << 30}
_USUAL_MEMORY_BYTES = 8 << 30


def child_bounds(program: str, job: Job, size_bytes: int | None) -> Bounds:
    """Return the bounds of a program for a job: of the longest of its files, or of the room where a length is unknown.

    Args:
        program: the backend's NAME.
        job: the job.
        size_bytes: the length of all its files together, where it is known; a program may not be told that of one.

    Raises:
        OSError: the job's folder is gone.
    """
    memory = _MEMORY_BYTES.get(program, _USUAL_MEMORY_BYTES)
    lengths = [want.length for want in job.wants if want.length is not None]
    longest = max(lengths) if len(lengths) == len(job.wants) else size_bytes
    if longest is not None:
        return Bounds(longest + SLACK_BYTES, memory)
    status = os.statvfs(job.folder)
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    have = max(want.have for want in job.wants)
    return Bounds(have + free - int(min(RESERVE_BYTES, free * RESERVE)), memory, is_room=True)
