"""What all stages of one run share: made by the command, completed by `prepare`.

Structs, as all values on the road of a sync with nothing to do: see `events`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.model import Trust
from orchestrator.summary import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from orchestrator.bandwidth import RateRule
    from orchestrator.context import Context
    from orchestrator.errors import OrchError
    from orchestrator.events import Event
    from orchestrator.faults import Fault
    from orchestrator.model import Host, Swarm, Wanted
    from orchestrator.programs import Program
    from orchestrator.sources.knowledge import SourceStats
    from orchestrator.sources.route import Route
    from orchestrator.store import Store
    from orchestrator.store.below import BelowStores
    from orchestrator.transfer.connections import ConnectionLimits
    from orchestrator.transfer.rate_limit import RateLimit, Share
    from orchestrator.verify.check import Digests
    from orchestrator.verify.tools import ChecksumTool


class FirstSeen(msgspec.Struct, frozen=True):
    """What a file was when it first came: its digests, its source, and that version's ETag (empty: none)."""

    digests: Digests
    source: str
    etag: str


def _later(_: int | None) -> None:
    """Take note of another rate: the next start of the program gets it."""


class Options(msgspec.Struct, frozen=True):
    """The options of a run, with the defaults of the command line.

    Attributes:
        backend: name of the only downloader to use; None: the best one for each file.
        jobs: files to download at the same time.
        connections: maximum connections to a host, over all files.
        retries: rounds over all sources without a new byte, after which a file fails.
        stall_s: seconds without data after which a program is ended.
        wait_for_sources_s: seconds to wait for hosts that are down, after the retries.
        offline: do not use the network.
        lock_wait_s: seconds to wait for another orch that downloads the same file or changes the store.
        force: replace existing files that orch did not make; they go to quarantine.
        adopt: "copy" or "move" correct existing files into the store; None: as the manifests say.
        limit_rate: bytes a second of all downloads together, 0: no limit; None: as manifests and site file say.
        swarm: download large files together with other hosts.
        seed_time_s: seconds to keep sending while other hosts of the swarm lack pieces.
    """

    backend: str | None = None
    jobs: int = 4
    connections: int = 16
    retries: int = 5
    stall_s: float = 30.0
    wait_for_sources_s: float = 0.0
    offline: bool = False
    lock_wait_s: float = math.inf
    force: bool = False
    adopt: Literal["copy", "move"] | None = None
    limit_rate: int | None = None
    swarm: bool = False
    seed_time_s: float = 30.0


class RunContext(msgspec.Struct, frozen=True):
    """The environment, store, hosts, options and counts of one run; `emit` takes its events.

    `findings`, where a caller gives one, takes what each fetched file turned out to be, by the artifact's key; pieces
    are hashed then. The rest is what `prepare` finds out for a run that fetches: `programs` by name, `judge` gives the
    tool that reads large files (None: sha256sum does), `known` what the run knows of its sources, `limits` how many
    connections each host may get. `direct` are the hosts that did not redirect when one of their small files was asked
    for, `left_out` those of which it was told that no program here can serve them, `told` what else is told once a run.
    `trust` and `peers` are the site file's; `below` are the stores below, of a run that has work to do and knows any.
    `rate_rules` are the lists of rules of bandwidth, and `rate_limit` shares them out among the programs; None: there
    are none. `relays` are the peers that may be asked for unfinished files, `left_peers` those that are asked no more:
    they gave wrong bytes, or do not answer. `swarms` maps manifests to where hosts that fetch the same find each other;
    empty: it is not asked for.
    """

    context: Context
    store: Store
    emit: Callable[[Event], None]
    hosts: Mapping[str, Host] = msgspec.field(default_factory=dict)
    options: Options = Options()
    counts: Counts = msgspec.field(default_factory=Counts)
    findings: dict[str, FirstSeen] | None = None
    programs: Mapping[str, Program] = msgspec.field(default_factory=dict)
    judge: Callable[[], ChecksumTool] | None = None
    known: SourceStats | None = None
    limits: ConnectionLimits | None = None
    direct: set[str] = msgspec.field(default_factory=set)
    left_out: set[str] = msgspec.field(default_factory=set)
    told: set[str] = msgspec.field(default_factory=set)
    trust: Trust = Trust()
    below: BelowStores | None = None
    rate_rules: tuple[tuple[RateRule, ...], ...] = ()
    rate_limit: RateLimit | None = None
    peers: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()
    left_peers: set[str] = msgspec.field(default_factory=set)
    swarms: Mapping[str, Swarm] = msgspec.field(default_factory=dict)

    @property
    def connection_limits(self) -> ConnectionLimits:
        """How the files of this run share each host's connections; only a run that fetches has any."""
        assert self.limits is not None, "a run that fetches is prepared first"
        return self.limits

    def rate_share(
        self, *, resumes: bool, between: bool = False, change: Callable[[int | None], None] | None = None
    ) -> AbstractContextManager[Share | None]:
        """What a program that is about to start may take of the limit of bandwidth; None where there is none at all.

        Args:
            resumes: it may be ended and started again, and loses no byte by that.
            between: it is started many times, and its share is looked at between.
            change: tells it another rate while it runs.
        """
        limit, change = self.rate_limit, _later if between else change
        return nullcontext() if limit is None else limit.program(resumes=resumes, change=change)

    def can_run(self, backend: str) -> bool:
        """Whether a program is here, and may be used."""
        return backend in self.programs and self.programs[backend].usable

    def tell_health(
        self, host: str, route: Route, fault: Fault | None, *, files: int = 1, gained: bool = False
    ) -> None:
        """Let the run's other files know how an attempt at a host ended.

        Args:
            host: who was asked.
            route: how it was reached.
            fault: why it failed; None: it went well.
            files: how many files it failed for.
            gained: whether bytes came all the same.
        """
        if self.known is None:
            return
        most = min(route.connections or self.options.connections, self.options.connections)
        if fault is None:
            self.known.health.succeeded(host, connections=most)
        else:
            self.known.health.failed(host, fault, files=files, gained=gained, connections=most)

    def reading(
        self, doing: str, model: str, file: str, size_bytes: int | None, passes: int | None = None
    ) -> AbstractContextManager[Context]:
        """The context with which to read a file, so that what takes long is told: see `transfer.reading`."""
        from orchestrator.transfer.reading import told

        return told(self.context, self.emit, doing, model, file, size_bytes, passes)

    @property
    def retries(self) -> int:
        """How many rounds over all sources may bring nothing new."""
        return self.options.retries

    @property
    def stall_s(self) -> float:
        """The silence in seconds after which a program is ended."""
        return self.options.stall_s

    @property
    def lock_wait_s(self) -> float:
        """How many seconds to wait for another orch that is fetching the same bytes."""
        return self.options.lock_wait_s

    def fail(self, wanted: Wanted, error: OrchError, have_bytes: int = 0) -> None:
        """Book one file's failure and tell it; nothing where it was told already what became of it.

        `have_bytes` are here of it, where that is to be told.
        """
        if self.counts.book(wanted, "failed"):
            self.emit(self.counts.fail(wanted, error, self.context.stop.code, have_bytes=have_bytes))
