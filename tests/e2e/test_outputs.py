"""Outputs that cannot be written, and letters that they lack: the work is done, and no success where data was lost."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256

HOUSE = Path(__file__).resolve().parents[2]

COMMANDS = {
    "sync": ["sync", "team.yaml"],
    "sync --json": ["sync", "--json", "team.yaml"],
    "plan": ["plan", "team.yaml"],
    "plan --json": ["plan", "--json", "team.yaml"],
    "status": ["status", "team.yaml"],
    "status --json": ["status", "--json", "team.yaml"],
    "verify": ["verify", "team.yaml"],
    "verify --json": ["verify", "--json", "team.yaml"],
    "path": ["path", "模型", "team.yaml"],
    "path --json": ["path", "--json", "模型", "team.yaml"],
    "env": ["env", "torch.yaml"],
    "env --json": ["env", "--json", "torch.yaml"],
    "export sums": ["export", "--format", "sha256sums", "team.yaml"],
    "export metalink": ["export", "--format", "metalink", "team.yaml"],
    "export aria2": ["export", "--format", "aria2", "team.yaml"],
    "export --json": ["export", "--format", "aria2", "--json", "team.yaml"],
    "import": ["import", "SHA256SUMS", "--base", "http://127.0.0.1:9/"],
    "lock": ["lock", "team.yaml"],
    "lock --json": ["lock", "--json", "team.yaml"],
    "mirrors": ["mirrors", "team.yaml"],
    "vcs": ["vcs", "team.yaml"],
    "vcs --json": ["vcs", "--json", "team.yaml"],
    "backends": ["backends"],
    "doctor": ["doctor"],
    "prune": ["prune", "-n", "team.yaml"],
    "help": ["--help"],
    "version": ["--version"],
}
# What they say on stdout is what they are for. The code of plan and vcs stands, that of sync and lock in plain words
# too: they say nothing there.
ANSWER_BY_CODE = {"plan", "plan --json", "vcs", "vcs --json"}
SILENT = {"sync", "lock"}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Orch:
    """A machine with all in place, whose names no legacy encoding has."""
    orch = Orch(tmp_path_factory.mktemp("outputs"))
    with Origin() as origin:
        content = made(2000)
        orch.want("模型", content, origin.serve("/w.bin", content), to="models/模型.bin")
        assert orch.sync().code == 0
        orch.models["模型"]["url"] = "http://127.0.0.1:9/w.bin"
    orch.write()
    (orch.folder / "SHA256SUMS").write_text(f"{'0' * 64}  模型.bin\n")
    (orch.folder / "torch.yaml").write_text(
        f"version: 1\nmodels:\n  m: {{url: 'http://127.0.0.1:9/m.pth', sha256: '{'0' * 64}', for: torch}}\n"
    )
    return orch


def run(orch: Orch, words: list[str], redirection: str, **environ: str) -> tuple[int, bytes, bytes]:
    line = f'"$0" -m orchestrator "$@" {redirection}'
    env = {**orch.env(), **environ}
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, *words], cwd=orch.folder, env=env, capture_output=True, timeout=60
    )
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


HARMLESS = (  # the messages are lost, or who reads has read enough
    "| head -c 1; exit ${PIPESTATUS[0]}",
    "2>&1 | head -c 1; exit ${PIPESTATUS[0]}",
    "2>/dev/full",
    "2>&- <&-",
)


def in_turn(names: Iterable[str], ways: Sequence[str]) -> list[tuple[str, str]]:
    """The first name with each way, and each other one with one of them, in turn: all go through one door."""
    first, *others = names
    return [(first, way) for way in ways] + list(zip(others, itertools.cycle(ways)))


@pytest.mark.parametrize(("name", "redirection"), [*in_turn(COMMANDS, HARMLESS), ("sync --json", HARMLESS[0])])
def test_an_output_that_nobody_misses(full: Orch, name: str, redirection: str) -> None:
    assert run(full, COMMANDS[name], redirection)[0] == (5 if name == "mirrors" else 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_is_lost(full: Orch, name: str) -> None:
    words = COMMANDS[name]
    own = 5 if name == "mirrors" else 0
    for redirection, why in (("> /dev/full", b"No space left"), (">&-", b"Bad file descriptor")):
        code, _, err = run(full, words, redirection)
        if name in SILENT:
            assert code == own
        else:
            assert b"error: cannot write the output: " + why in err
            assert code == (own if own or name in ANSWER_BY_CODE else 8)
    if name in ("sync", "status --json"):
        run(full, words, "> /dev/full 2> /dev/full")


SETTINGS = ("PYTHONIOENCODING=ascii", "LC_ALL=en_US.ISO-8859-1", "LC_ALL=C")
NAMING = ("path", "export sums", "status")


@pytest.mark.parametrize(
    ("name", "setting"),
    [*itertools.product(NAMING, SETTINGS), *in_turn([name for name in COMMANDS if name not in NAMING], SETTINGS)],
)
def test_letters_that_the_output_lacks(full: Orch, name: str, setting: str) -> None:
    code, out, _ = run(full, COMMANDS[name], "", **dict([setting.split("=")]))
    assert code == (5 if name == "mirrors" else 0)
    if name in ("path", "export sums"):
        assert str(full.folder / "models" / "模型.bin" if name == "path" else "模型.bin").encode() in out
    elif name == "status":
        assert b"present" in out


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)
    with Origin() as origin:
        url = origin.serve("/w", b"w")
        text = f"version: 1\nmodels:\n  w: {{url: '{url}', sha256: {sha256(b'w')}, to: models/}}\n"
        Path(os.fsdecode(folder), "team.yaml").write_text(text)
        for words in (["sync"], ["status"], ["path", "w"], ["verify"], ["sync", "--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "orchestrator", *words, "team.yaml"],
                cwd=folder,
                env={**Orch(tmp_path).env(), "PYTHONPATH": str(HOUSE)},
                capture_output=True,
            )
            assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
            if words[0] == "path":
                assert done.stdout == folder + b"/models/w\n"


def test_a_working_folder_that_is_gone(full: Orch) -> None:
    gone = full.folder / "gone"
    gone.mkdir()
    line = 'cd "$1" && rmdir "$1" && shift && exec "$0" -m orchestrator "$@"'
    manifest = str(full.manifest)

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        gone.mkdir(exist_ok=True)
        argv = ["sh", "-c", line, sys.executable, str(gone), *words]
        done = subprocess.run(argv, env={**full.env(), "PYTHONPATH": str(HOUSE)}, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert not gone.exists()
        return done

    for words in (["sync"], ["plan"], ["status"], ["verify"], ["path", "模型"], ["export", "--format", "aria2"]):
        assert there(*words, manifest).returncode == 0
    full.models["模型"]["url"] = (full.folder / "models" / "模型.bin").as_uri()
    full.write()
    done = there("sync", "--store", str(full.folder / "other"), manifest)
    assert done.returncode == 0, done.stderr
    for words in (["sync"], ["status", "team.yaml"], ["lock"], ["prune", "--yes", "team.yaml"]):
        done = there(*words)
        assert done.returncode == 3
        assert f"{gone}/" in done.stderr
    for words in (
        ["verify", "x.sha256"],
        ["import", "SHA256SUMS"],
        ["add", "http://h/x", "t.yaml"],
        ["add", "http://h/x"],
        ["init"],
    ):
        assert there(*words).returncode in (3, 5, 7, 8)
    done = there("get", "http://127.0.0.1:9/x", "--sha256", "0" * 64)
    assert done.returncode in (3, 5, 7)
