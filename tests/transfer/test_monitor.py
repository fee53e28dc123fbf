"""Which source serves, and when it is left: dead, lying and slow mirrors, signed URLs, Retry-After; from outside."""

from __future__ import annotations

import json
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from orchestrator.backends import curl
from orchestrator.demo.server import Origin
from orchestrator.events import Started
from orchestrator.faults import Fault, Kind
from orchestrator.programs import find
from orchestrator.sources.http import SourceAnswer
from orchestrator.sources.knowledge import SourceStats
from orchestrator.sources.probe import ProbeResult
from orchestrator.sources.ranking import Rank
from orchestrator.transfer import monitor
from orchestrator.transfer.connections import ConnectionLimits
from orchestrator.transfer.download import Receipt, fetch
from orchestrator.transfer.monitor import refine_fault
from orchestrator.transfer.run_context import RunContext
from tests.backends.rig import Rig, artifact
from tests.orch import Done, Orch, made
from tests.servers import require

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def remembered(orch: Orch) -> list[dict[str, object]]:
    (path,) = orch.folder.glob("home/.local/state/orch/*/runs.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def sources(done: Done) -> list[str]:
    return [event["source"] for event in done.named("started")]


def test_the_good_one_serves_though_three_bad_ones_are_named_before_it(orch: Orch) -> None:
    content = made(12 * MIB)
    with socket.socket() as dead, Origin() as liar, Origin(rate=MIB) as slow, Origin() as good:
        dead.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{dead.getsockname()[1]}/w"
        mirrors = [closed, liar.serve("/w", content[:-1]), slow.serve("/w", content)]
        url = good.serve("/w", content)
        place = orch.want("w", content, url, mirrors=mirrors)
        done = orch.sync()
        assert (done.code, sources(done)) == (0, [url])
        assert slow.sent("/w") <= MIB
    assert place.read_bytes() == content
    (record,) = remembered(orch)
    assert (record["host"], record["bytes"], record.get("fault")) == (good.url, len(content), None)
    assert record["round_trip_s"] > 0  # type: ignore[operator]


def test_proven_liars_are_tried_when_nothing_else_is_left(orch: Orch) -> None:
    content = made(9 * MIB)
    with Origin() as moody, Origin() as gone:
        # For the probe both are not there, a moment later one of them is.
        url = moody.serve("/w", content, status=404, status_times=1)
        orch.want("w", content, url, mirrors=[gone.serve("/w", content, status=404)])
        done = orch.sync()
    assert done.code == 0


def test_a_dead_mirror_of_many_small_files_is_found_out_once(orch: Orch) -> None:
    with socket.socket() as dead, Origin() as good:
        dead.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{dead.getsockname()[1]}"
        for number in range(12):
            content = made(5000, number)
            orch.want(f"m{number}", content, good.serve(f"/{number}", content), mirrors=[f"{closed}/{number}"])
        done = orch.sync("--jobs", "1")
    assert (done.code, done.summary["fetched"]) == (0, 12)
    assert sum(source.startswith(closed) for source in sources(done)) <= 4


def remember(orch: Orch, host: str, rate: int, connections: int = 1) -> None:
    """Put a past into the local state: this host gave so many bytes a second."""
    folder = orch.folder / "home" / ".local" / "state" / "orch" / socket.gethostname()
    folder.mkdir(parents=True)
    past = {"time": time.time(), "host": host, "backend": "curl", "bytes": 10 * rate, "seconds": 10.0}
    (folder / "runs.jsonl").write_text(json.dumps({**past, "connections": connections}) + "\n")


@pytest.mark.parametrize(("backend", "cut"), [("aria2c", {}), ("curl", {"cut_after": MIB, "cut_times": 1})])
def test_a_slow_source_is_left_with_its_bytes_and_not_taken_again(
    orch: Orch, backend: str, cut: dict[str, int]
) -> None:
    require(backend)
    content = made(6 * MIB)  # too small for a probe: only what is remembered tells
    # Paced, or a connection that aria2c drops would have sent a buffer full in vain.
    with Origin(rate=48 << 10) as slow, Origin(rate=4 * MIB) as fast:
        one, two = slow.serve("/w", content), fast.serve("/w", content, **cut)
        place = orch.want("w", content, two, mirrors=[one])
        remember(orch, fast.url, 40 * MIB)
        done = orch.run("sync", "--json", "--backend", backend, "team.yaml")
        assert (done.code, sources(done)) == (0, [one, two, *([two] if cut else [])])  # for a cut it does not go back
        assert 64 << 10 < slow.sent("/w") < 3 * MIB
        assert slow.sent("/w") + fast.sent("/w") < len(content) + MIB
    assert place.read_bytes() == content
    slower, *_ = done.named("failed")
    assert (slower["fault"], slower["source"]) == ("stalled", one)
    assert slower["message"] == f"slower than half of {fast.url.removeprefix('http://')}"
    assert slower["kept_bytes"] > 64 << 10
    faults = [record.get("fault") for record in remembered(orch)]
    assert faults == [None, "stalled", *(["network"] if cut else []), None]


def test_one_connection_that_brings_less_than_was_promised_gives_way_to_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("aria2c")
    rig, content, receipt = Rig(tmp_path, curl, Origin), made(96 * MIB), Receipt()
    monkeypatch.setattr(monitor, "LEAST_OPEN_RATE", 32.0 * MIB)
    with Origin(rate=4 * MIB) as origin:
        url = origin.serve("/w", content)
        known = SourceStats(rig.context)
        known._hosts[origin.url] = ProbeResult(Rank.GOOD, is_open=True)
        run = RunContext(
            rig.context,
            rig.store,
            rig.events.append,
            programs=find(rig.context, ["curl", "aria2c"]),
            limits=ConnectionLimits(16),
            known=known,
        )
        fetch(run, artifact(content, url, size=len(content)), receipt)
        assert origin.sent("/w") <= len(content) + 16 * MIB  # what curl brought stays
    assert [event.backend for event in rig.said(Started)] == ["curl", "aria2c"]
    assert rig.faults == []
    assert receipt.backend == "aria2c"
    rig.assert_committed(content)


def test_a_slow_source_that_is_the_only_one_left_stays(orch: Orch) -> None:
    content = made(260 << 10)
    with Origin(rate=64 << 10) as slow, Origin(status=404) as gone:
        one, two = slow.serve("/w", content), gone.serve("/w")
        orch.want("w", content, one, mirrors=[two])
        remember(orch, gone.url, 40 * MIB)
        done = orch.sync()
    assert (done.code, sources(done)) == (0, [two, one])


# -- signed URLs


@pytest.mark.parametrize("backend", ["aria2c", "curl"])
def test_a_signed_url_is_renewed_before_its_end(orch: Orch, backend: str) -> None:
    require(backend)
    content = made(10 * MIB)
    with Origin() as hub, Origin(rate=2 * MIB if backend == "curl" else MIB // 2) as cdn:
        target = cdn.serve("/w", content, signed=True)
        url = hub.serve("/w", redirect=target, redirect_holds_s=2)
        place = orch.want("w", content, url)
        done = orch.run("sync", "--json", "--backend", backend, "--connections", "4", "team.yaml")
        assert done.code == 0, done.out
        assert not [record for record in cdn.log if record.status == 403]
        assert cdn.sent("/w") < len(content) + MIB
    assert place.read_bytes() == content
    assert not done.named("waiting")
    assert {event["fault"] for event in done.named("failed")} <= {"expired"}
    # curl has made its only request in time; aria2c would make more of them.
    assert bool(done.named("failed")) is (backend == "aria2c")


@pytest.mark.parametrize(
    ("url", "ends_in_s", "gained", "kind"),
    [
        ("http://cdn/w", 600.0, MIB, Kind.EXPIRED),
        ("http://cdn/w", 600.0, 0, Kind.REFUSED),  # it never worked
        ("http://cdn/w", None, MIB, Kind.REFUSED),  # not signed
    ],
)
def test_a_signature_that_ends_in_mid_air_is_renewed_too(
    url: str, ends_in_s: float | None, gained: int, kind: Kind
) -> None:
    """The server's clock, or its mind, is another one."""
    answer = SourceAnswer(url, 9, "", True, 0.1, "", ends_in_s=ends_in_s)
    said = Fault(Kind.REFUSED, "server answered 403", 403)
    fault = refine_fault(said, answer, gained, time.time(), is_suspect=False)
    assert fault is not None
    assert fault.kind is kind


# -- Retry-After


@pytest.mark.parametrize(
    ("backend", "as_date"), [("aria2c", False), ("curl", False), ("curl", True)], ids=["aria2c", "curl", "curl-date"]
)
def test_retry_after_is_obeyed(orch: Orch, backend: str, as_date: bool) -> None:
    require(backend)
    content = made(100_000)  # too small for a request of our own, but that aria2c is only given what answered one
    with Origin() as origin:
        said = formatdate(time.time() + 4, usegmt=True) if as_date else "2"
        url = origin.serve("/w", content, status=503, retry_after=said, status_times=1)
        orch.want("w", content, url)
        done = orch.run("sync", "--json", "--backend", backend, "team.yaml")
        assert done.code == 0
        busy = [record.started_s for record in origin.log if record.status == 503]
        well = [record.started_s for record in origin.log if record.status != 503]
    assert len(busy) == 1
    assert min(well) - busy[-1] >= (0.5 if as_date else 1.95)
    assert len(done.named("waiting")) == 1
