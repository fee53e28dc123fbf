"""`orch lock` on hub repositories: the stand-in's commits and files, small git files proved, branches that move."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from orchestrator.commands.locked_manifest import changes
from orchestrator.manifest import lockfile
from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel
from tests.hub import Hub, git_sha1
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = made(5_000_000, 1)
FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "model.bin": BIG,
    "sub/a b.txt": b"odd name\n",
    "empty.txt": b"",
    "README.md": b"# tiny\n",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(page=3) as served:
        served.repo("org/tiny", FILES)
        yield served


@pytest.fixture
def orch(tmp_path: Path, hub: Hub) -> Orch:
    orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url})
    orch.models["m"] = {"repo": "hf:org/tiny", "to": "m/"}
    return orch


def entry_of(orch: Orch) -> dict[str, Any]:
    model: dict[str, Any] = json.loads((orch.folder / "team.lock.json").read_text())["models"]["m"]
    return model


def test_a_repository_is_locked_and_syncs_without_its_hub_s_api(hub: Hub, orch: Orch) -> None:
    assert orch.run("sync", "team.yaml").code == 3
    done = orch.run("lock", "--json", "team.yaml")
    assert (done.code, done.summary["fetched"], done.summary["placed"]) == (0, 4, 1)
    model = entry_of(orch)
    assert model["commit"] == hub.repos["org/tiny"].revisions["main"]
    assert {path: e["sha256"] for path, e in model["files"].items()} == {p: sha256(c) for p, c in FILES.items()}
    assert model["files"]["config.json"]["git"] == git_sha1(FILES["config.json"])
    assert model["files"]["config.json"]["from"] == "hub API, its git blob"
    assert model["files"]["model.bin"]["from"] == "hub API, proved by its git blob"
    hub.heard.clear()
    assert orch.sync().summary["fetched"] == 1
    assert hub.api_calls == 0
    assert {p: (orch.folder / "m" / p).read_bytes() for p in FILES} == FILES
    assert orch.run("lock", "team.yaml").code == 0
    assert entry_of(orch)["files"]["model.bin"]["pieces"].startswith("4194304:"), "its bytes are here now"


def test_a_branch_that_moved(hub: Hub, orch: Orch) -> None:
    assert orch.run("lock", "team.yaml").code == 0
    assert orch.run("lock", "--check", "team.yaml").code == 0
    before = (orch.folder / "team.lock.json").read_text()
    old = entry_of(orch)["commit"]
    hub.repos["org/tiny"].commit({**FILES, "config.json": b'{"model_type": "small"}\n'}, "main")
    drift = orch.run("lock", "--check", "team.yaml")
    assert (drift.code, "its default branch` moved" in drift.err) == (3, True), drift.err
    hub.heard.clear()
    done = orch.run("lock", "--update", "--yes", "--json", "team.yaml")
    assert (done.code, done.summary["fetched"]) == (0, 1)
    told = {(e["file"], e["old"][:12], e["new"][:12]) for e in done.named("changed")}
    new, digest = entry_of(orch)["commit"], sha256(b'{"model_type": "small"}\n')
    assert told == {("", old[:12], new[:12]), ("config.json", sha256(FILES["config.json"])[:12], digest[:12])}
    after = (orch.folder / "team.lock.json").read_text()
    assert sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)) == 2


def test_what_the_manifest_asks_for_and_the_repository_lacks(hub: Hub, orch: Orch) -> None:
    orch.models["m"]["include"] = ["*.json", "*.gguf"]
    done = orch.run("lock", "team.yaml")
    assert (done.code, "`include` matches no file: *.gguf" in done.err) == (3, True)
    index = json.dumps({"weight_map": {"a": "model.bin", "b": "more.bin"}}).encode()
    hub.repos["org/tiny"].commit({**FILES, "model.bin.index.json": index}, "main")
    orch.models["m"]["include"] = ["*.json", "*.bin"]
    done = orch.run("lock", "team.yaml")
    assert (done.code, "more.bin is missing: model.bin.index.json requires it" in done.err) == (3, True), done.err
    hub.repos["org/tiny"].commit({"m-00001-of-00002.bin": b"1", "config.json": b"{}"}, "main")
    done = orch.run("lock", "team.yaml")
    assert (done.code, "m-00002-of-00002.bin is missing" in done.err) == (3, True), done.err
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    cut = len(header).to_bytes(8, "little") + header + bytes(15)
    hub.serve(cut)
    hub.repos["org/tiny"].commit({"m.safetensors": cut, "config.json": b"{}"}, "main")
    orch.models["m"]["include"] = ["*.json", "*.safetensors"]
    done = orch.run("lock", "team.yaml")
    assert (done.code, "m/m.safetensors: its tensors require 1 byte more than the file has" in done.err) == (6, True)
    assert not (orch.folder / "team.lock.json").exists()
    hub.repos["org/tiny"].commit({"m.safetensors": cut + b"x", "config.json": b"{}"}, "main")
    assert orch.run("lock", "team.yaml").code == 0


@pytest.mark.parametrize(
    "twins", [("README.md", "readme.md"), ("caf\u00e9.txt", "cafe\u0301.txt"), ("a/x[1]", "A/x[1]")]
)
def test_twins_that_some_disks_take_for_one_are_told_with_what_to_leave_out(
    hub: Hub, orch: Orch, twins: tuple[str, str]
) -> None:
    hub.repos["org/tiny"].commit({**FILES, twins[0]: b"1", twins[1]: b"2"}, "main")
    done = orch.run("lock", "team.yaml")
    assert (done.code, "differs from it only in case" in done.err) == (3, True), done.err
    assert not (orch.folder / "team.lock.json").exists()
    told = done.err.rpartition("`exclude: ")[2].partition("`")[0]
    assert told.isascii()
    orch.models["m"]["exclude"] = json.loads(told)
    assert orch.run("lock", "team.yaml").code == 0
    assert len(entry_of(orch)["files"]) == len({*FILES, *twins}) - 1
    assert orch.sync().code == 0


def test_ten_thousand_files_are_written_and_read_in_seconds() -> None:
    files = {
        f"data/part-{n:05d}.bin": LockedFile(sha256(str(n).encode()), 1000 + n, "hub API", pieces="4194304:" + "A" * 80)
        for n in range(10_000)
    }
    lock = Lock({"m": LockedModel("hf:org/large@main", files, "a" * 40)})
    began = time.monotonic()
    text = lockfile.write(lock)
    assert lockfile.read(text, "team.lock.json") == lock
    assert time.monotonic() - began < 20
    changed = {**files, "data/part-00007.bin": LockedFile(sha256(b"new"), 1, "hub API")}
    other = Lock({"m": LockedModel("hf:org/large@main", changed, "b" * 40)})
    lines = [(a, b) for a, b in zip(text.splitlines(), lockfile.write(other).splitlines(), strict=True) if a != b]
    assert len(lines) == 2
    assert len(list(changes(lock.models, other.models))) == 2
    assert msgspec.json.decode(text)["version"] == 1
