"""`adopt: move`: a user's right file becomes the blob, with no second copy; where it may not, the store gets a copy."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests import crashing
from tests.orch import Orch, made

CONTENT = made(300_000, 5)


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    orch = Orch(tmp_path)
    orch.want("w", CONTENT, "http://127.0.0.1:9/w.bin", to="m/w.bin", adopt="move")
    return orch


def user_file(orch: Orch) -> Path:
    path = orch.folder / "m/w.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("keys", [{"adopt": "move"}, {"adopt": "move", "size": None}])
def test_the_file_itself_becomes_the_blob(orch: Orch, keys: dict[str, str | None]) -> None:
    orch.want("w", CONTENT, "http://127.0.0.1:9/w.bin", to="m/w.bin", **keys)
    path = user_file(orch)
    inode, when = path.stat().st_ino, int(path.stat().st_mtime)
    done = orch.run("sync", "team.yaml", "--json")
    assert done.code == 0, done.err
    assert path.read_bytes() == CONTENT
    assert path.stat().st_ino == inode == orch.blob(CONTENT).stat().st_ino
    assert int(path.stat().st_mtime) == when
    assert done.summary["bytes_reused"] == len(CONTENT)
    assert [event["size_bytes"] for event in done.named("finished")] == [len(CONTENT)], "also where no size is given"
    assert orch.run("status", "team.yaml").code == 0
    assert orch.run("verify", "team.yaml").code == 0
    assert not list(orch.store.rglob(".orch-*"))
    (record,) = (json.loads(file.read_text()) for file in (orch.store / "places").glob("*.json"))
    (place,) = record["places"].values()
    assert place["link"] == "hard"
    path.unlink()  # and comes back from the store
    assert orch.run("sync", "--offline", "team.yaml").code == 0
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("why", ["it is not asked for", "another name", "link: copy", "another owner", "overruled"])
def test_where_it_may_not_the_store_gets_a_copy(orch: Orch, why: str) -> None:
    path = user_file(orch)
    words = ["sync", "team.yaml"]
    if why == "it is not asked for":
        del orch.models["w"]["adopt"]
    elif why == "another name":
        os.link(path, orch.folder / "other")
    elif why == "link: copy":
        orch.models["w"]["link"] = "copy"
    elif why == "another owner":
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(path, 65534, 65534)
    else:
        words += ["--adopt", "copy"]
    mode = stat.S_IMODE(path.stat().st_mode)
    done = orch.run(*words)
    assert done.code == 0, done.err
    assert orch.blob(CONTENT).stat().st_ino != path.stat().st_ino
    assert (path.read_bytes(), orch.blob(CONTENT).read_bytes()) == (CONTENT, CONTENT)
    assert stat.S_IMODE(path.stat().st_mode) == mode, "of a user's file only the mtime's nanoseconds change"


def test_a_store_elsewhere_gets_a_copy(orch: Orch, tmp_path: Path) -> None:
    shared = Path("/dev/shm") / f"orch-test-{os.getpid()}"
    if not shared.parent.is_dir() or shared.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    path = user_file(orch)
    try:
        done = orch.run("sync", "team.yaml", "--store", str(shared))
        assert done.code == 0, done.err
        assert "copied into the store, not moved" in done.err
        assert path.stat().st_nlink == 1
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(shared)], check=False)
        subprocess.run(["rm", "-rf", str(shared)], check=False)


def test_wrong_bytes_are_nobody_s_blob(orch: Orch) -> None:
    path = user_file(orch)
    path.write_bytes(CONTENT[:-1] + b"!")
    assert orch.run("sync", "team.yaml").code == 7
    assert path.read_bytes() == CONTENT[:-1] + b"!"
    assert not orch.blob(CONTENT).exists()


@pytest.mark.parametrize("how", ["kill", "28"])
def test_killed_or_refused_at_any_change_it_loses_nothing(orch: Orch, how: str) -> None:
    path = user_file(orch)
    for _ in crashing.points(orch, how, "sync", "--quiet", "team.yaml", only="/sha256/"):
        assert path.read_bytes() == CONTENT
        done = orch.run("sync", "team.yaml")
        assert done.code == 0, done.err
        assert path.read_bytes() == CONTENT
        blob = orch.blob(CONTENT)  # of a place that was sealed and is ours already nothing more is needed
        assert not blob.exists() or blob.read_bytes() == CONTENT
        subprocess.run(["rm", "-rf", str(orch.store), str(path)], check=True)
        path.write_bytes(CONTENT)


@pytest.mark.parametrize("how", ["the option", "the manifest"])
def test_asked_for_later_the_second_copy_goes(orch: Orch, how: str) -> None:
    """Who first adopts by copy, and then sees the disk doubled, asks for it afterwards."""
    path = user_file(orch)
    asked = ["--adopt", "move"] if how == "the option" else []
    adopt = orch.models["w"].pop("adopt")
    copied = orch.run("sync", "team.yaml")
    assert copied.code == 0
    assert "1 file, 1 to verify" in copied.err
    assert "no second copy: `orch sync --adopt move" in copied.err
    blob = orch.blob(CONTENT)
    assert path.stat().st_ino != blob.stat().st_ino, "copied"
    if not asked:
        orch.models["w"]["adopt"] = adopt
        (planned,) = orch.run("plan", "--json", "team.yaml").named("foreseen")
        assert (planned["action"], planned["why"]) == ("adopt", "a second copy, which becomes a hard link")
    done = orch.sync(*asked)
    assert (done.code, done.summary["placed"], done.summary["changed"]) == (0, 1, True), done.out
    assert any("second copy" in event["message"] for event in done.named("noticed"))
    assert path.stat().st_ino == blob.stat().st_ino
    assert path.read_bytes() == CONTENT
    (record,) = (json.loads(file.read_text()) for file in (orch.store / "places").glob("*.json"))
    assert [place["link"] for place in record["places"].values()] == ["hard"]
    again = orch.sync(*asked)
    assert (again.code, again.summary["present"], again.summary["changed"]) == (0, 1, False)
    assert orch.run("verify", "team.yaml").code == 0


@pytest.mark.parametrize("why", ["another name", "link: copy", "the store's is bad"])
def test_a_second_copy_stays_where_it_may_not_go(orch: Orch, why: str) -> None:
    path, blob = user_file(orch), orch.blob(CONTENT)
    del orch.models["w"]["adopt"]
    assert orch.sync().code == 0
    if why == "another name":
        os.link(path, orch.folder / "other")
    elif why == "link: copy":
        orch.models["w"]["link"] = "copy"
    else:
        when = blob.stat().st_mtime_ns
        blob.chmod(0o644)
        blob.write_bytes(CONTENT[:-1] + b"!")
        os.utime(blob, ns=(when, when))  # as a disk that rots: nothing but its bytes tell
    inode = path.stat().st_ino
    assert orch.sync("--adopt", "move").code == 0
    assert path.stat().st_ino == inode
    assert path.read_bytes() == CONTENT


def test_killed_at_any_change_a_second_copy_loses_nothing(orch: Orch) -> None:
    path = user_file(orch)
    orch.run("sync", "--quiet", "--adopt", "copy", "team.yaml")
    for _ in crashing.points(orch, "kill", "sync", "--quiet", "team.yaml", only="/m/"):
        assert path.read_bytes() == orch.blob(CONTENT).read_bytes() == CONTENT
        done = orch.run("sync", "team.yaml")
        assert done.code == 0, done.err
        assert path.stat().st_ino == orch.blob(CONTENT).stat().st_ino
        subprocess.run(["rm", "-rf", str(orch.store), str(path)], check=True)
        path.write_bytes(CONTENT)
        orch.run("sync", "--quiet", "--adopt", "copy", "team.yaml")
