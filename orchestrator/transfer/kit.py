"""What every transfer of one run shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.events import Event
    from orchestrator.model import Host
    from orchestrator.programs import Program
    from orchestrator.store import Store
    from orchestrator.world import World


@dataclass(frozen=True)
class Kit:
    """The run's store, programs, hosts and limits.

    `connections` is what one transfer may open; `stall_s` the silence after which a program is ended; `wait`
    whether to wait for another orch that is fetching the same bytes; `left_out` are the hosts of which it was
    told that no program here can serve them.
    """

    world: World
    store: Store
    emit: Callable[[Event], None]
    programs: Mapping[str, Program] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    connections: int = 16
    retries: int = 5
    stall_s: float = 30.0
    wait: bool = True
    left_out: set[str] = field(default_factory=set)
