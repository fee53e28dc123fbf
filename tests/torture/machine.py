"""A machine to be tortured, the works that it does, and what must hold of it after each round."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.demo.server import Origin

MIB = 1 << 20
LARGE, SMALL, USERS = made(16 * MIB, 100), [made(2_000 + 37 * n, 200 + n) for n in range(150)], made(12_345, 99)
RATE = 4 * MIB  # a connection


def packed(files: int = 60) -> tuple[bytes, dict[str, bytes]]:
    """An archive, and what is in it."""
    inside = {f"d{n % 7}/f{n}.bin": made(20_000 + n, 500 + n) for n in range(files)}
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, content in inside.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue(), inside


TREE, INSIDE = packed()


@dataclass
class Machine:
    """`wanted`: what each place may hold once all is done; `may`: what it may hold before that, besides nothing."""

    orch: Orch
    words: tuple[str, ...] = ("sync", "team.yaml")
    wanted: dict[str, bytes] = field(default_factory=dict)
    may: dict[str, set[bytes]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)  # at the origin
    costs: int = 0  # the bytes that the origin must send once
    before: int = 0  # what it sent while the machine was made ready
    codes: frozenset[int] = frozenset({0})  # what the command may end with when it is given once more
    at_end: Callable[[Machine], list[str]] = lambda _: []

    @property
    def folder(self) -> Path:
        return self.orch.folder

    def start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start the work (or another command) with its output in files, as a pipe would be one more thing to break."""
        argv = [sys.executable, "-m", "orchestrator", *(words or self.words)]
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            return subprocess.Popen(
                argv, cwd=self.folder, env=self.env() | environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def env(self) -> dict[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return self.orch.env() | {"TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(self, *words: str, **environ: str) -> int:
        process = self.start(*words, **environ)
        try:
            return process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -999

    @property
    def said(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    def survivors(self, patience_s: float = 6.0) -> list[str]:
        """Processes that still work here once orch is gone."""
        end = time.monotonic() + patience_s
        while found := [" ".join(words) for words in self._working()]:
            if time.monotonic() > end:
                return found
            time.sleep(0.1)
        return []

    def _working(self) -> list[list[str]]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = process.cmdline()
                if (process.pid != os.getpid() and any(str(self.folder) in word for word in words)) or (
                    process.pid != os.getpid() and str(self.folder) in os.readlink(f"/proc/{process.pid}/cwd")
                ):
                    found.append(words)
        return found

    def problems(self) -> list[str]:
        """What must hold at any time."""
        found = []
        for name, content in self.wanted.items():
            path = self.folder / name
            if path.exists() and (held := path.read_bytes()) != content and held not in self.may.get(name, set()):
                found.append(f"{name} holds {len(held)} bytes that it never may")
        blobs = () if self.may else (self.orch.store / "blobs/sha256").glob("*")
        found += [
            f"the blob {blob.name[:12]} is wrong"
            for blob in blobs
            if len(blob.name) == 64 and sha256(blob.read_bytes()) != blob.name
        ]
        users = [self.folder / name for name in ("mine.txt", "models/mine.txt")]
        found += [f"the user's {path.name} is gone" for path in users if path.read_bytes() != USERS]
        whole = (*self.folder.glob("*.yaml"), *self.folder.glob("*.lock.json"))
        found += [f"{path.name} is empty" for path in whole if not path.stat().st_size]
        for path in self.folder.glob("*.lock.json"):
            with contextlib.suppress(FileNotFoundError):
                try:
                    json.loads(path.read_text())
                except ValueError:
                    found.append(f"{path.name} is torn")
        if "Traceback" in self.said:
            found.append("a traceback: " + self.said.strip().splitlines()[-1][:200])
        return found

    def final_problems(self) -> list[str]:
        """What must hold after a run that came to its end."""
        found = self.problems()
        if absent := [name for name in self.wanted if not (self.folder / name).exists()]:
            found.append(f"{absent[0]} is not there, nor are {len(absent) - 1} more")
        for path in self.folder.rglob("*"):
            inside = path.is_relative_to(self.orch.store)
            if not inside and (path.name.startswith((".orch-", "orch-")) or path.name.endswith(".new")):
                found.append(f"left: {path.relative_to(self.folder)}")
        return found + self.at_end(self)

    def remove(self) -> None:
        subprocess.run(["chmod", "-R", "u+w", str(self.folder)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def machine(folder: Path) -> Machine:
    """A user's machine with files of his own in and beside the places."""
    (folder / "models").mkdir(parents=True)
    for name in ("mine.txt", "models/mine.txt"):
        (folder / name).write_bytes(USERS)
    return Machine(Orch(folder))


def want(m: Machine, origin: Origin, name: str, content: bytes, to: str, *mirrors: str, **keys: Any) -> None:
    """Add a model that the origin has, at a path of this machine's own."""
    path = f"/{m.folder.name}/{name}"
    url = origin.serve(path, content, **({"rate": RATE} if len(content) > MIB else {}))
    if mirrors:
        keys["mirrors"] = list(mirrors)
    m.orch.want(name.partition(".")[0], content, url, to=to, **keys)
    m.paths.append(path)
    m.costs += len(content)
    if not to.endswith("/") and to != "store":
        m.wanted[to] = content


def large(backend: str) -> Callable[[Path, Origin], Machine]:
    def work(folder: Path, origin: Origin) -> Machine:
        m = machine(folder)
        want(m, origin, "large.bin", LARGE, "models/large.bin")
        m.orch.write()
        m.words = ("sync", "team.yaml", "--backend", backend, "--connections", "4")
        return m

    return work


def local(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    (folder / "source").mkdir()
    (folder / "source/large.bin").write_bytes(LARGE)
    m.orch.want("large", LARGE, f"file://{folder}/source/large.bin", to="models/large.bin")
    m.wanted["models/large.bin"] = LARGE
    m.orch.write()
    return m


def bundle(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    for n, content in enumerate(SMALL):
        want(m, origin, f"s{n}.bin", content, f"models/s{n}.bin")
    m.orch.write()
    return m


def tree(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    want(m, origin, "tree.tar", TREE, "models/tree/", unpack=True)
    m.wanted |= {f"models/tree/{name}": content for name, content in INSIDE.items()}
    m.orch.write()
    return m


def copies(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    want(m, origin, "large.bin", LARGE, "models/a/large.bin", link="copy")
    m.orch.models["large"]["to"] = [f"models/{n}/large.bin" for n in "abcdef"]
    m.wanted = {f"models/{n}/large.bin": LARGE for n in "abcdef"}
    m.orch.write()
    return m


def liar(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    lie = origin.serve(f"/{folder.name}/lie.bin", LARGE, wrong_at=3 * MIB, rate=RATE)
    want(m, origin, "large.bin", LARGE, "models/large.bin", lie)
    m.orch.write()
    return m


def get(*extra: str) -> Callable[[Path, Origin], Machine]:
    def work(folder: Path, origin: Origin) -> Machine:
        m = machine(folder)
        want(m, origin, "large.bin", LARGE, "models/large.bin")
        url = m.orch.models.pop("large")["url"]
        pins = ("--sha256", sha256(LARGE)) if extra else ()
        m.words = ("get", url, "--to", "models/large.bin", "--store", str(m.orch.store), *pins)
        return m

    return work


def lock(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    want(m, origin, "large.bin", LARGE, "models/large.bin", sha256=None, size=None)
    m.orch.write()
    m.words = ("lock", "team.yaml")
    m.wanted = {}
    m.at_end = lambda m: (
        [] if sha256(LARGE) in (m.folder / "team.lock.json").read_text() else ["the lock has not the digest"]
    )
    return m


def done(work: Callable[[Path, Origin], Machine], folder: Path, origin: Origin) -> Machine:
    """A machine on which a first sync was done well."""
    m = work(folder, origin)
    assert m.run() == 0, m.said
    m.costs, m.before = 0, sum(origin.sent(path) for path in m.paths)
    return m


def repair(folder: Path, origin: Origin) -> Machine:
    m = done(large("curl"), folder, origin)
    place = m.folder / "models/large.bin"
    broken = bytearray(LARGE)
    broken[5 * MIB] ^= 1
    place.chmod(0o644)
    with open(place, "r+b") as file:
        file.seek(5 * MIB)
        file.write(bytes(broken[5 * MIB : 5 * MIB + 1]))
    m.may["models/large.bin"] = {bytes(broken)}
    m.costs = len(LARGE)
    m.words = ("verify", "--repair", "team.yaml")
    return m


def export(folder: Path, origin: Origin) -> Machine:
    m = done(bundle, folder, origin)
    m.costs = 0
    m.words = ("export", "team.yaml", "--format", "mirror", str(folder / "stick"))
    m.at_end = lambda m: (
        [] if len(list((m.folder / "stick").rglob("s*.bin"))) == len(SMALL) else ["the mirror has not all files"]
    )
    return m


def prune(folder: Path, origin: Origin) -> Machine:
    m = done(bundle, folder, origin)
    m.costs = 0
    for n in range(0, len(SMALL), 2):
        del m.orch.models[f"s{n}"]
    m.orch.write()
    m.words = ("prune", "--yes", "team.yaml")
    m.at_end = lambda m: [f"s{n}'s blob is gone" for n in range(1, len(SMALL), 2) if not m.orch.blob(SMALL[n]).exists()]
    return m


def add(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    m.orch.want("first", SMALL[0], "http://127.0.0.1:9/first.bin", to="models/")
    m.orch.write()
    m.codes = frozenset(
        {0, 3}
    )  # 3: the run before it was killed after its work was done: "a model of this name already exists"
    m.words = ("add", "http://127.0.0.1:9/second.bin", "team.yaml", "--sha256", sha256(SMALL[1]), "--to", "models/")
    m.at_end = lambda m: [
        f"{name} is not in the manifest"
        for name in ("first.bin", "second.bin")
        if name not in (m.folder / "team.yaml").read_text()
    ]
    return m


def adoption(folder: Path, origin: Origin) -> Machine:
    m = machine(folder)
    want(m, origin, "large.bin", LARGE, "models/large.bin")
    (folder / "models/large.bin.part").write_bytes(LARGE[: 12 * MIB])
    m.costs = len(LARGE) - 12 * MIB
    m.orch.write()
    m.words = ("sync", "team.yaml", "--backend", "curl")
    return m


WORKS: dict[str, Callable[[Path, Origin], Machine]] = {
    **{f"large by {name}": large(name) for name in ("aria2c", "axel", "curl", "wget")},
    "local by rsync": local,
    "bundle": bundle,
    "tree": tree,
    "copies": copies,
    "liar first": liar,
    "get": get("pinned"),
    "get blind": get(),
    "lock": lock,
    "repair": repair,
    "export": export,
    "prune": prune,
    "add": add,
    "adoption": adoption,
}


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill it now; false where it had ended before."""
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True
