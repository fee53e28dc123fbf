"""Small files that go together: what a bundle brings, what it leaves over, and what outlives its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.backends import aria2c, curl
from orchestrator.backends.select import Requirements, for_bundle, rank
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine import disk_space, scheduler
from orchestrator.engine.run import sync
from orchestrator.engine.scan import scan
from orchestrator.errors import ExitCode, HeldError
from orchestrator.model import Artifact, Role, Source, Wanted
from orchestrator.store import Store, open_store, records
from orchestrator.store import partials as store_batches
from orchestrator.transfer.run_context import Options, RunContext
from orchestrator.workspace import open_workspace, run_context
from tests.mounts import tmpfs
from tests.orch import Done, Orch, made, sha256
from tests.servers import nginx, require

KIB = 1 << 10
SIZE = 20 * KIB


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def contents(count: int, size: int = SIZE) -> dict[str, bytes]:
    return {f"m{number:04}": made(size, number) for number in range(count)}


def want_all(orch: Orch, files: dict[str, bytes], origin: Origin, **faults: Any) -> None:
    for name, content in files.items():
        orch.want(name, content, origin.serve(f"/{name}", content, **faults))


def bundles_of(done: Done) -> list[int]:
    """How many files each program was started for."""
    return [event["files"] for event in done.named("started")]


def assert_in_place(orch: Orch, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        place = orch.folder / "models" / name
        assert place.read_bytes() == content, name
        assert os.stat(place).st_mtime_ns % 10**9 == int(sha256(content)[:12], 16) % 10**9
    assert os.listdir(orch.store / "partial") == []


def test_a_batch_that_is_redirected_is_announced_once(orch: Orch, origin: Origin) -> None:
    """Its program runs again at the host that the redirects lead to: --verbose and JSON tell that."""
    require("curl")
    files = contents(3)
    with Origin() as hub:
        for name, content in files.items():
            target = origin.serve(f"/{name}", content)
            orch.want(name, content, hub.serve(f"/hub/{name}", redirect=target), to=f"models/{name}")
        for words, count in (((), 1), (("--verbose",), 2)):
            shutil.rmtree(orch.store, ignore_errors=True)
            shutil.rmtree(orch.folder / "models", ignore_errors=True)
            done = orch.run("sync", "--backend", "curl", "team.yaml", *words)
            assert done.code == 0
            assert done.err.count(" and 2 more: curl from ") == count
        shutil.rmtree(orch.store)
        shutil.rmtree(orch.folder / "models")
        assert [e["redirected"] for e in orch.sync("--backend", "curl").named("started")] == [False, True]


def wait_for(condition: Any, patience_s: float = 15) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# All is well.


@pytest.mark.parametrize("backend", ["curl", "aria2c", "wget", None], ids=lambda name: name or "best")
def test_from_nginx(orch: Orch, tmp_path: Path, backend: str | None) -> None:
    require(backend or "curl")
    files = contents(20 if backend == "wget" else 300)
    root = tmp_path / "www"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    with nginx(root) as server:
        for name, content in files.items():
            orch.want(name, content, f"{server.url}/{name}")
        done = orch.sync(*(("--backend", backend) if backend else ()))
        looks = {"/m0000": 1} if backend == "aria2c" else {}  # does this host redirect? aria2c would follow
        assert server.counts() == {f"/{name}": 1 + looks.get(f"/{name}", 0) for name in files}
    assert (done.code, done.summary["fetched"], done.summary["bytes_fetched"]) == (0, len(files), len(files) * SIZE)
    assert_in_place(orch, files)
    if backend == "wget":  # which knows no bundles
        assert bundles_of(done) == [1] * len(files)
    else:
        assert sum(bundles_of(done)) == len(files)
        assert len(bundles_of(done)) < 4
    told = done.named("finished")
    assert sorted(event["model"] for event in told) == sorted(files)
    assert {(event["how"], event["backend"], event["size_bytes"]) for event in told} == {
        ("fetched", backend or "curl", SIZE)
    }
    assert len(done.named("verified")) == len(done.named("placed")) == len(files)
    # Of two thousand commands one would be read by nobody: the first file's stands for all.
    assert all(len(event["command"]) < 2000 for event in done.named("started"))
    again = orch.sync()
    assert (again.code, again.summary["present"], again.named("started")) == (0, len(files), [])


def test_two_thousand_need_little_memory(orch: Orch, tmp_path: Path) -> None:
    require("nginx")
    root = tmp_path / "www"
    root.mkdir()
    for number in range(2000):
        content = b"%d" % number
        (root / f"m{number}").write_bytes(content)
    with nginx(root) as server:
        for number in range(2000):
            orch.want(f"m{number}", b"%d" % number, f"{server.url}/m{number}")
        orch.write()
        # VmHWM begins anew with a program; ru_maxrss would be that of this test's process, if that is more.
        script = "from orchestrator.cli import main; main(['sync', '-q', 'team.yaml'])"
        script += "; print(open('/proc/self/status').read())"
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, check=True)
    assert len(os.listdir(orch.folder / "models")) == 2000
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak) <= 46 * 1024


def test_one_digest_for_two_and_places_of_all_kinds(orch: Orch, origin: Origin) -> None:
    files = contents(12)
    want_all(orch, files, origin)
    orch.want("twin", files["m0000"], origin.serve("/twin", files["m0000"]))
    orch.models["m0001"]["link"] = "copy"
    orch.models["m0002"]["link"] = "symlink"
    orch.models["m0003"]["to"] = "store"
    orch.models["m0004"]["to"] = ["models/", "more/m0004"]
    done = orch.sync()
    assert (done.code, done.summary["fetched"], done.summary["placed"]) == (0, 12, 1)
    assert bundles_of(done) == [12]
    places = {name: orch.folder / "models" / name for name in (*files, "twin")}
    assert not places.pop("m0003").exists()
    for name, place in places.items():
        assert place.read_bytes() == files.get(name, files["m0000"])
    blob = os.stat(orch.blob(files["m0001"]))
    assert os.stat(places["m0001"]).st_ino != blob.st_ino
    assert os.stat(places["m0001"]).st_mode & 0o777 == 0o444
    assert os.path.islink(places["m0002"])
    assert (orch.folder / "more/m0004").read_bytes() == files["m0004"]
    assert orch.sync().summary["present"] == 13


def test_what_the_store_has_is_placed_together(orch: Orch, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    files = contents(30)
    want_all(orch, files, origin)
    orch.write()
    written: list[int] = []
    record = records.record

    def spy(
        store: Store,
        host: str,
        manifest: str,
        made: dict[str, records.PlaceRecord],
        stop: threading.Event | None = None,
    ) -> str:
        before = [place for place, entry in made.items() if "inode" not in entry]  # the others are known to stand
        assert not any(os.path.lexists(place) for place in before), "recorded after it was made"
        if before:  # first the manifest alone is named, for whoever prunes
            written.append(len(before))
        return record(store, host, manifest, made, stop)

    monkeypatch.setattr(records, "record", spy)
    context = Context(environ={**os.environ, "HOME": str(orch.folder)}, cwd=str(orch.folder))
    for expected in ("fetched", "placed"):
        space = open_workspace(context, ["team.yaml"])
        summary = sync(run_context(context, space, lambda event: None, Options(jobs=1)), space.wanted)
        assert (summary.exit_code, getattr(summary, expected)) == (0, 30)
        assert written == [30]
        written.clear()
        for name in files:
            (orch.folder / "models" / name).unlink()
    assert len(origin.log) == 30


def test_connections_are_counted_over_all_bundles(orch: Orch, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    want_all(orch, contents(40, KIB), origin, delay_s=0.05)
    monkeypatch.setattr(scheduler, "MOST_FILES", 10)
    orch.write()
    context = Context(environ={**os.environ, "HOME": str(orch.folder)}, cwd=str(orch.folder))
    space = open_workspace(context, ["team.yaml"])
    assert sync(run_context(context, space, lambda event: None, Options(connections=8)), space.wanted).exit_code == 0
    assert 4 < origin.peak_connections <= 8


def test_a_hosts_own_limit_holds_over_all_bundles(orch: Orch, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    want_all(orch, contents(40, KIB), origin, delay_s=0.05)
    monkeypatch.setattr(scheduler, "MOST_FILES", 10)
    orch.top["hosts"] = {f"127.0.0.1:{origin.port}": {"connections": 4}}
    orch.write()
    context = Context(environ={**os.environ, "HOME": str(orch.folder)}, cwd=str(orch.folder))
    space = open_workspace(context, ["team.yaml"])
    done = sync(run_context(context, space, lambda event: None), space.wanted)
    assert done.exit_code == 0
    assert origin.peak_connections <= 4


@pytest.mark.parametrize("backend", ["curl", "aria2c"])
def test_empty_files_too(orch: Orch, origin: Origin, backend: str) -> None:
    require(backend)
    files = contents(3)
    want_all(orch, files, origin)
    nothing = orch.want("nothing", b"", origin.serve("/nothing", b""))
    done = orch.sync("--backend", backend)
    assert (done.code, done.summary["fetched"]) == (0, 4)
    assert nothing.read_bytes() == b""


# What a bundle leaves over.


def test_three_of_fifty_are_not_there(orch: Orch, origin: Origin) -> None:
    files = contents(50)
    lost = ("m0007", "m0030", "m0049")
    with Origin() as other:
        for name, content in files.items():
            first = origin.serve(f"/{name}", content, status=404 if name in lost else None)
            orch.want(name, content, other.serve(f"/{name}", content), mirrors=[first])
        done = orch.sync()
        assert (done.code, done.summary["fetched"]) == (0, 50)
        assert bundles_of(done)[0] == 50
        assert {other.requests(f"/{name}") for name in files if name not in lost} == {0}
        assert [other.sent(f"/{name}") for name in lost] == [SIZE] * 3
    assert {origin.requests(f"/{name}") for name in files if name not in lost} == {1}
    assert sorted((event["model"], event["fault"]) for event in done.named("failed")) == [
        (name, "missing") for name in lost
    ]
    assert_in_place(orch, files)
    assert done.summary["bytes_fetched"] == 50 * SIZE


def test_a_mirror_that_lies_for_one_file(orch: Orch, origin: Origin) -> None:
    files = contents(20)
    with Origin() as other:
        for name, content in files.items():
            first = origin.serve(f"/{name}", content, wrong_at=77 if name == "m0005" else None)
            orch.want(name, content, other.serve(f"/{name}", content), mirrors=[first])
        done = orch.sync()
        (told,) = done.named("mismatched")
        assert (done.code, told["model"], told["source"]) == (0, "m0005", f"{origin.url}/m0005")
        assert (Path(told["quarantine"]) / "bytes").stat().st_size == SIZE
        assert [name for name in files if other.requests(f"/{name}")] == ["m0005"]
    assert {origin.requests(f"/{name}") for name in files} == {1}  # the liar is not asked again
    assert_in_place(orch, files)


def test_one_that_lies_and_has_no_other_source(orch: Orch, origin: Origin) -> None:
    files = contents(9)
    want_all(orch, files, origin)
    origin.serve("/m0003", files["m0003"], wrong=True)
    done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (ExitCode.DIGEST, 8)
    (failed,) = done.summary["failed"]
    assert (failed["model"], failed["fault"]) == ("m0003", "corrupt")
    assert f"{origin.url}/m0003" in failed["message"]
    assert not orch.blob(files["m0003"]).exists()


@pytest.mark.parametrize("how", [{"silent": True, "rst": True}, {"status": 404}, {"html": True}, {"wrong": True}])
def test_the_next_host_gets_a_bundle_too(orch: Orch, origin: Origin, how: dict[str, Any]) -> None:
    files = contents(60)
    with Origin() as other:
        for name, content in files.items():
            first = origin.serve(f"/{name}", content, **how)
            orch.want(name, content, other.serve(f"/{name}", content), mirrors=[first])
        done = orch.sync()
        assert (done.code, done.summary["fetched"]) == (0, 60)
        assert bundles_of(done) == [60, 60]
        assert {other.requests(f"/{name}") for name in files} == {1}
    assert_in_place(orch, files)


@pytest.mark.parametrize("how", [{"cut_after": 9000, "cut_times": 1}, {"no_length": True, "cut_after": 9000}])
def test_a_short_file_is_no_file(orch: Orch, origin: Origin, how: dict[str, Any]) -> None:
    files = contents(10)
    want_all(orch, files, origin)
    origin.serve("/m0004", files["m0004"], **how)
    done = orch.sync("--retries", "0")
    if "cut_times" in how:
        assert done.code == 0
        assert_in_place(orch, files)
    else:
        assert (done.code, [f["model"] for f in done.summary["failed"]]) == (ExitCode.TRANSFER, ["m0004"])
        assert not orch.blob(files["m0004"]).exists()


def test_a_server_that_sends_no_end(orch: Orch, origin: Origin) -> None:
    files = contents(5)
    want_all(orch, files, origin)
    origin.serve("/m0002", made(40 << 20), rate=64 << 20, chunked=True)
    done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (ExitCode.DIGEST, 4)
    assert done.summary["bytes_fetched"] < 40 << 20


def test_a_place_that_cannot_be_made_hurts_nobody_else(orch: Orch, origin: Origin) -> None:
    files = contents(6)
    want_all(orch, files, origin)
    orch.models["m0001"]["to"] = "blocked/m0001"
    (orch.folder / "blocked").write_bytes(b"a file where a folder should be")
    done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (ExitCode.PLACEMENT, 5)
    assert orch.blob(files["m0001"]).exists()


def test_a_foreign_file_is_not_replaced(orch: Orch, origin: Origin) -> None:
    files = contents(6)
    want_all(orch, files, origin)
    foreign, right = orch.folder / "models/m0001", orch.folder / "models/m0002"
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    right.write_bytes(files["m0002"])
    done = orch.sync()
    assert (done.code, done.summary["fetched"], done.summary["placed"]) == (ExitCode.PLACEMENT, 4, 1)
    assert foreign.read_bytes() == b"mine"
    assert origin.requests("/m0001") == origin.requests("/m0002") == 0


@pytest.mark.parametrize("backend", ["curl", "aria2c"])
def test_a_wrong_size_makes_no_right_file_wrong(orch: Orch, origin: Origin, backend: str) -> None:
    """`size:` is a help: the digest says what is right, and the manifest's mistake is told with the right number."""
    require(backend)
    files = contents(12)
    want_all(orch, files, origin)
    orch.models["m0003"]["size"] += 7
    orch.models["m0004"]["size"] -= 7
    done = orch.sync("--backend", backend)
    assert (done.code, done.summary["fetched"], done.named("mismatched")) == (0, 12, []), done.out
    for name, content in files.items():
        assert (orch.folder / "models" / name).read_bytes() == content
    told = [e["message"] for e in done.named("noticed") if "size:" in e["message"]]
    assert sorted(m.partition("/")[0] for m in told) == ["m0003", "m0004"]
    assert all(f"has {SIZE} bytes" in m and str(orch.manifest) in m for m in told)


