"""README and docs are true: their examples run, what is generated is up to date, and the site builds strictly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import manifest
from orchestrator.errors import ExitCode, ManifestError
from tests.docs import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hub import Hub

HOUSE = examples.HOUSE


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with examples.hub() as hub:
        yield hub


@pytest.mark.parametrize(
    "page",
    [page for page in examples.PAGES if page.exists() and examples.steps(page.read_text())],
    ids=lambda page: page.relative_to(HOUSE).as_posix(),
)
def test_the_examples_of_a_page_run_and_print_what_it_shows(page: Path, hub: Hub, tmp_path: Path) -> None:
    complaints = examples.try_page(page, hub, tmp_path / "of-the-page")
    assert not complaints, "\n\n".join([*complaints, "after a look: python -m tests.docs.examples --write"])


@pytest.mark.parametrize(
    "page", [page for page in examples.PAGES if "<!-- as in " in page.read_text()], ids=lambda page: page.name
)
def test_a_block_that_is_run_in_another_page_stands_there(page: Path) -> None:
    assert not examples.strangers(page.read_text())


YAML = [
    pytest.param(found["text"], id=f"{page.relative_to(HOUSE)}:{page.read_text()[: found.start()].count(chr(10)) + 1}")
    for page in examples.PAGES
    if page.exists()
    for found in re.finditer(r"^```yaml\n(?P<text>.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("text", YAML)
def test_a_yaml_block_is_a_manifest_or_a_site_file_or_a_part_of_one(text: str) -> None:
    text = text.replace("sha256: ...", f"sha256: {'0' * 64}")
    readings = (
        lambda: manifest.parse(text, "/srv/team/team.yaml", "/home/you", resolve=False),
        lambda: manifest.parse(f"version: 1\nmodels:\n{text}", "/srv/team/team.yaml", "/home/you", resolve=False),
        lambda: manifest.parse(f"version: 1\nmodels: {{}}\n{text}", "/srv/team/team.yaml", "/home/you", resolve=False),
        lambda: manifest.parse_site(text, "/etc/orch.yaml", "/home/you"),
    )
    refusals = []
    for read in readings:
        try:
            read()
        except ManifestError as refusal:
            refusals.append(str(refusal))
        else:
            return
    pytest.fail("\n".join(refusals))


def test_an_example_that_is_not_true_is_found() -> None:
    assert examples.fits("sync: 1 present in 0.0 s\n", "sync: 1 present in 2.5 s\n")
    assert examples.fits("b\na\n", "a\nb\n")
    assert examples.fits("a\n...\n", "a\nb\n")
    assert not examples.fits("sync: 1 present in 0.0 s\n", "sync: 2 present in 0.0 s\n")
    assert not examples.fits("a\n", "a\nb\n")
    assert not examples.fits("a\nb\n", "a\n")


def test_the_reference_is_what_the_commands_say() -> None:
    done = subprocess.run([sys.executable, HOUSE / "docs/cli.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_exit_code_has_its_row() -> None:
    page = (HOUSE / "docs/exit-codes.md").read_text()
    assert not [code for code in ExitCode if not re.search(rf"^\| ([\d, ]+, )?{int(code)}(, [\d, ]+)? \|", page, re.M)]


def test_the_man_page_is_one() -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff")
    argv = ["groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8", str(HOUSE / "share/man/man1/orch.1")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert not done.stderr


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    argv = [Path(sys.executable).with_name("mkdocs"), "build", "--site-dir", tmp_path / "site"]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(argv, cwd=HOUSE, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "cli.html", "contrib/systemd/orch-sync@.timer", "benchmarks/RESULTS.html"):
        assert (tmp_path / "site" / page).exists(), page


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_lines_fit_a_terminal(name: str) -> None:
    """Outputs of commands, tables and pictures are as wide as they are."""
    code = False
    for number, line in enumerate((HOUSE / name).read_text().splitlines(), 1):
        code ^= line.startswith("```")
        assert code or line.startswith(("|", "!")) or len(line) <= 120, f"{name}:{number}"


def test_a_terminal_is_recorded(tmp_path: Path) -> None:
    program = "printf '\\033[32mgreen\\033[0m  <words>\\n'; sleep 0.6; printf '\\033[2J\\033[Hlast\\n'"
    argv = [sys.executable, HOUSE / "docs/cast.py", tmp_path / "made.svg", "sh", "-c", program]
    subprocess.run(argv, capture_output=True, check=True)
    for path in (tmp_path / "made.svg", HOUSE / "docs/demo.svg"):
        shown = {"".join(text.itertext()) for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}
        assert shown
    made = ET.parse(tmp_path / "made.svg")
    texts = ["".join(text.itertext()) for text in made.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["green<words>", "last"]
