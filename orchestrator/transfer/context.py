"""What every transfer of one run shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.transfer.connections import ConnectionLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.model import Host
    from orchestrator.programs import Program
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.store import Store
    from orchestrator.verify.check import Digests
    from orchestrator.verify.tools import ChecksumTool


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """What a file was when it first came: its digests, its source, and that version's ETag (empty: none)."""

    digests: Digests
    source: str
    etag: str


@dataclass(frozen=True)
class RunContext:
    """The run's store, programs, hosts and limits.

    `connection_limits` shares connections among files; `judge` is the program that reads large files (None: sha256sum
    does); `retries` bounds the rounds over all sources that bring nothing new; `stall_s` is the silence, in seconds,
    after which a program is ended; `wait` whether to wait for another orch that is fetching the same bytes; `known`
    what the run knows of its sources; `left_out` are the hosts of which it was told that no program here can serve
    them, `told` what else is told once a run. `findings`, where a caller gives one, takes what each fetched file turned
    out to be, by the artifact's key; pieces are hashed then.
    """

    context: Context
    store: Store
    emit: Callable[[Event], None]
    programs: Mapping[str, Program] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    connection_limits: ConnectionLimits = field(default_factory=lambda: ConnectionLimits(16))
    judge: ChecksumTool | None = None
    retries: int = 5
    stall_s: float = 30.0
    wait: bool = True
    known: SourceStats | None = None
    left_out: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    findings: dict[str, FirstSeen] | None = None
