"""The Makefile's first minute: which Python, and an environment that a failure left half made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder that has the Makefile alone, with a PATH without uv: pip is what most people have."""
    shutil.copy(HOUSE / "Makefile", folder)
    for needed in ("pyproject.toml", "requirements.lock"):
        (folder / needed).touch()
    environ = {**os.environ, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["make", *words], cwd=folder, env=environ, capture_output=True, text=True, check=False)


def python(folder: Path, text: str) -> str:
    """Write a program that stands in for a Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_an_old_python_is_named_with_the_line_to_type(tmp_path: Path) -> None:
    done = make(tmp_path, python(tmp_path, "echo 3.8.18"), "demo")
    assert "error: orch needs Python 3.11 or newer; found 3.8.18 (make PYTHON=python3." in done.stderr
    assert " demo)" in done.stderr
    assert done.returncode == 2
    assert not (tmp_path / ".venv").exists()


def test_a_python_that_is_not_here_is_named(tmp_path: Path) -> None:
    done = make(tmp_path, "PYTHON=python3.99", "demo")
    assert "error: orch needs Python 3.11 or newer; python3.99 is not here or does not run" in done.stderr


def test_without_ensurepip_the_package_to_install_is_named(tmp_path: Path) -> None:
    (tmp_path / "lacks").mkdir()
    (tmp_path / "lacks/ensurepip.py").write_text("raise ImportError")
    done = make(tmp_path, python(tmp_path, f'PYTHONPATH=lacks exec {sys.executable} "$@"'), "demo")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"hint: apt-get install python{version}-venv, then again: make demo" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_that_is_half_made_is_made_again(tmp_path: Path) -> None:
    """What failures leave: a folder without pip, whose Python may have gone with an upgrade of the system."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(tmp_path / "gone")
    done = make(tmp_path, f"PYTHON={sys.executable}", "venv")
    assert done.returncode == 0, done.stderr
    pip = subprocess.run([tmp_path / ".venv/bin/python", "-m", "pip", "--version"], capture_output=True, check=False)
    assert pip.returncode == 0
