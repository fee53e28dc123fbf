"""No home, no working folder, variables that say nothing: no folder is invented, and what can be done is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounts import loop
from tests.orch import Orch, made, python_for_all, sha256

DATA = made(40_000)
UNNAMED = 1002700000  # a uid that no password database knows, as OpenShift gives them


@pytest.fixture
def orch(public_path: Path) -> Orch:
    (public_path / "src").mkdir()
    (public_path / "src" / "w.pth").write_bytes(DATA)
    orch = Orch(public_path, environ={"ORCH_STORE": ""})
    orch.want("w", DATA, f"file://{public_path}/src/w.pth", to="models/")
    return orch


def invented(folder: Path) -> list[str]:
    """Folders called after what was not expanded."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith(("~", "$"))]


def without_home(orch: Orch, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run orch as a user without a home and without an entry in the password database."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    orch.write()
    os.chown(orch.folder, UNNAMED, 0)
    env = {key: value for key, value in orch.env().items() if key != "HOME"} | environ
    python, needed = python_for_all()
    argv = [*python, "-m", "orchestrator", *words]
    done = subprocess.run(
        argv, cwd=orch.folder, env=env | needed, user=UNNAMED, group=0, extra_groups=[], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_a_home_no_store_is_invented(orch: Orch, home: dict[str, str]) -> None:
    document = {"version": 1, "models": orch.models}
    (orch.folder / "other.yaml").write_text(json.dumps(document))
    done = without_home(orch, "sync", "other.yaml", **home)
    assert done.returncode == 3
    assert "no home folder is known" in done.stderr
    assert "HOME" in done.stderr and "--store DIR" in done.stderr
    assert not invented(orch.folder)
    assert not (orch.folder / "models").exists()
    done = without_home(orch, "sync", "other.yaml", "--store", "st", **home)
    assert done.returncode == 0, done.stderr
    assert (orch.folder / "models/w.pth").read_bytes() == DATA
    assert not invented(orch.folder)


def test_without_a_home_a_frameworks_cache_is_refused_and_nothing_is_made_in_the_root(orch: Orch) -> None:
    orch.models["w"] = {"url": "https://download.pytorch.org/w-0.pth", "sha256": sha256(DATA), "for": "torch"}
    done = without_home(orch, "sync", "team.yaml")
    assert done.returncode == 3
    assert "no home folder is known" in done.stderr


def test_an_empty_home_is_the_password_databases(orch: Orch) -> None:
    orch.environ["HOME"] = ""
    assert orch.run("path", "w", "--no-check", "--store", "~/x", "team.yaml").code == 0
    assert not invented(orch.folder)


@pytest.mark.parametrize("word", ["~", "~/st", "$HOME/st", "${HOME}/st", "~nobody/st"])
@pytest.mark.parametrize("by", ["ORCH_STORE", "--store", "ORCH_ROOT", "--root", "store", "root", "to"])
def test_a_tilde_is_the_home_and_nothing_else_is_expanded(orch: Orch, by: str, word: str) -> None:
    flags: tuple[str, ...] = ()
    if by.startswith("ORCH"):
        orch.environ[by] = word
    elif by.startswith("--"):
        flags = (by, word)
    elif by == "to":
        orch.models["w"]["to"] = f"{word}/w"
    else:
        orch.top[by] = word
    done = orch.sync(*flags)
    if word.startswith("~") and "nobody" not in word and by != "to":
        assert done.code == 0, done
        assert (orch.folder / "home" / word[2:] / ("models" if "oot" in by.lower() else "blobs")).is_dir()
    else:
        assert done.code == 3, done
    assert not invented(orch.folder)


@pytest.mark.parametrize("value", ["", "relative"])
def test_a_base_directory_that_is_empty_or_relative_is_ignored(orch: Orch, value: str) -> None:
    document = {"version": 1, "models": orch.models}
    (orch.folder / "other.yaml").write_text(json.dumps(document))
    orch.environ.update({f"XDG_{name}_HOME": value for name in ("CACHE", "CONFIG", "STATE", "DATA")})
    done = orch.run("sync", "other.yaml")
    assert done.code == 0, done
    home = orch.folder / "home"
    assert (home / ".cache/orch/blobs/sha256" / sha256(DATA)).is_file()
    assert (home / ".local/state/orch").is_dir()
    assert {path.name for path in orch.folder.iterdir()} == {"home", "src", "models", "team.yaml", "other.yaml"}


def test_an_empty_cache_variable_makes_nothing_in_the_root_folder(orch: Orch) -> None:
    """torch then looks in `torch` below its working folder: the same join of names, not `/torch`."""
    orch.environ["XDG_CACHE_HOME"] = ""
    orch.models["w"] = {"url": "https://download.pytorch.org/w-0.pth", "sha256": sha256(DATA), "for": "torch"}
    done = orch.run("path", "--no-check", "w", "team.yaml")
    assert done.out == f"{orch.folder}/torch/hub/checkpoints/w-0.pth\n"


def test_a_working_folder_that_was_removed(orch: Orch) -> None:
    orch.write()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        gone = orch.folder / "gone"
        gone.mkdir()
        script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        argv = ["sh", "-c", script, "sh", str(gone), sys.executable, "-m", "orchestrator", *words]
        done = subprocess.run(argv, env=orch.env() | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert not gone.exists()
        return done

    done = run("sync", str(orch.manifest))
    assert done.returncode == 0, done.stderr
    assert (orch.folder / "models/w.pth").read_bytes() == DATA
    for words in (
        ("sync",),
        ("sync", "team.yaml"),
        ("status", "--store", "st", str(orch.manifest)),
        ("prune", "--yes", "--store", "st"),
    ):
        done = run(*words)
        assert (done.returncode, "was removed" in done.stderr) == (3, True), (words, done)
    for words in (
        ("status", str(orch.manifest)),
        ("verify", str(orch.manifest)),
        ("prune", "--yes", str(orch.manifest)),
    ):
        assert run(*words).returncode == 0, words


@pytest.mark.parametrize("spoiled", ["file", "link", "full"])
def test_a_state_folder_that_cannot_be_used_stops_nothing(orch: Orch, spoiled: str) -> None:
    """Also where a file system keeps no nanoseconds, so that the local state would be asked for each seal."""
    state = orch.folder / "state"
    if spoiled == "file":
        state.write_text("")
    elif spoiled == "link":
        state.symlink_to("/dev/full")
    else:
        state.symlink_to("/proc")
    with loop(orch.folder / "coarse", "mkfs.ext4", "-q", "-I", "128") as coarse:
        orch.environ.update({"XDG_STATE_HOME": str(state), "ORCH_STORE": str(coarse / "store")})
        orch.top["root"] = str(coarse)
        done = orch.sync()
        assert done.code == 0, done
        assert (coarse / "models/w.pth").read_bytes() == DATA
        assert orch.sync().code == 0