# The end in the middle.


def paced(orch: Orch, origin: Origin) -> tuple[dict[str, bytes], subprocess.Popen[str]]:
    """A sync of 40 files that would last four seconds, some way into it."""
    files = contents(40)
    want_all(orch, files, origin, rate=100 * KIB)
    running = orch.start("sync", "--json", "team.yaml", "--connections", "2")
    wait_for(lambda: sum(record.sent == SIZE for record in origin.log) >= 6)
    return files, running


def resume(orch: Orch, origin: Origin, files: dict[str, bytes], whole: set[str]) -> Done:
    """Sync again, and see that what had come whole is not asked for again."""
    for name, content in files.items():
        origin.serve(f"/{name}", content)
    before = {name: origin.requests(f"/{name}") for name in files}
    done = orch.sync()
    assert done.code == 0
    asked = {name for name in files if origin.requests(f"/{name}") > before[name]}
    assert not asked & whole
    assert done.summary["bytes_reused"] >= len(whole) * SIZE
    assert done.summary["bytes_fetched"] == len(asked) * SIZE
    assert (done.summary["placed"], done.summary["fetched"]) == (len(files) - len(asked), len(asked))
    assert_in_place(orch, files)
    return done


def whole_ones(orch: Orch) -> set[str]:
    """The models whose bytes lie whole in some bundle."""
    found = {path.name for path in orch.store.glob("partial/bundles/*/*") if path.stat().st_size == SIZE}
    return {name for name, entry in orch.models.items() if entry["sha256"] in found}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_in_the_middle(orch: Orch, origin: Origin, number: int, code: int) -> None:
    files, running = paced(orch, origin)
    (child,) = psutil.Process(running.pid).children()
    running.send_signal(number)
    out, err = running.communicate(timeout=15)
    assert running.returncode == code, err
    if number != signal.SIGKILL:
        summary = json.loads(out.splitlines()[-1])
        assert (summary["exit_code"], len(summary["failed"]), summary["files"]) == (code, 40, 40)
        assert summary["bytes_fetched"] >= 6 * SIZE
    psutil.wait_procs([child], timeout=30)
    assert not (orch.folder / "models").exists()
    whole = whole_ones(orch)
    assert len(whole) >= 5
    assert resume(orch, origin, files, whole).summary["bytes_reused"] == len(whole) * SIZE


