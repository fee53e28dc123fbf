"""rsync:// and file:// sources from one end to the other: as mirrors, as liars, dead, without the program, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.demo.faults import wrong_bytes
from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Orch, made
from tests.rsyncd import FolderOrigin, RsyncOrigin
from tests.servers import require

MIB = 1 << 20
DATA = made(3 * MIB + 77)
RATE = 4 * MIB


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@pytest.fixture(params=[RsyncOrigin, FolderOrigin], ids=["rsync", "file"])
def origin(request: pytest.FixtureRequest):
    require("rsync")
    with request.param() as running:
        yield running


def only(orch: Orch, *names: str) -> None:
    """Leave orch no other downloaders."""
    folder = orch.folder / "programs"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(require(name))
    orch.environ["ORCH_PROGRAMS"] = str(folder)


def test_a_mirror(orch: Orch, origin: FolderOrigin) -> None:
    url = origin.serve("/models v1/w.bin", DATA)
    place = orch.want("w", DATA, "http://127.0.0.1:9/w.bin", mirrors=[url])
    done = orch.sync()
    assert (done.code, done.summary["fetched"], done.summary["bytes_fetched"]) == (0, 1, len(DATA))
    assert place.read_bytes() == orch.blob(DATA).read_bytes() == DATA
    assert [(e["backend"], e["source"]) for e in done.named("started")] == [("rsync", url)]


def test_a_link_that_nobody_may_write(orch: Orch, origin: FolderOrigin) -> None:
    """A store's blob is read-only, a hub's cache is full of links; a partial of them can be gone on with."""
    origin.serve("/blob", DATA)
    (origin.root / "blob").chmod(0o444)
    (origin.root / "w.bin").symlink_to("blob")
    place = orch.want("w", DATA, f"{origin.url}/w.bin")
    assert orch.sync().code == 0
    assert place.read_bytes() == DATA


def test_a_name_is_never_a_pattern(orch: Orch, origin: FolderOrigin) -> None:
    for name in ("/w1.bin", "/w*.bin", "/w[12].bin", "/w?.bin"):
        origin.serve(name, DATA + name.encode())
    for n, name in enumerate(("w*.bin", "w[12].bin", "w%3F.bin")):
        content = DATA + b"/" + name.replace("%3F", "?").encode()
        orch.want(f"m{n}", content, f"{origin.url}/{name}", to=f"models/{n}")
    done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (0, 3)
    assert done.named("failed") == []


def test_a_liar_is_named(orch: Orch, origin: FolderOrigin) -> None:
    bad = origin.serve("/w.bin", wrong_bytes(DATA))
    with Origin(rate=8 << 20) as honest:  # never measured as twice as fast, and so asked second
        place = orch.want("w", DATA, honest.serve("/w.bin", DATA), mirrors=[bad])
        done = orch.sync()
    assert done.code == 0
    assert place.read_bytes() == DATA
    assert [e["source"] for e in done.named("mismatched")] == [bad]


@pytest.mark.parametrize("kind", ["nobody-listens", "no-such-module", "no-such-file", "a-folder", "another-length"])
def test_a_dead_mirror(orch: Orch, kind: str) -> None:
    with RsyncOrigin() as origin, Origin() as rescue:
        origin.serve("/d/other.bin", DATA[:-1])
        dead = {
            "nobody-listens": "rsync://127.0.0.1:9/m/w.bin",
            "no-such-module": origin.url + "odule/w.bin",
            "no-such-file": origin.url + "/w.bin",
            "a-folder": origin.url + "/d",
            "another-length": origin.url + "/d/other.bin",
        }[kind]
        place = orch.want("w", DATA, rescue.serve("/w.bin", DATA), mirrors=[dead])
        done = orch.sync()
    assert done.code == 0
    assert place.read_bytes() == DATA
    fault = {"nobody-listens": "network", "another-length": "corrupt"}.get(kind, "missing")
    assert [(e["source"], e["fault"]) for e in done.named("failed")] == [(dead, fault)]


@pytest.mark.parametrize(
    ("name", "fault"), [("nowhere", "missing"), ("d", "missing"), ("pipe", "missing"), ("short", "corrupt")]
)
def test_a_file_that_is_not_there(orch: Orch, name: str, fault: str) -> None:
    require("rsync")
    with FolderOrigin() as origin:
        origin.serve("/short", DATA[:-1])
        (origin.root / "d").mkdir()
        os.mkfifo(origin.root / "pipe")
        orch.want("w", DATA, f"{origin.url}/{name}", to="models/w")
        done = orch.sync()
    assert done.summary["failed"][0]["fault"] == fault
    assert len(done.named("started")) == 1


def test_without_rsync_another_source_serves(orch: Orch) -> None:
    """It is told once a run and host, not once a file."""
    only(orch, "curl")
    with Origin() as origin:
        for name in ("a", "b"):
            orch.want(name, DATA + name.encode(), origin.serve(f"/{name}", DATA + name.encode()))
            orch.models[name]["mirrors"] = [f"rsync://127.0.0.1:9/m/{name}", f"file:///nowhere/{name}"]
        done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (0, 2)
    assert [e["message"] for e in done.named("noticed")] == [
        "rsync://127.0.0.1:9 is left out: rsync: not installed",
        "file:// is left out: rsync: not installed",
    ]
    assert done.named("failed") == []


def test_a_program_that_was_not_asked_for(orch: Orch) -> None:
    require("curl")
    with Origin() as origin:
        orch.want("w", DATA, origin.serve("/w", DATA), mirrors=["rsync://127.0.0.1:9/m/w"])
        done = orch.sync("--backend", "curl")
    assert done.code == 0
    assert [e["message"] for e in done.named("noticed")] == ["rsync://127.0.0.1:9 is left out: rsync: not asked for"]


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_without_rsync_and_without_another_source(orch: Orch, command: str) -> None:
    only(orch, "curl")
    orch.want("w", DATA, "rsync://127.0.0.1:9/m/w")
    done = orch.run(command, "team.yaml")
    assert done.code == ExitCode.NO_BACKEND
    said = done.out + done.err
    assert "rsync" in said.split("hint:")[1]
    assert "aria2" not in said


def test_rsync_alone(orch: Orch, origin: FolderOrigin) -> None:
    only(orch, "rsync")
    place = orch.want("w", DATA, origin.serve("/w", DATA))
    orch.want("h", b"h", "http://127.0.0.1:9/h")
    done = orch.sync("--backend", "rsync")
    assert place.read_bytes() == DATA
    assert [(f["model"], f["exit_code"]) for f in done.summary["failed"]] == [("h", ExitCode.NO_BACKEND)]
    chosen = [e["backend"] for e in orch.run("backends", "--json", "team.yaml").named("choice")]
    assert chosen[0] == "rsync"


def test_a_proxy_is_not_asked_for_a_file(orch: Orch) -> None:
    require("rsync")
    orch.environ["all_proxy"] = "http://127.0.0.1:9"
    with FolderOrigin() as origin:
        place = orch.want("w", DATA, origin.serve("/w", DATA))
        assert orch.sync().code == 0
    assert place.read_bytes() == DATA


# rsync is two processes here, and the one that writes outlives a leader that is killed.


def descendants(process: subprocess.Popen[str], count: int, patience_s: float = 15) -> list[psutil.Process]:
    """Wait for so many rsync processes below orch."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            found = [p for p in below if p.name() == "rsync" and "--inplace" in p.cmdline()]
            if len(found) >= count:
                return found
        time.sleep(0.02)
    raise AssertionError("no rsync with a receiver was started")


@pytest.mark.parametrize("victim", ["INT", "KILL", "leader"])
def test_the_receiver_is_gone_too(orch: Orch, victim: str) -> None:
    content = made(24 * MIB)
    with RsyncOrigin() as origin:
        place = orch.want("w", content, origin.serve("/w.bin", content, rate=RATE))
        running = orch.start("sync", "--json", "team.yaml")
        both = descendants(running, 2)
        while origin.sent("/w.bin") < 6 * MIB:
            time.sleep(0.02)
        if victim == "leader":
            both[0].kill()
        else:
            running.send_signal(getattr(signal, f"SIG{victim}"))
        _, alive = psutil.wait_procs(both, timeout=30)
        assert alive == []
        _, err = running.communicate(timeout=30)
        if victim == "leader":
            assert running.returncode == 0, err
        else:
            assert not place.exists()
            again = orch.sync()
            assert (again.code, again.summary["bytes_reused"] > 4 * MIB) == (0, True)
        assert origin.sent("/w.bin") < len(content) + 4 * MIB
    assert place.read_bytes() == content
