"""`orch adopt`: files that are here become the store's by their digest, and unfinished ones are gone on with."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.backends import aria2c
from orchestrator.backends.base import Job, Want
from orchestrator.commands.adopt import MOST_READ_BYTES
from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from orchestrator.model import Range
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256
from tests.servers import require

MIB = 1 << 20
A, B, C = made(3 * MIB + 5, 1), made(3 * MIB + 5, 2), made(70_000, 3)


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    orch = Orch(tmp_path)
    orch.want("a", A, origin.serve("/a.pth", A))
    orch.want("b", B, origin.serve("/b.pth", B))
    orch.want("c", C, origin.serve("/c.bin", C), size=None)
    return orch


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old/deep"
    folder.mkdir(parents=True)
    return folder


def test_right_files_are_taken_whatever_they_are_called(orch: Orch, old: Path) -> None:
    (old / "renamed.weights").write_bytes(A)
    (old / "b.pth").write_bytes(A[:-1] + b"x")  # its size, other bytes
    (old / "c.bin").write_bytes(C)
    (old / "link.pth").symlink_to(old / "nowhere")
    looked = orch.run("adopt", "-n", "old", "team.yaml", "--json")
    assert {event["path"] for event in looked.named("adopted")} == {f"{old}/renamed.weights", f"{old}/c.bin"}
    assert looked.summary["changed"] is False
    assert not orch.store.exists()
    done = orch.run("adopt", "old", "team.yaml", "--json")
    (notice,) = done.named("noticed")
    assert notice["message"] == f"not adopted: {old}/b.pth: has the name of b/b.pth, but other bytes"
    assert {event["model"]: event["how"] for event in done.named("adopted")} == {"a": "hard", "c": "hard"}
    assert orch.run("adopt", "old").err == "adopt: 0 of 1 missing file adopted, 0 bytes\n"
    assert done.summary["bytes_reused"] == len(A) + len(C)
    blob = orch.blob(A)
    assert blob.samefile(old / "renamed.weights")
    assert blob.stat().st_mode & 0o777 == 0o444
    assert (old / "b.pth").read_bytes() == A[:-1] + b"x"
    synced = orch.sync()
    assert (synced.code, synced.summary["placed"], synced.summary["fetched"]) == (0, 2, 1)
    assert (orch.folder / "models/a.pth").read_bytes() == A
    again = orch.run("adopt", "old")
    assert (again.code, again.out, again.err) == (0, "", "adopt: nothing to adopt: the store has every file\n")


def test_what_stands_at_its_place_is_not_copied(orch: Orch) -> None:
    place = orch.folder / "models/a.pth"
    place.parent.mkdir()
    place.write_bytes(A)
    assert orch.run("adopt", "models").code == 0
    assert orch.blob(A).samefile(place)
    assert orch.run("status", "--only", "a").code == 0
    del orch.models["a"]
    assert orch.run("prune", "--places", "--yes", "team.yaml").code == 0
    assert not place.exists(), "it is recorded as orch's"


def test_what_others_may_write_is_copied(orch: Orch, old: Path) -> None:
    shared, linked = old / "a.pth", old / "b.pth"
    shared.write_bytes(A)
    shared.chmod(0o666)
    linked.write_bytes(B)
    os.link(linked, old / "second name")
    done = orch.run("adopt", "old", "--json")
    assert {event["model"]: event["how"] for event in done.named("adopted")} == {"a": "copy", "b": "copy"}
    for path, mode in ((shared, 0o666), (linked, linked.stat().st_mode & 0o777)):
        assert path.stat().st_mode & 0o777 == mode
    assert not orch.blob(A).samefile(shared)
    assert orch.blob(B).read_bytes() == B
    (old / "c.bin").write_bytes(C)
    kept = orch.run("adopt", "old", "--copy", "--json").named("adopted")
    assert [event["how"] for event in kept] == ["copy"]
    (old / "c.bin").write_bytes(b"mine again")  # it is not the store's


def test_another_file_system(orch: Orch, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk:
        (Path(disk) / "x").write_bytes(A)
        done = orch.run("adopt", str(disk), "--json")
        assert [event["how"] for event in done.named("adopted")] == ["copy"]
    assert orch.blob(A).read_bytes() == A


@pytest.mark.parametrize("program", ["wget", "curl"])
def test_an_unfinished_download_at_the_place_is_gone_on_with(orch: Orch, origin: Origin, program: str) -> None:
    """M-18: what `wget -c` or `curl -C -` left has the final name, and `orch sync` refuses it as a foreign file."""
    tool = require(program)
    place = orch.folder / "models/a.pth"
    place.parent.mkdir()
    half = 2 * MIB + 3
    cut = origin.serve("/cut/a.pth", A[:half])
    output = ["-q", "-O"] if program == "wget" else ["-s", "-o"]
    subprocess.run([tool, *output, str(place), cut], check=True)
    refused = orch.run("sync", "--only", "a", "team.yaml")
    assert refused.code == ExitCode.PLACEMENT
    assert f"`orch adopt {place.parent} --only a team.yaml` resumes it" in refused.err
    for command in ("plan", "status"):
        looked = orch.run(command, "--only", "a", "team.yaml")
        assert f"`orch adopt {place.parent} --only a team.yaml` resumes it" in looked.out + looked.err
    done = orch.run("adopt", "models", "--json")
    (event,) = done.named("adopted")
    assert (event["how"], event["size_bytes"]) == ("unfinished", half)
    assert not place.exists()
    place.write_bytes(A[:half])  # as if that run had been killed before it moved the file away
    assert orch.run("adopt", "models").code == 0
    assert not place.exists()
    _, kept = orch.run("quarantine", "--json").named("kept")
    assert (kept["place"], kept["size_bytes"]) == (str(place), half)
    before = origin.sent("/a.pth")
    synced = orch.run("sync", "--only", "a", "--json", "team.yaml")
    assert (synced.code, place.read_bytes() == A) == (0, True)
    assert synced.summary["bytes_reused"] == half
    assert origin.sent("/a.pth") - before < len(A)


def test_a_shorter_file_that_is_another_one_costs_nothing_but_time(orch: Orch, old: Path) -> None:
    mine = made(2 * MIB, 9)
    (old / "a.pth").write_bytes(mine)
    assert [e["how"] for e in orch.run("adopt", "old", "--json").named("adopted")] == ["unfinished"]
    synced = orch.sync()
    assert synced.code == 0, synced.out
    assert (orch.folder / "models/a.pth").read_bytes() == A
    assert (old / "a.pth").read_bytes() == mine


def test_one_that_aria2c_left_elsewhere_is_gone_on_with(orch: Orch, old: Path, origin: Origin) -> None:
    program = require("aria2c")
    slow = origin.serve("/slow/a.pth", A, rate=MIB)
    # By one connection, so that the pieces come in order, and the first is whole once more than that is on the disk.
    command = [program, "-q", "-x1", "-k1M", "--file-allocation=none", "--auto-save-interval=1", "-d", str(old), slow]
    with subprocess.Popen(command) as child:
        while not (old / "a.pth").exists() or (old / "a.pth").stat().st_blocks * 512 <= MIB:
            assert child.poll() is None
            time.sleep(0.01)
        child.terminate()
    assert (old / "a.pth.aria2").exists()
    (event,) = orch.run("adopt", "old", "--json").named("adopted")
    assert event["how"] == "unfinished"
    assert not list(old.iterdir())
    synced = orch.sync()
    assert (synced.code, synced.summary["bytes_reused"] > 0) == (0, True)
    assert (orch.folder / "models/a.pth").read_bytes() == A


@pytest.mark.parametrize(
    "name",
    ["blobs/{}.incomplete", "blobs/{}.0a1b2c3d.incomplete", ".cache/huggingface/download/Zx-_4=.{}.incomplete", "{}"],
)
def test_a_name_with_the_wanted_digest_is_looked_into(orch: Orch, old: Path, name: str) -> None:
    """The caches of the Hugging Face hub name files by their sha256, and say no size."""
    path = old / name.format(sha256(A))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(A[: 2 * MIB])
    whole = old / sha256(C)
    whole.write_bytes(C)  # of no known size
    done = orch.run("adopt", "old", "--json")
    assert {event["model"]: event["how"] for event in done.named("adopted")} == {"a": "unfinished", "c": "hard"}
    assert orch.sync("--only", "a").summary["bytes_reused"] == 2 * MIB
    assert (orch.folder / "models/a.pth").read_bytes() == A


def test_without_a_size_every_file_is_read(orch: Orch, old: Path) -> None:
    """What `orch import SHA256SUMS` writes has no sizes."""
    (old / "renamed").write_bytes(C)
    with (old / "disk.img").open("wb") as image:
        image.truncate(MOST_READ_BYTES)
    refused = orch.run("adopt", "old", "team.yaml")
    assert "c/c.bin: size unknown, looked for by name only: 2 other files, 64.0 GiB are not read" in refused.out
    (old / "disk.img").unlink()
    done = orch.run("adopt", "old", "team.yaml")
    assert "c/c.bin: size unknown, so every file is read: 1 other file, 68.4 KiB" in done.out
    assert orch.blob(C).samefile(old / "renamed")


def test_aria2_says_the_length_of_what_has_another_name(orch: Orch, old: Path) -> None:
    """Only the length speaks for it: it is copied, and only where no second file of that length is wanted."""
    control = aria2c.sidecar(Job((Want((), "f", len(A), 0),), "/"), (Range(2 * MIB, len(A)),))
    (old / "model.bin").write_bytes(A[: 2 * MIB])
    (old / "model.bin.aria2").write_bytes(control or b"")
    assert orch.run("adopt", "old", "--json").named("adopted") == [], "a and b have this length"
    del orch.models["b"]
    (event,) = orch.run("adopt", "old", "--json").named("adopted")
    assert (event["how"], event["size_bytes"]) == ("unfinished", 2 * MIB)
    assert (old / "model.bin").read_bytes() == A[: 2 * MIB]
    assert orch.sync("--only", "a").summary["bytes_reused"] == 2 * MIB
    assert (orch.folder / "models/a.pth").read_bytes() == A


def test_usage(orch: Orch) -> None:
    assert orch.run("adopt", "nowhere").code == ExitCode.USAGE
    assert orch.run("adopt").code == ExitCode.USAGE
