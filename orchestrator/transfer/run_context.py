"""What all stages of one run share: made by the command, completed by `prepare`, handed down.

Structs, as all values on the road of a sync with nothing to do: see `events`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.model import Trust
from orchestrator.summary import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.context import Context
    from orchestrator.errors import OrchError
    from orchestrator.events import Event
    from orchestrator.model import Host, Wanted
    from orchestrator.programs import Program
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.store import Store
    from orchestrator.transfer.connections import ConnectionLimits
    from orchestrator.verify.check import Digests
    from orchestrator.verify.tools import ChecksumTool


class FirstSeen(msgspec.Struct, frozen=True):
    """What a file was when it first came: its digests, its source, and that version's ETag (empty: none)."""

    digests: Digests
    source: str
    etag: str


class Options(msgspec.Struct, frozen=True):
    """What a run may do; the contract's defaults.

    `backend` None: the best; `retries` bounds the rounds over all sources that bring nothing new; `stall_s` is the
    silence, in seconds, after which a program is ended; `wait` whether to wait for another orch that is fetching the
    same bytes; `adopt` overrules what the manifests say of right files that stand at their places already.
    """

    backend: str | None = None
    jobs: int = 4
    connections: int = 16
    retries: int = 5
    stall_s: float = 30.0
    offline: bool = False
    wait: bool = True
    force: bool = False
    adopt: Literal["copy", "move"] | None = None


class RunContext(msgspec.Struct, frozen=True):
    """The environment, store, hosts, options and counts of one run; `emit` takes its events.

    `findings`, where a caller gives one, takes what each fetched file turned out to be, by the artifact's key; pieces
    are hashed then. The rest is what `prepare` finds out for a run that fetches: `programs` by name, `judge` which
    reads large files (None: sha256sum does), `known` what the run knows of its sources, `limits` how many connections
    each host may get. `direct` are the hosts that did not redirect when one of their small files was asked for,
    `left_out` those of which it was told that no program here can serve them, `told` what else is told once a run.
    `trust` is the site file's.
    """

    context: Context
    store: Store
    emit: Callable[[Event], None]
    hosts: Mapping[str, Host] = msgspec.field(default_factory=dict)
    options: Options = Options()
    counts: Counts = msgspec.field(default_factory=Counts)
    findings: dict[str, FirstSeen] | None = None
    programs: Mapping[str, Program] = msgspec.field(default_factory=dict)
    judge: ChecksumTool | None = None
    known: SourceStats | None = None
    limits: ConnectionLimits | None = None
    direct: set[str] = msgspec.field(default_factory=set)
    left_out: set[str] = msgspec.field(default_factory=set)
    told: set[str] = msgspec.field(default_factory=set)
    trust: Trust = Trust()

    @property
    def connection_limits(self) -> ConnectionLimits:
        """How the files of this run share each host's connections; only a run that fetches has any."""
        assert self.limits is not None, "a run that fetches is prepared first"
        return self.limits

    @property
    def retries(self) -> int:
        """How many rounds over all sources may bring nothing new."""
        return self.options.retries

    @property
    def stall_s(self) -> float:
        """The silence in seconds after which a program is ended."""
        return self.options.stall_s

    @property
    def wait(self) -> bool:
        """Whether to wait for another orch that is fetching the same bytes."""
        return self.options.wait

    def fail(self, wanted: Wanted, error: OrchError) -> None:
        """Book one file's failure and tell it; nothing where it was told already what became of it."""
        if self.counts.book(wanted, "failed"):
            self.emit(self.counts.fail(wanted, error))