def test_another_set_still_finds_what_a_dead_bundle_left(orch: Orch, origin: Origin) -> None:
    files, running = paced(orch, origin)
    running.kill()
    running.communicate()
    whole = sorted(whole_ones(orch))
    for name, content in files.items():
        origin.serve(f"/{name}", content)
    done = orch.sync("--only", whole[0])  # a bundle of one, because it is there
    assert (done.code, done.summary["placed"], done.summary["bytes_reused"]) == (0, 1, SIZE)
    more = {f"n{number}": made(SIZE, 1000 + number) for number in range(5)}
    want_all(orch, more, origin)
    del orch.models[whole[0]], files[whole[0]]
    resume(orch, origin, {**files, **more}, set(whole[1:]))


def test_rotten_remains_are_nobodys_fault(orch: Orch, origin: Origin) -> None:
    files, running = paced(orch, origin)
    running.kill()
    running.communicate()
    victim = sorted(whole_ones(orch))[0]
    (lying,) = orch.store.glob(f"partial/bundles/*/{sha256(files[victim])}")
    lying.write_bytes(made(SIZE, 9999))
    for name, content in files.items():
        origin.serve(f"/{name}", content)
    done = orch.sync()
    (told,) = done.named("mismatched")
    assert (done.code, told["source"], done.named("failed")) == (0, "an earlier run", [])
    assert_in_place(orch, files)


