"""The hooks of the site file: when each runs, what it is given, and that none can change how a run ends."""

from __future__ import annotations

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, made
from tests.servers import require

# Keeps what it is given, in one file a hook and run.
KEEP = """#!/bin/sh
out=$(mktemp "$(dirname "$0")/told/$ORCH_HOOK.XXXXXX")
{ cat; env; echo "$#:$1"; } >"$out"
echo "kept by $ORCH_HOOK"
"""


def _site(orch: Orch, **hooks: Any) -> Path:
    site = Path(orch.env()["HOME"]) / ".config/orch.yaml"
    site.parent.mkdir(parents=True, exist_ok=True)
    site.write_text(json.dumps({"hooks": hooks}))
    for path in (site.parent, site):
        path.chmod(path.stat().st_mode & ~0o022)
    return site


def _program(folder: Path, text: str, name: str = "keep") -> str:
    program = folder / name
    program.write_text(text)
    program.chmod(0o755)
    (folder / "told").mkdir(exist_ok=True)
    return str(program)


def _told(folder: Path) -> list[str]:
    """The names of the hooks that ran since the last call, in order."""
    found = sorted((folder / "told").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in found:
        path.rename(folder / path.name.partition(".")[0])
    return [path.name.partition(".")[0] for path in found]


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    """A machine with one program for all hooks."""
    orch = Orch(tmp_path)
    program = _program(tmp_path, KEEP)
    odd = "a b; $(touch shell) `touch shell` *"
    _site(orch, start=[program], changed=[[program, odd]], failed=[program], always=[[program], [program]])
    return orch


def test_when_they_run_and_what_they_are_given(orch: Orch) -> None:
    folder = orch.folder
    orch.environ = {"HF_TOKEN": "hf_secret", "https_proxy": "http://user:secret@127.0.0.1:9", "no_proxy": "*"}
    with Origin() as origin:
        place = orch.want("one", made(3000), origin.serve("/one", made(3000)))
        assert orch.sync("--dry-run").code == 0
        assert _told(folder) == []
        first = orch.sync()
        assert first.code == 0
        assert _told(folder) == ["start", "changed", "always", "always"]
        line, *environ, words = (folder / "changed").read_text().splitlines()
        told = json.loads(line)
        assert {**first.summary, "time": told["time"]} == told
        assert {"ORCH_EXIT_CODE=0", "ORCH_CHANGED=1", f"ORCH_MANIFEST={orch.manifest}"} <= set(environ)
        assert f"HOME={orch.env()['HOME']}" in environ
        assert not [each for each in environ if "secret" in each or "proxy" in each]
        assert words == "1:a b; $(touch shell) `touch shell` *"
        assert not (folder / "shell").exists()
        started = json.loads((folder / "start").read_text().splitlines()[0])
        assert (started["event"], started["manifest"]) == ("start", str(orch.manifest))
        assert "hook changed: keep: kept by changed" in [event["message"] for event in first.named("noticed")]

        assert orch.sync().code == 0
        assert _told(folder) == ["start", "always", "always"]
        assert "ORCH_CHANGED=0" in (folder / "always").read_text()

        place.unlink()
        assert orch.run("verify", "--repair", "team.yaml").code == 0
        assert _told(folder) == ["start", "changed", "always", "always"]
        assert orch.run("verify", "team.yaml").code == 0
        assert _told(folder) == []

    orch.want("gone", made(10), "http://127.0.0.1:9/gone")
    assert orch.sync("--retries", "0").code == 5
    assert _told(folder) == ["start", "failed", "always", "always"]
    assert "ORCH_EXIT_CODE=5" in (folder / "failed").read_text()


def test_a_manifest_cannot_have_them_and_a_wrong_manifest_is_a_failure(orch: Orch) -> None:
    orch.top["hooks"] = {"always": ["touch", "evil"]}
    done = orch.sync()
    assert done.code == 3
    assert done.named("problem")[0]["message"].startswith("unknown key `hooks`")
    assert not (orch.folder / "evil").exists()
    assert _told(orch.folder) == ["failed", "always", "always"]


def test_a_hook_that_fails_is_a_warning(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    bad = _program(tmp_path, "#!/bin/sh\necho 'no \033[31mluck' >&2\nexit 7\n", "bad")
    slow = _program(tmp_path, "#!/bin/sh\nexec sleep 300\n", "slow")
    _site(orch, start=["no-such-program"], always=[[bad, "https://hooks.example.org/SECRET"], [slow]], limit=1)
    with Origin() as origin:
        orch.want("one", made(3000), origin.serve("/one", made(3000)))
        done = orch.sync()
        quiet = orch.run("sync", "-q", "team.yaml")
        orch.want("gone", made(10), "http://127.0.0.1:9/gone")
        failed = orch.run("sync", "-q", "team.yaml", "--retries", "0")
    assert (done.code, quiet.code, failed.code) == (0, 0, 5)
    messages = [warning["message"] for warning in done.summary["warnings"]]
    assert messages[0] == "hook always: bad: exit code 7: no \033[31mluck"
    assert messages[1].startswith("hook always: slow: ended after 1 s")
    assert {warning["host"] for warning in done.summary["warnings"]} == {""}
    assert "warning: hook start: no-such-program: not found, or not executable" in done.out
    assert "SECRET" not in done.out
    assert quiet.err.startswith("warning: hook always: bad: exit code 7: no \\x1b[31mluck\n")
    assert "warning: hook always: bad: exit code 7" in failed.err
    assert "SECRET" not in orch.run("history").out


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_site_file_that_others_may_write_commands_nobody(orch: Orch, which: str) -> None:
    site = Path(orch.env()["HOME"]) / ".config/orch.yaml"
    path = site if which == "file" else site.parent
    path.chmod(path.stat().st_mode | 0o020)
    done = orch.sync()
    assert done.code == 0
    assert _told(orch.folder) == []
    assert f"`chmod go-w {path}`" in done.summary["warnings"][0]["message"]


def test_a_signal_ends_a_hook_and_not_the_result_of_the_run(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    _site(orch, always=[_program(tmp_path, f"#!/bin/sh\necho >{tmp_path}/ready\nexec sleep 300\n")])
    os.mkfifo(tmp_path / "ready")
    run = orch.start("sync", "--json", "--max-time", "1h", "team.yaml")
    (tmp_path / "ready").read_text()  # the hook runs
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["ok"]) == ("summary", True)


def test_an_interrupted_run_has_failed(orch: Orch) -> None:
    with Origin() as origin:
        orch.want("slow", made(300_000), origin.serve("/slow", made(300_000), rate=20_000))
        run = orch.start("sync", "--json", "team.yaml")
        assert run.stdout is not None
        while '"started"' not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 143
    assert _told(orch.folder)[:2] == ["start", "failed"]
    assert "ORCH_EXIT_CODE=143" in (orch.folder / "failed").read_text()


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"always": [["a"], "b"]}, "expected one program with its arguments, or lists of such, not both"),
        ({"always": ["./here"]}, "the program's name is a relative path"),
        ({"always": [["-x"]]}, "the program's name begins with `-`"),
        ({"sometimes": ["a"]}, "unknown key `sometimes`"),
        ({"always": "touch x"}, "expected "),
        ({"limit": 0}, "expected "),
    ],
)
def test_a_wrong_hook_is_told_with_its_line(tmp_path: Path, hooks: dict[str, Any], message: str) -> None:
    orch = Orch(tmp_path)
    _site(orch, **hooks)
    done = orch.sync()
    assert done.code == 3
    assert message in done.named("problem")[0]["message"]
    assert done.named("problem")[0]["path"].startswith("hooks")


