"""Every backend in every scenario: the real program, the real loop, a real origin that misbehaves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from orchestrator.backends import aria2c, axel, curl, rsync, wget
from orchestrator.backends.base import Trait
from orchestrator.demo.faults import replaced, wrong_bytes
from orchestrator.errors import DigestError, StoreError, TransferError
from orchestrator.events import Failed, Mismatched, Noticed, Waiting
from orchestrator.model import Range
from tests.backends.rig import (
    DATA,
    LINES,
    MIB,
    PATIENCE_S,
    SIZE,
    Rig,
    child,
    midway,
    origins,
    small_disk,
    when,
)
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.backends.base import Backend
    from orchestrator.demo.server import Origin

OTHER = random.Random(6).randbytes(SIZE)
SMALL = DATA[: 2 * MIB + 77]
HALF = SIZE // 2


@pytest.fixture(params=LINES)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return Rig(tmp_path, *request.param)


@pytest.fixture
def origin(rig: Rig) -> Iterator[Origin]:
    """Where the backend fetches from; told of a fault that its scheme does not know, it skips the test."""
    with rig.origin() as running:
        yield running


# All is well, more or less.


def test_whole(rig: Rig, origin: Origin) -> None:
    url = origin.serve("/f", DATA, rate=rig.rate(0.4))
    receipt = rig.fetch(DATA, url)
    rig.assert_committed(DATA)
    assert (receipt.backend, receipt.source, receipt.attempts) == (rig.backend.NAME, url, [])
    assert (receipt.bytes_fetched, receipt.bytes_reused) == (SIZE, 0)
    assert origin.sent("/f") <= SIZE + rig.waste(SIZE)


@pytest.mark.parametrize("told", ["by-manifest", "by-server"])
def test_empty_file(rig: Rig, origin: Origin, told: str) -> None:
    rig.fetch(b"", origin.serve("/f", b""), size=0 if told == "by-manifest" else None)
    rig.assert_committed(b"")


@pytest.mark.parametrize("server", ["tells", "tells-not"])
def test_unknown_size(rig: Rig, origin: Origin, server: str) -> None:
    rig.fetch(SMALL, origin.serve("/f", SMALL, no_length=server == "tells-not"), size=None)
    rig.assert_committed(SMALL)


@pytest.mark.parametrize("body", ["no_length", "chunked"])
@pytest.mark.parametrize("data", [SMALL, SMALL[: 200 << 10]], ids=["splittable", "one-piece"])
def test_server_tells_no_length(rig: Rig, origin: Origin, body: str, data: bytes) -> None:
    if body == "chunked" and Trait.CHUNKED not in rig.backend.TRAITS:
        with pytest.raises(TransferError) as caught:  # never begun, and the source is not blamed for it
            rig.fetch(data, origin.serve("/f", data, chunked=True))
        assert caught.value.fault == "refused"
        assert rig.said(Mismatched) == []
        return
    rig.fetch(data, origin.serve("/f", data, **{body: True}))
    rig.assert_committed(data)
    assert len(rig.faults) <= 1


def test_redirect(rig: Rig) -> None:
    with rig.origin(also=("127.0.0.2",)) as origin:
        target = origin.serve("/there is [one]", SMALL).replace(origin.url, origin.at("127.0.0.2"))
        receipt = rig.fetch(SMALL, origin.serve("/f", redirect=target))
        rig.assert_committed(SMALL)
        assert receipt.attempts == []


def test_bare_get_400(rig: Rig, origin: Origin) -> None:
    receipt = rig.fetch(SMALL, origin.serve("/f", SMALL, refuse_bare_get=True))
    rig.assert_committed(SMALL)
    assert receipt.attempts == []


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/a b", "-dash"),
        ("/größe/文件", "a space"),
        ("/[x]/{y}", "größe 文件"),
        ('/quote\'s "and" $(more)', 'quote\'s "and" $(more)'),
        ("/100%41#no?query&a=b;c", "a#b%41&<c>"),
        ("/~/-f/*", "back\\slash"),
    ],
)
def test_odd_url_and_odd_store(rig: Rig, origin: Origin, tmp_path: Path, path: str, folder: str) -> None:
    rig.move_store(str(tmp_path / folder / "store"))
    receipt = rig.fetch(SMALL, origin.serve(path, SMALL))
    rig.assert_committed(SMALL)
    assert receipt.attempts == []
    assert origin.requests(path) > 0


def test_slow_but_steady(rig: Rig, origin: Origin) -> None:
    rate = rig.block * 4  # a stall is less than 16 KiB in this time
    data = DATA[: 3 * rate]
    receipt = rig.fetch(data, origin.serve("/f", data, rate=rate), stall_s=1)
    rig.assert_committed(data)
    assert receipt.attempts == []
    assert receipt.seconds > 2, "it was not slow"


# The server says no, or not now.


def test_404(rig: Rig, origin: Origin) -> None:
    url = origin.serve("/f", DATA, status=404)
    with pytest.raises(TransferError) as caught:
        rig.fetch(DATA, url)
    assert caught.value.fault == "missing"
    assert url in caught.value.message
    assert rig.faults == ["missing"]
    assert rig.starts <= 1
    rig.assert_absent(DATA)
    assert os.listdir(f"{rig.store.path}/partial") == []


@pytest.mark.parametrize("data", [DATA, DATA[: 200 << 10]], ids=["splittable", "one-piece"])
def test_503_then_ok(rig: Rig, origin: Origin, data: bytes) -> None:
    """Retry-After is obeyed, also where a program does not report it: then the look before the next try does."""
    url = origin.serve("/f", data, status=503, retry_after="20")

    def hear(event: object) -> None:
        if isinstance(event, Waiting) and event.wait_s >= 20:
            origin.serve("/f", data)

    rig.hear = hear
    rig.fetch(data, url)
    rig.assert_committed(data)
    assert set(rig.faults) == {"busy"}
    assert rig.starts <= 2


# The line is cut, or hangs.


def test_resume_from_half(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(rig.origin())
        url = first.serve("/f", DATA, rate=rig.rate(2.4))
        with when(midway(first, "/f", HALF), stack.close), pytest.raises(TransferError):
            rig.fetch(DATA, url, retries=0)
    left = rig.left(DATA)
    rig.assert_kept(first.sent("/f"), left, rig.unsaved(rig.rate(2.4)))
    with rig.origin(port=first.port) as second:
        receipt = rig.fetch(DATA, second.serve("/f", DATA, rate=rig.rate(0.8)))
        rig.assert_asked(second.sent("/f"), left)
        assert receipt.bytes_reused == left.good_bytes
        assert second.url + "/f" == url
    rig.assert_committed(DATA)


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_cut_at_k(rig: Rig, origin: Origin, end: str) -> None:
    k = SIZE // 5
    rig.fetch(DATA, origin.serve("/f", DATA, cut_after=k, rst=end == "reset", rate=rig.rate(0.6)), retries=1)
    rig.assert_committed(DATA)
    assert origin.sent("/f") <= 1.35 * SIZE
    assert rig.starts <= 10


def test_stall_then_works(rig: Rig, origin: Origin) -> None:
    url = origin.serve("/f", DATA, stall_after=256 << 10)

    def hear(event: object) -> None:
        if isinstance(event, Failed):
            origin.serve("/f", DATA)

    rig.hear = hear
    rig.fetch(DATA, url, stall_s=2)
    rig.assert_committed(DATA)
    assert rig.faults == ["stalled"]


def test_no_ranges(rig: Rig, origin: Origin) -> None:
    receipt = rig.fetch(DATA, origin.serve("/f", DATA, ranges="ignored"))
    rig.assert_committed(DATA)
    assert receipt.attempts == []


def test_no_ranges_cut_once(rig: Rig, origin: Origin) -> None:
    rig.fetch(DATA, origin.serve("/f", DATA, ranges="ignored", cut_after=HALF, cut_times=1))
    rig.assert_committed(DATA)
    assert rig.said(Mismatched) == []
    assert rig.starts <= 2


def test_cut_with_no_length(rig: Rig, origin: Origin) -> None:
    rig.fetch(DATA, origin.serve("/f", DATA, no_length=True, cut_after=HALF, cut_times=1))
    rig.assert_committed(DATA)
    assert rig.starts <= 3


def test_cut_with_no_length_and_unknown_size(rig: Rig, origin: Origin) -> None:
    """Nothing tells the cut but the digest."""
    url = origin.serve("/f", DATA, no_length=True, cut_after=HALF)
    with pytest.raises(DigestError):
        rig.fetch(DATA, url, size=None)
    rig.assert_absent(DATA)
    rig.assert_quarantined(DATA[:HALF], url)


# Wrong bytes.


def test_wrong_bytes_alone(rig: Rig, origin: Origin) -> None:
    url = origin.serve("/f", DATA, wrong=True)
    with pytest.raises(DigestError) as caught:
        rig.fetch(DATA, url)
    assert url in caught.value.message
    rig.assert_quarantined(wrong_bytes(DATA), url)
    rig.assert_absent(DATA)
    left = {name for _, _, names in os.walk(f"{rig.store.path}/partial") for name in names}
    assert left <= {"guard", "info.json"}  # who gave them, so that no run of today asks there first
    assert rig.starts == 1


def test_wrong_bytes_first_then_good_source(rig: Rig, origin: Origin) -> None:
    bad, good = origin.serve("/bad", DATA, wrong_at=HALF), origin.serve("/good", DATA)
    receipt = rig.fetch(DATA, bad, good)
    rig.assert_committed(DATA)
    assert receipt.source == good
    assert [event.source for event in rig.said(Mismatched)] == [bad]


@pytest.mark.parametrize("giver", ["the-same-source", "another-source", "unknown"])
def test_wrong_partial(rig: Rig, origin: Origin, giver: str) -> None:
    url = origin.serve("/f", DATA)
    sources = {"the-same-source": (url,), "another-source": (origin.url + "/gone",), "unknown": ()}[giver]
    rig.plant(DATA, OTHER[:HALF], (Range(HALF, SIZE),), sources)
    rig.fetch(DATA, url)
    rig.assert_committed(DATA)
    assert len(rig.said(Mismatched)) == (not rig.mends)
    assert rig.starts == (1 if rig.mends else 2)


@pytest.mark.parametrize("kind", ["shorter", "longer"])
def test_gzip(rig: Rig, origin: Origin, kind: str) -> None:
    """No program was asked to decode; what comes is another file."""
    data = b"weights " * (SIZE // 8) if kind == "shorter" else DATA
    with pytest.raises((TransferError, DigestError)) as caught:
        rig.fetch(data, origin.serve("/f", data, gzip=True))
    assert caught.value.fault == "corrupt"
    rig.assert_absent(data)


@pytest.mark.parametrize("kind", ["shorter", "longer"])
def test_length_differs(rig: Rig, origin: Origin, kind: str) -> None:
    other = OTHER[:HALF] if kind == "shorter" else OTHER + OTHER[:MIB]
    bad, good = origin.serve("/bad", other), origin.serve("/good", DATA)
    with pytest.raises((TransferError, DigestError)) as caught:
        rig.fetch(DATA, bad)
    assert caught.value.fault == "corrupt"
    rig.assert_absent(DATA)
    receipt = rig.fetch(DATA, bad, good)
    rig.assert_committed(DATA)
    assert receipt.source == good


@pytest.mark.parametrize(
    ("data", "off"),
    [(DATA, -5), (DATA, 5), (DATA, -HALF), (SMALL, -5), (SMALL, 5)],
    ids=["large-too-small", "large-too-large", "large-half", "small-too-small", "small-too-large"],
)
def test_size_is_wrong_and_the_digest_right(rig: Rig, origin: Origin, data: bytes, off: int) -> None:
    """`size:` is a help: where every source contradicts it, the digest decides."""
    if rig.mends:
        pytest.skip("rsync is told to touch no file of another length")
    url = origin.serve("/f", data)
    rig.fetch(data, url, origin.serve("/same", data), size=max(1, len(data) + off))
    rig.assert_committed(data)
    assert rig.said(Mismatched) == []
    (said,) = {event.message for event in rig.said(Noticed)}
    assert f"says {max(1, len(data) + off)}, every source says {len(data)}" in said


def test_size_and_digest_are_of_another_version(rig: Rig, origin: Origin) -> None:
    if rig.mends:
        pytest.skip("rsync is told to touch no file of another length")
    with pytest.raises(DigestError) as caught:
        rig.fetch(DATA, origin.serve("/f", OTHER[:HALF]))
    assert f"says {SIZE}, every source says {HALF}" in caught.value.hint
    rig.assert_absent(DATA)


def test_endless_body(rig: Rig, origin: Origin) -> None:
    url = origin.serve("/f", OTHER * 16, no_length=True, rate=12 * MIB)
    with pytest.raises((TransferError, DigestError)) as caught:
        rig.fetch(DATA, url)
    assert caught.value.fault == "corrupt"
    assert origin.sent("/f") <= 8 * SIZE  # of 16
    rig.assert_absent(DATA)


def test_html_instead(rig: Rig, origin: Origin) -> None:
    with pytest.raises((TransferError, DigestError)) as caught:
        rig.fetch(DATA, origin.serve("/f", DATA, html=True))
    assert caught.value.fault == "corrupt"
    rig.assert_absent(DATA)
    rig.fetch(DATA, origin.serve("/good", DATA))
    rig.assert_committed(DATA)


def test_html_on_resume(rig: Rig, origin: Origin) -> None:
    bad, good = origin.serve("/f", DATA, html_on_range=True), origin.serve("/good", DATA, rate=rig.rate(0.8))
    rig.plant(DATA, DATA[:HALF], (Range(HALF, SIZE),), (bad,))
    left = rig.left(DATA)
    with rig.deadline(PATIENCE_S):
        rig.fetch(DATA, bad, good)
    rig.assert_committed(DATA)
    assert rig.said(Mismatched) == []
    rig.assert_asked(origin.sent("/good"), left)


def test_html_on_resume_and_no_other_source(rig: Rig, origin: Origin) -> None:
    """Who needs several ranges gets no file here."""
    bad = origin.serve("/f", DATA, html_on_range=True)
    rig.plant(DATA, DATA[:HALF], (Range(HALF, SIZE),), (bad,))
    try:
        with rig.deadline(PATIENCE_S):
            rig.fetch(DATA, bad)
    except (TransferError, DigestError):
        rig.assert_absent(DATA)
    else:
        rig.assert_committed(DATA)


@pytest.mark.parametrize("kind", ["large", "small", "without-etag"])
def test_changed_file_of_same_length(rig: Rig, origin: Origin, kind: str) -> None:
    """What was begun with the old bytes ends with the new ones, if those are wanted.

    An ETag throws no bytes away (each host of a name may have its own): the digest tells, and then all comes anew.
    """
    old = DATA + OTHER[: 3 * MIB] if kind == "large" else DATA
    new, tag = replaced(old), "" if kind == "without-etag" else "new"
    url = origin.serve("/f", new, etag=tag)
    rig.plant(new, old[:HALF], (Range(HALF, len(new)),), (url,), etag=tag and '"old"')
    rig.fetch(new, url)
    rig.assert_committed(new)
    assert len(rig.said(Mismatched)) <= 1
    assert rig.starts <= 3


@pytest.mark.parametrize("tags", ["another-each-time", "weak"])
def test_an_etag_throws_nothing_away(rig: Rig, origin: Origin, tags: str) -> None:
    """What is pinned is judged by its digest: hosts of one name may have an ETag each, and the length is a hint."""
    data = DATA + OTHER[: 3 * MIB]  # large: looked at before its first byte
    url = origin.serve("/f", data, rate=rig.rate(0.8), etag="two" if tags != "weak" else 'W/"two')
    rig.plant(
        data, data[: 2 * HALF], (Range(2 * HALF, len(data)),), (url,), etag='"one"' if tags != "weak" else 'W/"one"'
    )
    left = rig.left(data)
    rig.fetch(data, url)
    rig.assert_committed(data)
    assert rig.faults == []
    rig.assert_asked(origin.sent("/f"), left)


# Who stops, is killed, or has no room.


def test_ctrl_c(rig: Rig, origin: Origin) -> None:
    rate = rig.rate(1.2)
    url = origin.serve("/f", DATA, rate=rate)
    rig.fetch_until(midway(origin, "/f", HALF), DATA, url)
    before, left = origin.sent("/f"), rig.left(DATA)
    rig.assert_kept(before, left, rig.lag(rate))
    rig.fetch(DATA, url)
    rig.assert_committed(DATA)
    rig.assert_asked(origin.sent("/f") - before, left)


def test_sigkill(rig: Rig, origin: Origin) -> None:
    rate = rig.rate(3)
    url = origin.serve("/f", DATA, rate=rate)
    with when(midway(origin, "/f", SIZE * 5 // 6), lambda: child(rig.backend.NAME).send_signal(signal.SIGKILL)):
        rig.fetch(DATA, url)
    rig.assert_committed(DATA)
    assert len(rig.faults) == 1
    lost = rig.unsaved(rate)
    assert origin.sent("/f") <= SIZE + lost + rig.waste(SIZE // 6 + lost)


def test_full_disk(rig: Rig, origin: Origin, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as grow:
        rig.move_store(str(tmp_path / "disk" / "store"))
        url = origin.serve("/f", DATA, rate=rig.rate(3))
        with pytest.raises(StoreError):
            rig.fetch(DATA, url)
        assert rig.faults == ["disk"]
        grow(64 * MIB)
        before, left = origin.sent("/f"), rig.left(DATA)
        assert left.good_bytes >= MIB
        rig.fetch(DATA, url)
        rig.assert_committed(DATA)
        rig.assert_asked(origin.sent("/f") - before, left)


# Each is a first and a second: from a state of its own to another one, to a prefix, and back; and between protocols.
PAIRS = [
    pytest.param(first, second, id=f"{first.NAME}-{second.NAME}")
    for first, second in (
        (aria2c, axel), (axel, aria2c), (aria2c, curl), (axel, wget), (curl, aria2c), (wget, axel), (wget, rsync),
        (rsync, curl), (rsync, aria2c),
    )
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_hand_over(tmp_path: Path, first: Backend, second: Backend) -> None:
    require(second.NAME)
    rig = Rig(tmp_path, first)
    rate = rig.rate(1.2)
    with rig.origin() as here, contextlib.ExitStack() as stack:
        rig.fetch_until(midway(here, "/f", SIZE * 2 // 3), DATA, here.serve("/f", DATA, rate=rate))
        left = rig.left(DATA, second)
        rig.assert_kept(here.sent("/f"), left, rig.lag(rate))
        rig.backend = second
        kind = origins(second)[0]
        there = here if kind is rig.origin else stack.enter_context(kind())  # another scheme: another source
        before = there.sent("/f")
        receipt = rig.fetch(DATA, there.serve("/f", DATA, rate=rig.rate(0.8)))
        rig.assert_committed(DATA)
        assert receipt.attempts == []
        rig.assert_asked(there.sent("/f") - before, left)
