"""`orch doctor` from outside: each check passes here, and says what to type where it does not."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import doctor
from orchestrator.context import Context
from orchestrator.errors import ExitCode
from tests.mounts import read_only, tmpfs
from tests.orch import Done, Orch


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    # What these machines have beside coreutils is no matter of the tests: the interpreter's own aria2c serves.
    return Orch(tmp_path, environ={"XDG_CONFIG_HOME": str(tmp_path / "config")})


def checks(done: Done) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for check in done.named("check"):
        if told.get(check["name"], {"verdict": "pass"})["verdict"] == "pass":
            told[check["name"]] = check
    assert all(check["hint"] for check in told.values() if check["verdict"] != "pass")
    return told


def examine(orch: Orch, *words: str, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
    orch.environ.update(environ)
    done = orch.run("doctor", "--json", *words)
    assert done.summary["exit_code"] == done.code
    return done.code, checks(done)


def test_all_is_well(orch: Orch) -> None:
    code, told = examine(orch, "--store", str(orch.store))
    assert code == 0
    names = (
        "aria2c",
        "sha256sum",
        "proxy",
        "ca",
        "site file",
        "HF_ENDPOINT",
        "store",
        "rename",
        "hard link",
        "reflink",
    )
    for name in (*names, "nanoseconds", "space", "inodes", "state"):
        assert told[name]["verdict"] == "pass", told[name]
    assert told["cron"]["verdict"] in ("pass", "warn")
    assert not orch.store.exists()
    assert not list(orch.folder.glob(".orch-doctor-*"))
    plainly = orch.run("doctor", "--store", str(orch.store))
    assert (plainly.code, plainly.err) == (0, "")
    assert "pass  rename       works" in plainly.out


def test_no_program(orch: Orch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    # The embedded aria2c would serve: hide it.
    (tmp_path / "aria2c.py").write_text("raise ImportError\n")
    code, told = examine(orch, ORCH_PROGRAMS=str(folder), PYTHONPATH=f"{tmp_path}:{Path.cwd()}")
    assert code == ExitCode.NO_BACKEND
    assert told["programs"]["verdict"] == "fail"
    assert told["aria2c"]["verdict"] == "warn"
    for name, text in (("wget", "echo GNU Wget 1.10"), ("curl", "exit 3"), ("axel", "echo Axel 2.17.11")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    code, told = examine(orch)
    assert code == 0
    assert "too old: 1.10" in told["wget"]["message"]
    assert "failed (3)" in told["curl"]["message"]
    assert "is a script" in told["axel"]["message"]


@pytest.mark.parametrize("answer", ["exit 0", "echo x: OK", "exit 1"])
def test_a_judge_that_cannot_judge(orch: Orch, tmp_path: Path, answer: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sha256sum").write_text(f"#!/bin/sh\n{answer}\n")
    (folder / "sha256sum").chmod(0o755)
    code, told = examine(orch, PATH=f"{folder}:{os.environ['PATH']}")
    assert (code, told["sha256sum"]["verdict"]) == (ExitCode.NO_BACKEND, "fail")


def test_no_judge(orch: Orch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, told = examine(orch, PATH=str(tmp_path / "empty"))
    assert code == ExitCode.NO_BACKEND
    assert told["sha256sum"]["message"] == "no sha256sum found on PATH"
    assert f"PATH is `{tmp_path / 'empty'}`" in told["sha256sum"]["hint"]


def test_a_dead_proxy_is_named_without_its_password(orch: Orch) -> None:
    with socket.socket() as dead, socket.create_server(("127.0.0.1", 0)) as alive:
        dead.bind(("127.0.0.1", 0))
        port, good = dead.getsockname()[1], alive.getsockname()[1]
        orch.environ.update(https_proxy=f"http://me:s3cret@127.0.0.1:{port}", HTTP_PROXY=f"127.0.0.1:{good}")
        done = orch.run("doctor", "--json")
    assert "s3cret" not in done.out
    told = [check for check in done.named("check") if check["name"] == "proxy"]
    assert [(check["verdict"], check["message"]) for check in told] == [
        ("warn", f"https_proxy: 127.0.0.1:{port} does not answer (connection refused)"),
        ("pass", f"HTTP_PROXY: 127.0.0.1:{good} answers"),
    ]


def test_ca_bundles(orch: Orch, tmp_path: Path) -> None:
    code, told = examine(orch, SSL_CERT_FILE=str(tmp_path / "nowhere.pem"))
    assert (code, told["ca"]["verdict"]) == (0, "warn")
    assert "SSL_CERT_FILE names" in told["ca"]["message"]
    (tmp_path / "bad.pem").write_text("no certificate")
    code, told = examine(orch, SSL_CERT_FILE=str(tmp_path / "bad.pem"))
    assert (code, told["ca"]["verdict"]) == (0, "warn")


def test_a_site_file_and_an_endpoint_that_cannot_be_used(orch: Orch, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "orch.yaml").write_text(f"store: {tmp_path}/named\n")
    code, told = examine(orch)
    assert (code, told["store"]["message"]) == (0, f"{tmp_path}/named  will be made")
    assert told["site file"]["message"] == "read"
    (tmp_path / "config" / "orch.yaml").write_text("stoer: x\n")
    code, told = examine(orch, HF_ENDPOINT="not a url")
    assert code == ExitCode.MANIFEST
    assert "did you mean `store`?" in told["site file"]["message"]
    assert told["HF_ENDPOINT"]["verdict"] == "fail"
    (tmp_path / "config" / "orch.yaml").unlink()
    with socket.socket() as dead, socket.create_server(("127.0.0.1", 0)) as alive:
        dead.bind(("127.0.0.1", 0))
        bad, good = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (dead, alive))
        code, told = examine(orch, HF_ENDPOINT=bad, MODELSCOPE_ENDPOINT=good)
    assert (code, told["HF_ENDPOINT"]["verdict"], told["MODELSCOPE_ENDPOINT"]["verdict"]) == (0, "warn", "pass")
    assert told["HF_ENDPOINT"]["message"] == f"{bad} does not answer (connection refused)"


def test_tokens(orch: Orch, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "orch.yaml").write_text("hosts: {files.corp.example: {token_env: CORP_TOKEN}}\n")
    told = [c for c in orch.run("doctor", "--json").events if c.get("name") == "token"]
    assert [c["verdict"] for c in told] == ["warn", "pass"]
    assert "CORP_TOKEN is not set" in told[0]["message"]
    assert "no token found" in told[1]["message"]
    orch.environ |= {"CORP_TOKEN": "t0ps3cret", "HF_TOKEN": "hf_s3cret"}
    done = orch.run("doctor", "--json")
    told = [c for c in done.events if c.get("name") == "token"]
    assert [c["verdict"] for c in told] == ["pass"]
    assert "s3cret" not in done.out


def test_the_site_file_s_peers_and_hooks(orch: Orch, tmp_path: Path) -> None:
    site, hook = tmp_path / "config/orch.yaml", tmp_path / "reload"
    site.parent.mkdir(mode=0o755)
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    asked, not_asked = "http://gpu01:8080", "http://gpu02:8080"
    site.write_text(
        f"peers: [{asked}, {not_asked}]\nhosts: {{'gpu02:8080': {{token_env: T}}}}\n"
        f"hooks: {{changed: [[{hook}, https://example.org/?key=secret]], failed: [[no-such-program]]}}\n"
    )
    site.chmod(0o644)
    orch.environ["T"] = "t"

    def told(name: str) -> list[tuple[str, str]]:
        done = orch.run("doctor", "--json")
        assert done.code == 0, done.out
        assert "secret" not in done.out
        found = [check for check in done.named("check") if check["name"] == name]
        assert all(check["hint"] for check in found if check["verdict"] != "pass")
        return [(check["verdict"], check["message"]) for check in found]

    assert told("peers") == [
        ("pass", f"{asked}/  asked by sha256 before all mirrors"),
        ("warn", "peer http://gpu02:8080 is not asked: `hosts` names a token for it, and no token is sent to peers"),
    ]
    assert told("hook") == [
        ("pass", f"changed: {hook}"),
        ("warn", "failed: no-such-program: not found, or not executable"),
    ]
    site.chmod(0o666)
    assert told("hook") == [("warn", f"none is run, since others may write {site}")]


def test_peers_that_dns_names(tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/.config/orch.yaml").write_text('peers: ["srv:_orch._tcp.example.org"]\n')
    told: list[doctor.Check] = []
    doctor.examine(context, None, told.append)
    monkeypatch.setitem(sys.modules, "dns", None)
    doctor.examine(context, None, told.append)
    found = [(check.verdict, check.message) for check in told if check.name == "peers"]
    assert [verdict for verdict, _ in found] == ["pass", "warn"]
    assert "cannot be looked up without dnspython" in found[1][1]


def test_a_store_that_anyone_may_write_or_that_is_no_folder(orch: Orch) -> None:
    orch.store.mkdir()
    orch.store.chmod(0o777)
    code, told = examine(orch, "--store", str(orch.store))
    assert (code, told["store"]["hint"]) == (ExitCode.STORE, f"chmod o-w {orch.store}")
    orch.store.rmdir()
    orch.store.write_text("")
    code, told = examine(orch, "--store", str(orch.store))
    assert (code, told["store"]["verdict"]) == (ExitCode.STORE, "fail")


def test_a_store_on_a_full_or_read_only_disk(orch: Orch, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "1m") as small:
        code, told = examine(orch, "--store", str(small / "store"))
        assert (code, told["space"]["verdict"]) == (0, "warn")
        with open(small / "fill", "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
        code, told = examine(orch, "--store", str(small / "store"))
        assert code == ExitCode.STORE
    (tmp_path / "fixed").mkdir()
    with read_only(tmp_path / "fixed") as fixed:
        code, told = examine(orch, "--store", str(fixed / "store"))
    assert (code, told["store"]["verdict"]) == (ExitCode.STORE, "fail")


def test_what_cron_would_not_find(orch: Orch) -> None:
    code, told = examine(orch, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert code == 0
    assert told["cron"]["verdict"] == "warn"
    assert "in the crontab: " in told["cron"]["hint"]
