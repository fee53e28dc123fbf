"""A sync with nothing to do: no process, no socket, no file of the store opened, nothing heavy imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestrator.demo.origin import Origin
from tests.orch import Orch, made

HEAVY = (
    "sh",
    "psutil",
    "rich",
    "httpx2",
    "jsonschema",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "difflib",
    "urllib.request",
)
SPY = """
import json, sys
seen = []
def spy(event, args):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec") or event.startswith("socket."):
        seen.append(event)
    if event == "open" and str(args[0]).startswith(STORE):
        seen.append(str(args[0]))
sys.addaudithook(spy)
from orchestrator.cli import main
code = main(["sync", "--quiet", "team.yaml"])
print(json.dumps([code, seen, [name for name in HEAVY if name in sys.modules]]))
"""


def test_a_no_op_does_nothing_that_is_not_needed(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        for number in range(20):
            content = made(2000, number)
            orch.want(f"m{number}", content, origin.serve(f"/{number}", content))
        assert orch.sync().code == 0
    script = SPY.replace("HEAVY", repr(HEAVY)).replace("STORE", repr(str(orch.store)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=orch.env(), capture_output=True, text=True, check=True
    )
    code, seen, heavy = json.loads(done.stdout)
    assert (code, seen, heavy) == (0, [], [])


def test_import_is_lazy() -> None:
    script = "import sys, orchestrator; print([m for m in sys.modules if m.startswith(('orchestrator.', 'yaml'))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