def test_a_disk_that_fills_up(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    files = contents(40)
    want_all(orch, files, origin, rate=100 * KIB)
    with tmpfs(tmp_path / "small", "2m") as disk:
        running = orch.start("sync", "--json", "team.yaml", "--connections", "2", "--store", str(disk / "store"))
        wait_for(lambda: sum(record.sent == SIZE for record in origin.log) >= 6)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(64 * KIB))
            except OSError:
                pass
        out, _ = running.communicate(timeout=30)
        summary = json.loads(out.splitlines()[-1])
        assert (running.returncode, summary["failed"][0]["fault"]) == (ExitCode.STORE, "disk")
        assert "df -h" in summary["failed"][0]["hint"]
        (disk / "filler").unlink()
        for name, content in files.items():
            origin.serve(f"/{name}", content)
        done = orch.sync("--store", str(disk / "store"))
        assert (done.code, done.summary["placed"] + done.summary["fetched"]) == (0, 40)
        assert done.summary["bytes_reused"] >= 5 * SIZE


def test_two_at_once_fetch_once(orch: Orch, origin: Origin) -> None:
    files = contents(24)
    want_all(orch, files, origin, rate=200 * KIB)
    words = ("sync", "--json", "team.yaml", "--connections", "2")
    first = orch.start(*words)
    wait_for(lambda: len(origin.log) >= 3)
    at_work = psutil.Process(first.pid)
    held = [at_work, *at_work.children()]
    for process in held:
        process.suspend()
    hasty = orch.run(*words, "--no-wait")
    assert (hasty.code, {f["fault"] for f in hasty.summary["failed"]}) == (ExitCode.HELD, {"lease"})
    patient = orch.run(*words, "--lock-wait", "1s")
    assert (patient.code, {f["fault"] for f in patient.summary["failed"]}) == (ExitCode.HELD, {"lease"})
    assert any("waiting, another orch" in event["message"] for event in patient.named("noticed"))
    others = [orch.start(*words), orch.start(*words, "--only", "m0023")]  # which the first has not begun, but will
    said = [line_with("waiting, another orch", other) for other in others]
    for process in held:
        process.resume()
    outs = [first.communicate(timeout=60)[0]]
    outs += [line + other.communicate(timeout=60)[0] for line, other in zip(said, others, strict=True)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0]
    assert [json.loads(out.splitlines()[-1])["fetched"] for out in outs] == [24, 0, 0]
    assert {origin.requests(f"/{name}") for name in files} == {1}
    assert_in_place(orch, files)


