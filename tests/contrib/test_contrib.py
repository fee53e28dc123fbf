"""The files of contrib/ are ones that their programs accept, and what they run is what orch has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.demo.server import Origin
from tests.orch import Orch

HOUSE = Path(__file__).resolve().parents[2]
CONTRIB = HOUSE / "contrib"
TEXTS = [path for path in sorted(CONTRIB.rglob("*")) if path.is_file()]


_COMMAND = re.compile(r"(?:^|[\s\[\"'])(?:/opt/orch/bin/)?orch ((?:sync|verify|plan|run|status|lock)\b[^|\"']*)")


def _commands(text: str) -> list[list[str]]:
    """The orch commands in a text, as words."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("#") or "orch" not in line:
            continue
        found += [shlex.split(match[1]) for match in _COMMAND.finditer(line)]
        if (listed := re.search(r"\[(?:/opt/orch/bin/orch, )?((?:sync|plan|verify),[^\]]*)\]", line)) is not None:
            found.append([word.strip() for word in listed[1].split(",")])
    return found


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path.suffix in (".yaml", ".yml")], ids=lambda path: path.name
)
def test_they_are_yaml(path: Path) -> None:
    assert all(document for document in yaml.safe_load_all(path.read_text("utf-8")))


def test_each_command_has_options_that_orch_knows(tmp_path: Path) -> None:
    seen = 0
    with Origin() as origin:
        orch = Orch(tmp_path)
        orch.want("w", b"w", origin.serve("/w", b"w"))
        assert orch.sync().code == 0
        for path in TEXTS:
            for words in _commands(path.read_text("utf-8")):
                command = [word for word in words if word != "--" and not word.startswith("pytest")]
                manifests = [word for word in command if word.endswith(".yaml")]
                command = ["team.yaml" if word in manifests else word for word in command]
                if command[0] == "run":
                    command += ["--", "true"]
                if "--splay" in command:
                    command[command.index("--splay") + 1] = "1s"
                done = orch.run(*command)
                assert done.code == 0, (path, command, done.err)
                seen += 1
    assert seen >= 9


def test_the_units_are_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze")
    program = tmp_path / "orch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in CONTRIB.glob("systemd/*"):
        (tmp_path / unit.name).write_text(unit.read_text("utf-8").replace("/opt/orch/bin/orch", str(program)))
    units = [str(tmp_path / unit.name) for unit in sorted(CONTRIB.glob("systemd/*"))]
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    about_ours = [line for line in done.stderr.splitlines() if "orch" in line and "User" not in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr
    service = str(tmp_path / "orch-sync@.service")
    done = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", service], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-500:]


def test_the_prolog_never_drains_a_node(tmp_path: Path) -> None:
    prolog = CONTRIB / "slurm/prolog.sh"
    assert os.access(prolog, os.X_OK)
    assert subprocess.run(["sh", str(prolog)], env={}, cwd=tmp_path, check=False, capture_output=True).returncode == 0


def test_what_the_docs_name_is_there() -> None:
    page = (HOUSE / "docs/unattended.md").read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)", page):
        assert (HOUSE / "docs" / link).exists(), link
    assert all(f"contrib/{path.relative_to(CONTRIB)}" in page for path in TEXTS if "monitoring" not in str(path))
