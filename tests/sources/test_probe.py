"""The probe of a run's hosts: what it finds, how little it asks, and that it is never waited for."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.context import Stop
from orchestrator.demo.server import Origin
from orchestrator.faults import Kind
from orchestrator.model import Artifact, Role, Source, Wanted
from orchestrator.sources import probe as room
from orchestrator.sources.http import FASTEST, SAMPLE_BYTES, sample_rate
from orchestrator.sources.knowledge import SourceStats
from orchestrator.sources.probe import (
    HOST_REQUESTS,
    LARGE_BYTES,
    OPEN_BYTES,
    ProbeResult,
    ProbeTarget,
    is_worth_probing,
    prefix_of,
    probe,
    probe_targets,
)
from orchestrator.sources.ranking import Rank
from orchestrator.sources.route import Routes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.context import Context

MIB = 1 << 20
DATA = bytes(range(256)) * (12 * 4096)  # 12 MiB


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as served:
        yield served


@pytest.fixture
def closed() -> Iterator[str]:
    """A port that is ours and refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def artifact(*sources: tuple[str, Role], size: int | None = len(DATA), name: str = "a") -> Artifact:
    named = tuple(Source(url, role) for url, role in sources)
    wanted = Wanted("/m.yaml", name, "", "0" * 64, size, named, ())
    return Artifact("0" * 64, size, named, (wanted,))


def ask(
    *urls: str, size: int | None = len(DATA), environ: dict[str, str] | None = None, **how: Any
) -> list[ProbeResult]:
    asked = [ProbeTarget(url, url, Role.MIRROR, url, size) for url in urls]
    found = probe(asked, Routes(environ or {}, {}).to, stop=Stop(), **how)
    return [found[pair] for pair in asked]


# -- what it finds


@pytest.mark.parametrize(
    ("how", "verdict", "message"),
    [
        ({}, "GOOD", ""),
        ({"ranges": "ignored"}, "GOOD", ""),
        ({"chunked": True}, "GOOD", ""),
        ({"refuse_bare_get": True}, "GOOD", ""),
        ({"status": 404}, "MISSING", "server answered 404"),
        ({"status": 410}, "MISSING", "server answered 410"),
        ({"status": 401}, "REFUSED", "server answered 401"),
        ({"status": 403}, "REFUSED", "server answered 403"),
        ({"bearer": "t"}, "REFUSED", "server answered 401"),
        ({"status": 503}, "SILENT", "server answered 503"),
        ({"status": 500}, "SILENT", "server answered 500"),
        ({"silent": True, "rst": True}, "DEAD", None),
        ({"html": True}, "LYING", None),
        ({"gzip": True}, "LYING", "compresses the file on its way (gzip)"),
        ({"redirect": "file:///etc/passwd"}, "REFUSED", "redirected to another scheme (file)"),
    ],
)
def test_what_a_source_is(origin: Origin, how: dict[str, Any], verdict: str, message: str | None) -> None:
    (found,) = ask(origin.serve("/f", DATA, **how))
    assert found.verdict is Rank[verdict], found
    assert message is None or found.message == message


def test_a_wrong_length_a_pointer_and_a_page(origin: Origin) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12582912\n"
    url = origin.serve("/f", pointer)
    what = "a Git LFS pointer (oid 000000000000, size 12582912)"
    assert ask(url)[0].message == f"wrong length: {len(pointer)} bytes of {what}, instead of {len(DATA)}"
    assert ask(url, size=None)[0].message == f"{what} instead of the file"
    assert " of an HTML page (Sign in), instead of " in ask(origin.serve("/f", DATA, html=True))[0].message
    page = origin.serve("/f", b"\n<!DOCTYPE html><html>", chunked=True)
    assert ask(page)[0].message == "an HTML page instead of the file"
    assert ask(origin.serve("/f", DATA[:-1]))[0].verdict is Rank.LYING


def test_nobody_listens_and_no_such_name(closed: str) -> None:
    for url in (f"{closed}/f", "http://no.such.name.invalid/f"):
        assert ask(url)[0].verdict in (Rank.DEAD, Rank.SILENT)
    assert ask(f"{closed}/f")[0] == ProbeResult(Rank.DEAD, "connection refused")


