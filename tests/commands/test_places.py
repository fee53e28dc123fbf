"""Places of models that left their manifest: told by status, removed by `prune --places`, never by sync."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.mounts import mounted, read_only
from tests.orch import Done, Orch, made, sha256

A, B = made(50_000, 1), made(60_000, 2)
COMMIT = "c" * 40


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    """Two models in place, copies; the manifest's folder is not that of the store."""
    orch = Orch(tmp_path, environ={"ORCH_STORE": str(tmp_path / "store")})
    orch.want("a", A, origin.serve("/a.pth", A), link="copy")
    orch.want("b", B, origin.serve("/b.pth", B), link="copy")
    assert orch.sync().code == 0
    return orch


def left(done: Done) -> list[str]:
    """What status tells."""
    return [event["path"] for event in done.named("left_behind")]


def status(orch: Orch, *words: str) -> list[str]:
    done = orch.run("status", "--json", "team.yaml", *words)
    assert done.code == 0
    return left(done)


def prune(orch: Orch, *words: str, code: int = 0) -> tuple[list[str], list[str]]:
    """What places `prune --places` removed, and the lines that it told."""
    done = orch.run("prune", "--places", "--yes", "--json", *(words or ("team.yaml",)))
    assert done.code == code
    paths = [event["path"] for event in done.named("pruned") if event["kind"] in ("place", "tree")]
    return paths, [event["message"] for event in done.named("noticed")]


def recorded(orch: Orch) -> list[str]:
    return sorted(
        place for path in (orch.store / "places").glob("*.json") for place in json.loads(path.read_text())["places"]
    )


def test_status_tells_what_is_left_and_its_exit_code_is_that_of_what_is_wanted(orch: Orch) -> None:
    assert status(orch) == []
    del orch.models["b"]
    place = orch.folder / "models/b.pth"
    done = orch.run("status", "--json", "team.yaml")
    (event,) = done.named("left_behind")
    assert (event["path"], event["sha256"], event["size_bytes"]) == (str(place), sha256(B), len(B))
    assert event["manifest"] == str(orch.manifest) and "orch prune --places" in event["hint"]
    assert (done.code, done.summary["files"], done.summary["present"]) == (0, 1, 1)
    said = orch.run("status", "team.yaml")
    assert f"left     {place}" in said.out and "hint: run `orch prune --places team.yaml`" in said.out
    assert orch.run("status", "--quiet", "team.yaml").out == ""
    assert status(orch, "--only", "a") == [], "what was not chosen has not left"
    (orch.folder / "models/a.pth").unlink()
    assert orch.run("status", "--json", "team.yaml").code == 5


WATCHED = """
import sys

def watch(event, args):
    if event.startswith("socket.") or (event == "open" and "/store/places" in str(args[0])):
        seen.append((event, str(args[0])))

seen = []
sys.addaudithook(watch)
from orchestrator.cli.app import app
try:
    app(sys.argv[1:], prog_name="orch", standalone_mode=False)
finally:
    print("seen", sorted({event for event, _ in seen}), file=sys.stderr)
"""


