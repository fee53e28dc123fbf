"""What orch is installed from: bounded dependencies, locks by version and sha256, a wheel built the same twice."""

from __future__ import annotations

import fcntl
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orchestrator.demo.server import Origin
from tests.orch import sha256

HOUSE = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = [
    *PROJECT["project"]["dependencies"],
    *EXTRAS["embedded"],
    *EXTRAS["hub"],
    *EXTRAS["build"],
]
LOCKS = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": [*RUNTIME, *EXTRAS["dev"], *EXTRAS["docs"], *EXTRAS["signing"], *EXTRAS["srv"]],
    "requirements-audit.lock": EXTRAS["audit"],
    "tests/requirements.txt": [],
}
BY_DATE = {"certifi", "types-pyyaml", "types-psutil"}  # their versions are dates: there is no next major


def locked(name: str) -> dict[str, list[tuple[Requirement, str]]]:
    """For each package of a lock its pins (one for each range of Pythons), and the line of each with its hashes."""
    found: dict[str, list[tuple[Requirement, str]]] = {}
    lines = [line for line in (HOUSE / name).read_text().splitlines() if line and not line.lstrip().startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", "").splitlines():
        pin = Requirement(entry.split(" --hash")[0])
        found.setdefault(canonicalize_name(pin.name), []).append((pin, entry))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_each_file_by_its_sha256_and_no_index(name: str) -> None:
    for pins in locked(name).values():
        for pin, entry in pins:
            assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), entry
            assert re.search(r"( +--hash=sha256:[0-9a-f]{64})+ *$", entry), pin
    text = (HOUSE / name).read_text()
    assert not re.search(r"://|^ *--(extra-)?index|^ *--find-links|^-", text, re.MULTILINE)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_pyproject_asks_for(name: str) -> None:
    pins = locked(name)
    for asked in map(Requirement, LOCKS[name]):
        of_it = pins.get(canonicalize_name(asked.name), [])
        assert of_it, f"{asked} is not in {name}: run `make lock`"
        for pin, _ in of_it:
            (version,) = (s.version for s in pin.specifier)
            assert asked.specifier.contains(version), f"{asked} is {version} in {name}: run `make lock`"


def test_the_locks_agree() -> None:
    dev = locked("requirements-dev.lock")
    for name, pins in locked("requirements.lock").items():
        versions = {str(pin.specifier) for pin, _ in dev[name]}  # a tool may need it on more platforms
        assert versions == {str(pin.specifier) for pin, _ in pins}, name


def test_each_dependency_has_both_bounds() -> None:
    asked = [
        *RUNTIME,
        *EXTRAS["dev"],
        *EXTRAS["docs"],
        *EXTRAS["audit"],
        *EXTRAS["srv"],
        *PROJECT["build-system"]["requires"],
    ]
    for requirement in map(Requirement, asked):
        operators = {specifier.operator for specifier in requirement.specifier}
        if canonicalize_name(requirement.name) not in BY_DATE:
            assert operators in ({"=="}, {">=", "<"}), requirement


