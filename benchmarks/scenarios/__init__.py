"""The scenarios, by the names of the table that orch is measured by; one explicit tuple."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.scenarios import crash, hosts, large, limits, mixed, planning, repair, slow_disk, small, sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, the work, and the programs without which it cannot be measured."""

    name: str
    work: Callable[[Bench], None]
    needs: tuple[str, ...] = ()


SCENARIOS = (
    Scenario("P1", large.near, ("aria2c", "sha256sum")),
    Scenario("P2", large.far, ("aria2c", "sha256sum")),
    Scenario("P3", small.fetch, ("nginx", "curl", "sha256sum")),
    Scenario("P4", small.nothing_to_do, ("nginx", "sha256sum")),
    Scenario("P5", mixed.fetch, ("aria2c", "sha256sum")),
    Scenario("P6", crash.killed, ("sha256sum",)),
    Scenario("P7", sources.two, ("aria2c", "sha256sum")),
    Scenario("P8", sources.bad_ones_first, ("sha256sum",)),
    Scenario("P9", planning.plan),
    Scenario("P10", large.open_wire, ("nginx", "aria2c", "sha256sum")),
    Scenario("P1t", large.near_tls, ("nginx", "aria2c", "openssl", "sha256sum")),
    Scenario("P2t", large.far_tls, ("nginx", "aria2c", "openssl", "sha256sum")),
    Scenario("P10t", large.open_wire_tls, ("nginx", "aria2c", "openssl", "sha256sum")),
    Scenario("P11", repair.flipped, ("aria2c", "sha256sum")),
    Scenario("P12", hosts.down, ("nginx", "curl", "sha256sum")),
    Scenario("P13", slow_disk.durable, ("nginx", "sha256sum")),
    Scenario("P12B", limits.kept, ("aria2c", "curl", "sha256sum")),
)
