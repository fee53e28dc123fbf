"""Each exit code from outside, with the words that say what to type next; the JSON summary in each case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Orch, made

HOUSE = Path(__file__).resolve().parents[2]


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_usage(orch: Orch) -> None:
    for words in (["snyc"], ["sync", "--jobs", "many"], ["sync", "--stall", "soon"], ["path"]):
        done = orch.run(*words)
        assert done.code == ExitCode.USAGE
        assert done.err.strip()
    assert "did you mean `orch sync`?" in orch.run("snyc").err


def test_a_usage_error_that_the_work_finds_is_a_problem_in_json(orch: Orch) -> None:
    done = orch.run("sync", "--json", "--swarm", "team.yaml")
    (problem,) = done.named("problem")
    assert (done.summary["exit_code"], done.err) == (ExitCode.USAGE, "")
    assert "--swarm needs a tracker" in problem["message"]


def test_a_manifest_that_is_not_there(orch: Orch) -> None:
    orch.write = lambda: None  # type: ignore[method-assign]
    done = orch.run("sync")
    assert done.code == ExitCode.MANIFEST
    assert "manifests/team.yaml: no such file or directory" in done.err
    assert "hint: create one: `orch init`" in done.err
    done = orch.run("status", "--json", "nowhere.yaml")
    assert (done.summary["exit_code"], done.named("problem")[0]["line"]) == (3, 0)


def test_every_problem_of_a_manifest(orch: Orch) -> None:
    bad = orch.folder / "bad.yaml"
    bad.write_text("version: 1\nmodels:\n  a: {ulr: http://h/a, sha256: 12, to: x}\n  b: {url: http://h/b, to: ../b}\n")
    done = orch.run("sync", "bad.yaml")
    assert done.code == ExitCode.MANIFEST
    assert f"error: {bad.name}:3 models > a > ulr: unknown key `ulr`, did you mean `url`?" in done.err
    assert f"error: {bad.name}:4 models > b > to" in done.err
    problems = orch.run("plan", "--json", "bad.yaml").named("problem")
    assert {(p["line"], p["path"]) for p in problems} >= {(3, "models > a > ulr"), (4, "models > b > to")}
    bad.write_bytes(b"version: 1\nx-\xff: 1\n")
    assert f"error: {bad.name}:2: not UTF-8" in orch.run("sync", "bad.yaml").err


def test_a_symlink_out_of_root(orch: Orch, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to("/var")
    orch.want("w", b"w", "http://127.0.0.1:9/w", to="models/x/w")
    done = orch.run("sync", "team.yaml")
    assert done.code == ExitCode.MANIFEST
    assert re.search(r"team.yaml:\d+ models > w > to: a symlink leads out of root: to /var/x", done.err)


def test_no_usable_backend(orch: Orch) -> None:
    (orch.folder / "empty").mkdir()
    orch.want("w", b"w", "http://127.0.0.1:9/w")
    assert orch.run("sync", "--json", "team.yaml", "--backend", "aria2").code == ExitCode.USAGE
    orch.environ["ORCH_PROGRAMS"] = str(orch.folder / "empty")
    done = orch.run("sync", "--json", "team.yaml", "--backend", "curl")
    assert (done.code, done.summary["failed"][0]["exit_code"]) == (4, 4)
    done = orch.run("sync", "team.yaml", "--backend", "curl")
    assert done.code == ExitCode.NO_BACKEND
    assert "curl (not installed)" in done.err
    assert "hint: " in done.err
    orch.want("w", b"w", "rsync://127.0.0.1/w")
    assert orch.run("plan", "team.yaml").code == ExitCode.NO_BACKEND


@pytest.mark.parametrize(
    ("faults", "fault", "words"),
    [
        ({"status": 404}, "missing", "server answered 404"),
        ({"status": 403}, "refused", "server answered 403"),
        ({"silent": True, "rst": True}, "network", "run the command again"),
        ({"status": 503, "retry_after": "0"}, "busy", "server answered 503"),
    ],
    ids=["404", "403", "reset", "503"],
)
def test_transfer_failed(orch: Orch, faults: dict[str, object], fault: str, words: str) -> None:
    with Origin() as origin:
        place = orch.want("w", b"w", origin.serve("/w", b"w", **faults))
        done = orch.sync("--retries", "0")
        assert (done.code, done.summary["failed"][0]["fault"]) == (ExitCode.TRANSFER, fault)
        assert done.summary["failed"][0]["to"] == [str(place)]
        assert words in done.summary["failed"][0]["message"] + done.summary["failed"][0]["hint"]
        quiet = orch.run("sync", "--quiet", "--retries", "0", "team.yaml")
    assert quiet.err.startswith("error: w")
    assert quiet.out == ""


def test_wrong_bytes(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        url = origin.serve("/w", content, wrong=True)
        place = orch.want("w", content, url)
        done = orch.run("sync", "team.yaml")
    assert done.code == ExitCode.DIGEST
    assert f"checksum mismatch from {url}" in done.err
    assert not place.exists()


def test_a_place_that_cannot_be_made(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content))
        other = orch.want("v", content, origin.serve("/v", content), to="fine/v")
        place.mkdir(parents=True)
        done = orch.sync()
        assert (done.code, done.summary["failed"][0]["fault"]) == (ExitCode.PLACEMENT, "foreign")
        assert other.read_bytes() == content
        place.rmdir()
        place.parent.rmdir()
        place.parent.write_bytes(b"a file where a folder should be")
        done = orch.sync()
    assert (done.code, done.summary["failed"][0]["fault"]) == (ExitCode.PLACEMENT, "placement")


def test_a_path_without_programs_is_named_and_two_options_that_exclude_each_other(orch: Orch) -> None:
    content = made(3 << 20)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w", content))
        done = orch.run("sync", "--backend", "axel", "--limit-rate", "1M", "team.yaml")
        assert (done.code, "hint: leave out --limit-rate, or --backend axel" in done.err) == (ExitCode.NO_BACKEND, True)
    (orch.folder / "empty").mkdir()
    orch.environ["PATH"] = str(orch.folder / "empty")
    done = orch.run("sync", "team.yaml")
    assert done.code == ExitCode.NO_BACKEND
    assert f"PATH is `{orch.environ['PATH']}`" in done.err, done.err


def test_a_full_disk_before_the_first_byte(orch: Orch, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=30", "orch", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        with Origin() as origin:
            content = made(2 << 20)
            orch.want("w", content, origin.serve("/w", content))
            done = orch.run("sync", "--json", "--store", str(small / "s"), "team.yaml")
            assert (done.code, done.summary["failed"][0]["fault"]) == (ExitCode.STORE, "disk")
            assert "2.0 MiB required" in done.summary["failed"][0]["message"]
            assert orch.run("plan", "--store", str(small / "s"), "team.yaml").code == ExitCode.STORE
            orch.models.clear()
            for number in range(40):
                orch.want(f"m{number}", content[number:50], origin.serve(f"/{number}", content[number:50]))
            done = orch.run("sync", "--json", "--store", str(small / "s"), "team.yaml")
            assert done.code == ExitCode.STORE
            assert "inodes" in done.summary["failed"][0]["message"]
            assert not origin.log
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_store_that_anyone_may_write(orch: Orch) -> None:
    orch.store.mkdir(mode=0o777)
    orch.store.chmod(0o777)
    orch.want("w", b"w", "http://127.0.0.1:9/w")
    done = orch.run("sync", "team.yaml")
    assert done.code == ExitCode.STORE
    assert f"hint: chmod o-w {orch.store}" in done.err


def test_several_kinds(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        orch.want("lost", content, origin.serve("/lost", content, status=404))
        orch.want("wrong", made(1000, 2), origin.serve("/wrong", content))
        done = orch.sync()
    assert done.code == ExitCode.SEVERAL
    assert {f["exit_code"] for f in done.summary["failed"]} == {5, 6}


def test_a_bug_is_70_with_its_traceback(tmp_path: Path) -> None:
    # The only way to a bug that we know of is to make one.
    broken = "import orchestrator.workspace as w; w.open_workspace = lambda *a, **k: 1 / 0\n"
    code = f"{broken}from orchestrator.cli import main; raise SystemExit(main(['status']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.BUG
    assert "error: this is a bug in orch: ZeroDivisionError: division by zero" in done.stderr
    (kept,) = re.findall(r"hint: please report it, with (.*)", done.stderr)
    assert "Traceback" in Path(kept).read_text()
    assert "Traceback" not in done.stderr
    assert re.fullmatch(r"status: failed \(exit code 70\) in \d+\.\d s\n", done.stdout)


@pytest.mark.parametrize("target", ["closed", "full"])
def test_stdout_and_stderr_that_cannot_be_written(orch: Orch, target: str) -> None:
    content = made(1000)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content))
        orch.write()
        redirect = ">&- 2>&-" if target == "closed" else ">/dev/full 2>/dev/full"
        line = f"{sys.executable} -m orchestrator sync --json team.yaml {redirect} <&-"
        subprocess.run(["sh", "-c", line], cwd=orch.folder, env=orch.env(), check=False)
    assert place.read_bytes() == content