def build(house: Path, into: Path) -> Path:
    """Build the wheel of a checkout as `make wheel` does."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(argv, cwd=house, env=environ, capture_output=True, check=True)
    (wheel,) = into.glob("*.whl")
    return wheel


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once for all workers of pytest-xdist: the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def _built(folder: Path) -> None:
    build(HOUSE, folder)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = once(tmp_path_factory, "of-the-wheel", _built)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_is_built_the_same_of_another_copy(wheel: Path, tmp_path: Path) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=HOUSE, capture_output=True, check=False).stdout.split(b"\0")
    if not any(files):
        pytest.skip("not a git checkout")
    before = os.umask(0o077)
    try:
        for file in filter(None, map(os.fsdecode, files)):
            if (HOUSE / file).exists():
                (tmp_path / "house" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(HOUSE / file, tmp_path / "house" / file)  # with the time of now
                (tmp_path / "house" / file).chmod(0o700 if os.access(HOUSE / file, os.X_OK) else 0o600)
        other = build(tmp_path / "house", tmp_path)
    finally:
        os.umask(before)
    assert sha256(other.read_bytes()) == sha256(wheel.read_bytes())


def test_the_documentation_of_the_wheel_has_no_dead_link_and_no_scripts(wheel: Path) -> None:
    below = re.compile(r"[^/]+\.data/data/share/doc/orch/(.+)")
    with zipfile.ZipFile(wheel) as archive:
        pages = {found[1]: archive.read(name) for name in archive.namelist() if (found := below.fullmatch(name))}
    assert {"README.md", "docs/manifest.md", "docs/manifest.schema.json", "manifests/team.yaml"} <= pages.keys()
    assert not [name for name in pages if name.endswith((".py", ".pyc"))]
    for name in pages:
        links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", pages[name].decode()) if name.endswith(".md") else []
        assert [
            link for link in links if posixpath.normpath(f"{posixpath.dirname(name)}/{link}".lstrip("/")) not in pages
        ] == [], name


@dataclass
class Installed:
    """The wheel, installed into an environment of its own that has nothing else but what it needs."""

    folder: Path

    def run(self, *argv: str | Path, **environ: str) -> str:
        """Run a program of it, far from the checkout; what it printed."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "PATH": f"{self.folder}/venv/bin:/usr/bin:/bin", **environ}
        done = subprocess.run(
            [str(word) for word in argv], cwd=home, env=own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    def make(folder: Path) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--no-project", "--python", sys.executable, folder / "venv"], check=True)
        words = [uv, "pip", "install", "-q", "--python", folder / "venv/bin/python", "--no-deps"]
        locked_ones = ["--require-hashes", "--only-binary", ":all:", "-r", HOUSE / "requirements.lock"]
        done = subprocess.run([*words, *locked_ones], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the package index is out of reach: {done.stderr.strip().splitlines()[-1]}")
        subprocess.run([*words, wheel], check=True)

    return Installed(once(tmp_path_factory, "installed", make))


def test_the_wheel_works_without_the_checkout(installed: Installed, origin: Origin) -> None:
    content = b"weights" * 1000
    url = origin.serve("/w.bin", content)
    assert installed.run("orch", "--version").startswith("orch ")
    installed.run("orch", "get", url, "--sha256", sha256(content))
    assert (installed.folder / "home/w.bin").read_bytes() == content
    where = installed.run("python", "-c", "import orchestrator; print(orchestrator.__file__)")
    assert where.startswith(str(installed.folder))


def test_the_wheel_brings_documentation_man_page_and_completion(installed: Installed) -> None:
    share = installed.folder / "venv/share"
    for name in ("README.md", "docs/manifest.md", "contrib/systemd/orch-sync@.service"):
        assert (share / "doc/orch" / name).exists(), name
    assert "orch sync" in (share / "man/man1/orch.1").read_text()
    script = share / "bash-completion/completions/orch"
    typed = "COMP_WORDS=(orch ver); COMP_CWORD=1; COMP_LINE='orch ver'; COMP_POINT=8"
    asked = f'. {script}; {typed}; _orch_completion orch ver orch; echo "${{COMPREPLY[@]}}"'
    assert installed.run("bash", "-c", asked).split() == ["verify"]


CLIENT = """
import asyncio
from collections.abc import Iterator

import orchestrator
from orchestrator import Event, Options, Summary, SyncError

def prepare() -> str:
    try:
        summary: Summary = orchestrator.sync("team.yaml", check=True, options=Options(offline=True))
    except SyncError as error:
        return f"{error.summary.exit_code} {error.hint}"
    return f"{summary.ok} {orchestrator.path('w', 'team.yaml')} {orchestrator.__version__}"

def watch() -> Iterator[Event | Summary]:
    yield from orchestrator.sync_events("team.yaml")

later: Summary = asyncio.run(orchestrator.sync_async("team.yaml"))
"""


def test_a_typed_client_of_the_wheel_passes_mypy(installed: Installed) -> None:
    """`py.typed` is in the wheel, and all public names have types; a wrong use of one is found."""
    (installed.folder / "client.py").write_text(CLIENT)
    (installed.folder / "wrong.py").write_text("import orchestrator\norchestrator.sync(1).exit_code.upper()\n")
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(installed.folder / "cache")]
    words += ["--python-executable", str(installed.folder / "venv/bin/python"), "--config-file", os.devnull]
    done = subprocess.run(
        [*words, "client.py", "wrong.py"], cwd=installed.folder, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.partition(":")[0] for line in errors] == ["wrong.py", "wrong.py"], done.stdout


def test_one_file_runs_by_the_bare_python(installed: Installed, tmp_path: Path) -> None:
    """What `make dist` does, of the environment that is there: orch.pyz, somewhere else, with nothing but a Python."""
    (packages,) = installed.folder.glob("venv/lib/python3*/site-packages")
    words = [sys.executable, HOUSE / "pyz.py", "--uncompressed", "--console-script", "orch"]
    pyz = tmp_path / "orch.pyz"
    subprocess.run([*words, "--site-packages", packages, "--output-file", pyz], check=True, capture_output=True)
    bare = Path(sys.executable).resolve()
    assert "sha256sum" in installed.run(bare, "-I", pyz, "backends", PATH="/usr/bin:/bin")

    nobody = ["unshare", "--user", "--map-user=54321", "env", "-i", "PATH=/usr/bin:/bin"]  # neither HOME nor an entry
    if subprocess.run([*nobody, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces: a user without a home cannot be made")
    done = subprocess.run([*nobody, bare, "-I", pyz, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, "SHIV_ROOT=" in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    root = f"SHIV_ROOT={installed.folder}/home/.shiv"
    done = subprocess.run([*nobody, root, bare, "-I", pyz, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("orch "), done.stderr
