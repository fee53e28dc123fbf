"""`orch path`: a file, or the folder of several; --file, --all; and 5 where it is not there."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from orchestrator import path as api_path
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"config.json": b"{}", "onnx/model.bin": made(3000), "model.bin": made(2000)}


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    source = tmp_path / "source"
    entries = []
    for name, content in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
        url = (source / name).as_uri()
        entries.append({"path": name, "url": url, "sha256": sha256(content)})
    orch = Orch(tmp_path)
    orch.models["many"] = {"files": entries, "to": "models/many"}
    orch.models["lone"] = {"files": entries[:1], "to": "models/lone"}
    orch.want("one", FILES["model.bin"], (source / "model.bin").as_uri())
    orch.models["stored"] = {"files": entries, "to": "store"}
    return orch


def test_the_path_of_a_model(orch: Orch) -> None:
    folder = f"{orch.folder}/models/many"
    missing = orch.run("path", "many", "team.yaml")
    assert (missing.code, missing.out) == (ExitCode.TRANSFER, f"{folder}\n")  # where it will be
    assert missing.err == f"error: {folder}/config.json: absent\nhint: run `orch sync team.yaml`\n"
    both, _ = orch.start("path", "many", "team.yaml", stderr=subprocess.STDOUT).communicate()
    assert both.endswith(f"\n{folder}\n")
    told = orch.run("path", "many", "team.yaml", "--json").summary
    assert (told["models"], told["files"], told["present"], len(told["failed"])) == (1, 3, 0, 3)
    assert (told["manifest"], told["store"]) == (str(orch.manifest), str(orch.store))
    assert orch.run("path", "--no-check", "many", "team.yaml").out == f"{folder}\n"
    assert orch.sync().code == 0
    assert orch.run("path", "many", "team.yaml").out == f"{folder}\n" == api_path("many", str(orch.manifest)) + "\n"
    assert orch.run("path", "one", "team.yaml").out == f"{orch.folder}/models/model.bin\n"
    assert orch.run("path", "lone", "team.yaml").out == f"{orch.folder}/models/lone/config.json\n"
    every = orch.run("path", "--all", "many", "team.yaml", "--json")
    assert [event["path"] for event in every.named("path")] == [f"{folder}/{name}" for name in FILES]
    assert (every.summary["models"], every.summary["files"]) == (1, 3)
    for name in ("onnx/model.bin", "config.json"):
        assert orch.run("path", "many", "--file", name, "team.yaml").out == f"{folder}/{name}\n"
    done = orch.run("path", "many", "--file", "confg.json", "team.yaml")
    assert (done.code, "did you mean `--file config.json`?" in done.err) == (ExitCode.MANIFEST, True)
    done = orch.run("path", "stored", "team.yaml")
    assert (done.code, "`orch path --all stored team.yaml`" in done.err) == (ExitCode.MANIFEST, True)
    (orch.folder / "models/many/onnx/model.bin").write_bytes(b"another one")
    wrong = orch.run("path", "many", "team.yaml")
    assert (wrong.code, wrong.out) == (ExitCode.DIGEST, "")
    (orch.folder / "models/many/onnx/model.bin").unlink()
    assert orch.run("path", "many", "team.yaml").code == ExitCode.TRANSFER
    assert orch.run("path", "many", "--file", "config.json", "team.yaml").code == 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["team.yaml"], "`orch path NAME team.yaml`; `orch list team.yaml` shows the names"),
        (["team.yaml", "many"], "`orch path many team.yaml`"),
        (["lone.yaml"], "`orch path m lone.yaml`"),
    ],
)
def test_a_manifest_in_the_place_of_the_name(orch: Orch, words: list[str], hint: str) -> None:
    (orch.folder / "lone.yaml").write_text(
        f"version: 1\nmodels:\n  m: {{url: 'file:///m.bin', sha256: '{sha256(b'')}', to: m/}}\n"
    )
    done = orch.run("path", *words)
    said = f"error: {words[0]} is a manifest: the name of a model comes first\nhint: {hint}\n"
    assert (done.code, done.out, done.err) == (ExitCode.MANIFEST, "", said)
