"""A sync with nothing to do: no process, no socket, no file of the store opened, one look a place, nothing heavy."""

from __future__ import annotations

import ast
import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __version__
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine.scan import State, scan
from orchestrator.model import Place, Wanted
from orchestrator.store import Store
from orchestrator.workspace import open_workspace
from tests.orch import Orch, made

HEAVY = (
    "sh",
    "psutil",
    "rich",
    "httpx2",
    "jsonschema",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "difflib",
    "urllib.request",
    # Of the standard library what costs a millisecond or more together with what it brings.
    "hashlib",
    "importlib.metadata",
    "json",
    "pathlib",
    "random",
    "shutil",
    "tempfile",
    "unicodedata",
    "urllib.parse",
    "yaml",
)
# Rooms of the house that only a run with work, or one with something wrong, has a use for.
OTHER_ROADS = (
    "backends",
    "backends.select",
    "commands.history",
    "commands.hooks",
    "commands.plan",
    "demo",
    "engine.inspect",
    "engine.install",
    "faults",
    "frameworks.catalogue",
    "manifest.diagnose",
    "manifest.messages",
    "manifest.positions",
    "placement.link",
    "process",
    "programs",
    "render.bars",
    "render.metrics",
    "render.traffic",
    "sources",
    "store.partials",
    "store.quarantine",
    "store.records",
    "transfer.connections",
    "transfer.download",
    "transfer.retry",
    "verify",
)
SPY = """
import gc, os, sys
seen, looks, collections = [], [], []
before = set(sys.modules)  # an interpreter under coverage brings some of its own
def spy(event, args):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec") or event.startswith("socket."):
        seen.append(event)
    if event == "open" and str(args[0]).startswith(STORE):
        seen.append(str(args[0]))
def counted(name, look):  # these are no audit events
    def counting(path, *args, **kwargs):
        looks.append((name, os.fspath(path)))
        return look(path, *args, **kwargs)
    return counting
os.stat, os.lstat = counted("stat", os.stat), counted("lstat", os.lstat)
sys.addaudithook(spy)
from orchestrator.cli import main
gc.callbacks.append(lambda phase, info: collections.append(phase))
code = main(["sync", "--quiet", "team.yaml"])
gc.callbacks.clear()
print(repr((code, seen, looks, collections, sorted(set(sys.modules) - before))))
"""
FILES = 40
# What costs 5 ms or more to import, and a run of small files by one curl has no use for before curl is started.
FOR_OTHERS = (
    "concurrent.futures",
    "email.utils",
    "http.client",
    "httpx2",
    "importlib.metadata",
    "logging",
    "orchestrator.formats.policy",
    "orchestrator.sources.http",
    "psutil",
    "secrets",
    "ssl",
    "tarfile",
    "urllib.request",
    "zipfile",
)
# What a plan of small files has no use for: hashes and archives alone are 6 MB.
NOT_FOR_A_PLAN = (
    "bz2",
    "hashlib",
    "orchestrator.commands.status",
    "orchestrator.commands.verify",
    "orchestrator.engine.inspect",
    "orchestrator.engine.scheduler",
    "orchestrator.transfer.download",
    "psutil",
    "shutil",
    "socket",
    "ssl",
    "yaml",
)
IMPORTED = """
import sys
before = set(sys.modules)
from orchestrator.cli import main
code = main([COMMAND, "--quiet", "team.yaml"])
print(repr((code, sorted(set(sys.modules) - before))))
"""


