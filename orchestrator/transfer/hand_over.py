"""A partial changes hands: the next program gets its own state for just the missing ranges, or a true prefix."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend, Job
    from orchestrator.transfer.partial import Holding


def hand_over(holding: Holding, backend: Backend, job: Job) -> Job:
    """Leave the partial as `backend` wants it, with no good byte lost that it can keep, and no foreign sidecar.

    Returns:
        The job, with the size of the file that it starts from.

    Raises:
        OSError: the disk said no.
    """
    partial, state = holding.partial, None
    missing, good = holding.missing(), holding.good_bytes()
    if missing is None:
        # Nobody knows the length: only a true prefix can be gone on from, and only by a program that appends.
        if good == 0 or backend.SIDECAR is not None:
            partial.empty()
    else:
        state = backend.sidecar(job, missing) if good else None
        if good == 0 and os.path.lexists(partial.file):
            os.unlink(partial.file)
        elif state is None and missing and partial.have > missing[0].start:
            os.truncate(partial.file, missing[0].start)
    partial.change_writer(backend.NAME, job.piece_bytes, backend.SIDECAR, state)
    return replace(job, wants=(replace(job.wants[0], have=partial.have),))
