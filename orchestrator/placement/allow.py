"""Enforce the manifest's `allow:`: refuse a file whose format, by its bytes, is not listed, before it is placed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError, Stopped
from orchestrator.formats.bounded import DamagedError

if TYPE_CHECKING:
    import threading

    from orchestrator.model import Wanted


LIMIT_S = 300.0  # for one file, and for each so many bytes of it a second more: a slow disk is no bomb
LIMIT_BYTES = 1 << 20


def check(path: str, wanted: Wanted, stop: threading.Event | None = None) -> None:
    """Check the format of a verified file against the formats that its manifest allows.

    Of an archive that is unpacked at every place, the members are checked instead.

    Raises:
        PlacementError: its format is not allowed, or it is of a second format too, or cannot be read.
        Stopped: a stop was asked for.
    """
    from orchestrator.formats.policy import refusal  # readers of all formats: 10 ms

    end = time.monotonic() + LIMIT_S

    def raise_if_stopped() -> None:
        if stop is not None and stop.is_set():
            raise Stopped("stopped while reading")
        if time.monotonic() > end + size / LIMIT_BYTES:
            raise DamagedError(f"reading it takes longer than {LIMIT_S + size / LIMIT_BYTES:.0f} s")

    unpacked = bool(wanted.places) and all(place.unpack for place in wanted.places)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            refused = refusal(file, size, wanted.allow, unpacked=unpacked, check_stop=raise_if_stopped)
    except OSError as error:
        raise PlacementError(f"cannot read {path}: {error.strerror}", f"look at it: `ls -l {path}`") from error
    if refused is None:
        return
    name, allowed = wanted.file or os.path.basename(path), ", ".join(wanted.allow)
    hint = "take a file in a format that is allowed"
    if refused.word:
        hint += f", or add `{refused.word}` to `allow:` in {wanted.manifest}"
    raise PlacementError(
        f"{name} is {refused.words}, and only {allowed} may be placed", hint, code="format-not-allowed"
    )
