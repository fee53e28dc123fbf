"""What the linters cannot see: pure rooms, seven names, captions, and papers that are true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.cli.app import COMMANDS, app
from orchestrator.errors import ExitCode
from orchestrator.faults import REMEDIES, Kind

HOUSE = Path(__file__).resolve().parents[1]
ROOMS = sorted((HOUSE / "orchestrator").rglob("*.py"))
PURE_NAMES = (
    "backends",
    "formats",
    "frameworks",
    "manifest",
    "checksums.py",
    "errors.py",
    "events.py",
    "faults.py",
    "model.py",
    "text.py",
    "urls.py",
)
PURE = [room for room in ROOMS if room.relative_to(HOUSE / "orchestrator").parts[0] in PURE_NAMES]
SEVEN = {"NAME", "TRAITS", "SIDECAR", "command", "diagnose", "missing", "sidecar"}


def test_floors_and_purity() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))], cwd=HOUSE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("room", PURE, ids=lambda room: str(room.relative_to(HOUSE / "orchestrator")))
def test_pure_rooms_call_no_builtin_that_touches_the_outside(room: Path) -> None:
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(room.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
def test_a_backend_has_seven_names_and_no_more(backend: object) -> None:
    tree = ast.parse(Path(backend.__file__).read_text())  # type: ignore[attr-defined]
    own = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        own |= {t.id for t in targets if isinstance(t, ast.Name)}
    assert {name for name in own if not name.startswith("_")} <= SEVEN
    assert all(hasattr(backend, name) for name in SEVEN)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.NAME)
def test_each_backend_stands_in_the_contract(backend: object) -> None:
    contract = (HOUSE / "pyproject.toml").read_text().split("backends know nothing of each other")[1].split("[[")[0]
    assert f'"{backend.__name__}"' in contract  # type: ignore[attr-defined]


def test_each_room_has_its_caption() -> None:
    for room in ROOMS:
        assert ast.get_docstring(ast.parse(room.read_text())), room


def test_every_kind_of_fault_has_its_remedy() -> None:
    assert set(REMEDIES) == set(Kind)


def test_commands_and_exit_codes_are_documented_and_tested() -> None:
    readme = (HOUSE / "README.md").read_text()
    tests = "".join(path.read_text() for path in (HOUSE / "tests").rglob("test_*.py"))
    for name in COMMANDS:
        assert f"`orch {name}" in readme, name
        command = app.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help
        for option in command.params:
            assert option.param_type_name == "argument" or getattr(option, "help", None), (name, option.name)
    table = readme.split("## Exit codes")[1].split("##")[0]
    for code in ExitCode:
        assert re.search(rf"\b{int(code)}\b", table), f"exit code {int(code)} is not in the README"
    for code in ExitCode:
        assert f"ExitCode.{code.name}" in tests or re.search(rf"\b{int(code)}\b", tests), code


def test_the_architecture_is_true() -> None:
    paper = (HOUSE / "docs/architecture.md").read_text()
    for path in re.findall(r"`([a-z_/]+(?:\.py|/))`", paper):
        assert (HOUSE / "orchestrator" / path).exists() or (HOUSE / path).exists(), path
    for room in (HOUSE / "orchestrator").iterdir():
        if room.name in ("__init__.py", "__main__.py", "__pycache__", "py.typed"):
            continue
        assert f"`{room.name}{'/' if room.is_dir() else ''}`" in paper, f"{room.name} is not in docs/architecture.md"
    made = subprocess.run([sys.executable, HOUSE / "docs/tree.py"], capture_output=True, text=True, check=True).stdout
    assert made in paper, "run: python docs/tree.py --write"