@pytest.mark.parametrize(("command", "seen"), [("status", ["open"]), ("sync", []), ("plan", [])])
def test_status_alone_reads_the_records_and_opens_no_socket(orch: Orch, command: str, seen: list[str]) -> None:
    del orch.models["b"]
    orch.write()
    words = [sys.executable, "-c", WATCHED, command, "--json", "team.yaml"]
    done = subprocess.run(words, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"seen {seen}"


def test_sync_leaves_it_alone_and_a_file_that_is_not_ours_and_whole_is_not_told(orch: Orch) -> None:
    del orch.models["b"]
    place = orch.folder / "models/b.pth"
    assert orch.sync("--force").code == 0
    assert status(orch) == [str(place)]
    place.chmod(0o644)
    with open(place, "r+b") as file:
        file.write(b"mine")
    assert status(orch) == []
    place.unlink()
    assert status(orch) == []
    place.write_bytes(B)
    assert status(orch) == []


@pytest.mark.parametrize("link", ["copy", "hard", "symlink"])
def test_prune_removes_what_is_ours_and_whole_and_the_record_forgets_it(orch: Orch, origin: Origin, link: str) -> None:
    place = orch.want("c", B + A, origin.serve("/c.pth", B + A), link=link)
    assert orch.sync().code == 0
    del orch.models["c"]
    dry = orch.run("prune", "--places", "-n", "--json", "team.yaml")
    assert str(place) in [event["path"] for event in dry.named("prunable")]
    assert os.path.lexists(place) and str(place) in recorded(orch)
    done = orch.run("prune", "--places", "--yes", "--json", "team.yaml")
    kinds = {event["kind"]: event["path"] for event in done.named("pruned")}
    assert kinds["place"] == str(place) and not os.path.lexists(place)
    assert recorded(orch) == [str(orch.folder / "models/a.pth"), str(orch.folder / "models/b.pth")]
    if link == "symlink":  # whose blob stays until nothing leads to it
        assert "blob" not in kinds
        done = orch.run("prune", "--yes", "--json", "team.yaml")
    assert not orch.blob(B + A).exists()
    assert done.summary["bytes_freed"] == len(B + A) * (2 if link == "copy" else 1)
    assert orch.run("status", "team.yaml").code == 0
    assert prune(orch) == ([], [])


def test_without_places_nothing_of_it_goes_and_somebody_must_agree(orch: Orch) -> None:
    del orch.models["b"]
    place = orch.folder / "models/b.pth"
    assert orch.run("prune", "--places", "team.yaml", stdin=subprocess.DEVNULL).code == 2
    anywhere = [sys.executable, "-m", "orchestrator", "prune", "--places", "--yes"]
    assert subprocess.run(anywhere, cwd=orch.folder / "home", env=orch.env()).returncode == 2, "of which manifest?"
    orch.run("prune", "--yes", "team.yaml")
    assert place.read_bytes() == B
    said = orch.run("prune", "--places", "-n", "team.yaml")
    assert f"place    {place}" in said.out
    assert orch.run("prune", "--places", "--yes", "team.yaml").code == 0
    assert not place.exists()


@pytest.mark.parametrize("what", ["written into", "copied", "another's", "a folder", "a link", "adopted"])
def test_what_a_user_changed_or_put_there_stays_and_is_told(orch: Orch, origin: Origin, what: str) -> None:
    place = orch.folder / "models/b.pth"
    if what == "adopted":
        place = orch.folder / "models/c.pth"
        place.write_bytes(A + B)
        orch.want("c", A + B, origin.serve("/c.pth", A + B))
        assert orch.sync().code == 0
        del orch.models["c"]
    else:
        del orch.models["b"]
    if what == "written into":
        place.chmod(0o644)
        with open(place, "ab") as file:
            file.write(b"mine")
    elif what == "copied":  # as it was, its times too
        place.rename(place.with_suffix(".ours"))
        shutil.copy2(place.with_suffix(".ours"), place)
    elif what != "adopted":
        place.unlink()
    if what == "another's":
        place.write_bytes(B)
    elif what == "a folder":
        place.mkdir()
    elif what == "a link":
        place.symlink_to(orch.folder / "models/a.pth")
    had = os.lstat(place)
    removed, told = prune(orch)
    assert removed == [] and any(f"{place} stays: " in line for line in told)
    assert os.lstat(place).st_mtime_ns == had.st_mtime_ns and str(place) in recorded(orch)


def test_a_place_that_moved_goes_and_one_that_is_known_by_another_name_stays(orch: Orch, tmp_path: Path) -> None:
    old = orch.folder / "models/b.pth"
    orch.models["b"]["to"] = "moved/"
    assert orch.sync().code == 0
    assert status(orch) == [str(old)]
    assert prune(orch)[0] == [str(old)]
    (tmp_path / "alias").symlink_to(tmp_path / "moved")
    orch.models["b"]["to"] = "alias/"
    assert orch.sync().code == 0
    assert status(orch) == []
    assert prune(orch)[0] == []
    assert (tmp_path / "moved/b.pth").read_bytes() == B


def test_a_place_on_a_disk_that_is_mounted_twice_is_one_place(orch: Orch, tmp_path: Path) -> None:
    with mounted(tmp_path / "again", "--bind", str(tmp_path / "models")):
        orch.models["b"]["to"] = "again/"
        assert orch.sync().code == 0
        assert prune(orch)[0] == []
        assert (tmp_path / "models/b.pth").read_bytes() == B


def test_two_manifests_that_share_a_place(orch: Orch, tmp_path: Path) -> None:
    place, other = orch.folder / "models/b.pth", orch.folder / "other.yaml"
    orch.write()
    other.write_text(orch.manifest.read_text())
    place.unlink()
    assert orch.run("sync", "other.yaml").code == 0
    del orch.models["b"]
    assert status(orch) == []
    assert prune(orch)[0] == [], "the other one wants it"
    both = json.loads(other.read_text())
    del both["models"]["b"]
    other.write_text(json.dumps(both))
    removed, told = prune(orch)
    assert removed == [], "the other one was not named"
    assert any(f"{place} stays: it is recorded for {other} too" in line for line in told)
    assert prune(orch, "team.yaml", "other.yaml")[0] == [str(place)]
    assert str(place) not in recorded(orch)


def test_a_known_manifest_that_wants_a_place_keeps_it_though_its_record_does_not_name_it(orch: Orch) -> None:
    other = orch.folder / "other.yaml"
    document = {"version": 1, "models": {"b": orch.models["b"], "s": {**orch.models["a"], "to": "other/"}}}
    other.write_text(json.dumps(document))
    assert orch.run("sync", "other.yaml").code == 0
    assert recorded(orch).count(str(orch.folder / "models/b.pth")) == 1
    del orch.models["b"]
    assert prune(orch)[0] == []
    assert (orch.folder / "models/b.pth").exists()


def test_what_another_environment_wants_stays(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    orch.models["t"] = {"url": origin.serve("/t.pth", A + B), "sha256": sha256(A + B), "for": "torch", "link": "copy"}
    orch.environ["TORCH_HOME"] = str(tmp_path / "mine")
    assert orch.sync().code == 0
    orch.environ["TORCH_HOME"] = str(tmp_path / "other")
    assert orch.sync().code == 0
    assert prune(orch)[0] == []
    orch.models["a"]["to"] = "a-moved/"  # below the manifest's own root, so nobody else's
    assert orch.sync().code == 0
    assert prune(orch)[0] == [str(tmp_path / "models/a.pth")]
    assert len(list(tmp_path.glob("*/hub/checkpoints/t.pth"))) == 2


def test_a_manifest_that_has_no_lock_yet_or_is_another_host_s_is_not_looked_at(orch: Orch) -> None:
    del orch.models["b"]
    orch.models["n"] = {"url": "http://127.0.0.1:9/n.pth", "to": "models/"}
    lock = {"version": 1, "models": {"n": {"fingerprint": "of another URL", "files": {}}}}
    orch.manifest.with_suffix(".lock.json").write_text(json.dumps(lock))
    removed, told = prune(orch)
    assert removed == [] and any("orch lock" in line for line in told)
    assert left(orch.run("status", "--json", "team.yaml")) == []
    del orch.models["n"]
    orch.manifest.with_suffix(".lock.json").unlink()
    (path,) = (orch.store / "places").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "host": "gpu99"}))
    removed, told = prune(orch)
    assert removed == [] and any("last synced on gpu99" in line for line in told)
    assert status(orch) == []
    path.write_text(json.dumps(record))
    assert len(prune(orch)[0]) == 1


