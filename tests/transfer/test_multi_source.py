"""Several sources serve one large file at once; a liar among them is found out and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.transfer.candidates import SHARED_BYTES
from tests.orch import Orch, made
from tests.servers import require

MIB = 1 << 20
CONTENT = made(8 * MIB) * (SHARED_BYTES // (8 * MIB)) + b"the end"
RATE = 8 * MIB


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    require("aria2c")
    return Orch(tmp_path)


def test_two_hosts_share_the_work(orch: Orch) -> None:
    with Origin(also=("127.0.0.2",), rate=RATE) as origin:
        url = origin.serve("/w", CONTENT)
        other = url.replace("127.0.0.1", "127.0.0.2")
        orch.top["hosts"] = {"127.0.0.1": {"connections": 4}, "127.0.0.2": {"connections": 4}}
        place = orch.want("w", CONTENT, url, mirrors=[other])
        done = orch.sync()
        assert done.code == 0
        sent = dict.fromkeys(("127.0.0.1", "127.0.0.2"), 0)
        for record in origin.log:
            sent[record.host.partition(":")[0]] += record.sent
        peaks = {name.partition(":")[0]: peak for name, peak in origin.peaks.items() if name}
    assert place.read_bytes() == CONTENT
    assert min(sent.values()) > 0.3 * len(CONTENT)
    assert max(peaks.values()) <= 4 + 2  # an answer that its client has just left counts for a moment
    assert done.summary["bytes_fetched"] == len(CONTENT)
    (finished,) = done.named("finished")
    assert {finished["source"], *finished["also"]} == {url, other}


@pytest.mark.parametrize("liar", ["first", "second"])
def test_a_liar_among_them_is_named_and_left(orch: Orch, liar: str) -> None:
    """One whose bad byte no sample shows: both are asked at once, and it is the mixed file that is found wrong."""
    with Origin(rate=RATE) as good, Origin(host="127.0.0.2", rate=RATE) as bad:
        true, false = good.serve("/w", CONTENT), bad.serve("/w", CONTENT, wrong_at=0)
        first, second = (false, true) if liar == "first" else (true, false)
        place = orch.want("w", CONTENT, second, mirrors=[first])
        done = orch.sync()
    assert done.code == 0
    assert place.read_bytes() == CONTENT
    named = [e["source"] for e in done.named("mismatched")]
    # Mixed bytes condemn nobody by themselves; whoever is tried alone afterwards shows what it gives.
    assert all(false in source for source in named)


def test_two_that_gave_different_samples_never_meet_in_one_file(orch: Orch) -> None:
    """Nobody knows which one is right; the one that is asked first is named as soon as it is done."""
    with Origin(rate=RATE) as good, Origin(host="127.0.0.2", rate=RATE) as bad:
        false = bad.serve("/w", CONTENT, wrong=True)
        place = orch.want("w", CONTENT, good.serve("/w", CONTENT), mirrors=[false])
        done = orch.sync()
        begun = [(event["source"], event.get("also")) for event in done.named("started")]
    assert place.read_bytes() == CONTENT
    assert not any(also for _, also in begun)
    assert [event["source"] for event in done.named("mismatched")] == [false] * (len(begun) - 1)
    assert done.summary["bytes_fetched"] == len(begun) * len(CONTENT)
    (told,) = [event["message"] for event in done.named("noticed")]
    assert "gives other bytes of w/w than" in told


def test_one_that_gave_another_sample_than_the_others_is_asked_last(orch: Orch) -> None:
    with Origin(rate=RATE, also=("127.0.0.3",)) as good, Origin(host="127.0.0.2", rate=RATE) as bad:
        url = good.serve("/w", CONTENT)
        mirrors = [bad.serve("/w", CONTENT, wrong=True), url.replace("127.0.0.1", "127.0.0.3")]
        place = orch.want("w", CONTENT, url, mirrors=mirrors)
        done = orch.sync()
        assert bad.sent("/w") < 8 * MIB
    assert place.read_bytes() == CONTENT
    assert done.summary["bytes_fetched"] == len(CONTENT)
    (told,) = [event["message"] for event in done.named("noticed")]
    assert told.startswith("http://127.0.0.2:")
    assert "and is asked last" in told


def test_a_half_is_not_completed_by_one_that_gave_another_sample(orch: Orch) -> None:
    half = len(CONTENT) // 2
    with Origin() as good, Origin(host="127.0.0.2") as bad:
        false = bad.serve("/w", CONTENT, wrong=True, cut_after=half, cut_times=1)
        place = orch.want("w", CONTENT, good.serve("/w", CONTENT), mirrors=[false])
        done = orch.sync("--backend", "curl")
    assert place.read_bytes() == CONTENT
    assert not done.named("mismatched")


def test_one_that_is_much_slower_does_not_join(orch: Orch) -> None:
    with Origin(rate=RATE) as good, Origin(host="127.0.0.2", rate=RATE // 16) as slow:
        url = good.serve("/w", CONTENT)
        orch.want("w", CONTENT, url, mirrors=[slow.serve("/w", CONTENT)])
        assert orch.sync().code == 0
        assert slow.sent("/w") < 4 * MIB