def line_with(words: str, running: subprocess.Popen[str]) -> str:
    """Read what a command says up to the line with these words."""
    assert running.stdout is not None
    said = ""
    while words not in said:
        line = running.stdout.readline()
        assert line, f"it never said {words!r}: {said}"
        said += line
    return said


# The store's side.


def test_who_takes_what(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    first, held = store_batches.acquire_batch(store, {a: 1, b: 2})
    assert first is not None
    assert not held
    for digest, content in ((a, b"1"), (b, b"2")):
        Path(first.file(digest)).write_bytes(content)  # the second is short
    second, held = store_batches.acquire_batch(store, {b: 2, c: 3})
    assert second is not None
    assert isinstance(held.pop(b), HeldError)
    assert not held
    assert store_batches.acquire_batch(store, {c: 3})[0] is None
    first.close()
    second.discard()
    third, held = store_batches.acquire_batch(store, {b: 2})
    assert third is not None
    assert (third.sizes().keys() & {a, b}, held) == (set(), {})
    assert a in store_batches.batch_remains(store), "it may be wanted by another"
    fourth, _ = store_batches.acquire_batch(store, {a: 1})
    assert fourth is not None
    assert Path(fourth.file(a)).read_bytes() == b"1"
    assert not Path(first.folder).exists()
    third.discard()
    fourth.discard()
    assert os.listdir(f"{store.path}/partial") == []


def test_what_lies_in_bundles_is_not_asked_of_the_disk_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    content = made(8 * KIB)
    wanted = Wanted(str(tmp_path / "m"), "m", "", sha256(content), len(content), (), ())
    assert disk_space.needs(store, scan(store, [wanted]), {wanted.key})[0].size_bytes == 8 * KIB
    bundle, _ = store_batches.acquire_batch(store, {sha256(content): len(content)})
    assert bundle is not None
    Path(bundle.file(sha256(content))).write_bytes(content)
    bundle.close()
    assert disk_space.needs(store, scan(store, [wanted]), {wanted.key})[0].size_bytes == 0


@pytest.mark.parametrize(
    ("installed", "line", "best"),
    [
        ("aria2c axel curl wget", Requirements("https"), curl),
        ("aria2c axel wget", Requirements("http"), aria2c),
        ("axel wget", Requirements("http"), None),
        ("aria2c curl", Requirements("https", "socks5h", private_ca=True), curl),
        ("aria2c", Requirements("http", "socks5h"), None),
        ("aria2c curl", Requirements("https", rate=True), aria2c),  # curl 7 lets the first MiBs through unlimited
        ("curl", Requirements("https", rate=True), curl),
        ("aria2c curl", Requirements("rsync"), None),
    ],
)
def test_who_serves_a_bundle(installed: str, line: Requirements, best: object) -> None:
    assert for_bundle(installed.split(), line) is best


@pytest.mark.parametrize("size", [5000, 1 << 30])
def test_under_a_limit_curl_is_not_the_first(size: int) -> None:
    """Of 5 MiB at 500 KiB/s curl 7.88 read all within 0.3 s; without a limit it is the first for both."""
    for rate, best in ((True, "aria2c"), (False, "curl")):
        line = Requirements("http", rate=rate)
        assert best == rank({"aria2c", "curl", "wget"}, size, line, is_open=True)[0].backend.NAME


def test_what_goes_together(tmp_path: Path) -> None:
    """Only small files of one host, of which nothing stands anywhere, and in parts of much the same size."""
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    context = Context(environ={}, cwd=str(tmp_path))
    from orchestrator.programs import Program

    run = RunContext(context, store, lambda event: None, programs={"curl": Program("curl", "/bin/curl", "8.0")})

    def task(number: int, size: int | None, host: str = "http://a", scheme_only: str = "") -> scheduler.BatchTask:
        digest = sha256(b"%d" % number)
        sources = (Source(scheme_only or f"{host}/{number}", Role.ORIGIN),)
        wanted = Wanted(str(tmp_path / "m"), f"m{number}", "", digest, size, sources, ())
        return scheduler.BatchTask(Artifact(digest, size, sources, (wanted,)), scan(store, [wanted]))

    small = [task(number, 1) for number in range(600)]
    begun, unknown, large = task(601, 1), task(602, None), task(603, (1 << 20) + 1)
    lonely, rsync = task(604, 1, "http://b"), task(605, 1, scheme_only="rsync://a/605")
    packer = scheduler.Batcher(run, {begun.artifact.sha256}, ())
    alone, packed = packer.pack([*small, begun, unknown, large, lonely, rsync])
    assert sorted(t.artifact.wanted[0].model for t in alone) == ["m601", "m602", "m603", "m604", "m605"]
    assert [len(parcel.tasks) for parcel in packed] == [300, 300]
    assert [t for parcel in packed for t in parcel.tasks] == small
    again = task(604, 1, "http://b")
    assert scheduler.Batcher(run, set(), {again.artifact.sha256}).pack([again])[1][0].tasks == [again]


# The bundle's fault is the host's.


def killer(folder: Path, times: int, brings: int) -> str:
    """A folder with a curl that is killed in its first bundles, after so many files of its list, and else is curl."""
    (folder / "bin").mkdir()
    script = folder / "bin/curl"
    script.write_text(
        f"""#!/bin/sh
case $* in *--version*) exec {require("curl")} "$@";; esac
echo x >> {folder}/started
[ $(wc -l < {folder}/started) -gt {times} ] && exec {require("curl")} "$@"
awk '/^next$/ {{ k++ }} k < {brings}' | {require("curl")} "$@" 2>/dev/null
kill -9 $$
"""
    )
    script.chmod(0o755)
    return str(folder / "bin")


@pytest.mark.parametrize(("times", "brings", "waits"), [(1, 20, 0), (2, 0, 2)])
def test_a_killed_program_is_started_again_for_all_that_are_left(
    orch: Orch, origin: Origin, tmp_path: Path, times: int, brings: int, waits: int
) -> None:
    """400 files and one kill: another bundle, not 400 waits and 400 programs."""
    files = contents(400, 2 * KIB)
    want_all(orch, files, origin)
    orch.environ["ORCH_PROGRAMS"] = killer(tmp_path, times, brings)
    done = orch.sync("--backend", "curl", "--jobs", "1")
    assert (done.code, done.summary["fetched"]) == (0, 400), done.out[-1000:]
    assert len((tmp_path / "started").read_text().split()) == times + 1
    assert len(done.named("failed")) == times
    assert len(done.named("waiting")) == waits, "none after what brought something"
    assert max(origin.requests(f"/{name}") for name in files) <= times + 1
    assert_in_place(orch, files)


def test_a_program_that_always_crashes_is_left_for_all(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    files = contents(60)
    want_all(orch, files, origin)
    orch.environ["ORCH_PROGRAMS"] = killer(tmp_path, 1000, 0)
    (tmp_path / "bin/aria2c").symlink_to(require("aria2c"))
    script = tmp_path / "bin/curl"
    script.write_text(script.read_text().replace("kill -9", "kill -SEGV"))
    done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (0, 60)
    assert [(e["backend"], e["files"]) for e in done.named("started")] == [("curl", 60), ("aria2c", 60)]


def test_a_host_that_is_gone_costs_its_retries_once(orch: Orch, origin: Origin) -> None:
    """Not once a file: they are the host's."""
    files = contents(60)
    want_all(orch, files, origin, silent=True, rst=True)
    done = orch.sync("--backend", "curl", "--retries", "2")
    assert (done.code, len(done.summary["failed"])) == (ExitCode.TRANSFER, 60)
    assert bundles_of(done)[:2] == [60, 60]
    assert len(done.named("waiting")) == 1
    assert max(origin.requests(f"/{name}") for name in files) <= 4