def test_rates_are_measured_and_their_order_is_right(origin: Origin) -> None:
    urls = [origin.serve(f"/{rate}", DATA, rate=rate) for rate in (MIB // 4, 2 * MIB)]
    slow, fast = (found.rate for found in ask(*urls))  # one host: one after the other
    assert slow is not None
    assert fast is not None
    assert slow < MIB < fast < 4 * MIB
    (open_wire,) = ask(origin.serve("/open", DATA))
    assert open_wire.rate == pytest.approx(FASTEST, rel=0.5)


def test_a_rate_far_below_another_source_s_is_not_measured_to_the_end(origin: Origin) -> None:
    asked = []

    def least() -> float:
        asked.append(None)
        return 1e9

    url = origin.serve("/slow", DATA, rate=MIB // 4)
    found = sample_rate(url, proxy=None, ca="", user_agent="orch", timeout_s=5.0, least=least)
    assert len(asked) == 1
    assert found.rate is not None
    assert found.rate < MIB


def test_a_body_that_stalls_tells_no_rate(origin: Origin) -> None:
    began = time.monotonic()
    (found,) = ask(origin.serve("/stall", DATA, stall_after=1000, stall_times=None), timeout_s=0.6)
    assert found.rate is None or found.rate < 10_000
    assert time.monotonic() - began < 20


def test_the_round_trip_and_the_last_url(origin: Origin) -> None:
    last = origin.serve("/last", DATA, delay_s=0.1)
    (found,) = ask(origin.serve("/first", redirect=last))
    assert found.answer is not None
    assert found.answer.last_url == last
    assert 0.1 <= found.answer.round_trip_s < 5


# -- how little it asks, how short it waits


def test_at_most_four_requests_a_host_and_a_mebibyte(origin: Origin) -> None:
    with Origin() as served:
        urls = [served.serve(f"/{n}", DATA) for n in range(9)]
        asked = [ProbeTarget(url, served.url, Role.MIRROR, url, len(DATA)) for url in urls]
        found = probe(asked, Routes({}, {}).to, stop=Stop())
        assert len(served.log) <= HOST_REQUESTS
        assert sum(record.sent for record in served.log) <= 2 * SAMPLE_BYTES + HOST_REQUESTS
    assert [pair.url for pair in found] == urls[:2]  # of the others nothing is known
    assert all(finding.verdict is Rank.GOOD for finding in found.values())


def test_redirects_count_for_the_host_where_they_end() -> None:
    with Origin() as last, Origin(also=tuple(f"127.0.0.{n}" for n in range(2, 8))) as first:
        target = last.serve("/f", DATA)
        first.serve("/f", redirect=target)
        urls = [f"{first.at(f'127.0.0.{n}')}/f" for n in range(1, 8)]
        asked = [ProbeTarget(url, url, Role.MIRROR, url, len(DATA)) for url in urls]
        found = probe(asked, Routes({}, {}).to, stop=Stop())
        assert len(last.log) == HOST_REQUESTS
    assert {finding.verdict for finding in found.values()} == {Rank.GOOD}


def test_a_redirect_loop_is_not_followed_for_long() -> None:
    with Origin() as served:
        url = served.serve("/loop", redirect_loop=True)
        assert probe([ProbeTarget(url, url, Role.MIRROR, url, 1)], Routes({}, {}).to, stop=Stop()) == {}
        assert served.requests("/loop") == HOST_REQUESTS


def test_who_is_silent_is_waited_for_once_and_not_condemned(origin: Origin) -> None:
    silent = [Origin(silent=True) for _ in range(4)]
    with silent[0], silent[1], silent[2], silent[3]:
        began = time.monotonic()
        found = ask(origin.serve("/f", DATA), *(s.serve("/f", DATA) for s in silent), timeout_s=2.0)
        assert time.monotonic() - began < 6.0
    assert [f.verdict for f in found] == [Rank.GOOD] + [Rank.SILENT] * 4
    assert Rank.SILENT.place < Rank.DEAD.place


def test_a_stop_ends_it(origin: Origin) -> None:
    stop = Stop()
    stop.set()
    url = origin.serve("/silent", DATA, silent=True)
    began = time.monotonic()
    probe([ProbeTarget(url, url, Role.MIRROR, url, 1)], Routes({}, {}).to, timeout_s=30, stop=stop)
    assert time.monotonic() - began < 20


def test_what_cannot_be_asked_is_unknown(origin: Origin) -> None:
    url = origin.serve("/f", DATA)
    for what, environ in (("rsync://h/f", {}), (url, {"all_proxy": "socks5://127.0.0.1:1"})):
        pair = ProbeTarget(what, what, Role.MIRROR, what, 1)
        assert probe([pair], Routes(environ, {}).to, stop=Stop()) == {}


# -- which probe_targets there are


@pytest.mark.parametrize(
    ("url", "role", "prefix"),
    [
        ("https://hub.example/org/repo/resolve/c/f.bin", Role.ORIGIN, "https://hub.example/"),
        ("https://mirror.example/org/repo/resolve/c/f.bin", Role.PREFIX, "https://mirror.example/"),
        ("http://nas.lan:8080/hub/org/repo/resolve/c/f.bin", Role.SITE, "http://nas.lan:8080/hub/"),
        ("http://nas.lan/weights/f.bin", Role.MIRROR, "http://nas.lan/weights/"),
        ("http://nas.lan/weights/another-name", Role.MIRROR, "http://nas.lan/weights/"),
        ("http://nas.lan/weights/c/f.bin?x=/1", Role.MIRROR, "http://nas.lan/weights/"),
        ("http://nas.lan/f.bin", Role.MIRROR, "http://nas.lan/"),
        ("http://nas.lan", Role.MIRROR, "http://nas.lan/"),
    ],
)
def test_the_prefix_of_a_source(url: str, role: Role, prefix: str) -> None:
    origin = Source("https://hub.example/org/repo/resolve/c/f.bin", Role.ORIGIN)
    source = Source(url, role)
    assert prefix_of(source, (source, origin)) == prefix


def test_a_pair_is_asked_for_the_largest_file_below_it() -> None:
    small = artifact(("http://m/s", Role.PREFIX), ("http://o/s", Role.ORIGIN), size=9 * MIB)
    large = artifact(
        ("http://m/l", Role.PREFIX), ("http://o/l", Role.ORIGIN), ("http://p/x/l", Role.MIRROR), size=MIB**2
    )
    found = probe_targets([small, large])
    assert [(p.prefix, p.url, p.size) for p in found] == [
        ("http://m/", "http://m/l", MIB**2),
        ("http://o/", "http://o/l", MIB**2),
        ("http://p/x/", "http://p/x/l", MIB**2),
    ]


def test_what_is_worth_a_probe() -> None:
    two = (("http://m/s", Role.PREFIX), ("http://o/s", Role.ORIGIN))
    assert is_worth_probing(artifact(*two, size=LARGE_BYTES))
    assert is_worth_probing(artifact(*two, size=None))
    assert not is_worth_probing(artifact(*two, size=LARGE_BYTES - 1))
    assert not is_worth_probing(artifact(two[0]))


def test_every_kind_of_fault_of_a_look_has_its_verdict() -> None:
    never = {Kind.EXPIRED, Kind.CORRUPT, Kind.UNRESUMABLE, Kind.BROKEN, Kind.DISK}
    assert set(room._VERDICTS) >= set(Kind) - never
    assert room._VERDICTS[Kind.UNRESUMABLE] is Rank.REFUSED  # a 416


# -- what follows for the order


def test_the_good_one_comes_first(context: Context, closed: str) -> None:
    with Origin() as liar, Origin(rate=MIB) as slow, Origin() as good:
        sources = (
            (f"{closed}/f", Role.SITE),
            (liar.serve("/x/f", DATA[:-5]), Role.MIRROR),
            (slow.serve("/y/f", DATA), Role.PREFIX),
            (good.serve("/f", DATA), Role.ORIGIN),
        )
        large = artifact(*sources)
        known = SourceStats(context)
        began = time.monotonic()
        known.ask([large], {})
        assert time.monotonic() - began < 20
        assert [s.url for s in known.order(large.sources)] == [sources[n][0] for n in (3, 2, 0, 1)]
        assert known.rate(sources[0][0], 16) is None
        # a neighbour below the liar's prefix is doubted, not condemned; the dead host is dead for all
        small = [(url.replace("/f", "/g"), role) for url, role in sources]
        assert [s.url for s in known.order(artifact(*small, size=5).sources)] == [small[n][0] for n in (3, 2, 1, 0)]


def test_who_gives_other_bytes_than_most_is_asked_after_them(context: Context) -> None:
    """The files differ in all but their beginning, as two versions of one model do."""
    other = DATA[: 4 * MIB] + DATA[4 * MIB :][::-1]
    with Origin(also=("127.0.0.2",)) as liar, Origin(rate=MIB) as slow, Origin() as good:
        sources = (
            (liar.serve("/x/f", other), Role.SITE),
            (slow.serve("/y/f", DATA), Role.MIRROR),
            (good.serve("/f", DATA), Role.ORIGIN),
        )
        large = artifact(*sources)
        known = SourceStats(context)
        known.ask([large], {})
        assert [s.url for s in known.order(large.sources)] == [sources[n][0] for n in (2, 1, 0)]
        first, *others = large.sources
        assert [known.contradicted(first, each, large.sources) for each in others] == [large.key] * 2
        assert not known.contradicted(*others, large.sources)
        small = artifact(*((url.replace("/f", "/g"), role) for url, role in sources), name="g", size=5)
        assert [known.contradicted(small.sources[0], each, small.sources) for each in small.sources[1:]] == [
            large.key
        ] * 2
        # of two, nobody knows which is wrong; and two names of one host have one vote
        again = (sources[0], (liar.at("127.0.0.2") + "/x/f", Role.MIRROR), sources[2])
        for some in (again[::2], ((liar.url + "/x/f?1", Role.SITE), *again[::2])):
            few = artifact(*some)
            known = SourceStats(context)
            known.ask([few], {})
            assert known.contradicted(few.sources[0], few.sources[-1], few.sources)
            assert not any(known.is_outvoted(source, few.sources) for source in few.sources)


def test_small_files_ask_nobody(context: Context) -> None:
    with Origin() as served:
        url, other = served.serve("/f", DATA), served.serve("/g", DATA)
        SourceStats(context).ask([artifact((url, Role.ORIGIN), size=MIB)], {})
        SourceStats(context).ask([artifact((other, Role.MIRROR), (url, Role.ORIGIN), size=MIB)], {})
        assert not served.log


def test_the_only_source_of_a_large_file_is_asked_once_so_that_its_download_need_not(context: Context) -> None:
    with Origin() as served:
        url = served.serve("/f", DATA)
        known = SourceStats(context)
        known.ask([artifact((url, Role.ORIGIN))], {})
        answer = known.fresh_answer(url)
        assert answer is not None
        assert [record.range for record in served.log] == ["bytes=0-0"]
        assert answer.length == len(DATA)
        assert known.rate(url, 1) is None  # there is nothing to compare it with


def test_the_only_source_that_does_not_answer_is_left_to_its_download(context: Context, closed: str) -> None:
    known, alone = SourceStats(context), artifact((f"{closed}/f", Role.ORIGIN))
    known.ask([alone], {})
    assert known.fresh_answer(alone.sources[0].url) is None
    assert known.unanswered() == []
    assert not known.is_doubtful(alone.sources[0], alone.sources)


def test_a_line_is_open_where_one_connection_is_fast_enough(context: Context, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, OPEN_BYTES)
    with Origin(rate=16 * MIB) as paced, Origin() as fast:
        for served, is_open in ((paced, False), (fast, True)):
            url = served.serve("/f", large)
            for _ in range(50):  # a busy machine is no open line
                known = SourceStats(context)
                known.ask([artifact((url, Role.ORIGIN), size=OPEN_BYTES)], {})
                assert known.fresh_answer(url)
                if known.is_open(url) or not is_open:
                    break
            assert known.is_open(url) is is_open
            assert sum(record.sent for record in served.log) <= 50 * 16 * MIB
            known.found_narrow(url)
            assert not known.is_open(url)
            limited, before = SourceStats(context), len(served.log)
            limited.ask([artifact((url, Role.ORIGIN), size=OPEN_BYTES)], {}, is_limited=True)
            assert limited.fresh_answer(url)
            assert [record.range for record in served.log[before:]] == ["bytes=0-0"]  # no sample past the limit
        small = fast.serve("/g", DATA)
        known = SourceStats(context)
        known.ask([artifact((small, Role.ORIGIN))], {})
        assert known.fresh_answer(small)
        assert not known.is_open(small)


def test_a_run_does_not_wait_for_the_only_source_of_a_file_that_never_answers(context: Context) -> None:
    with Origin(silent=True) as silent:
        known, url = SourceStats(context), silent.serve("/f", DATA)
        known.ask([artifact((url, Role.ORIGIN))], {})  # no longer than a thread takes to start
        assert known.unanswered() == []
        context.stop.set()
        assert known.fresh_answer(url) is None  # nor does a stop
