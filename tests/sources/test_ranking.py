"""The order of sources and when one is left: tables, and the laws of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model import Role, Source
from orchestrator.sources.ranking import Rank, SourceRating, faster, must_renew, order
from orchestrator.urls import ends_in_s

MIB = float(1 << 20)
DIGEST, _, SITE, MIRROR, PREFIX, ORIGIN = (Source(f"http://{role.name.lower()}/f", role) for role in Role)
ALL = (SITE, MIRROR, PREFIX, ORIGIN)


def names(sources: tuple[Source, ...]) -> str:
    return " ".join(source.role.name.lower() for source in sources)


@pytest.mark.parametrize(
    ("known", "then"),
    [
        ({}, "site mirror prefix origin"),
        (
            {"origin": SourceRating(Rank.GOOD, 1.9 * MIB), "site": SourceRating(Rank.GOOD, MIB)},
            "site mirror prefix origin",
        ),
        (
            {"origin": SourceRating(Rank.GOOD, 2 * MIB), "site": SourceRating(Rank.GOOD, MIB)},
            "mirror prefix origin site",
        ),
        ({"site": SourceRating(Rank.DEAD)}, "mirror prefix origin site"),
        ({"site": SourceRating(Rank.LYING), "mirror": SourceRating(Rank.DEAD)}, "prefix origin mirror site"),
        ({"site": SourceRating(Rank.MISSING), "mirror": SourceRating(Rank.DEAD)}, "prefix origin mirror site"),
        ({"site": SourceRating(Rank.LYING), "mirror": SourceRating(Rank.REFUSED)}, "prefix origin mirror site"),
        ({"site": SourceRating(Rank.SILENT), "prefix": SourceRating(Rank.REFUSED)}, "mirror origin site prefix"),
        # a dead one is dead however fast it was
        (
            {"site": SourceRating(Rank.DEAD, 99 * MIB), "origin": SourceRating(Rank.GOOD, MIB)},
            "mirror prefix origin site",
        ),
        # each step by itself is less than twofold, the ends are not
        (
            {
                "site": SourceRating(Rank.GOOD, 1.0 * MIB),
                "mirror": SourceRating(Rank.GOOD, 1.5 * MIB),
                "prefix": SourceRating(Rank.GOOD, 2.9 * MIB),
                "origin": SourceRating(Rank.GOOD, 4.0 * MIB),
            },
            "prefix origin site mirror",
        ),
        ({source.role.name.lower(): SourceRating(Rank.GOOD, 0.0) for source in ALL}, "site mirror prefix origin"),
        ({source.role.name.lower(): SourceRating(Rank.DEAD) for source in ALL}, "site mirror prefix origin"),
    ],
)
def test_orders(known: dict[str, SourceRating], then: str) -> None:
    by_url = {f"http://{name}/f": what for name, what in known.items()}
    assert names(order(ALL, by_url)) == then
    assert names(order(reversed(ALL), by_url)) == then


SOURCES = st.lists(
    st.builds(Source, st.sampled_from([f"http://{n}/f" for n in range(8)]), st.sampled_from(Role)),
    unique_by=lambda source: source.url,
    max_size=8,
)
KNOWN = st.dictionaries(
    st.sampled_from([f"http://{n}/f" for n in range(8)]),
    st.builds(SourceRating, st.sampled_from(Rank), st.none() | st.floats(0, 1e9)),
)


@given(SOURCES, KNOWN)
def test_the_laws_of_order(sources: list[Source], known: dict[str, SourceRating]) -> None:
    ranked = order(sources, known)
    assert sorted(ranked, key=str) == sorted(sources, key=str)
    assert ranked == order(sources, known)
    what = [known.get(source.url, SourceRating()) for source in ranked]
    places = [k.verdict.place for k in what]
    assert places == sorted(places)
    for n, earlier in enumerate(what):
        for later in what[n + 1 :]:
            if earlier.verdict.place == later.verdict.place and None not in (earlier.rate, later.rate):
                assert earlier.rate * 2 > later.rate or later.rate == earlier.rate == 0  # type: ignore[operator]


@given(SOURCES)
def test_with_no_knowledge_it_is_the_order_of_roles(sources: list[Source]) -> None:
    roles = list(Role)
    assert list(order(sources, {})) == sorted(sources, key=lambda source: roles.index(source.role))


# -- a slow one is left

B, C = "http://b/f", "http://c/f"


@pytest.mark.parametrize(
    ("rate", "ran_s", "left", "others", "sharing", "then"),
    [
        (1, 10, 1000, {B: 16}, 1, B),
        (1, 10, None, {B: 16}, 1, B),
        (1, 2.9, 1000, {B: 16}, 1, None),  # too early
        (1, 3.0, 1000, {B: 16}, 1, B),
        (1, 10, 1000, {}, 1, None),  # nobody to go to
        (8, 10, 1000, {B: 16}, 1, None),  # half is not less than half
        (7.9, 10, 1000, {B: 16}, 1, B),
        (1, 10, 1000, {B: 3, C: 16}, 1, C),  # the fastest
        (1, 10, 1, {B: 16}, 1, None),  # nearly done
        (0, 10, 1, {B: 16}, 1, B),  # but not if nothing comes
        (0, 10, 1000, {B: 0}, 1, None),
        (5, 10, 1000, {B: 16}, 4, None),  # four share the line: each has its quarter
        (1, 10, 1000, {B: 16}, 4, B),
    ],
)
def test_when_a_slow_source_is_left(
    rate: float, ran_s: float, left: int | None, others: dict[str, float], sharing: int, then: str | None
) -> None:
    size = None if left is None else int(left * MIB)
    found = faster(rate * MIB, ran_s, size, {u: r * MIB for u, r in others.items()}, sharing=sharing)
    assert found == then


@given(st.floats(0, 1e9), st.floats(0, 100), st.integers(0, 1 << 40), st.dictionaries(st.text(), st.floats(0, 1e9)))
def test_who_is_left_is_left_for_a_gain(rate: float, ran_s: float, left: int, others: dict[str, float]) -> None:
    found = faster(rate, ran_s, left, others)
    if found is not None:
        assert others[found] > 2 * rate
        assert others[found] == max(others.values())
        assert rate == 0 or left / rate >= left / others[found]


# -- a signed URL ends

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("query", "left_s"),
    [
        ("", None),
        ("x=1", None),
        ("X-Amz-Algorithm=AWS4&X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600&X-Amz-Signature=s", 3600),
        ("X-Amz-Date=20251231T235900Z&X-Amz-Expires=3", -57),
        ("X-Amz-Date=20260101T000000Z", None),
        ("X-Amz-Expires=3600", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=3600", None),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=soon", None),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=-5", None),
        ("X-Amz-Date=99991231T235959Z&X-Amz-Expires=999999999", None),
        ("X-Goog-Date=20260101T000010Z&X-Goog-Expires=60", 70),
        ("Expires=1767225660&Signature=s&Key-Pair-Id=k", 60),
        ("expires=1767225660&md5=s", 60),
        ("Expires=3600", None),  # no date: a duration, or a flag
        ("Expires=1767225660000", None),
        ("Expires=%C2%B2", None),
        ("Expires=Thu,%2001%20Jan%202026", None),
        ("sv=2024&se=2026-01-01T00:00:30Z&sig=s", 30),
        ("se=2026-01-01T00:00:30.5000000Z", 30),
        ("se=2026-01-01T00%3A01%3A00Z", 60),
        ("se=2026-01-01T00:01Z", 60),
        ("se=2026-01-02", 86400),
        ("se=2026-13-01T00:00:00Z", None),
        ("se=SE", None),
        ("Expires=1767225660&se=2026-01-01T00:00:30Z", 30),  # the first to come
    ],
)
def test_the_end_of_a_signed_url(query: str, left_s: float | None) -> None:
    assert ends_in_s(f"https://h.example/f?{query}", NOW) == left_s


@given(st.text())
def test_no_query_breaks_it(text: str) -> None:
    for name in ("X-Amz-Date=20260101T000000Z&X-Amz-Expires", "se", "Expires", "X-Goog-Date"):
        found = ends_in_s(f"https://h/f?{name}={text}", NOW)
        assert found is None or abs(found) < 1e12
    assert ends_in_s(text, NOW) is None or "=" in text


@pytest.mark.parametrize(
    ("left_s", "life_s", "left_mib", "rate_mib", "then"),
    [
        (600, 3600, 1000, 1, False),
        (5.1, 3600, 1000, 1, False),
        (4.9, 3600, 1000, 1, True),
        (4.9, 3600, 4, 1, False),  # done before the end
        (4.9, 3600, None, 1, True),
        (4.9, 3600, 1, 0, True),
        (1.0, 3.0, 1000, 1, False),  # a short life: a part of it
        (0.8, 3.0, 1000, 1, True),
        (-1.0, 3.0, 1, 100, True),
    ],
)
def test_when_a_signed_url_is_renewed(
    left_s: float, life_s: float, left_mib: float | None, rate_mib: float, then: bool
) -> None:
    size = None if left_mib is None else int(left_mib * MIB)
    assert must_renew(left_s, life_s, size, rate_mib * MIB) is then
