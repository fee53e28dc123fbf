"""A real framework in an interpreter of its own: no way out of the machine, and a home that orch has furnished."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, sha256

HOUSE = Path(__file__).resolve().parents[2]
PYTHON = HOUSE / ".venv-clients" / "bin" / "python"
READY = HOUSE / ".venv-clients" / ".ready"
_OFFLINE = Path(__file__).with_name("offline")


def python() -> str:
    """The clients' interpreter; without it a test is skipped, or fails where ORCH_TEST_REQUIRE says `clients`."""
    if not READY.exists():
        word = "the real clients are not installed: `make clients` does it (torch, tensorflow ...: 3.5 GB)"
        if "clients" in os.environ.get("ORCH_TEST_REQUIRE", "").split(","):
            pytest.fail(f"{word}, and ORCH_TEST_REQUIRE demands them")
        pytest.skip(word)
    return str(PYTHON)


@functools.cache
def alone() -> tuple[str, ...]:
    """The words that give a program a network namespace without a single way out, where this machine lets us."""
    words = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")
    if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
        return words
    return ()


@dataclass
class Ran:
    """How a client ended: what it said of itself, and where it tried to go."""

    code: int
    out: str
    err: str
    reached: list[str]

    @property
    def said(self) -> Any:
        """The client's last line, which is JSON."""
        assert self.code == 0, self.err[-4000:]
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Desk:
    """A user who works offline: orch, a mirror of the world on loopback, and the clients."""

    orch: Orch
    mirror: Origin
    environ: dict[str, str] = field(default_factory=dict)

    def want(self, name: str, framework: Any, url: str, content: bytes, **keys: Any) -> None:
        """Put a file of the world (`url`) on the mirror and into the manifest, for a framework."""
        entry = {"url": url, "sha256": sha256(content), "size": len(content), "for": framework}
        self.publish(url, content)
        self.orch.models[name] = {**entry, **keys}

    def want_files(self, name: str, framework: Any, files: dict[str, tuple[str, bytes]]) -> None:
        """The same with several files: where each one is in the model, its URL and its bytes."""
        entries = []
        for path, (url, content) in files.items():
            self.publish(url, content)
            entries.append({"path": path, "url": url, "sha256": sha256(content), "size": len(content)})
        self.orch.models[name] = {"files": entries, "for": framework}

    def publish(self, url: str, content: bytes | Path) -> None:
        """Serve a file of the world from loopback: the manifest names the world, a mirror rule leads here."""
        origin = "/".join(url.split("/", 3)[:3]) + "/"
        self.mirror.serve(url.removeprefix(origin), content)
        rules = self.orch.top.setdefault("mirrors", [])
        if all(rule["origin"] != origin for rule in rules):
            rules.append({"origin": origin, "urls": [self.mirror.url]})

    def sync(self, **counts: int | None) -> None:
        """Sync, and once more: the second time there is nothing left to do; `counts` are the first one's."""
        done = self.orch.sync()
        assert done.code == 0, done.out + done.err
        assert all(done.summary[name] == count for name, count in counts.items() if count is not None), done.out
        self.idle()

    def idle(self) -> None:
        """Hold that `orch sync` finds everything in place."""
        again = self.orch.sync()
        assert (again.code, again.summary["present"]) == (0, again.summary["files"]), again.out

    def run(self, script: str, *words: str, loopback: bool = False, under: tuple[str, ...] = (), **environ: str) -> Ran:
        """Run Python in the clients' interpreter.

        With `loopback` it may talk to this machine's own servers; `under` are the words of an `orch run` before it.
        """
        log = self.orch.folder / "reached"
        log.write_text("")
        env = {**self.orch.env(), "PYTHONPATH": str(_OFFLINE), "ORCH_TEST_REACHED": str(log)}
        env |= {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **self.environ,
            **environ,
        }
        first = (sys.executable, "-m", "orchestrator", *under, "--") if under else ()
        argv = [*(() if loopback else alone()), *first, python(), "-c", textwrap.dedent(script), *words]
        done = subprocess.run(
            argv, cwd=self.orch.folder, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr, log.read_text().splitlines())

    def load(self, script: str, *words: str, **how: Any) -> Any:
        """Run a client that has all it needs: it ends well and does not even try to leave the machine."""
        ran = self.run(script, *words, **how)
        said = ran.said
        assert ran.reached == []
        return said

    def make(self, script: str, name: str) -> bytes:
        """The bytes of a file that a client writes to `sys.argv[1]`."""
        file = self.orch.folder / name
        ran = self.run(script, str(file))
        assert ran.code == 0, ran.err[-4000:]
        return file.read_bytes()

    @property
    def home(self) -> Path:
        return self.orch.folder / "home"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def packed(files: dict[str, bytes]) -> bytes:
    """A publisher's archive: no folder on top."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()