def test_the_examples_of_the_docs(tmp_path: Path) -> None:
    require("curl")
    page = (Path(__file__).resolve().parents[2] / "docs/monitoring.md").read_text("utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    asked: list[tuple[str, str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, json.loads(body) if body else None))
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    orch = Orch(tmp_path)
    _program(tmp_path, '#!/bin/sh\necho "$*" >"$(dirname "$0")/told/reloaded"\n', "systemctl")
    orch.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    for host in ("hc-ping.com", "hooks.slack.com"):
        example = example.replace(f"https://{host}", f"http://127.0.0.1:{server.server_port}")
    site = _site(orch)
    site.write_text(example)
    try:
        with Origin() as origin:
            orch.want("one", made(3000), origin.serve("/one", made(3000)))
            done = orch.sync()
        assert (done.code, done.summary["warnings"]) == (0, [])
        assert (tmp_path / "told/reloaded").read_text() == "reload vllm\n"
        assert [(method, path) for method, path, _ in asked] == [("GET", "/UUID/start"), ("POST", "/UUID/0")]
        assert asked[1][2]["event"] == "summary"
        asked.clear()
        orch.models["one"]["url"] = 5
        assert orch.sync().code == 3
        assert [path for _, path, _ in asked] == ["/services/T000/B000/XXXX", "/UUID/3"]
        assert asked[0][2] == {"text": "orch failed on gpu01"}
    finally:
        server.shutdown()
        server.server_close()
