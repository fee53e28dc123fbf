"""Unfinished downloads of other programs beside a place: gone on with, never believed, left alone while in use."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.backends import aria2c
from orchestrator.backends.base import Job, Want
from orchestrator.demo.server import Origin
from orchestrator.model import Range
from tests.crashing import points
from tests.mounts import tmpfs
from tests.orch import Done, Orch, made, sha256
from tests.servers import require

MIB = 1 << 20
DATA = made(24 * MIB + 777)
HALF = 12 * MIB


@pytest.fixture
def place(tmp_path: Path, origin: Origin) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models/x.pth"


@pytest.fixture
def orch(tmp_path: Path, origin: Origin, place: Path) -> Orch:
    orch = Orch(tmp_path)
    orch.want("x", DATA, origin.serve("/v1/weights.pth", DATA), to="models/x.pth")
    return orch


def ended_well(done: Done, place: Path) -> None:
    assert done.code == 0, done.out
    assert place.read_bytes() == DATA
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name]


@pytest.mark.parametrize("name", ["x.pth.part", "x.pth.incomplete", "weights.pth.partial", "weights.pth.crdownload"])
def test_a_prefix_is_gone_on_with(orch: Orch, place: Path, name: str) -> None:
    (place.parent / name).write_bytes(DATA[:HALF])
    done = orch.sync()
    ended_well(done, place)
    assert done.summary["bytes_reused"] == HALF
    assert done.summary["bytes_fetched"] == len(DATA) - HALF
    assert any(name in e["message"] for e in done.named("noticed"))


def test_what_the_hub_client_left_in_its_cache_is_gone_on_with(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    """huggingface_hub 2.x gives each unfinished blob a suffix of its own."""
    commit = "c" * 40
    url = origin.serve(f"/org/name/resolve/{commit}/x.bin", DATA)
    orch.models = {"x": {"url": url, "sha256": sha256(DATA), "size": len(DATA), "for": "huggingface"}}
    blobs = tmp_path / "home/.cache/huggingface/hub/models--org--name/blobs"
    blobs.mkdir(parents=True)
    for name, length in (("0a1b2c3d", HALF), ("00000000", MIB)):
        (blobs / f"{sha256(DATA)}.{name}.incomplete").write_bytes(DATA[:length])
    done = orch.sync()
    assert (done.code, done.summary["bytes_reused"]) == (0, HALF)
    assert (blobs / sha256(DATA)).read_bytes() == DATA
    assert not (blobs / f"{sha256(DATA)}.0a1b2c3d.incomplete").exists()


def test_a_whole_one_is_only_judged(orch: Orch, place: Path) -> None:
    place.with_name("x.pth.part").write_bytes(DATA)
    done = orch.sync()
    ended_well(done, place)
    assert (done.summary["bytes_fetched"], done.named("started")) == (0, [])


@pytest.mark.parametrize("allocation", ["none", "prealloc"])
@pytest.mark.parametrize("known", [True, False], ids=["size", "no size"])
def test_what_aria2c_left_with_its_state(orch: Orch, origin: Origin, place: Path, allocation: str, known: bool) -> None:
    slow = origin.serve("/slow.pth", DATA, rate=MIB)
    argv = [require("aria2c"), "--no-conf", "-q", "-x4", "-s4", "-k1M", f"--file-allocation={allocation}"]
    aria2c = subprocess.Popen([*argv, "--auto-save-interval=1", "-d", str(place.parent), "-o", "x.pth", slow])
    time.sleep(2)
    if not known:
        del orch.models["x"]["size"]
    running = orch.run("sync", "--json", "team.yaml", "--retries", "0")
    assert running.code == 7, "in use: left alone, and in the way"
    assert any(f"process {aria2c.pid}" in e["message"] for e in running.named("noticed"))
    aria2c.send_signal(signal.SIGINT)
    aria2c.wait()
    assert place.with_name("x.pth.aria2").exists()
    planned = orch.run("plan", "--json", "team.yaml")
    assert (planned.code, planned.summary["fetched"]) == (0, 1)
    assert not known or planned.summary["bytes_to_fetch"] < len(DATA) - MIB
    done = orch.sync()
    ended_well(done, place)
    reused = done.summary["bytes_reused"]
    assert reused > MIB
    assert done.summary["bytes_fetched"] <= len(DATA) - reused + MIB


@pytest.mark.parametrize("backend", ["aria2c", "curl"])
def test_a_wrong_one_is_downloaded_again_and_nobody_is_blamed(
    orch: Orch, origin: Origin, place: Path, backend: str
) -> None:
    """What came after it is kept: the digest says in the end whether it was the wrong part."""
    place.with_name("x.pth.part").write_bytes(bytes(HALF))
    done = orch.sync("--backend", backend)
    ended_well(done, place)
    assert [e["source"] for e in done.named("mismatched")] and all(
        "an earlier run" in e["source"] for e in done.named("mismatched")
    )
    assert len({e["source"] for e in done.named("started")}) == 1, "the only source was asked again"
    assert done.summary["bytes_fetched"] <= len(DATA) + MIB
    (kept,) = orch.store.glob("quarantine/*/bytes")
    assert kept.read_bytes()[:HALF] == bytes(HALF), "what the user had is in quarantine"
    assert "it was here before, as an unfinished download" in orch.run("quarantine").out


def test_a_source_with_wrong_bytes_behind_a_right_one_is_blamed(orch: Orch, origin: Origin, place: Path) -> None:
    orch.models["x"]["mirrors"] = [origin.serve("/wrong.pth", DATA, wrong_at=len(DATA) - 1)]
    place.with_name("x.pth.part").write_bytes(DATA[:HALF])
    done = orch.sync("--backend", "curl")
    ended_well(done, place)
    blamed = [e["source"] for e in done.named("mismatched")]
    assert blamed[-1].endswith("/wrong.pth"), blamed
    assert len(blamed) == 2
    assert origin.sent("/wrong.pth") <= len(DATA) + 3 * MIB, "the bytes that it sent are not asked for twice"


@pytest.mark.parametrize("where", ["beside its place", "in the store"])
def test_no_sample_is_taken_for_what_is_nearly_complete(
    orch: Orch, origin: Origin, place: Path, tmp_path: Path, where: str
) -> None:
    """Which of two sources is faster would be found out by more bytes than are missing."""
    orch.models["x"]["mirrors"] = [origin.serve("/mirror.pth", DATA)]
    place.with_name("x.pth.part").write_bytes(DATA[:-MIB])
    if where == "in the store":
        assert orch.run("adopt", str(place.parent), "team.yaml").code == 0
    done = orch.sync()
    ended_well(done, place)
    assert done.summary["bytes_reused"] > len(DATA) - 2 * MIB
    assert origin.sent("/mirror.pth") + origin.sent("/v1/weights.pth") < MIB + MIB // 2


def test_what_is_open_or_of_another_file_is_left_alone(orch: Orch, place: Path) -> None:
    part = place.with_name("x.pth.part")
    part.write_bytes(DATA[:HALF])
    with part.open("ab"):
        done = orch.sync()
    assert (done.code, done.summary["bytes_reused"]) == (0, 0)
    assert any(f"process {os.getpid()} uses it" in e["message"] for e in done.named("noticed"))
    assert part.read_bytes() == DATA[:HALF]
    place.unlink()
    next(orch.store.glob("blobs/sha256/*")).unlink()
    part.write_bytes(DATA + b"longer")
    assert orch.sync().summary["bytes_reused"] == 0
    assert part.stat().st_size == len(DATA) + 6


def test_a_hard_link_and_a_symlink_keep_their_bytes(orch: Orch, place: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(DATA[:HALF])
    os.link(kept, place.with_name("x.pth.part"))
    done = orch.sync()
    assert (done.code, done.summary["bytes_reused"]) == (0, HALF)
    assert kept.read_bytes() == DATA[:HALF]
    place.unlink()
    next(orch.store.glob("blobs/sha256/*")).unlink()
    place.with_name("x.pth.part").unlink()
    place.with_name("x.pth.part").symlink_to(kept)
    assert orch.sync().summary["bytes_reused"] == 0


def test_more_of_our_own_is_kept(orch: Orch, origin: Origin, place: Path) -> None:
    origin.serve("/v1/weights.pth", DATA, rate=6 * MIB)
    process = orch.start("sync", "team.yaml", "--connections", "1")
    while origin.sent("/v1/weights.pth") < 4 * MIB:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait()
    origin.serve("/v1/weights.pth", DATA)
    part = place.with_name("x.pth.part")
    part.write_bytes(DATA[: MIB // 2])
    done = orch.sync()
    assert done.summary["bytes_reused"] > MIB
    assert part.exists()


def test_a_run_that_is_killed_while_it_copies_leaves_no_second_one(orch: Orch, place: Path, tmp_path: Path) -> None:
    """From another disk it is copied: the next run knows whose copy it has, and clears the place of the first."""
    with tmpfs(tmp_path / "models", "80m"):
        for number, left in enumerate(("x.pth", "x.pth.aria2")):
            control = aria2c.sidecar(Job((Want((), "f", len(DATA), 0),), "/"), (Range(HALF, len(DATA)),))
            place.write_bytes(DATA[:HALF])
            place.with_name("x.pth.aria2").write_bytes(control or b"")
            codes = [
                code
                for code in points(orch, "kill", "sync", "-q", "team.yaml", only=f"models/{left}", most=1)
                if code == -signal.SIGKILL
            ]
            assert (len(codes), place.exists()) == (1, number == 0)
            ended_well(orch.sync(), place)
            place.unlink()
            next(orch.store.glob("blobs/sha256/*")).unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_what_another_user_could_write_is_copied(orch: Orch, place: Path) -> None:
    part = place.with_name("x.pth.part")
    part.write_bytes(DATA[:HALF])
    os.chown(part, 65534, 65534)
    done = orch.sync()
    assert (done.code, done.summary["bytes_reused"]) == (0, HALF)
    assert (orch.blob(DATA).stat().st_uid, part.read_bytes()) == (0, DATA[:HALF])
