"""docs/events.md and its schema are made from the types, and hold for what the commands print."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.demo.server import Origin
from tests.orch import Done, Orch, made

HOUSE = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((HOUSE / "docs/events.schema.json").read_text("utf-8"))
    return read


def test_page_and_schema_are_those_of_the_types(schema: dict[str, Any]) -> None:
    script = runpy.run_path(str(HOUSE / "docs/events.py"))
    assert (HOUSE / "docs/events.md").read_text("utf-8") == script["page"](), "python docs/events.py --write"
    assert schema == json.loads(json.dumps(script["schema"]()))


def test_what_the_commands_print_fits_the_schema(tmp_path: Path, schema: dict[str, Any]) -> None:
    orch = Orch(tmp_path)
    validator = jsonschema.Draft202012Validator(schema)
    seen: set[str] = set()

    def check(done: Done) -> dict[str, Any]:
        for event in done.events:
            validator.validate(event)
            seen.add(event["event"])
        assert not validator.is_valid({**done.events[-1], "ok": "yes"})  # it can fail
        return done.events[-1]

    with Origin() as origin:
        one, two = made(3000), made(12 << 20, 2)
        orch.want("one", one, origin.serve("/one", one), to="models/one")
        orch.want("two", two, origin.serve("/two", two), to="models/two")
        orch.models["one"]["mirrors"] = [origin.serve("/lie", made(3000, 3))]
        planned = check(orch.run("plan", "--json", "team.yaml"))
        assert not planned["changed"]
        summary = check(orch.run("sync", "--json", "team.yaml"))
        assert summary["changed"]
        assert summary["manifest"] == str(orch.manifest)
        assert summary["store"] == str(orch.store)
        assert summary["host"]
        assert summary["version"]
        assert [(w["urgent"], w["host"]) for w in summary["warnings"]] == [(True, origin.url.partition("//")[2])]
        assert not check(orch.run("sync", "--json", "team.yaml"))["changed"]
    for command in (["status"], ["verify"], ["sync", "--backend", "axel"], ["prune", "-n"]):
        check(orch.run(*command, "--json", "team.yaml"))
    orch.models["one"]["sha256"] = "00"
    assert check(orch.run("sync", "--json", "team.yaml"))["exit_code"] == 3
    assert check(orch.run("sync", "--json", "--jobs", "none"))["exit_code"] == 2
    assert {"planned", "started", "finished", "mismatched", "problem", "summary"} <= seen
