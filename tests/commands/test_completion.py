"""Shells complete as orch tells them; `orch help` and `orch schema`."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cli.app import COMMANDS
from orchestrator.errors import ExitCode
from tests.orch import Orch

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    """A manifest with odd names, and `orch` on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "orch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n')
    program.chmod(0o755)
    orch = Orch(tmp_path, environ={"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(REPO)})
    orch.want("resnet50", b"a", "http://h/a", tags=["vision", "ci"])
    orch.want("resnet 18", b"b", "http://h/b")
    orch.want("a*", b"d", "http://h/d")
    orch.want("模型", b"c", "http://h/c")
    orch.write()
    return orch


LINES = [
    ("orch sta", ["status"]),
    ("orch remove res", ["resnet 18", "resnet50"]),
    ("orch remove resnet50 res", ["resnet 18"]),
    ("orch path 模", ["模型"]),
    ("orch path a", ["a*"]),
    ("orch sync --only ", ["a*", "resnet 18", "resnet50", "tag:ci", "tag:vision", "模型"]),
    ("orch sync --only tag:v", ["tag:vision"]),
    ("orch sync --only resnet50,tag:c", ["resnet50,tag:ci"]),
    ("orch sync --backend a", ["aria2c", "axel"]),
    ("orch add http://h/a --for kag", ["kagglehub"]),
    ("orch help quar", ["quarantine"]),
    ("orch run --sa", ["--sandbox"]),
    ("orch run --sync --only resnet5", ["resnet50"]),
    ("orch explain chec", ["checksum-mismatch"]),
    ("orch completion z", ["zsh"]),
]


def in_shell(orch: Orch, *argv: str) -> str:
    done = subprocess.run(argv, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, timeout=120)
    assert not done.stderr, done.stderr
    return done.stdout


def test_fish(orch: Orch) -> None:
    fish = shutil.which("fish") or pytest.skip("fish is not installed")
    script = "orch completion fish | source\n" + "\n".join(
        f"echo '> {number}'; complete -C'{line}'" for number, (line, _) in enumerate(LINES)
    )
    found = re.split(r"> \d+\n", in_shell(orch, fish, "--no-config", "-c", script))[1:]
    for (line, expected), got in zip(LINES, found, strict=True):
        if "," in line:
            continue  # click's function for fish cuts a value at its first comma
        assert sorted(each.partition("\t")[0] for each in got.splitlines()) == expected, line


def test_bash(orch: Orch) -> None:
    """The function that bash calls, with the variables that it sets; bash itself replaces what is behind the colon."""
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    script = 'eval "$(orch completion bash)"\n'
    for number, (line, _) in enumerate(LINES):
        script += f"echo '> {number}'; COMP_LINE='{line}' COMP_POINT={len(line)}; _orch_completion orch\n"
        script += "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    orch.environ["LC_ALL"] = "C.UTF-8"
    found = re.split(r"> \d+\n", in_shell(orch, bash, "--norc", "-c", script))[1:]
    for (line, expected), got in zip(LINES, found, strict=True):
        behind = line.rpartition(" ")[2].rpartition(":")
        wanted = [each.removeprefix(behind[0] + behind[1]).replace(" ", "\\ ").replace("*", "\\*") for each in expected]
        assert sorted(got.splitlines()) == sorted(wanted), line


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (b"orch remove resnet5\t", b"orch remove resnet50"),
        (b"orch sync --only tag:vi\t", b"orch sync --only tag:vision"),
        (b"orch remove 'x' resnet\\ \t", b"resnet\\ 18"),
    ],
)
def test_the_tab_key_in_bash(orch: Orch, typed: bytes, completed: bytes) -> None:
    bash = shutil.which("bash") or pytest.skip("bash is not installed")

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(orch.folder)
        os.execve(bash, [bash, "--norc", "-i"], {**orch.env(), "PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null"})
    try:
        os.write(terminal, b'eval "$(orch completion bash)"; echo rea""dy\n')
        seen = _read_until(terminal, b"\nready")
        assert b"ready" in seen, seen
        os.write(terminal, typed)
        seen = _read_until(terminal, completed)
        assert completed in seen, seen
    finally:
        os.write(terminal, b"\x03\x04")
        os.close(terminal)
        os.waitpid(pid, 0)


def _read_until(terminal: int, text: bytes, most_s: float = 30) -> bytes:
    seen, end = b"", time.monotonic() + most_s
    while text not in seen.replace(b"\r\n", b"\n") and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)
    return seen.replace(b"\r\n", b"\n")


def test_zsh(orch: Orch) -> None:
    zsh = shutil.which("zsh") or pytest.skip("zsh is not installed")
    assert "orch" in in_shell(
        orch, zsh, "-f", "-c", 'autoload -U compinit; compinit -u; eval "$(orch completion zsh)"; echo orch'
    )


def test_a_manifest_that_is_wrong_completes_nothing_and_says_nothing(orch: Orch) -> None:
    orch.manifest.write_text("models: [")
    fish = shutil.which("fish") or pytest.skip("fish is not installed")
    assert in_shell(orch, fish, "--no-config", "-c", "orch completion fish | source; complete -C'orch remove '") == ""


def test_help_is_that_of_the_option(orch: Orch) -> None:
    for name in ("sync", "run", "import"):
        assert orch.run("help", name).out == orch.run(name, "--help").out
    top = orch.run("help")
    assert (top.code, top.out) == (0, orch.run("--help").out)
    wrong = orch.run("help", "snyc")
    assert (wrong.code, "did you mean `orch sync`?" in wrong.err) == (ExitCode.USAGE, True)
    assert set(COMMANDS) >= {"help", "schema", "completion"}


def test_the_schema_is_the_one_that_is_shipped(orch: Orch) -> None:
    assert json.loads(orch.run("schema").out) == json.loads((REPO / "docs/manifest.schema.json").read_text())
    assert "hooks" in orch.run("schema", "--site").out
    assert '"docs/manifest.schema.json" = "orchestrator/manifest.schema.json"' in (REPO / "pyproject.toml").read_text()


def test_a_shell_that_is_not_named(orch: Orch) -> None:
    done = orch.run("completion")
    said = "error: missing argument '{bash|zsh|fish}': choose from bash, zsh, fish\n"
    assert (done.code, done.err.partition("hint:")[0]) == (ExitCode.USAGE, said)
