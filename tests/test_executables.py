"""What is remembered of programs: until their files change, and never from a file that is damaged."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import programs
from orchestrator.context import Context
from orchestrator.events import Event
from orchestrator.executables import Executables
from orchestrator.verify import tools

ASKED = "#!/bin/sh\necho asked >> {log}\necho 'curl {version}'\n"


def install(folder: Path, version: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "curl.new").write_text(ASKED.format(log=folder / "log", version=version))
    (folder / "curl.new").chmod(0o755)
    os.replace(folder / "curl.new", folder / "curl")


def found(context: Context, folder: Path) -> tuple[str, int]:
    """The version of the only downloader, and how often it was asked for it."""
    told: list[Event] = []
    here = replace(context, environ={**context.environ, "ORCH_PROGRAMS": str(folder)})
    version = programs.find_backends(here, "curl", told.append)["curl"].version
    return version, len((folder / "log").read_text().splitlines())


def test_a_version_is_asked_for_once_until_the_program_is_another(context: Context, tmp_path: Path) -> None:
    install(tmp_path / "bin", "8.1.2")
    assert [found(context, tmp_path / "bin") for _ in range(2)] == [("8.1.2", 1), ("8.1.2", 1)]
    install(tmp_path / "bin", "8.9")
    assert [found(context, tmp_path / "bin") for _ in range(2)] == [("8.9", 2), ("8.9", 2)]


def test_a_program_that_cannot_be_used_is_asked_again(context: Context, tmp_path: Path) -> None:
    install(tmp_path / "bin", "no number")
    for asked in (1, 2):
        with pytest.raises(programs.NoBackendError):
            found(context, tmp_path / "bin")
        assert len((tmp_path / "bin/log").read_text().splitlines()) == asked


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/x": 5}', '{"/x": {"file": [], "version": 5}}', "[" * 90_000])
def test_a_damaged_file_tells_nothing(context: Context, tmp_path: Path, text: str) -> None:
    path = Path(context.state, "executables.json")
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text(text)
    assert Executables(context.state).get("/x", "version") in (None, 5)
    install(tmp_path / "bin", "8.1.2")
    assert found(context, tmp_path / "bin") == ("8.1.2", 1)


def test_a_version_that_is_none_is_asked_for(context: Context, tmp_path: Path) -> None:
    install(tmp_path / "bin", "8.1.2")
    for value in (5, "", "8", "x" * 1000, "1" * 5000 + ".1"):
        Executables(context.state).add("version", {str(tmp_path / "bin/curl"): value})
        assert found(context, tmp_path / "bin")[0] == "8.1.2"


def test_rates_are_measured_once(context: Context) -> None:
    tools.best_for_large(context)
    path = Path(context.state, "executables.json")
    before = path.stat().st_mtime_ns
    tools.best_for_large(context)
    assert path.stat().st_mtime_ns == before
