"""Logs of a run: a file that gets everything, as text or JSON, and what a quiet run with a lying mirror says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d "


def _lied_to(orch: Orch, origin: Origin) -> None:
    content = made(3000)
    orch.want("one", content, origin.serve("/one", content), to="models/one")
    orch.models["one"]["mirrors"] = [origin.serve("/lie", made(3000, 2))]


def test_a_log_file_gets_everything_and_grows(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        _lied_to(orch, origin)
        assert orch.run("sync", "-qv", "--log-file", "verbose.log", "team.yaml").code == 0
        shutil.rmtree(orch.store)
        (tmp_path / "models/one").unlink()
        done = orch.run("sync", "-q", "--log-file", "orch.log", "team.yaml")
    assert (done.code, done.out) == (0, "")
    assert "  $ " in (tmp_path / "verbose.log").read_text("utf-8")
    text = (tmp_path / "orch.log").read_text("utf-8")
    assert all(re.match(STAMP, line) for line in text.splitlines())
    for words in (" curl from ", "checksum mismatch from http://", "sync: 1 downloaded"):
        assert words in text
    assert "  $ " not in text, "a program's command is many lines: they are for -v"
    assert orch.run("sync", "-q", "--log-file", "orch.log", "team.yaml").code == 0
    assert (tmp_path / "orch.log").read_text("utf-8").startswith(text)
    assert orch.run("sync", "-q", "nosuch.yaml", "--log-file", "orch.log").code == 3
    assert "error: " in (tmp_path / "orch.log").read_text("utf-8")


def test_json_in_the_log_file_while_people_read_stderr(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        _lied_to(orch, origin)
        done = orch.run("sync", "--log-file", "orch.log", "--log-format", "json", "team.yaml")
    assert "checksum mismatch" in done.err
    lines = [json.loads(line) for line in (tmp_path / "orch.log").read_text("utf-8").splitlines()]
    assert lines[-1]["event"] == "summary"
    assert {"started", "mismatched", "placed"} <= {line["event"] for line in lines}


def test_the_form_of_stderr(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        _lied_to(orch, origin)
        text = orch.run("sync", "--log-format", "text", "team.yaml").err.splitlines()
        assert text
        assert all(re.match(STAMP, line) for line in text)
        lines = [json.loads(line) for line in orch.run("sync", "--log-format", "json", "team.yaml").err.splitlines()]
    assert lines[-1]["present"] == 1


def test_a_log_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    done = Orch(tmp_path).run("sync", "--log-file", "no/such/orch.log", "team.yaml")
    assert done.code == 2
    assert "--log-file no/such/orch.log: No such file or directory" in done.err


def test_a_usage_error_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    done = Orch(tmp_path).run("sync", "--json", "--jobs", "many")
    assert (done.code, done.err) == (2, "")
    assert [event["event"] for event in done.events] == ["problem", "summary"]
    assert "--jobs" in done.events[0]["message"]
    assert done.events[-1]["exit_code"] == 2


def test_a_quiet_run_names_who_sent_wrong_bytes_and_a_dead_mirror_once(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        _lied_to(orch, origin)
        first = orch.run("sync", "-q", "team.yaml")
        assert first.code == 0
        (line,) = first.err.splitlines()
        assert line.startswith("warning: one/one: checksum mismatch from ")
        content = made(12 << 20, 3)
        orch.want("two", content, origin.serve("/two", content), to="models/two")
        orch.models["two"]["mirrors"] = ["http://127.0.0.1:9/two"]
        second = orch.run("sync", "-q", "team.yaml")
        assert (second.code, second.out) == (0, "")
        assert second.err.startswith("warning: http://127.0.0.1:9/two: ")
        told = f"; the files came from other sources: `orch mirrors {orch.manifest}`\n"
        assert second.err.endswith(told), second.err
        (tmp_path / "models/two").unlink()
        orch.blob(content).unlink()
        third = orch.run("sync", "-q", "team.yaml")
        assert (third.code, third.err) == (0, "")
    assert orch.run("sync", "-q", "team.yaml").err == ""


@pytest.mark.parametrize("words", [(), ("-q",), ("--json",), ("--log-format", "json")])
def test_lines_that_a_full_disk_takes_from_the_log_file_are_not_lost_silently(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    orch = Orch(tmp_path)
    done = orch.run("sync", "--log-file", "/dev/full", *words, "team.yaml")
    said = "warning: --log-file /dev/full: no space left on device: lines are missing from it\n"
    assert (done.code, done.err.count(said)) == (0, 1), done.err
