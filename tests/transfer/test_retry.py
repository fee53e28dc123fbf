"""What is tried next, as tables, and the law that any history of faults ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backends import BACKENDS
from orchestrator.backends.select import SMALL_BYTES, Requirements, rank
from orchestrator.faults import REMEDIES, Fault, Kind, Remedy, from_status
from orchestrator.transfer.retry import (
    MAX_RETRY_AFTER_S,
    MIN_GAIN_BYTES,
    Attempt,
    Await,
    GiveUp,
    Try,
    final_fault,
    next_step,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B = "http://a/f", "http://b/f"
ONE = {A: ("aria2c", "curl", "wget")}
TWO = {A: ("aria2c", "curl", "wget"), B: ("aria2c", "curl", "wget")}
MIB = 1 << 20
INSTANT = ("refused_connection", "unresolved")


def fault(kind: Kind | str, **more: object) -> Fault:
    kind = Kind(kind)
    return Fault(kind, f"it was {kind.value}", **more)  # type: ignore[arg-type]


def tried(source: str, kind: Kind | str, backend: str = "aria2c", **how: object) -> Attempt:
    about = {name: how.pop(name) for name in ("retry_after_s", *INSTANT) if name in how}
    return Attempt(backend, source, fault(kind, **about), **how)  # type: ignore[arg-type]


def step(options: dict[str, tuple[str, ...]], *past: Attempt, **how: object) -> Try | GiveUp:
    return next_step(options, past, **how)  # type: ignore[arg-type]


def test_the_first_step_is_the_best_source_by_the_best_backend():
    assert step(TWO) == Try("aria2c", A)
    assert step({A: (), B: ("curl",)}) == Try("curl", B)
    assert step({}) == GiveUp(None)
    assert step({A: ()}) == GiveUp(None)


@pytest.mark.parametrize(
    ("kind", "with_another_source", "alone"),
    [
        ("network", Try("aria2c", B), Try("aria2c", A, 1.0)),
        ("stalled", Try("aria2c", B), Try("aria2c", A, 1.0)),
        ("busy", Try("aria2c", B), Try("aria2c", A, 1.0)),
        ("expired", Try("aria2c", B), Try("aria2c", A, 1.0)),
        ("missing", Try("aria2c", B), GiveUp(fault("missing"))),
        ("corrupt", Try("aria2c", B), GiveUp(fault("corrupt"))),
        ("tls", Try("aria2c", B), GiveUp(fault("tls"))),
        ("refused", Try("curl", A), Try("curl", A)),
        ("unresumable", Try("aria2c", B), Try("aria2c", A, afresh=True)),
        ("broken", Try("curl", A), Try("curl", A)),
        ("disk", GiveUp(fault("disk")), GiveUp(fault("disk"))),
    ],
)
def test_each_fault_has_its_remedy(kind, with_another_source, alone):
    assert step(TWO, tried(A, kind)) == with_another_source
    assert step(ONE, tried(A, kind)) == alone


def test_every_kind_has_a_remedy():
    assert set(REMEDIES) == set(Kind)
    assert set(REMEDIES.values()) == set(Remedy)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((s, "refused") for s in (400, 401, 402, 403, 405, 407, 418, 451)),
        *((s, "missing") for s in (404, 410)),
        *((s, "busy") for s in (408, 425, 429, 502, 503, 504)),
        *((s, "network") for s in (500, 501, 507, 520, 599)),
        (416, "unresumable"),
    ],
)
def test_each_status_is_a_fault(status, kind):
    found = from_status(status, 7.0)
    assert (found.kind.value, found.status) == (kind, status)
    assert found.retry_after_s == (7.0 if kind == "busy" else None)


@pytest.mark.parametrize(
    ("options", "past", "then"),
    [
        # refused: the next program; the source is out once a second one was refused too
        (TWO, [tried(A, "refused"), tried(A, "refused", "curl")], Try("aria2c", B)),
        (ONE, [tried(A, "refused"), tried(A, "refused", "curl")], GiveUp(fault("refused"))),
        (ONE, [tried(A, "refused"), tried(A, "network", "curl")], Try("curl", A, 1.0)),
        (TWO, [tried(A, "refused"), tried(B, "refused", "curl")], Try("curl", A)),
        # broken: for every source
        (TWO, [tried(A, "broken"), tried(A, "missing", "curl")], Try("curl", B)),
        (ONE, [tried(A, "broken", b) for b in ONE[A]], GiveUp(fault("broken"))),
        # a source that is out stays out
        (TWO, [tried(A, "missing"), tried(B, "network")], Try("aria2c", B, 1.0)),
        (TWO, [tried(A, "corrupt"), tried(B, "network", gained_bytes=MIB)], Try("aria2c", B)),
        # unresumable: the other source, then from the first byte, once
        (TWO, [tried(A, "unresumable"), tried(B, "unresumable")], Try("aria2c", A, afresh=True)),
        (TWO, [tried(A, "unresumable"), tried(B, "missing")], Try("aria2c", A, afresh=True)),
        (TWO, [tried(A, "unresumable"), tried(B, "network")], Try("aria2c", B, 1.0)),
        (ONE, [tried(A, "unresumable"), tried(A, "unresumable", afresh=True)], GiveUp(fault("unresumable"))),
        (
            TWO,
            [tried(A, "unresumable"), tried(B, "unresumable"), tried(A, "unresumable", afresh=True)],
            GiveUp(fault("unresumable")),
        ),
        # what began afresh may be resumed, also by the others
        (
            TWO,
            [tried(A, "unresumable"), tried(B, "unresumable"), tried(A, "network", afresh=True)],
            Try("aria2c", B),
        ),
        (ONE, [tried(A, "unresumable"), tried(A, "network", afresh=True)], Try("aria2c", A, 1.0)),
        # wrong bytes are told before whatever came later
        (TWO, [tried(A, "corrupt"), tried(B, "missing")], GiveUp(fault("corrupt"))),
        (TWO, [tried(A, "missing"), tried(B, "tls")], GiveUp(fault("tls"))),
        # a full disk ends all, at once
        (TWO, [tried(A, "network"), tried(B, "disk")], GiveUp(fault("disk"))),
    ],
)
def test_histories(options, past, then):
    assert step(options, *past) == then


def left(source: str, **how: object) -> Attempt:
    return Attempt("aria2c", source, Fault(Kind.STALLED, "slower than half of b", slow=True), **how)  # type: ignore[arg-type]


def test_a_slow_source_is_taken_again_only_when_the_others_fail_and_fail():
    slow = left(A, gained_bytes=MIB)
    cut = tried(B, "network", gained_bytes=MIB)
    assert step(TWO, slow) == Try("aria2c", B)
    assert step(TWO, slow, cut) == Try("aria2c", B)  # not back to the slow one for a cut
    assert step(TWO, slow, cut, tried(B, "network")) == Try("curl", B, 2.0)
    assert step(TWO, slow, *[tried(B, "network")] * 4) == Try("wget", B, 8.0)
    assert step(TWO, slow, *[tried(B, "network")] * 5) == Try("aria2c", A)
    assert step(TWO, slow, tried(B, "missing")) == Try("aria2c", A)
    assert step(TWO, slow, cut, tried(B, "busy", retry_after_s=60.0)) == Try("aria2c", A)
    assert step({A: ("aria2c",), B: (), "http://c/f": ("curl",)}, slow) == Try("curl", "http://c/f")


def test_a_signed_url_that_ended_on_the_way_is_no_failure():
    ended = tried(A, "expired", gained_bytes=MIB)
    assert step(TWO, ended) == Try("aria2c", A)
    assert step(TWO, *[ended] * 100) == Try("aria2c", A)
    assert step(TWO, tried(A, "network"), ended) == Try("aria2c", A)  # though B was not tried yet
    assert step(TWO, tried(A, "network"), tried(B, "network"), ended) == Try("aria2c", A)
    assert step(TWO, ended, tried(A, "network")) == Try("aria2c", B)
    assert step(ONE, ended, tried(A, "expired")) == Try("aria2c", A, 1.0)  # nothing gained: a failure like others
    assert step(ONE, *[tried(A, "expired")] * 6) == GiveUp(fault("expired"))
    assert step(TWO, ended, tried(A, "missing")) == Try("aria2c", B)


def test_a_refused_connection_is_tried_again_as_often_as_asked_for_and_sooner():
    steps = waits(ONE, refused_connection=True)
    assert [(s.backend, round(s.wait_s, 2)) for s in steps] == [
        ("aria2c", 0.0),
        ("aria2c", 0.3),
        ("curl", 0.48),
        ("curl", 0.77),
        ("wget", 1.23),
        ("wget", 1.97),
    ]
    assert len(waits(ONE, refused_connection=True, retries=12)) == 13
    closed = tried(A, "network", refused_connection=True)
    assert step(TWO, closed, tried(B, "network")) == Try("aria2c", A, 0.3)
    assert step(ONE, closed, tried(A, "network")) == Try("curl", A, 2.0)


def test_no_program_is_blamed_for_a_name_without_an_address():
    assert [s.backend for s in waits(ONE, unresolved=True)] == ["aria2c"] * 6


def test_sources_at_closed_hosts_are_left_out_and_waited_for_when_no_other_is_left():
    assert step(TWO, closed=[A]) == Try("aria2c", B)
    assert step(TWO, tried(B, "network"), closed=[A]) == Try("aria2c", B, 1.0)
    assert step(TWO, tried(B, "missing"), closed=[A]) == Await((A,))
    assert step(TWO, closed=[A, B]) == Await((A, B))
    assert step(TWO, tried(B, "unresumable"), closed=[A]) == Await((A,), fallback=True)
    assert step(TWO, tried(A, "missing"), tried(B, "unresumable"), closed=[B]) == Await((B,))
    assert step(ONE, tried(A, "missing"), closed=[A]) == GiveUp(fault("missing"))
    assert step(ONE, *[tried(A, "stalled")] * 6, closed=[A]) == GiveUp(fault("stalled"))


def test_hosts_that_are_waited_for_take_from_no_budget():
    down = [tried(A, "network", refused_connection=True)] * 9
    assert step(ONE, *down) == GiveUp(down[0].fault)
    then = step(ONE, *down, is_patient=True)
    assert isinstance(then, Try)
    assert then.wait_s > 10  # but not at once
    assert step(ONE, *[tried(A, "network")] * 9, is_patient=True) == GiveUp(fault("network"))


def waits(options: dict[str, tuple[str, ...]], kind: str = "network", **how: object) -> list[Try]:
    """All steps until the end when each fails the same way."""
    past: list[Attempt] = []
    steps: list[Try] = []
    about = {name: how.pop(name) for name in INSTANT if name in how}
    while isinstance(then := step(options, *past, **how), Try):
        steps.append(then)
        past.append(tried(then.source, kind, then.backend, waited_s=then.wait_s, afresh=then.afresh, **about))
    assert then == GiveUp(past[-1].fault)
    return steps


def test_waits_double_and_the_backend_changes_after_two_idle_failures():
    assert waits(ONE) == [
        Try("aria2c", A),
        Try("aria2c", A, 1.0),
        Try("curl", A, 2.0),
        Try("curl", A, 4.0),
        Try("wget", A, 8.0),
        Try("wget", A, 15.0),
    ]
    assert len(waits(ONE, retries=0)) == 1
    assert [s.backend for s in waits({A: ("curl",)})] == ["curl"] * 6


def test_no_wait_before_every_source_was_tried():
    assert [(s.source, s.wait_s) for s in waits(TWO, retries=1)] == [(A, 0), (B, 0), (A, 1.0), (B, 1.0)]


def test_jitter_spreads_the_waits():
    assert step(ONE, tried(A, "network"), jitter=0.0) == Try("aria2c", A, 0.75)
    late = step(ONE, *[tried(A, "network")] * 5, jitter=0.999)
    assert isinstance(late, Try)
    assert 18 < late.wait_s < 18.75


@pytest.mark.parametrize(
    ("asked_s", "waited_s"), [(0.0, 1.0), (0.5, 1.0), (60.0, 60.0), (300.0, 300.0), (1e9, 300.0), (float("inf"), 300.0)]
)
def test_retry_after_is_obeyed_up_to_five_minutes(asked_s, waited_s):
    assert step(ONE, tried(A, "busy", retry_after_s=asked_s)) == Try("aria2c", A, waited_s)


def test_retry_after_is_for_the_source_that_said_it():
    busy = tried(A, "busy", retry_after_s=60.0)
    assert step(TWO, busy, tried(B, "network")) == Try("aria2c", B, 1.0)
    assert step(TWO, busy, tried(B, "missing")) == Try("aria2c", A, 60.0)
    assert step(ONE, busy, tried(A, "network", waited_s=60.0)) == Try("curl", A, 2.0)


def test_retry_after_holds_although_another_source_made_progress():
    busy = tried(A, "busy", retry_after_s=60.0)
    assert step(TWO, busy, tried(B, "network", gained_bytes=MIB)) == Try("aria2c", B)
    assert step(TWO, busy, tried(B, "missing", gained_bytes=MIB)) == Try("aria2c", A, 60.0)


def test_two_minutes_of_waiting_in_a_row_are_enough():
    busy = tried(A, "busy", retry_after_s=100.0)
    again = tried(A, "busy", retry_after_s=100.0, waited_s=100.0)
    assert step(ONE, busy, again) == Try("curl", A, 100.0)
    assert step(ONE, busy, again, again) == GiveUp(busy.fault)
    progress = tried(A, "busy", retry_after_s=100.0, waited_s=100.0, gained_bytes=MIB)
    assert step(ONE, busy, again, progress) == Try("aria2c", A, 100.0)


def test_who_waited_enough_for_one_may_still_begin_anew_at_another():
    busy = tried(B, "busy", retry_after_s=300.0)
    past = [tried(A, "unresumable"), busy, tried(B, "busy", waited_s=300.0)]
    assert step(TWO, *past) == Try("aria2c", A, afresh=True)
    assert step(TWO, *past, tried(A, "network", afresh=True)) == GiveUp(fault("network"))


def test_no_wait_after_new_bytes():
    """A server whose answers are short is at work: 100 answers are not 100 seconds."""
    short = tried(A, "network", gained_bytes=MIB)
    assert step(ONE, *[short] * 100) == Try("aria2c", A)
    assert step(TWO, short) == Try("aria2c", B)
    assert step(TWO, tried(B, "network"), short) == Try("aria2c", A)
    assert step(ONE, short, tried(A, "network")) == Try("curl", A, 2.0)
    assert step(ONE, tried(A, "busy", retry_after_s=7.0, gained_bytes=MIB)) == Try("aria2c", A, 7.0)
    assert step(ONE, short, retries=0) == GiveUp(short.fault)


def test_progress_refills_the_budget_and_a_trickle_does_not():
    stuck = [tried(A, "network")] * 5
    assert step(ONE, *stuck, tried(A, "network")) == GiveUp(fault("network"))
    assert step(ONE, *stuck, tried(A, "network", gained_bytes=MIN_GAIN_BYTES)) == Try("aria2c", A)
    assert step(ONE, *stuck, tried(A, "network", gained_bytes=MIN_GAIN_BYTES - 1)) == GiveUp(fault("network"))


# -- the law

BACKEND_NAMES = ("aria2c", "axel", "curl", "wget")
OPTIONS = st.dictionaries(
    st.sampled_from([f"http://{n}/f" for n in range(5)]),
    st.lists(st.sampled_from(BACKEND_NAMES), unique=True, max_size=4).map(tuple),
    max_size=5,
)
FAULTS = st.builds(
    Fault,
    st.sampled_from(list(Kind)),
    st.just("x"),
    retry_after_s=st.none() | st.floats(0, 1e9),
    refused_connection=st.booleans(),
    unresolved=st.booleans(),
    slow=st.booleans(),
    mendable=st.booleans(),
)
NO_ENDERS = FAULTS.filter(lambda fault: fault.kind in (Kind.NETWORK, Kind.BUSY, Kind.UNRESUMABLE, Kind.STALLED))


class Rules:
    """What is out by now, judged apart from the code under test."""

    def __init__(self) -> None:
        self.sources: set[str] = set()
        self.backends: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()
        self.afresh = 0

    def fold(self, attempt: Attempt) -> None:
        kind, source = attempt.fault.kind, attempt.source
        self.afresh += attempt.afresh
        if kind in (Kind.MISSING, Kind.CORRUPT, Kind.TLS) and not (kind is Kind.CORRUPT and attempt.fault.mendable):
            self.sources.add(source)
        if kind is Kind.BROKEN:
            self.backends.add(attempt.backend)
        if kind is Kind.REFUSED:
            self.pairs.add((source, attempt.backend))
            if len([pair for pair in self.pairs if pair[0] == source]) > 1:
                self.sources.add(source)

    def judge(self, then: Try, options: dict[str, tuple[str, ...]], past: Sequence[Attempt]) -> None:
        assert then.backend in options[then.source]
        assert then.source not in self.sources
        assert then.backend not in self.backends
        assert (then.source, then.backend) not in self.pairs
        assert 0 <= then.wait_s <= MAX_RETRY_AFTER_S
        assert self.afresh + then.afresh <= 1
        assert not any(attempt.fault.kind is Kind.DISK for attempt in past)
        if then.wait_s:
            untried = set(options) - {attempt.source for attempt in past}
            assert not any(set(options[source]) - self.backends for source in untried)


def test_who_gave_but_a_bad_piece_is_asked_once_more_when_nobody_else_can():
    bad = Attempt("aria2c", A, Fault(Kind.CORRUPT, "wrong bytes", mendable=True), 40 * MIB)
    assert step(TWO, bad) == Try("aria2c", B)
    assert step(TWO, bad, tried(B, "missing")) == Try("aria2c", A, afresh=True)
    again = Attempt("aria2c", A, bad.fault, afresh=True)
    assert step(TWO, bad, tried(B, "missing"), again) == GiveUp(bad.fault)


@settings(max_examples=300)
@given(
    options=OPTIONS,
    faults=st.one_of(st.lists(FAULTS, min_size=1, max_size=40), st.lists(NO_ENDERS, min_size=1, max_size=40)),
    gains=st.lists(st.integers(0, 4 * MIN_GAIN_BYTES), min_size=1, max_size=20),
    size=st.integers(0, 20 * MIN_GAIN_BYTES),
    retries=st.integers(0, 6),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_any_history_of_faults_ends(options, faults, gains, size, retries, jitter):
    """The bound: an attempt gains 16 KiB of a finite file, or puts something out for good, or takes from a budget.

    Per refill a source has `retries` + 1 attempts; a pair, a backend, a source go out once; a source becomes
    stale at most twice, before and after the one fresh start.
    """
    rules, past, left = Rules(), [], size
    backends = {backend for some in options.values() for backend in some}
    refills = 1 + size // MIN_GAIN_BYTES
    once = sum(len(some) for some in options.values()) + len(backends) + len(options)
    bound = refills * len(options) * (retries + 1) + refills + once + 2 * len(options) + 2
    while isinstance(then := next_step(options, past, retries=retries, jitter=jitter), Try):
        rules.judge(then, options, past)
        count = len(past)
        gained = min(left, gains[count % len(gains)])
        left -= gained
        past.append(Attempt(then.backend, then.source, faults[count % len(faults)], gained, then.wait_s, then.afresh))
        rules.fold(past[-1])
        assert len(past) <= bound
    assert (then.fault is None) == (not past)


@given(options=OPTIONS, faults=st.lists(FAULTS, max_size=12), retries=st.integers(0, 6))
def test_a_decision_depends_on_nothing_else(options, faults, retries):
    sources = [source for source, some in options.items() if some]
    past = [
        Attempt(options[source][n % len(options[source])], source, fault)
        for n, fault in enumerate(faults)
        for source in sources[n % max(1, len(sources)) :][:1]
    ]
    first = next_step(options, past, retries=retries)
    assert first == next_step(dict(options), tuple(past), retries=retries)


# -- which program


HTTPS = Requirements("https")
ALL = tuple(backend.NAME for backend in BACKENDS)
ABLE = {"aria2c", "axel", "curl", "wget"}


@pytest.mark.parametrize(
    ("size", "honest", "order"),
    [
        (1 << 30, True, ["aria2c", "axel", "curl", "wget"]),
        (1 << 30, None, ["aria2c", "curl", "wget", "axel"]),  # axel only where somebody looked
        (1 << 30, False, ["aria2c", "curl", "wget", "axel"]),
        (None, True, ["aria2c", "axel", "curl", "wget"]),
        (None, None, ["aria2c", "curl", "wget", "axel"]),
        (SMALL_BYTES, True, ["aria2c", "axel", "curl", "wget"]),
        (SMALL_BYTES - 1, True, ["curl", "aria2c", "wget", "axel"]),
        (0, None, ["curl", "aria2c", "wget", "axel"]),
    ],
)
def test_the_order_of_programs(size, honest, order):
    choices = rank(ALL, size, HTTPS, ranges_honoured=honest)
    assert [choice.backend.NAME for choice in choices if not choice.obstacle] == order
    assert [choice.obstacle for choice in choices if choice.obstacle] == ["does not speak https"]
    assert all(choice.why for choice in choices)


@pytest.mark.parametrize(
    ("line", "able"),
    [
        (Requirements("http"), ABLE),
        (Requirements("https"), ABLE),
        (Requirements("ftp"), ABLE),
        (Requirements("https", proxy="http"), {"aria2c", "curl", "wget"}),
        (Requirements("https", proxy="https"), {"aria2c", "curl", "wget"}),
        (Requirements("http", proxy="socks5"), {"curl"}),
        (Requirements("http", proxy="socks5h"), {"curl"}),
        (Requirements("https", private_ca=True), {"aria2c", "curl", "wget"}),
        (Requirements("rsync"), {"rsync"}),
        (Requirements("file"), {"rsync"}),
        (Requirements("rsync", proxy="http"), set()),
        (Requirements("s3"), set()),
    ],
)
def test_who_may_serve_a_line(line, able):
    choices = rank(ALL, 1 << 30, line)
    assert {choice.backend.NAME for choice in choices if not choice.obstacle} == able
    out = [bool(choice.obstacle) for choice in choices]
    assert out == sorted(out)  # who cannot stands last


def test_where_one_connection_is_enough_curl_comes_first_and_axel_last():
    for honest in (True, None):
        order = [choice.backend.NAME for choice in rank(ALL, 1 << 30, HTTPS, ranges_honoured=honest, is_open=True)]
        assert order[:2] == ["curl", "aria2c"], honest


def test_what_is_not_installed_cannot_serve():
    choices = rank(("wget",), 1 << 30, HTTPS)
    assert (choices[0].backend.NAME, choices[0].obstacle) == ("wget", "")
    assert {choice.obstacle for choice in choices[1:]} == {"not installed", "does not speak https"}
    first = rank(("wget",), None, Requirements("rsync"))[0]
    assert (first.backend.NAME, first.obstacle) == ("rsync", "not installed")
    assert all(choice.obstacle for choice in rank((), None, HTTPS))


def test_a_source_not_yet_tried_comes_before_one_that_failed_however_much_came_since():
    three = {A: ("aria2c",), B: ("aria2c",), "http://c/f": ("aria2c",)}
    history = [Attempt("aria2c", A, fault("network")), Attempt("aria2c", B, fault("network"), 40 << 20)]
    assert next_step(three, history) == Try("aria2c", "http://c/f")


def test_one_with_wrong_bytes_does_not_outvote_one_that_gave_good_ones_and_was_lost() -> None:
    lost = tried(A, "network", gained_bytes=MIB)
    assert final_fault([lost, tried(B, "corrupt")]) == lost.fault
    assert final_fault([tried(A, "network"), tried(B, "corrupt")], kept=[A]) == fault("network")
    assert final_fault([tried(A, "network"), tried(B, "corrupt")]) == fault("corrupt")
    assert final_fault([tried(A, "corrupt", gained_bytes=MIB), tried(B, "missing")]) == fault("corrupt")
