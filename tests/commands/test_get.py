"""`orch get`: one thing now, and lines that make a manifest which has nothing left to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.hub import Hub
from tests.orch import Done, Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DATA = made(3 * MIB + 5)
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "deep/vocab.txt": b"one\ntwo\n",
    "pytorch_model.bin": made(70_000, 3),
}


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path, environ={"ORCH_STORE": str(tmp_path / "store")})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def hub(orch: Orch) -> Iterator[Hub]:
    with Hub() as hub:
        orch.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(orch.folder / "hf")}
        yield hub


def pasted(orch: Orch, got: Done) -> Done:
    """A sync of a manifest made of the printed lines, from the store alone."""
    (orch.folder / "pasted.yaml").write_text(f"version: 1\nmodels:\n{got.out}")
    return orch.run("sync", "--json", "pasted.yaml", "--offline")


def is_no_op(done: Done) -> bool:
    return done.code == 0 and done.summary["present"] == done.summary["files"] > 0


def test_a_url_without_a_digest(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/v1/x y.bin", DATA)
    got = orch.run("get", url)
    assert got.code == 0, got.err
    assert (orch.folder / "x y.bin").read_bytes() == DATA
    assert got.out == (
        f'  "x y":\n    url: {url}\n    sha256: {sha256(DATA)}  # first download\n'
        f'    size: {len(DATA)}\n    to: "x y.bin"\n'
    )
    assert f"{sha256(DATA)} is the first seen" in got.err
    assert is_no_op(pasted(orch, got))
    again = orch.run("get", url, "--json")
    assert (again.code, again.summary["present"], again.summary["bytes_fetched"]) == (0, 1, 0)


@pytest.mark.parametrize("to", ["weights/", "there", "renamed.bin", "../out/", "{abs}/deep/"])
def test_places_as_people_type_them(orch: Orch, origin: Origin, tmp_path: Path, to: str) -> None:
    orch.folder = tmp_path / "here"
    (orch.folder / "there").mkdir(parents=True)
    got = orch.run("get", origin.serve("/x.bin", DATA), "--sha256", sha256(DATA), "--to", to.format(abs=tmp_path))
    assert got.code == 0, got.err
    (found,) = (path for path in tmp_path.rglob("*.bin") if path.is_file())
    wanted = os.path.normpath(os.path.join(orch.folder, to.format(abs=tmp_path)))
    assert str(found) in (wanted, f"{wanted}/x.bin")
    assert "first seen" not in got.err
    first, _, rest = got.out.partition("\n")
    absolute = to.startswith(("..", "{abs}"))
    assert ("allow_absolute" in first) is absolute
    top, text = (first.partition("manifest: ")[2] + "\n", rest) if absolute else ("", got.out)
    (orch.folder / "pasted.yaml").write_text(f"version: 1\n{top}models:\n{text}")
    assert is_no_op(orch.run("sync", "--json", "pasted.yaml", "--offline"))


def test_wrong_bytes_and_a_dead_url(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/x.bin", DATA)
    got = orch.run("get", url, "--sha256", "0" * 64, "--json")
    assert (got.code, got.named("lines")) == (ExitCode.DIGEST, [])
    assert got.summary["exit_code"] == ExitCode.DIGEST
    got = orch.run("get", origin.url + "/none.bin", "--retries", "0")
    assert (got.code, got.out) == (ExitCode.TRANSFER, "")
    assert orch.run("get", "nonsense").code == ExitCode.MANIFEST
    assert not [path for path in orch.folder.iterdir() if path.suffix == ".bin"]


def test_a_frameworks_own_cache(orch: Orch, origin: Origin) -> None:
    got = orch.run("get", origin.serve("/m/resnet18.pth", DATA), "--for", "torch", "--name", "r18", "--tag", "ci")
    assert got.code == 0, got.err
    assert (orch.folder / "home/.cache/torch/hub/checkpoints/resnet18.pth").read_bytes() == DATA
    assert "    for: torch\n    tags: [ci]\n" in got.out
    assert is_no_op(pasted(orch, got))


def test_a_repository_for_its_framework(orch: Orch, hub: Hub) -> None:
    commit = hub.repo("org/tiny", FILES)
    got = orch.run("get", "hf:org/tiny", "--for", "huggingface", "--exclude", "*.bin")
    assert got.code == 0, got.err
    snapshot = orch.folder / f"hf/hub/models--org--tiny/snapshots/{commit}"
    found = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert found == {path: data for path, data in FILES.items() if not path.endswith(".bin")}
    assert (snapshot.parents[1] / "refs/main").read_text() == commit
    assert got.out.count(f"https://huggingface.co/org/tiny/resolve/{commit}/") == 3
    calls = hub.api_calls
    assert is_no_op(pasted(orch, got))
    assert hub.api_calls == calls
    again = orch.run("get", "hf:org/tiny", "--for", "huggingface", "--exclude", "*.bin", "--json")
    assert (again.summary["present"], again.summary["bytes_fetched"]) == (3, 0)
    client = "import huggingface_hub as h; print(h.snapshot_download('org/tiny', local_files_only=True))"
    done = subprocess.run([sys.executable, "-c", client], env=orch.env(), capture_output=True, text=True)
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_a_repository_into_a_folder(orch: Orch, hub: Hub) -> None:
    hub.repo("org/tiny", FILES)
    got = orch.run("get", "hf:org/tiny", "--include", "deep/*", "--include", "*.bin", "--json")
    assert (got.code, got.summary["fetched"]) == (0, 2)
    assert (orch.folder / "tiny/deep/vocab.txt").read_bytes() == FILES["deep/vocab.txt"]
    (orch.folder / "pasted.yaml").write_text(f"version: 1\nmodels:\n{got.named('lines')[0]['text']}")
    assert is_no_op(orch.run("sync", "--json", "pasted.yaml", "--offline"))
    assert orch.run("get", "hf:org/none").code == ExitCode.MANIFEST
    assert orch.run("get", "hf:org/tiny", "--include", "*.xyz").code == ExitCode.MANIFEST


def test_prune_drops_what_was_only_got_and_not_its_place(orch: Orch, origin: Origin) -> None:
    assert orch.run("get", origin.serve("/x.bin", DATA)).code == 0
    done = orch.run("prune", "--yes", "--json")
    assert sha256(DATA) in {event["sha256"] for event in done.named("pruned")}
    assert (orch.folder / "x.bin").read_bytes() == DATA


def test_a_framework_without_a_place_is_told_before_a_byte_is_fetched(orch: Orch, origin: Origin) -> None:
    got = orch.run("get", origin.serve("/4.tar.gz", DATA), "--for", "tfhub")
    assert (got.code, origin.sent("/4.tar.gz") < MIB) == (ExitCode.MANIFEST, True)
    assert "tfhub needs the handle" in got.err