def as_people_write(manifest: Path) -> str:
    """A manifest as YAML without braces and quotes, for which no YAML library is needed."""
    document = json.loads(manifest.read_text("utf-8"))
    models = document.pop("models")
    lines = [f"{key}: {value}" for key, value in document.items()] + ["models:"]
    for name, model in models.items():
        lines += [f"  {name}:", *(f"    {key}: {value}" for key, value in model.items())]
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def no_op(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a spy in the process saw of a sync with all in place."""
    folder = tmp_path_factory.mktemp("no_op")
    orch = Orch(folder)
    with Origin() as origin:
        places = [
            orch.want(f"m{number}", made(2000, number), origin.serve(f"/{number}", made(2000, number)))
            for number in range(FILES)
        ]
        assert orch.sync().code == 0
    orch.manifest.write_text(as_people_write(orch.manifest))
    done = subprocess.run(
        [sys.executable, "-c", SPY.replace("STORE", repr(str(orch.store)))],
        cwd=folder,
        env=orch.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    names = ("code", "seen", "looks", "collections", "modules")
    return {
        **dict(zip(names, ast.literal_eval(done.stdout), strict=True)),
        "places": [str(p) for p in places],
        "folder": str(folder),
    }


def test_it_does_nothing_that_is_not_needed(no_op: dict[str, Any]) -> None:
    assert (no_op["code"], no_op["seen"]) == (0, [])


def test_it_imports_nothing_that_is_not_needed(no_op: dict[str, Any]) -> None:
    for room in OTHER_ROADS:
        assert importlib.util.find_spec(f"orchestrator.{room}"), f"there is no {room} to be left out"
    unwanted = {*HEAVY, *(f"orchestrator.{room}" for room in OTHER_ROADS)}
    assert unwanted.intersection(no_op["modules"]) == set()
    assert "orchestrator.engine.run" in no_op["modules"]


def test_it_looks_at_each_place_once(no_op: dict[str, Any]) -> None:
    looks = Counter(no_op["looks"])
    places = no_op["places"]
    assert {path: looks["lstat", path] + looks["stat", path] for path in places} == dict.fromkeys(places, 1)
    others = {path for _, path in looks if no_op["folder"] in path and path not in no_op["places"]}
    assert len(others) < FILES / 2, "folders and settings, not files"


def test_nothing_is_collected_on_the_way(no_op: dict[str, Any]) -> None:
    assert len(no_op["collections"]) <= 2, "a start and a stop each: the imports alone would make it dozens"


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_left_as_it_was(tmp_path: Path, collects: bool) -> None:
    orch = Orch(tmp_path)
    orch.want("a", b"a", "https://example.org/a")
    orch.write()
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        open_workspace(Context(environ=orch.env(), cwd=str(tmp_path)), ["team.yaml"])
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_nothing_is_looked_for_in_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a").write_bytes(b"a stranger")
    wanted = [
        Wanted("/team.yaml", name, name, f"{number:064x}", None, (), (Place(f"{tmp_path}/{folder}/{name}"),))
        for number, (folder, name) in enumerate((f, n) for f in ("gone", "here") for n in ("b", "a", "c"))
    ]
    looks: list[str] = []

    def counted(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def counting(path: str, *args: Any, **kwargs: Any) -> os.stat_result:
            looks.append(str(path))
            return look(path, *args, **kwargs)

        return counting

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", counted(os.stat))
        patched.setattr(os, "lstat", counted(os.lstat))
        found = scan(Store(f"{tmp_path}/store", f"{tmp_path}/state"), wanted)
    absent, stranger = State.ABSENT, State.UNVERIFIED
    assert [s.states[0][1] for s in found] == [absent, absent, absent, absent, stranger, absent]
    count = Counter(os.path.relpath(path, tmp_path) for path in looks if "here" in path or "gone" in path)
    assert count == {"gone/b": 1, "gone": 1, "here/b": 1, "here": 1, "here/a": 3, "here/c": 1}, "a stranger thrice"


def imported(orch: Orch, command: str) -> set[str]:
    """What a command imports that does well."""
    script = [sys.executable, "-c", IMPORTED.replace("COMMAND", repr(command))]
    done = subprocess.run(script, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, check=True)
    code, modules = ast.literal_eval(done.stdout)
    assert code == 0, done.stderr
    return set(modules)


def test_a_plan_imports_nothing_that_is_not_needed(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    orch.want("a", b"a", "https://example.org/a")
    orch.write()
    orch.manifest.write_text(as_people_write(orch.manifest))
    modules = imported(orch, "plan")
    assert set(NOT_FOR_A_PLAN).intersection(modules) == set()
    assert "orchestrator.commands.plan" in modules


def test_small_files_are_fetched_without_an_http_client_of_ours(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        for number in range(FILES):
            orch.want(f"m{number}", made(2000, number), origin.serve(f"/{number}", made(2000, number)))
        orch.write()
        modules = imported(orch, "sync")
    assert set(FOR_OTHERS).intersection(modules) == set()
    assert "orchestrator.transfer.batch" in modules


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_told_without_the_command_line_parser(word: str) -> None:
    script = f"import sys; from orchestrator.cli import main; main(['{word}']); print('click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"orch {__version__}", "False"]


def test_import_is_lazy() -> None:
    script = "import sys, orchestrator; print([m for m in sys.modules if m.startswith(('orchestrator.', 'yaml'))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
