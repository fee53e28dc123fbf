"""orch as its users run it: a subprocess with a home, a store and a manifest of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest


def made(size: int, seed: int = 1) -> bytes:
    """Bytes that nothing compresses, the same for each seed."""
    return random.Random(seed).randbytes(size)


def file_digest(file: BinaryIO) -> str:
    """The digest of an open file, without holding it in memory."""
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 22):
        hasher.update(chunk)
    return hasher.hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def python_for_all() -> tuple[list[str], dict[str, str]]:
    """A Python that every user may start, with what this one imports: its words, and the environment it needs."""
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    for folder in ("/usr/bin", "/usr/local/bin"):
        if os.access(f"{folder}/python{mine}", os.X_OK):
            paths = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if p.endswith("site-packages"))]
            return [f"{folder}/python{mine}", "-P", "-B"], {"PYTHONPATH": os.pathsep.join(paths)}
    return pytest.skip(f"no Python {mine} that other users may start")


def is_gone(process: psutil.Process) -> bool:
    """Whether a process that is no child of ours has ended: who has adopted it may never ask for its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass
class Done:
    """How a command ended; `events` are the JSON lines of stdout, where there are any."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        last = self.events[-1]
        assert last["event"] == "summary"
        assert last["exit_code"] == self.code
        assert last["ok"] == (self.code == 0)
        assert last["files"] == last["present"] + last["placed"] + last["fetched"] + len(last["failed"])
        return last

    def named(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]


@dataclass
class Orch:
    """One user's machine: `models` become manifest.yaml."""

    folder: Path
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        return self.folder / "team.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def blob(self, content: bytes) -> Path:
        return self.store / "blobs" / "sha256" / sha256(content)

    def want(self, name: str, content: bytes, url: str, *, to: str | list[str] = "models/", **keys: Any) -> Path:
        """Add a one-file model; gives its first place."""
        entry = {"url": url, "sha256": sha256(content), "size": len(content), "to": to, **keys}
        self.models[name] = {key: value for key, value in entry.items() if value is not None}
        first = to if isinstance(to, str) else to[0]
        return self.folder / (first + url.rsplit("/", 1)[1] if first.endswith("/") else first)

    def write(self) -> None:
        # JSON is YAML, and spares the tests a second writer.
        document = {"version": 1, "store": str(self.store), **self.top, "models": self.models}
        self.manifest.write_text(json.dumps(document, indent=1))

    def env(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")}
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {**keep, "HOME": str(home), **self.environ}

    def start(self, *words: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start a command and leave it running; its manifest is written first."""
        self.write()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words], cwd=self.folder, env=self.env(), text=True, **pipes
        )

    def run(self, *words: str, timeout_s: float = 120, **kwargs: Any) -> Done:
        """Run a command to its end."""
        process = self.start(*words, **kwargs)
        out, err = process.communicate(timeout=timeout_s)
        assert "Traceback" not in err or process.returncode == 70, err
        return Done(process.returncode, out or "", err or "")

    def sync(self, *words: str) -> Done:
        """`orch sync --json team.yaml`."""
        return self.run("sync", "--json", "team.yaml", *words)
