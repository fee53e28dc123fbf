"""`orch list` and `orch remove`: what a manifest has, and a model taken out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, sha256

A, B, C = made(4000, 1), made(90_000, 2), made(4000, 3)


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    orch = Orch(tmp_path, environ={"ORCH_STORE": str(tmp_path / "store")})
    orch.write = lambda: None  # type: ignore[method-assign]  # the manifest is written below, with comments
    text = f"""\
version: 1
models:
  # --- vision ---
  resnet:
    # from the team's server
    url: {origin.serve("/resnet.pth", A)}
    for: torch
    to: models/
    tags: [vision, ci]
  both:
    files:
      - path: a.bin
        url: {origin.serve("/a.bin", C)}
      - path: b.bin
        url: {origin.serve("/b.bin", B)}
    to: both/
"""
    orch.manifest.write_text(text)
    return orch


def states(orch: Orch, *words: str) -> dict[str, tuple[object, ...]]:
    done = orch.run("list", "--json", *words)
    assert done.code == 0, done.out
    keys = ("files", "present", "size_bytes", "state")
    return {row["model"]: tuple(row[key] for key in keys) for row in done.named("model")}


def test_an_installed_file_has_a_size_also_where_the_manifest_names_none(orch: Orch) -> None:
    pinned = orch.manifest.read_text().replace("    for: torch\n", f"    sha256: {sha256(A)}\n")
    orch.manifest.write_text(pinned)
    assert states(orch)["resnet"] == (1, 0, None, "absent")
    assert orch.run("sync", "--only", "resnet").code == 0
    assert states(orch)["resnet"] == (1, 1, len(A), "present")


def test_the_models_with_their_state(orch: Orch) -> None:
    assert states(orch) == {"resnet": (1, 0, None, "unlocked"), "both": (2, 0, None, "unlocked")}
    assert orch.run("lock").code == 0
    assert states(orch)["both"] == (2, 0, len(A) + len(B), "absent")
    assert orch.run("sync").code == 0
    assert states(orch) == {"resnet": (1, 1, len(A), "present"), "both": (2, 2, len(A) + len(B), "present")}
    assert list(states(orch, "--only", "tag:ci")) == ["resnet"]
    (orch.folder / "both/b.bin").unlink()
    assert states(orch)["both"] == (2, 1, len(A) + len(B), "absent")
    placed = orch.folder / "models/resnet.pth"
    placed.chmod(0o644)
    placed.write_bytes(b"x" * len(A))
    shown = orch.run("list")
    assert shown.code == 0
    header, first, second = shown.out.splitlines()
    assert header.split() == ["MODEL", "FILES", "SIZE", "FOR", "TAGS", "STATE"]
    assert first.split() == ["resnet", "1", "3.9K", "torch", "vision", "ci", "changed"]
    assert second.split() == ["both", "1/2", "91.8K", "-", "-", "absent"]
    (row, _) = orch.run("list", "--json").named("model")
    assert row["state"] == "modified"
    assert (row["frameworks"], row["tags"], row["manifest"]) == (["torch"], ["vision", "ci"], str(orch.manifest))


def test_a_model_is_taken_out_and_its_file_stays(orch: Orch) -> None:
    assert orch.run("lock").code == 0
    assert orch.run("sync").code == 0
    before, lock = orch.manifest.read_text(), json.loads((orch.folder / "team.lock.json").read_text())
    looked = orch.run("remove", "-n", "resnet")
    assert looked.out == "would be removed: resnet, from team.yaml and its lock file\n"
    assert orch.manifest.read_text() == before
    done = orch.run("remove", "resnet", "team.yaml")
    assert (done.code, done.out) == (0, "removed: resnet, from team.yaml and its lock file\n")
    assert "next: orch prune --places team.yaml" in done.err
    head, rest = before.split("  resnet:\n")
    assert orch.manifest.read_text() == head + "  both:\n" + rest.split("  both:\n")[1]
    del lock["models"]["resnet"]
    assert json.loads((orch.folder / "team.lock.json").read_text()) == lock
    placed = orch.folder / "models/resnet.pth"
    assert placed.read_bytes() == A
    assert orch.run("status").code == 0
    assert orch.run("prune", "--places", "--yes").code == 0
    assert not placed.exists()
    assert (orch.folder / "both/a.bin").read_bytes() == C
    last = orch.run("remove", "both", "--json")
    assert [(event["model"], event["dry_run"]) for event in last.named("removed")] == [("both", False)]
    assert "models: {}" in orch.manifest.read_text()
    assert orch.run("list").out == ""


def test_what_is_not_there_cannot_go(orch: Orch) -> None:
    before = orch.manifest.read_bytes()
    done = orch.run("remove", "resnet", "bth")
    assert (done.code, orch.manifest.read_bytes()) == (ExitCode.MANIFEST, before)
    assert "did you mean `both`?" in done.err
    assert orch.run("remove", "team.yaml").code == ExitCode.USAGE
    assert orch.run("remove").code == ExitCode.USAGE


def test_of_several_manifests_each_that_has_it_loses_it(orch: Orch) -> None:
    other = orch.folder / "other.yaml"
    other.write_text("version: 1\nmodels: {resnet: {url: http://h/x, to: store}, x: {url: http://h/x, to: store}}\n")
    orch.environ["ORCH_MANIFEST"] = "team.yaml:other.yaml"
    assert orch.run("remove", "resnet", "x").code == 0
    assert "resnet" not in orch.manifest.read_text() + other.read_text()
    assert other.read_text() == "version: 1\nmodels: {}\n"
