"""What failures make of a host, by a clock that the test sets: closed, probed, back, busy, gone."""

from __future__ import annotations

import pytest

from orchestrator.faults import Fault, Kind, from_status
from orchestrator.sources.host_health import HostHealth, backoff_s, probe_timeout_s

HOST, OTHER = "http://a:80", "http://b:80"
REFUSED = Fault(Kind.NETWORK, "connection refused", refused_connection=True)
UNKNOWN = Fault(Kind.NETWORK, "cannot resolve a", unresolved=True)
SILENT = Fault(Kind.STALLED, "stalled")


class World:
    """A clock, and the health of hosts by it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.health = HostHealth(lambda: self.now_s)

    def fail(self, fault: Fault, times: int = 1, **how: int | bool) -> None:
        for _ in range(times):
            self.health.failed(HOST, fault, **how)

    def probe(self, fault: Fault | None = REFUSED, took_s: float = 0.0) -> None:
        """Wait until a probe is due, and let it end so."""
        self.now_s += self.health.probe_due_s(HOST)
        began_s, self.now_s = self.now_s, self.now_s + took_s
        self.health.probed(HOST, fault, began_s=began_s)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("fault", [REFUSED, UNKNOWN, SILENT], ids=["refused", "unknown", "silent"])
def test_two_failures_close_a_host_and_no_other(world: World, fault: Fault) -> None:
    world.fail(fault)
    assert not world.health.is_closed(HOST)
    world.fail(fault)
    assert world.health.is_closed(HOST)
    assert world.health.is_down(HOST)
    assert not world.health.is_closed(OTHER)


def test_a_batch_is_as_many_failures_as_it_has_files(world: World) -> None:
    world.fail(REFUSED, files=500)
    assert world.health.is_closed(HOST)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.NETWORK, "connection lost"),
        Fault(Kind.STALLED, "slower than half of b", slow=True),
        Fault(Kind.TLS, "certificate"),
        from_status(404),
        from_status(500),
        from_status(503),
    ],
    ids=lambda fault: fault.message,
)
def test_what_is_one_files_matter_closes_nothing(world: World, fault: Fault) -> None:
    world.fail(fault, 9)
    assert not world.health.is_closed(HOST)


def test_a_host_that_gave_something_in_between_is_not_down(world: World) -> None:
    world.fail(SILENT)
    world.fail(SILENT, gained=True)
    world.fail(SILENT)
    world.fail(from_status(404))
    world.fail(SILENT)
    assert not world.health.is_closed(HOST)


def test_probes_come_later_and_later_and_the_first_answer_opens_the_host(world: World) -> None:
    world.fail(REFUSED, 2)
    dues = []
    for _ in range(5):
        dues.append(world.health.probe_due_s(HOST))
        world.probe()
    assert dues == pytest.approx([backoff_s(n) for n in range(1, 6)])
    assert 4 < sum(dues) < 6
    world.probe(from_status(404))  # whatever it says
    assert not world.health.is_closed(HOST)
    world.fail(REFUSED)
    assert not world.health.is_closed(HOST)  # it takes two again


def test_silence_that_a_probe_listened_to_was_a_wait(world: World) -> None:
    world.fail(SILENT, 2)
    world.probe(SILENT, took_s=5.0)
    assert world.health.probe_due_s(HOST) == 0


@pytest.mark.parametrize(("retries", "wait_s", "over_after"), [(5, 0.0, 5), (0, 0.0, 0), (100, 0.0, 100)])
def test_a_host_is_given_up_after_as_many_probes_as_retries(
    world: World, retries: int, wait_s: float, over_after: int
) -> None:
    world.fail(REFUSED, 2)
    probes = 0
    while not world.health.is_over(HOST, retries=retries, wait_s=wait_s):
        world.probe()
        probes += 1
    assert probes == over_after
    world.health.give_up(HOST)
    assert world.health.is_gone(HOST)
    assert not world.health.is_closed(HOST)


def test_a_host_that_is_waited_for_is_probed_until_the_time_is_over(world: World) -> None:
    world.fail(REFUSED, 2)
    began_s = world.now_s
    while not world.health.is_over(HOST, retries=5, wait_s=1800):
        assert world.health.is_waited_for(HOST, 1800)
        world.probe()
    assert 1800 <= world.now_s - began_s < 1820
    assert not world.health.is_waited_for(HOST, 1800)


def test_files_are_the_probe_where_nobody_else_can_ask(world: World) -> None:
    world.fail(REFUSED, 2)
    world.health.try_files(HOST)
    assert not world.health.is_closed(HOST)
    assert not world.health.is_over(HOST, retries=1, wait_s=0)
    world.fail(REFUSED)  # one is enough, and counts as a probe
    assert world.health.is_down(HOST)
    assert world.health.is_over(HOST, retries=1, wait_s=0)


@pytest.mark.parametrize(
    ("fault", "for_s"),
    [
        (from_status(429, 55.0), 55.0),
        (from_status(429), 1.0),
        (from_status(503, 7.0), 7.0),
        (from_status(429, 1e9), 300.0),
    ],
)
def test_a_busy_host_is_closed_for_all_files_as_long_as_it_asks(world: World, fault: Fault, for_s: float) -> None:
    world.fail(fault)
    assert world.health.is_closed(HOST)
    assert not world.health.is_down(HOST)  # it is not probed: it said when
    world.now_s += for_s - 0.1
    assert world.health.is_closed(HOST)
    world.now_s += 0.2
    assert not world.health.is_closed(HOST)


def test_a_host_that_says_429_again_and_again_is_asked_ever_later(world: World) -> None:
    waits = []
    for _ in range(6):
        world.fail(from_status(429), 3)  # three files at the same moment are one complaint
        waits.append(world.health.opens_in_s(HOST))
        world.now_s += waits[-1] + 0.1
    assert waits == pytest.approx([1, 2, 4, 8, 15, 15])


def test_a_host_that_is_busy_is_given_up_after_more_complaints_than_retries_or_two_minutes(world: World) -> None:
    world.fail(from_status(429, 300.0))
    world.now_s += 290  # it said for how long: that long it is believed
    assert not world.health.is_over(HOST, retries=5, wait_s=0)
    world.now_s += 20
    world.fail(from_status(429, 10.0))
    assert world.health.is_over(HOST, retries=5, wait_s=0)
    assert not world.health.is_over(HOST, retries=5, wait_s=1800)
    world.health.succeeded(HOST)
    for _ in range(3):
        assert not world.health.is_over(HOST, retries=2, wait_s=0)
        world.now_s += 11
        world.fail(from_status(429, 1.0))
    assert world.health.is_over(HOST, retries=2, wait_s=0)


def test_connections_are_halved_by_a_429_and_come_back_one_by_one(world: World) -> None:
    limits = []

    def note() -> None:
        limits.append(world.health.limit(HOST, None))
        world.now_s += 10

    note()
    for _ in range(5):
        world.fail(from_status(429), 4, connections=8)
        note()
    for _ in range(7):
        world.health.succeeded(HOST, connections=8)
        note()
    assert limits == [None, 4, 2, 1, 1, 1, 2, 3, 4, 5, 6, 7, None]
    assert world.health.limit(OTHER, 6) == 6
    world.fail(from_status(429), connections=8)
    assert world.health.limit(HOST, 2) == 2  # a manifest's limit holds all the same


def test_each_outage_is_told_once(world: World) -> None:
    world.fail(UNKNOWN, 5)
    assert world.health.newly_closed() == [HOST]
    assert world.health.reason(HOST) == "cannot resolve a:80"
    world.fail(UNKNOWN, 5)
    assert world.health.newly_closed() == []
    world.health.answered(HOST)
    world.fail(REFUSED, 5)
    assert world.health.newly_closed() == [HOST]
    assert world.health.reason(HOST) == "cannot connect to a:80: connection refused"


def test_a_silent_hosts_probes_cost_one_stall_together() -> None:
    assert 5 * probe_timeout_s(30.0) <= 30.0
    assert 5 * probe_timeout_s(3.0) <= 3.0 + 5.0
    assert probe_timeout_s(600.0) == 10.0


def flow(world: World, connections: int, rate: float, *, also: int = 0, size: int | None = 1 << 40) -> None:
    """A program that fetches for 7 s at a rate, beside one that never writes."""
    with world.health.flowing(HOST, connections, size) as note, world.health.flowing(HOST, also, 1 << 40):
        for second in range(7):
            note(int(second * rate))
            world.now_s += 1


def test_connections_that_choke_a_host_are_halved_and_come_back_slowly(world: World) -> None:
    flow(world, 4, 8e6)
    flow(world, 16, 3e6)
    assert world.health.limit(HOST, None) is None  # slower, but no collapse
    flow(world, 16, 1e6)
    assert world.health.limit(HOST, None) == 8
    flow(world, 16, 1e6)  # it began before
    assert world.health.limit(HOST, None) == 8
    flow(world, 8, 1e6)
    assert world.health.limit(HOST, None) == 4
    flow(world, 4, 1e6)  # so it was not the connections: nobody with fewer was faster
    assert world.health.limit(HOST, None) == 4
    world.health.succeeded(HOST, connections=16)
    assert world.health.limit(HOST, None) == 5


def test_what_several_programs_fetch_is_summed_up(world: World) -> None:
    flow(world, 4, 8e6)
    flow(world, 4, 1e6, also=4)
    assert world.health.limit(HOST, None) == 4


def test_programs_that_look_alike_are_told_apart(world: World) -> None:
    with world.health.flowing(HOST, 4, 1 << 40) as first:
        with world.health.flowing(HOST, 4, 1 << 40) as second:
            first(5)
            second(5)
        first(9)


@pytest.mark.parametrize("size", [None, 0, 3_000_000], ids=["small files", "nothing", "its tail"])
def test_what_tells_nothing_of_a_host_is_no_measure(world: World, size: int | None) -> None:
    flow(world, 4, 8e6)
    flow(world, 16, 1e6, size=size)
    assert world.health.limit(HOST, None) is None