def test_every_place_stays_where_a_record_is_damaged(orch: Orch) -> None:
    del orch.models["b"]
    damaged = orch.store / "places" / f"{'e' * 64}.json"
    damaged.write_text("{")
    removed, told = prune(orch)
    assert removed == [] and any("all installed files stay" in line for line in told)
    damaged.unlink()
    assert len(prune(orch)[0]) == 1


def test_a_record_keeps_places_on_a_disk_that_is_not_mounted(orch: Orch, tmp_path: Path) -> None:
    orch.models["b"]["to"] = "disk/"
    assert orch.sync().code == 0
    assert prune(orch)[0] == [str(tmp_path / "models/b.pth")]
    del orch.models["b"]
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()
    orch.models["a"]["to"] = "moved/"
    assert orch.sync().code == 0
    assert prune(orch)[0] == [str(tmp_path / "models/a.pth")]
    (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    assert prune(orch)[0] == [str(tmp_path / "disk/b.pth")]
    (tmp_path / "moved/a.pth").unlink()
    (tmp_path / "moved/README").write_text("here")
    orch.models["a"]["to"] = "models/"
    assert orch.sync().code == 0
    (tmp_path / "store/blobs/sha256" / ("0" * 64)).write_bytes(b"x")  # something that goes
    prune(orch)
    assert recorded(orch) == [str(tmp_path / "models/a.pth")], "what is gone from a folder that is here is forgotten"


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_of_a_tree_only_the_archive_s_whole_files_go(orch: Orch, origin: Origin) -> None:
    packed = archive({"one": b"1" * 1000, "deep/two": b"2" * 1000, "deep/er/three": b"3" * 1000, "four": b"4"})
    for name in ("whole", "touched"):
        orch.want(name, packed, origin.serve(f"/{name}.tar.gz", packed), to=f"trees/{name}/", unpack=True)
    orch.want("inner", A, orch.models["a"]["url"], to="trees/whole-not/")
    assert orch.sync().code == 0
    whole, touched = orch.folder / "trees/whole", orch.folder / "trees/touched"
    (touched / "mine.txt").write_text("mine")
    (touched / "deep/two").chmod(0o644)
    (touched / "deep/two").write_text("edited")
    for name in ("whole", "touched", "inner"):
        del orch.models[name]
    (orch.folder / "trees/whole-not/a.pth").unlink()
    assert sorted(status(orch)) == [str(touched), str(whole)]
    removed, told = prune(orch)
    assert sorted(removed) == [str(touched), str(whole)]
    assert not whole.exists()
    assert sorted(str(path.relative_to(touched)) for path in touched.rglob("*")) == ["deep", "deep/two", "mine.txt"]
    assert any(f"{touched} stays: something in it" in line for line in told)
    assert status(orch) == []


def test_a_tree_that_a_user_put_there_stays(orch: Orch, origin: Origin) -> None:
    packed = archive({"one": b"1" * 1000})
    orch.want("t", packed, origin.serve("/t.tar.gz", packed), to="trees/t/", unpack=True)
    assert orch.sync().code == 0
    folder = orch.folder / "trees/t"
    folder.rename(folder.with_name("kept"))
    subprocess.run(["cp", "-a", folder.with_name("kept"), folder], check=True)
    del orch.models["t"]
    assert status(orch) == []
    removed, told = prune(orch)
    assert removed == [] and any(f"{folder} stays" in line for line in told)
    assert (folder / "one").exists()


def test_a_file_of_a_tree_that_another_model_wants_by_now_stays(orch: Orch, origin: Origin) -> None:
    packed = archive({"one": A, "two": B})
    orch.want("t", packed, origin.serve("/t.tar.gz", packed), to="trees/t/", unpack=True)
    assert orch.sync().code == 0
    del orch.models["t"]
    orch.want("one", A, orch.models["a"]["url"], to="trees/t/one")
    assert orch.sync().code == 0
    assert prune(orch)[0] == [str(orch.folder / "trees/t")]
    assert [path.name for path in (orch.folder / "trees/t").iterdir()] == ["one"]


def test_of_the_hub_s_cache_the_links_and_the_ref_go_as_well(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    orch.environ |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": origin.url.rstrip("/")}
    files = {"config.json": b'{"a": 1}', "sub/weights.bin": A + A}
    path = f"org/n/resolve/{COMMIT}"
    for name, content in files.items():
        origin.serve(f"/{path}/{name}", content)
    orch.models["hub"] = {
        "files": [
            {"path": name, "url": f"https://huggingface.co/{path}/{name}", "sha256": sha256(content)}
            for name, content in files.items()
        ],
        "for": "huggingface",
    }
    assert orch.sync().code == 0
    repository = tmp_path / "hf/hub/models--org--n"
    assert (repository / "snapshots" / COMMIT / "sub/weights.bin").read_bytes() == A + A
    assert (repository / "refs/main").read_text() == COMMIT
    del orch.models["hub"]
    assert len(status(orch)) == 3
    assert len(prune(orch)[0]) == 3
    assert not repository.exists()
    assert hashlib.sha256(orch.blob(A).read_bytes()).hexdigest() == sha256(A)


def test_a_place_that_cannot_be_removed_is_a_failure_of_placement_and_the_others_go(orch: Orch, tmp_path: Path) -> None:
    orch.models["b"]["to"] = "fixed/"
    assert orch.sync().code == 0
    orch.models.clear()
    with read_only(tmp_path / "fixed"):
        removed, told = prune(orch, code=7)
    assert sorted(removed) == [str(tmp_path / "models/a.pth"), str(tmp_path / "models/b.pth")]
    assert any("fixed/b.pth cannot be removed" in line for line in told)
    assert recorded(orch) == [str(tmp_path / "fixed/b.pth")]
    assert prune(orch)[0] == [str(tmp_path / "fixed/b.pth")]
