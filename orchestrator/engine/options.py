"""What a run may do."""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, frozen=True):
    """What a run may do; the contract's defaults. `backend` None: the best; `stall_s` silence that ends a program."""

    backend: str | None = None
    jobs: int = 4
    connections: int = 16
    retries: int = 5
    stall_s: float = 30.0
    offline: bool = False
    wait: bool = True
    force: bool = False
