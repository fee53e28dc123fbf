"""What orch is installed from: bounded dependencies, locks by version and sha256, a wheel built the same twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.orch import sha256

HOUSE = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = [
    *PROJECT["project"]["dependencies"],
    *EXTRAS["embedded"],
    *EXTRAS["hub"],
    *EXTRAS["metrics"],
    *EXTRAS["build"],
]
LOCKS = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": [*RUNTIME, *EXTRAS["dev"]],
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
        assert [str(pin) for pin, _ in dev[name]] == [str(pin) for pin, _ in pins], name


def test_each_dependency_has_both_bounds() -> None:
    asked = [*RUNTIME, *EXTRAS["dev"], *EXTRAS["audit"], *PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, asked):
        operators = {specifier.operator for specifier in requirement.specifier}
        if canonicalize_name(requirement.name) not in BY_DATE:
            assert operators in ({"=="}, {">=", "<"}), requirement


def test_a_wheel_is_built_the_same_twice(tmp_path: Path) -> None:
    digests = []
    files = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, check=False).stdout.split(b"\0")
    if not any(files):
        pytest.skip("not a git checkout")
    for round_, umask in (("first", 0o022), ("second", 0o077)):
        house = tmp_path / round_ / "house"
        before = os.umask(umask)
        try:
            for file in filter(None, map(os.fsdecode, files)):
                if (HOUSE / file).exists():
                    (house / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(HOUSE / file, house / file)  # with the time and the mode of now
            argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / round_)]
            environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
            subprocess.run(argv, cwd=house, env=environ, capture_output=True, check=True)
        finally:
            os.umask(before)
        (wheel,) = (tmp_path / round_).glob("*.whl")
        digests.append(sha256(wheel.read_bytes()))
    assert digests[0] == digests[1]
