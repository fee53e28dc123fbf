"""What nobody foresaw, and what a machine refuses: one file's trouble is its own, and only a bug is called one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.mounts import read_only, tmpfs
from tests.orch import Done, Orch, made
from tests.servers import require

HOUSE = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SMALL, LARGE = 5000, 3 * MIB  # in a batch, and alone


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def broken(orch: Orch, how: str, *words: str) -> Done:
    """Run orch with a bug in it: the only way to one that we know of is to make it."""
    orch.write()
    code = f"{how}\nfrom orchestrator.cli import main\nraise SystemExit(main({list(words)!r}))"
    env = {**orch.env(), "PYTHONPATH": str(HOUSE)}
    done = subprocess.run([sys.executable, "-c", code], cwd=orch.folder, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


ONE_FILE = """
from orchestrator.store import blobs
right = blobs.commit
def commit(store, files, *more):
    if any(sha256.startswith({bad!r}) for _, sha256 in files):
        raise {error}
    return right(store, files, *more)
blobs.commit = commit
"""


PROBE = """
from orchestrator.sources import knowledge
def probe(*_, **__):
    raise ZeroDivisionError('odd')
knowledge.probe = probe
"""


def test_a_run_goes_on_without_its_probe(orch: Orch) -> None:
    """What one source of one file answers must not end the run of all."""
    content = made(9 * MIB)
    with Origin() as origin, Origin() as mirror:
        orch.want("m", content, origin.serve("/m", content), mirrors=[mirror.serve("/m", content)])
        done = broken(orch, PROBE, "sync", "--json", "team.yaml")
    assert (done.code, done.summary["fetched"]) == (0, 1)
    assert any("the sources were not compared: this is a bug" in event["message"] for event in done.named("noticed"))


@pytest.mark.parametrize(
    ("size", "error", "fault", "code"),
    [
        (SMALL, "ZeroDivisionError('odd')", "bug", 70),
        (LARGE, "RecursionError('deep')", "bug", 70),
        (SMALL, "MemoryError()", "disk", 8),
        (LARGE, "OSError(5, 'Input/output error')", "disk", 8),
    ],
)
def test_the_others_go_on(orch: Orch, size: int, error: str, fault: str, code: int) -> None:
    with Origin() as origin:
        places = []
        for number in range(6):
            content = made(size, number)
            places.append(orch.want(f"m{number}", content, origin.serve(f"/{number}", content)))
        bad = orch.models["m3"]["sha256"]
        done = broken(orch, ONE_FILE.format(bad=bad, error=error), "sync", "--json", "--jobs", "2", "team.yaml")
        assert (done.code, done.summary["fetched"] + done.summary["placed"]) == (code, 5)
        (failed,) = done.summary["failed"]
        assert (failed["model"], failed["fault"], failed["exit_code"]) == ("m3", fault, code)
        assert [place.exists() for place in places] == [True, True, True, False, True, True]
        if code == 70:
            (kept,) = re.findall(r"please report it, with (.*)", failed["hint"])
            assert "Traceback (most recent call last)" in Path(kept).read_text()
            assert error[:12] in failed["message"]
            text = broken(orch, ONE_FILE.format(bad=bad, error=error), "sync", "team.yaml")
            assert text.err.splitlines()[-1].startswith("sync: 5 present, 1 failed")
        again = orch.sync()
        assert (again.code, again.summary["present"]) == (0, 5)


def test_tracebacks_are_bounded_in_number(orch: Orch) -> None:
    orch.want("w", b"w", "http://127.0.0.1:9/w")
    for _ in range(3):
        broken(orch, "import orchestrator.workspace as w; w.open_workspace = lambda *a, **k: 1 / 0", "status")
    (folder,) = orch.folder.glob("home/.local/state/orch/*/bugs")
    for number in range(30):
        (folder / f"{number}-1.txt").write_text("old")
    done = broken(orch, "import orchestrator.workspace as w; w.open_workspace = lambda *a, **k: 1 / 0", "status")
    assert len(list(folder.iterdir())) == 20
    assert re.fullmatch(r"status: failed \(exit code 70\) in \d+\.\d s\n", done.out)
    assert (folder / "29-1.txt").exists()


def test_a_place_that_cannot_be_read() -> None:
    """Another user's, with other bytes: neither a bug nor the others' business."""
    require("setpriv")
    if os.getuid():
        pytest.skip("needs root")
    # pytest's own folder is closed to other users.
    with tempfile.TemporaryDirectory() as folder, Origin() as origin:
        orch = Orch(Path(folder))
        content = made(2 * MIB)
        place = orch.want("a", content, origin.serve("/a", content), link="copy")
        other = orch.want("b", content[1:], origin.serve("/b", content[1:]))
        env, words = orch.env(), ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "orchestrator"]
        env["PYTHONPATH"] = str(HOUSE)
        orch.write()
        subprocess.run(["chown", "-R", "65534", orch.folder], check=True)
        argv = [*words, "sync", "--json", "--only", "a", "team.yaml"]
        first = subprocess.run(argv, cwd=orch.folder, env=env, capture_output=True, text=True)
        assert first.returncode == 0, first.stdout + first.stderr
        place.chmod(0o644)
        place.write_bytes(b"zzz" + content[3:])
        os.chown(place, 0, 0)
        place.chmod(0o600)
        argv = [*words, "sync", "--json", "team.yaml"]
        done = subprocess.run(argv, cwd=orch.folder, env=env, capture_output=True, text=True)
        assert other.exists()
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["event"], summary["exit_code"], summary["fetched"]) == ("summary", 7, 1)
    assert str(place) in summary["failed"][0]["message"]


# -- the machine says no

COMMANDS = (
    ["sync", "--json", "team.yaml"],
    ["sync", "team.yaml"],
    ["plan", "--json", "team.yaml"],
    ["status", "--json", "team.yaml"],
    ["verify", "--json", "team.yaml"],
    ["verify", "--repair", "--json", "team.yaml"],
    ["lock", "--json", "team.yaml"],
    ["get", "--json", "URL", "--to", "got/"],
    ["mirrors", "--json", "team.yaml"],
    ["export", "--format", "mirror", "team.yaml", "mirror"],
    ["backends", "--json"],
    ["doctor", "--json"],
    ["prune", "--yes", "--json", "team.yaml"],
    ["add", "URL", "added.yaml", "--to", "x/"],
    ["vcs", "--json", "team.yaml"],
    ["env", "team.yaml"],
)
# Where a trouble is another one of a kind that all commands have met: those that write most, and two that only read.
SOME = [COMMANDS[number] for number in (0, 2, 5, 7, 8, 11)]
CODES = {0, 3, 4, 5, 7, 8}


def told(orch: Orch, url: str, words: list[str], prefix: str = "") -> Done:
    orch.write()
    # -B: under `ulimit -f` CPython writes half a compiled module, and takes it for a whole one ever after.
    argv = ["bash", "-c", f'{prefix} exec "$0" -B -m orchestrator "$@"', sys.executable]
    argv += [word.replace("URL", url) for word in words]
    done = subprocess.run(argv, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    assert "a bug in orch" not in done.stderr + done.stdout, done.stdout + done.stderr
    assert done.returncode in CODES, (words, done.returncode, done.stderr)
    if "--json" in words and done.stdout:
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "summary"
    elif done.returncode and "--json" not in words:
        assert "error: " in done.stderr or " failed in " in done.stdout
        assert "hint: " in done.stderr + done.stdout
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("trouble", ["a file", "read-only", "full", "not a folder of ours"])
def test_a_state_folder_that_is_of_no_use(orch: Orch, trouble: str) -> None:
    """It only saves time: nothing fails for want of it."""
    content = made(3 * MIB)
    state = orch.folder / "state"
    orch.environ["XDG_STATE_HOME"] = str(state)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(Origin()).serve("/w-0.bin", content)
        place = orch.want("w", content, url)
        if trouble == "full":
            stack.enter_context(tmpfs(state, "64k"))
            (state / "junk").write_bytes(bytes(60 << 10))
            with contextlib.suppress(OSError), open(state / "more", "wb", buffering=0) as file:
                while file.write(bytes(512)):
                    pass
        elif trouble == "read-only":
            state.mkdir()
            stack.enter_context(read_only(state))
        elif trouble == "a file":
            state.write_text("no folder")
        else:
            (state / "orch").mkdir(parents=True)
            (state / "orch" / os.uname().nodename).write_text("no folder")
        for words in COMMANDS if trouble == "read-only" else SOME:
            done = told(orch, url, words)
            assert done.code in (0, 3), (words, done.err)
    assert place.read_bytes() == content


@pytest.mark.parametrize("trouble", ["a file", "read-only", "full"])
def test_a_store_that_is_of_no_use(orch: Orch, trouble: str) -> None:
    content = made(3 * MIB)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(Origin()).serve("/w-0.bin", content)
        orch.want("w", content, url)
        if trouble == "full":
            stack.enter_context(tmpfs(orch.store, "64k"))
            orch.store.chmod(0o755)
            (orch.store / "junk").write_bytes(bytes(60 << 10))
        elif trouble == "read-only":
            orch.store.mkdir()
            stack.enter_context(read_only(orch.store))
        else:
            orch.store.write_text("no folder")
        orch.environ["ORCH_STORE"] = str(orch.store)
        for words in COMMANDS if trouble == "full" else SOME:
            done = told(orch, url, words)
            if words[0] in ("sync", "get"):
                assert done.code == 8, (words, done.err)


LIMITS = ["ulimit -n 16;", "ulimit -n 24;", "ulimit -v 500000;", "ulimit -f 1;", "TMPDIR=/proc"]


@pytest.mark.parametrize(
    ("words", "limit"),
    [(words, limit) for words in (COMMANDS[0], COMMANDS[7]) for limit in LIMITS]
    + list(zip(COMMANDS[5:7] + COMMANDS[9:12], LIMITS, strict=True)),
    ids=lambda each: each if isinstance(each, str) else " ".join(each[:2]),
)
def test_a_limit_of_the_process(orch: Orch, words: list[str], limit: str) -> None:
    content = made(3 * MIB)
    with Origin() as origin:
        url = origin.serve("/w-0.bin", content)
        orch.want("w", content, url)
        for number in range(6):
            orch.want(f"s{number}", made(900, number), origin.serve(f"/{number}", made(900, number)))
        done = told(orch, url, words, limit)
        if done.code == 8 and "-n" in limit and "limit)" in done.out:
            assert "ulimit -n" in done.out, [e for e in done.out.splitlines() if "limit)" in e][:3]
        if limit == "ulimit -f 1;" and words[0] == "sync":
            assert done.code == 8
            assert "ulimit -f" in done.out
