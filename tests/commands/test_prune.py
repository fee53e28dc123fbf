"""`orch prune`: what nobody wants goes, nothing else; beside running syncs, other hosts, links that lead away."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256

A, B, C = made(50_000, 1), made(60_000, 2), made(70_000, 3)


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    """Two models in place, a copy and a link each; the link mode `copy` so that a dropped blob frees its bytes."""
    orch = Orch(tmp_path, environ={"ORCH_STORE": str(tmp_path / "store")})
    orch.want("a", A, origin.serve("/a.pth", A), link="copy")
    orch.want("b", B, origin.serve("/b.pth", B), link="copy")
    assert orch.sync().code == 0
    return orch


def dropped(done: object) -> dict[str, int]:
    return {event["sha256"] or event["kind"]: event["bytes"] for event in done.named("pruned")}  # type: ignore[attr-defined]


def test_what_a_known_manifest_wants_stays_and_the_rest_goes(orch: Orch) -> None:
    del orch.models["b"]
    done = orch.run("prune", "--yes", "--json")  # the manifest is known by the record alone
    assert dropped(done) == {sha256(B): len(B)}
    assert [event["known_as"] for event in done.named("pruned")] == [str(orch.folder / "models/b.pth")]
    assert (done.code, done.summary["bytes_freed"]) == (0, len(B))
    assert (orch.blob(A).exists(), orch.blob(B).exists()) == (True, False)
    assert (orch.folder / "models/b.pth").read_bytes() == B, "a place is never touched"
    again = orch.run("prune", "--yes", "--json")
    assert dropped(again) == {}


def replaced(orch: Orch, origin: Origin, content: bytes = C, name: str = "a", **keys: object) -> Path:
    """A new version of a model at the same place."""
    place = orch.want(name, content, origin.serve(f"/{name}.pth", content), **{"link": "copy", **keys})
    assert orch.sync().code == 0
    return place


def age(orch: Orch, days: float) -> None:
    """Let all replacements have been that much earlier."""
    for path in (orch.store / "places").glob("*.json"):
        record = json.loads(path.read_text())
        for entry in record["places"].values():
            entry["previous"] = [(sha, when - int(days * 86400)) for sha, when in entry.get("previous", [])]
        path.write_text(json.dumps(record))


@pytest.mark.parametrize("link", ["copy", "hard", "symlink"])
def test_the_version_before_stays_for_a_way_back_with_no_network(orch: Orch, origin: Origin, link: str) -> None:
    replaced(orch, origin, A, link=link)
    before = orch.models["a"]
    place = replaced(orch, origin, link=link)
    done = orch.run("prune", "--yes", "--json")
    assert dropped(done) == {}
    (kept,) = done.named("retained")
    assert (kept["sha256"], kept["kind"], kept["known_as"]) == (sha256(A), "blob", str(place))
    assert kept["until"] > kept["time"]
    orch.models["a"] = before
    assert orch.sync("--offline").summary["placed"] == 1
    assert place.read_bytes() == A
    assert dropped(orch.run("prune", "--yes", "--json", "--keep", "0s")) == {sha256(C): len(C)}
    assert place.read_bytes() == A


def test_how_long_a_version_before_stays_can_be_said(orch: Orch, origin: Origin) -> None:
    replaced(orch, origin)
    dry = orch.run("prune", "-n")
    assert f"kept     {sha256(A)[:12]}  " in dry.out and "0 items to remove" in dry.out
    assert "1 previous version is kept" in dry.err and "`--keep 0s`" in dry.err
    age(orch, 20)
    assert dropped(orch.run("prune", "--yes", "--json")) == {}
    age(orch, 11)
    assert [e["sha256"] for e in orch.run("prune", "-n", "--json").named("prunable")] == [sha256(A)]
    assert orch.run("prune", "-n", "--json", "--keep", "32d").named("prunable") == []
    orch.environ["ORCH_KEEP"] = "99999999d"
    assert orch.run("prune", "-n", "--json").named("prunable") == []
    orch.environ["ORCH_KEEP"] = "0"
    assert dropped(orch.run("prune", "--yes", "--json")) == {sha256(A): len(A)}


def test_a_version_before_stays_only_as_long_as_its_manifest_and_what_is_wanted_is_no_version_before(
    orch: Orch, origin: Origin
) -> None:
    replaced(orch, origin)
    replaced(orch, origin, A)
    done = orch.run("prune", "-n", "--json")
    assert [event["sha256"] for event in done.named("retained")] == [sha256(C)], "A is wanted again"
    weak = orch.store / "blobs/md5" / hashlib.md5(C).hexdigest()
    weak.parent.mkdir()
    weak.symlink_to(f"../sha256/{sha256(C)}")
    assert dropped(orch.run("prune", "--yes", "--json")) == {}, "nor the name by which a weak pin would find it"
    orch.manifest.unlink()
    command = [sys.executable, "-m", "orchestrator", "prune", "--json", "--yes"]
    subprocess.run(command, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, check=True)
    assert not orch.blob(C).exists() and not os.path.lexists(weak)


def test_dry_run_changes_nothing_and_nobody_to_ask_is_a_usage_error(orch: Orch) -> None:
    orch.models.clear()
    before = sorted(orch.store.rglob("*"))
    done = orch.run("prune", "-n", "--json")
    assert [event["sha256"] for event in done.named("prunable")] == sorted((sha256(A), sha256(B)))
    assert (done.code, dropped(done), done.summary["bytes_freed"]) == (0, {}, 0)
    refused = orch.run("prune", stdin=subprocess.DEVNULL)
    assert refused.code == 2
    assert "use --yes to confirm, or -n to preview" in refused.err
    assert sorted(orch.store.rglob("*")) == before


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", True), (b"y\n", False)])
def test_it_asks_on_a_terminal_of_80_columns(orch: Orch, answer: bytes, left: bool) -> None:
    orch.models.clear()
    ours, theirs = pty.openpty()
    process = orch.start("prune", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 4096)
    os.write(ours, answer)
    assert process.wait(20) == 0
    assert orch.blob(A).exists() is left
    assert max(map(len, said.decode().splitlines())) <= 80
    os.close(ours)


def test_a_hard_linked_place_frees_nothing(orch: Orch, origin: Origin) -> None:
    orch.want("c", C, origin.serve("/c.pth", C), link="hard")
    assert orch.sync().code == 0
    orch.models.clear()
    done = orch.run("prune", "--yes", "--json")
    assert dropped(done) == {sha256(A): len(A), sha256(B): len(B), sha256(C): 0}
    assert (orch.folder / "models/c.pth").read_bytes() == C


def test_a_blob_without_a_place_is_wanted_by_its_record(orch: Orch, origin: Origin) -> None:
    entry = {"url": origin.serve("/c.pth", C), "sha256": sha256(C), "to": "store"}
    (orch.folder / "other.yaml").write_text(json.dumps({"version": 1, "models": {"c": entry}}))
    assert orch.run("sync", "other.yaml").code == 0
    orch.models.clear()
    done = orch.run("prune", "--yes", "--json")
    assert set(dropped(done)) == {sha256(A), sha256(B)}
    assert orch.blob(C).exists()


def test_manifests_that_are_gone_unreadable_or_on_another_host(orch: Orch, tmp_path: Path) -> None:
    orch.manifest.write_text("version: 1\nmodels: {a: [}\n")

    def prune() -> object:
        command = [sys.executable, "-m", "orchestrator", "prune", "--json", "--yes"]  # the manifest is ours to spoil
        done = subprocess.run(
            command, cwd=tmp_path / "home", env=orch.env(), capture_output=True, text=True, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    events = prune()
    assert "cannot be read" in events[0]["message"]
    assert orch.blob(A).exists()
    (record,) = (orch.store / "places").glob("*.json")
    entry = json.loads(record.read_text())
    orch.manifest.unlink()
    record.write_text(json.dumps({**entry, "host": "gpu99"}))
    events = prune()
    assert "is on gpu99" in events[0]["message"]
    assert orch.blob(A).exists()
    record.write_text("{")
    events = prune()
    assert "is damaged" in events[0]["message"]
    assert orch.blob(A).exists()
    record.write_text(json.dumps(entry))
    events = prune()
    assert "was deleted" in events[0]["message"]
    assert not orch.blob(A).exists()


@pytest.mark.parametrize("there", ["nothing", "an empty mount point"])
def test_a_manifest_whose_disk_is_not_mounted_is_not_taken_for_gone(
    orch: Orch, origin: Origin, tmp_path: Path, there: str
) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    other = Orch(disk, environ=orch.environ)
    disk.mkdir()
    other.want("c", C, origin.serve("/c.pth", C), link="copy")
    assert other.sync().code == 0
    other.want("c", A + B, origin.serve("/c.pth", A + B), link="copy")
    assert other.sync().code == 0
    del orch.models["b"]
    unfinished = orch.store / "partial" / f"sha256-{'3' * 64}" / "dd"
    unfinished.mkdir(parents=True)
    disk.rename(away)
    if there != "nothing":
        disk.mkdir()
    places = sorted((orch.store / "places").glob("*.json"))
    done = orch.run("prune", "--yes", "--json")
    assert set(dropped(done)) == {sha256(B)}, "what is known to be unwanted goes all the same"
    assert [event["sha256"] for event in done.named("retained")] == [sha256(C)]
    (said,) = (e["message"] for e in done.named("noticed") if "not mounted" in e["message"])
    assert str(disk / "team.yaml") in said and str(orch.store / "places") in said
    assert sorted((orch.store / "places").glob("*.json")) == places
    assert unfinished.exists(), "that manifest may want to go on with it"
    if there != "nothing":
        disk.rmdir()
    away.rename(disk)
    (disk / "team.yaml").unlink()
    assert set(dropped(orch.run("prune", "--yes", "--json"))) >= {sha256(A + B), sha256(C)}, "now it is gone"


def test_every_blob_stays_where_a_manifest_without_places_cannot_be_looked_for(orch: Orch, tmp_path: Path) -> None:
    del orch.models["b"]
    record = orch.store / "places" / f"{'e' * 64}.json"
    record.write_text(json.dumps({"host": os.uname().nodename, "manifest": "/nowhere/at/all.yaml", "places": {}}))
    done = orch.run("prune", "--yes", "--json")
    assert dropped(done) == {}
    assert any(f"remove {record}" in event["message"] for event in done.named("noticed"))
    record.unlink()
    assert set(dropped(orch.run("prune", "--yes", "--json"))) == {sha256(B)}


def test_a_place_that_is_a_symlink_into_the_store_keeps_its_blob(orch: Orch, origin: Origin) -> None:
    place = orch.want("c", C, origin.serve("/c.pth", C), link="symlink")
    assert orch.sync().code == 0
    orch.models.clear()
    assert sha256(C) not in dropped(orch.run("prune", "--yes", "--json"))
    place.unlink()
    assert sha256(C) in dropped(orch.run("prune", "--yes", "--json"))


def test_a_lock_counts_also_that_of_a_manifest_that_is_named(orch: Orch) -> None:
    orch.models.clear()
    lock = {
        "version": 1,
        "models": {"x": {"fingerprint": "", "files": {"b.pth": {"sha256": sha256(B), "size": len(B)}}}},
    }
    orch.manifest.with_suffix(".lock.json").write_text(json.dumps(lock))
    assert set(dropped(orch.run("prune", "--yes", "--json", "team.yaml"))) == {sha256(A)}


def test_a_weak_pin_keeps_its_blob_and_the_name_that_leads_there(orch: Orch, origin: Origin) -> None:
    orch.want("c", C, origin.serve("/c.pth", C), sha256=None, md5=hashlib.md5(C).hexdigest(), link="copy")
    assert orch.sync().code == 0
    assert set(dropped(orch.run("prune", "--yes", "--json"))) == set()
    name = orch.store / "blobs/md5" / hashlib.md5(C).hexdigest()
    assert name.read_bytes() == C
    orch.models.clear()
    orch.run("prune", "--yes")
    assert not os.path.lexists(name)


def test_a_manifest_that_is_named_and_wrong_ends_it(orch: Orch) -> None:
    (orch.folder / "bad.yaml").write_text("version: 1\nmodels: []\n")
    orch.models.clear()
    done = orch.run("prune", "--yes", "--json", "bad.yaml")
    assert done.code == 3
    assert orch.blob(A).exists()


def test_links_are_not_followed_and_strangers_stay(orch: Orch, tmp_path: Path) -> None:
    orch.models.clear()
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/f").write_bytes(b"precious")
    os.symlink(outside / "deep/f", orch.store / "blobs/sha256" / ("0" * 64))
    os.symlink(outside, orch.store / "partial" / f"sha256-{'1' * 64}")
    dead = orch.store / "partial" / f"sha256-{'2' * 64}" / "aa"
    dead.mkdir(parents=True)
    (dead / "f").write_bytes(bytes(10_000))
    os.symlink(outside / "deep", dead / "link")
    (orch.store / "blobs/sha256/.nfs0001").write_bytes(b"silly")
    weak = orch.store / "blobs/md5"
    weak.mkdir()
    os.symlink(f"../sha256/{sha256(B)}", weak / ("b" * 32))
    os.symlink(f"../sha256/{sha256(C)}", weak / ("c" * 32))
    done = orch.run("prune", "--yes", "--json")
    kinds = sorted(event["kind"] for event in done.named("pruned"))
    assert kinds == ["alias", "alias", "blob", "blob", "partial"]
    assert (outside / "deep/f").read_bytes() == b"precious"
    assert not dead.parent.exists()
    assert (orch.store / "blobs/sha256/.nfs0001").exists()
    assert os.path.lexists(orch.store / "blobs/sha256" / ("0" * 64))


def test_it_waits_for_a_running_sync_and_spares_what_that_commits(orch: Orch, origin: Origin) -> None:
    slow = made(2_000_000, 9)
    orch.models.clear()
    orch.want("slow", slow, origin.serve("/slow.pth", slow, rate=400_000), to="store")
    sync = orch.start("sync", "team.yaml", "--connections", "1")
    while not list((orch.store / "partial").glob("sha256-*")):
        time.sleep(0.05)
    refused = orch.run("prune", "--yes", "--no-wait", "--json")
    assert refused.code == 75
    assert f"pid {sync.pid}" in refused.named("noticed")[-1]["message"]
    assert orch.run("prune", "--yes", "--lock-wait", "0.5s", "--json").code == 75
    prune = orch.start("prune", "--yes", "--json")
    time.sleep(0.7)
    assert orch.blob(A).exists(), "not while a sync runs"
    out, _ = prune.communicate(timeout=60)
    assert sync.wait(20) == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert any(f"pid {sync.pid}" in e.get("message", "") and "orch sync" in e["message"] for e in events)
    assert {e["sha256"] for e in events if e["event"] == "pruned"} == {sha256(A), sha256(B)}
    assert orch.blob(slow).read_bytes() == slow


def test_a_killed_sync_leaves_a_partial_that_goes_and_a_living_child_keeps_it(orch: Orch, origin: Origin) -> None:
    slow = made(3_000_000, 9)
    orch.want("slow", slow, origin.serve("/slow.pth", slow, rate=200_000))
    sync = orch.start("sync", "team.yaml", "--connections", "1")
    while not list((orch.store / "partial").glob("sha256-*/*/f")):
        time.sleep(0.05)
    time.sleep(0.5)
    sync.send_signal(signal.SIGKILL)
    sync.wait()
    del orch.models["slow"]
    deadline = time.monotonic() + 20  # its child gets the parent-death signal
    while not (dead := orch.run("prune", "-n", "--json").named("prunable")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [(event["kind"], event["sha256"]) for event in dead] == [("partial", sha256(slow))], "nobody wants it"
    assert orch.run("prune", "--yes", "--json").summary["bytes_freed"] > 0
    assert list((orch.store / "partial").glob("sha256-*")) == []


@pytest.mark.parametrize("named", [True, False])
def test_an_unfinished_download_that_a_manifest_wants_stays_for_30_days(
    orch: Orch, origin: Origin, named: bool
) -> None:
    slow, weak = made(3_000_000, 9), made(3_000_000, 10)
    orch.want("slow", slow, origin.serve("/slow.pth", slow))
    orch.want("weak", weak, origin.serve("/weak.pth", weak), sha256=None, sha512=hashlib.sha512(weak).hexdigest())
    orch.write()
    folders = [
        orch.store / "partial" / f"sha256-{sha256(slow)}" / "aa",
        orch.store / "partial" / f"sha512-{hashlib.sha512(weak).hexdigest()}" / "bb",
        orch.store / "partial" / "bundles" / "cc",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "f").write_bytes(slow[:1_000_000])
    (folders[2] / sha256(slow)).write_bytes(slow[:1000])
    unwanted = orch.store / "partial" / f"sha256-{'3' * 64}" / "dd"
    unwanted.mkdir(parents=True)
    words = ("prune", "--yes", "--json", *(["team.yaml"] if named else []))
    done = orch.run(*words)
    assert [event["kind"] for event in done.named("pruned")] == ["partial"]
    assert any("3 unfinished downloads stay" in event["message"] for event in done.named("noticed"))
    assert [folder.is_dir() for folder in folders] == [True] * 3
    if named:
        freed = orch.run("prune", "-n", "--json", "--keep", "0s", "team.yaml").named("prunable")
        assert sorted(event["kind"] for event in freed) == ["bundle", "partial", "partial"], "0s keeps nothing"
    old = time.time() - 31 * 86400
    for path in (*folders, *(file for folder in folders for file in folder.iterdir())):
        os.utime(path, (old, old))
    done = orch.run(*words)
    assert sorted(event["kind"] for event in done.named("pruned")) == ["bundle", "partial", "partial"]


def test_an_unfinished_download_whose_blob_is_there_goes(orch: Orch) -> None:
    folder = orch.store / "partial" / f"sha256-{sha256(A)}" / "aa"
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(A[:100])
    assert [event["kind"] for event in orch.run("prune", "--yes", "--json").named("pruned")] == ["partial"]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", '{"places": {}}', '{"host": "h", "manifest": "/m", "places": {"/p": 5}}']
)
def test_a_record_that_is_damaged_keeps_every_blob_and_every_unfinished_download(orch: Orch, text: str) -> None:
    orch.models.clear()
    unfinished = orch.store / "partial" / f"sha256-{'3' * 64}" / "dd"
    unfinished.mkdir(parents=True)
    (record,) = (orch.store / "places").glob("*.json")
    record.write_text(text)
    done = orch.run("prune", "--yes", "--json")
    assert done.named("pruned") == []
    (said,) = (event["message"] for event in done.named("noticed") if "damaged" in event["message"])
    assert f"{record} is damaged" in said and "orch sync" in said
    assert orch.blob(A).exists() and unfinished.exists() and record.read_text() == text


def test_what_dead_writers_of_small_files_left_goes_and_what_is_written_now_stays(orch: Orch) -> None:
    (orch.store / "places/trees").mkdir()
    left = [
        orch.store / "places" / f"{'a' * 64}.json.new",
        orch.store / "places/trees" / f"{'a' * 64}.json.77.new",
        orch.store / "places/.orch-n-0123456789ab",
        orch.store / ".orch-0123456789ab",
        orch.store / "blobs/sha256/.orch-0123456789ab",
    ]
    kept = [orch.store / "places" / f"{'b' * 64}.json.damaged", orch.store / "places/.orch-being-written"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    with open(kept[1]) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = orch.run("prune", "--yes", "--json")
    assert sorted(event["path"] for event in done.named("pruned")) == sorted(map(str, left))
    assert {event["kind"] for event in done.named("pruned")} == {"temporary"}
    assert [path.exists() for path in (*left, *kept)] == [False] * 5 + [True] * 2


def test_a_record_is_forgotten_once_neither_its_manifest_nor_a_place_is_left(orch: Orch) -> None:
    (record,) = (orch.store / "places").glob("*.json")
    (orch.folder / "away").mkdir()

    def prune() -> list[str]:
        command = [sys.executable, "-m", "orchestrator", "prune", "--json", "--yes"]
        done = subprocess.run(
            command, cwd=orch.folder / "away", env=orch.env(), capture_output=True, text=True, check=True
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return [event["kind"] for event in events if event["event"] == "pruned"]

    (orch.folder / "models/a.pth").unlink()
    assert prune() == []
    orch.manifest.unlink()
    assert prune() == ["blob", "blob"]
    assert record.exists(), "a place is left"
    (orch.folder / "models/b.pth").unlink()
    assert prune() == ["record"]
    assert not record.exists()
