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


@pytest.mark.parametrize("liar", ["first", "second"])
def test_a_liar_among_them_is_named_and_left(orch: Orch, liar: str) -> None:
    with Origin(rate=RATE) as good, Origin(host="127.0.0.2", rate=RATE) as bad:
        true, false = good.serve("/w", CONTENT), bad.serve("/w", CONTENT, wrong=True)
        first, second = (false, true) if liar == "first" else (true, false)
        place = orch.want("w", CONTENT, second, mirrors=[first])
        done = orch.sync()
    assert done.code == 0
    assert place.read_bytes() == CONTENT
    named = [e["source"] for e in done.named("mismatched")]
    # Mixed bytes condemn nobody by themselves; whoever is tried alone afterwards shows what it gives.
    assert named
    assert all(false in source for source in named)


def test_one_that_is_much_slower_does_not_join(orch: Orch) -> None:
    with Origin(rate=RATE) as good, Origin(host="127.0.0.2", rate=RATE // 16) as slow:
        url = good.serve("/w", CONTENT)
        orch.want("w", CONTENT, url, mirrors=[slow.serve("/w", CONTENT)])
        assert orch.sync().code == 0
        assert slow.sent("/w") < 4 * MIB
