"""`orch explain`: each code that an error can have has its explanation, and docs/troubleshooting.md has the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import errors
from orchestrator.cli.app import app
from orchestrator.commands.explain import explanations, find
from orchestrator.manifest.positions import _CODES
from orchestrator.render.sink import EXPLAINED
from tests.orch import Orch

HOUSE = Path(__file__).resolve().parents[2]


def used() -> set[str]:
    """Every code in the source: of faults, of classes, of manifest problems, and those that errors are made with."""
    codes = {*errors.CODES.values(), *(code for code, _ in _CODES), "manifest"}
    for path in (HOUSE / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                codes |= {
                    word.value.value
                    for word in node.keywords
                    if word.arg == "code" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str)
                }
                if getattr(node.func, "attr", "") == "locate" and len(node.args) == 5:
                    codes.add(ast.literal_eval(node.args[4]))
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "usual_code":
                codes.add(ast.literal_eval(node.value))
    return codes - {""}


def test_each_code_has_its_explanation_and_no_explanation_is_of_no_code() -> None:
    known = explanations()
    assert set(known) == used()
    assert set(known) >= EXPLAINED
    for each in known.values():
        assert each.summary.endswith(".") and len(each.summary) <= 60, each.code
        assert each.text and max(map(len, each.text.splitlines())) <= 80, each.code


def test_the_page_of_the_docs_is_made_of_the_same_texts() -> None:
    made = subprocess.run(
        [sys.executable, HOUSE / "docs/troubleshooting.py"], capture_output=True, text=True, check=True
    )
    page = (HOUSE / "docs/troubleshooting.md").read_text("utf-8")
    assert page == made.stdout, "run: python docs/troubleshooting.py --write"


@pytest.mark.parametrize("fault", errors.CODES)
def test_a_fault_of_the_json_is_explained_too(fault: str) -> None:
    assert find(fault) == explanations()[errors.CODES[fault]]


def test_the_command() -> None:
    listed = CliRunner().invoke(app, ["explain"], standalone_mode=False)
    assert listed.stdout.splitlines()[0].startswith("no-manifest ")
    assert all(len(line) <= 80 for line in listed.stdout.splitlines())
    assert "`orch sync --force`" in CliRunner().invoke(app, ["explain", "Existing-File"]).stdout
    assert "`orch adopt DIR` takes it" in CliRunner().invoke(app, ["explain", "existing-file"]).stdout
    near = CliRunner().invoke(app, ["explain", "checksum-mismath"])
    assert (near.exit_code, "did you mean `orch explain checksum-mismatch`?" in near.output) == (2, True)
    for word, codes in (
        ("checksum", ["checksum-mismatch", "no-checksum"]),
        ("not", ["not-allowed", "not-found", "not-locked", "not-resumable"]),
        ("check-sum", ["checksum-mismatch", "no-checksum"]),
    ):
        several = CliRunner().invoke(app, ["explain", word]).output
        assert all(f"`orch explain {code}`" in several for code in codes), (word, several)
    lines = CliRunner().invoke(app, ["explain", "--json", "in-use"]).stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["explanation", "summary"]
    assert json.loads(lines[0])["code"] == "in-use"
    assert "`orch explain` lists the codes" in CliRunner().invoke(app, ["explain", "zzz"]).output


@pytest.mark.parametrize(("number", "means"), errors.EXIT_CODES.items())
def test_an_exit_code_is_explained_by_the_codes_that_lead_to_it(number: int, means: str) -> None:
    done = CliRunner().invoke(app, ["explain", str(int(number))], standalone_mode=False)
    assert (done.return_value, done.stdout.splitlines()[0]) == (0, f"exit code {int(number)}: {means}")
    (line,) = CliRunner().invoke(app, ["explain", "--json", str(int(number))]).stdout.splitlines()[:-1]
    assert json.loads(line)["exit_code"] == number


def test_the_codes_of_an_exit_code() -> None:
    said = CliRunner().invoke(app, ["explain", "8"]).stdout
    assert "\ndisk " in said and "\nstore-access " in said


def test_json_and_the_hint_have_the_code(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    place = orch.want("m", b"right", "http://127.0.0.1:9/m")
    place.parent.mkdir()
    place.write_bytes(b"mine!")
    done = orch.sync()
    assert [failed["code"] for failed in done.summary["failed"]] == ["existing-file"]
    assert done.named("gave_up")[0]["code"] == "existing-file"
    assert orch.run("sync", "team.yaml").err.count("(orch explain existing-file)\n") == 1
    orch.models["m"]["ulr"] = "x"
    done = orch.sync()
    assert (done.code, done.named("problem")[0]["code"]) == (3, "manifest")
