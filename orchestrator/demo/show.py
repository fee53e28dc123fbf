"""`orch demo`: run orch's own commands against servers that misbehave, and check each result."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orchestrator
from orchestrator.demo.servers import RATE, SLOW_RATE, start_servers
from orchestrator.errors import ExitCode, OrchError, Stopped, StoreError
from orchestrator.render.terminal import painted, wants_colour
from orchestrator.render.words import host
from orchestrator.text import size_text as amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.context import Context
    from orchestrator.demo.servers import DemoServers

_NEEDED_BYTES = 500 << 20  # weights, store, copies and quarantine at their most
# What the breaking server may have sent for nothing: unfinished blocks, and axel seldom saves its state.
_LOST_BYTES = 12 << 20
_READ_S = 1.5  # how long a step stays on a terminal before the next one begins
_PATIENCE_S = 1.5  # how long a command may take to end after a signal
_REMOVE_S = 5.0
_MANIFEST = "demo.yaml"
_KEPT = ("ORCH_PROGRAMS", "ORCH_SHA256SUM")
_ELSEWHERE = "name an empty folder with more room: orch demo --folder DIR"


class DemoError(OrchError):
    """A step of the demo did not end as it should."""

    usual_code = "bug"


def run_demo(context: Context, folder: str | None, *, verbose: bool = False) -> int:
    """Run the demo in `folder`, which is kept, or in a temporary folder, which is removed.

    Returns:
        The exit code: 0, 4 where this machine has no downloader, 130 or 143 where it was interrupted.

    Raises:
        DemoError: a result is not as it should be.
        StoreError: the folder is not empty or has too little space, or the disk failed.
    """
    try:
        with _demo_folder(context, folder) as home, context.stop.raising():
            return _run_in(context, home, verbose=verbose)
    except Stopped:
        print(f"\ninterrupted; {f'what was made is in {folder}' if folder else 'nothing is left behind'}")
        return context.stop.code or int(ExitCode.INTERRUPTED)


def _run_in(context: Context, home: Path, *, verbose: bool) -> int:
    began, run = context.monotonic(), DemoRun(context)
    run.say("orch demo: no network, less than a minute, everything in one folder.", "bold")
    run.enter(home)
    try:
        with start_servers(home / "origin") as servers:
            steps = DemoSteps(run, home, servers, verbose=verbose)
            if code := steps.run_all():
                return code
    except OSError as error:
        raise StoreError(f"{error.filename or home}: {error.strerror or error}", _ELSEWHERE) from error
    run.step("What was shown")
    for what, result in steps.results:
        run.say(f"  {what:<33}{result}")
    run.say(f"Demo passed in {context.monotonic() - began:.1f} s.", "bold green")
    run.say("next: orch init  (a manifest of your own), or orch get URL  (one file, without a manifest)")
    return 0


@contextmanager
def _demo_folder(context: Context, named: str | None) -> Iterator[Path]:
    """The folder to work in: the named one, or a temporary one that is removed afterwards, whatever happened.

    Raises:
        StoreError: it cannot be made, is not empty, or has too little space.
    """
    try:
        if named is not None:
            home = Path(os.path.abspath(os.path.join(context.cwd, named)))
            home.mkdir(parents=True, exist_ok=True)
        else:
            home = Path(tempfile.mkdtemp(prefix="orch-demo-")).resolve()
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}", _ELSEWHERE) from error
    try:
        if any(home.iterdir()):
            raise StoreError(f"{home} is not empty", _ELSEWHERE)
        if shutil.disk_usage(home).free < _NEEDED_BYTES:
            raise StoreError(f"{home}: the demo needs {_NEEDED_BYTES >> 20} MiB", _ELSEWHERE)
        (home / "store").mkdir(mode=0o700)  # a store that everyone may write, as under umask 0, is refused
        yield home
    finally:
        if named is None:
            _remove(context, home)


def _remove(context: Context, home: Path) -> None:
    """Remove the folder; try again while a downloader that was killed still writes into it."""
    until = context.monotonic() + _REMOVE_S
    while home.exists() and context.monotonic() < until:
        shutil.rmtree(home, ignore_errors=True)


class DemoRun:
    """Prints to stdout and runs `orch` there; a request to stop goes to the running command and ends the demo."""

    def __init__(self, context: Context) -> None:
        self._context, self._folder = context, Path()
        self._colour = wants_colour("auto", context.environ, sys.stdout)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._context.stop.is_set():
            raise Stopped("stopped")
        print(painted(text, style, colour=self._colour))
        sys.stdout.flush()  # a command that follows writes to the same file

    def step(self, title: str, *why: str) -> None:
        """Print what comes next and why it matters; on a terminal, wait a moment so that the last step can be read."""
        if sys.stdout.isatty():
            self._context.sleep(_READ_S)
        self.say()
        self.say(title, "bold")
        for text in why:
            self.say(text)

    def show_command(self, line: str) -> None:
        """Print a command as a user would type it."""
        self.say()
        self.say(f"$ {line}", "bold cyan")

    def enter(self, folder: Path) -> None:
        """Let all commands from now on run in `folder`."""
        self._folder = folder
        self.show_command(f"cd {folder}")

    def orch(self, *words: str) -> tuple[int, float]:
        """Run `orch` with these words, as a user would type them.

        Returns:
            Its exit code, and how long it ran, in seconds.

        Raises:
            Stopped: a stop was asked for.
        """
        self.show_command(f"orch {' '.join(words)}")
        began = self._context.monotonic()
        with self._context.stop.deferred():  # a child that runs and that we do not hold would outlive us
            # A session of its own: only we receive Ctrl-C, and hand it on, so that the command receives it once.
            child = subprocess.Popen(  # noqa: S603 - our own interpreter, words of ours
                [sys.executable, "-m", "orchestrator", *words],
                cwd=self._folder,
                env=dict(_child_environ(self._context.environ, self._folder)),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,  # one stream, so that a log of the demo is whole
                start_new_session=True,
            )
        try:
            code = None if self._context.stop.is_set() else child.wait()
        finally:
            _end(child)
        if code is None or self._context.stop.is_set():
            raise Stopped("stopped")
        return code, self._context.monotonic() - began

    def check(self, fact: str, holds: bool) -> None:
        """Print a fact that was checked, and whether it holds.

        Raises:
            DemoError: it does not hold.
        """
        self.say(f"  {'ok' if holds else 'NO'}  {fact}", "green" if holds else "bold red")
        if not holds:
            raise DemoError(f"not as it should be: {fact}", "look at what is left: orch demo -v --folder NEW_FOLDER")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, and the programs that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)


def _child_environ(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """The user's environment without the variables that lead out of the demo's folder or past its servers."""
    for key, value in environ.items():
        if not key.lower().endswith("_proxy") and (key in _KEPT or not key.startswith("ORCH_")):
            yield key, value
    yield "ORCH_STORE", f"{folder}/store"
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        yield f"XDG_{name}_HOME", f"{folder}/home/{name.lower()}"
    yield "PYTHONUNBUFFERED", "1"  # answers on stdout and errors on stderr keep their order in a log
    root = Path(orchestrator.__file__).resolve().parents[1]  # the commands are this tree's too, or this zip file's
    yield "PYTHONPATH", f"{root}:{environ.get('PYTHONPATH', '')}".rstrip(":")


class DemoSteps:
    """The five steps of the demo; `results` are the lines of its closing table."""

    def __init__(self, run: DemoRun, home: Path, servers: DemoServers, *, verbose: bool) -> None:
        self.results: list[tuple[str, str]] = []
        self._run, self._home, self._servers = run, home, servers
        self._sync = ("sync", "-v", _MANIFEST) if verbose else ("sync", _MANIFEST)
        self._total = sum(file.size for file in servers.files)

    def run_all(self) -> int:
        """Run all steps.

        Returns:
            The exit code: 0, or that of `orch backends` where this machine has no downloader.

        Raises:
            DemoError: a result is not as it should be.
            Stopped: a stop was asked for.
        """
        if code := self._show_servers():
            return code
        for step in (self._plan, self._first_sync, self._repair, self._nothing_to_do):
            step()
        return 0

    def _show_servers(self) -> int:
        """Step 1: list the files and the servers, and what `orch backends` says of this machine."""
        run, servers = self._run, self._servers
        run.step(
            "[1/5] Weights and servers, made for this demo",
            "Five sources offer the files: one works well, each of the others has a fault.",
        )
        for file in servers.files:
            run.say(f"  {amount(file.size):>10}  {file.name:<18} sha256 {file.sha256[:16]}...")
        for url, what in (
            (servers.origin.url, f"the origin: works well, {amount(RATE)}/s for each connection"),
            (servers.slow.url, f"a mirror that is slow: {amount(SLOW_RATE)}/s"),
            (servers.wrong.url, "a mirror that sends wrong bytes of the right length"),
            (servers.breaking.url, "a mirror that breaks off after 60 % of a file"),
            (servers.dead, "a mirror that is dead: nothing listens there"),
        ):
            run.say(f"  {host(url)}  {what}")
        run.say("orch downloads with the programs of this machine, and chooses the best one:")
        code, _ = run.orch("backends")
        self.results.append(("weights made for this demo", f"{len(servers.files)} files, {amount(self._total)}"))
        return code

    def _plan(self) -> None:
        """Step 2: show the manifest and what `orch plan` makes of it; no server is asked."""
        run, text = self._run, self._servers.manifest()
        (self._home / _MANIFEST).write_text(text)
        run.step(
            "[2/5] The manifest, and what a sync would do",
            "The manifest names the sources, the checksum and the destination of each file.",
            "It is written once, for all machines.",
        )
        run.show_command(f"cat {_MANIFEST}")
        run.say(text.rstrip())
        code, _ = run.orch("plan", "--exit-code", _MANIFEST)
        run.check("exit code 10: there is work to do", code == ExitCode.WORK)
        run.check("no server was asked for anything yet", not self._servers.requests())

    def _first_sync(self) -> None:
        """Step 3: `orch sync` from all five sources; the right bytes come in spite of four bad mirrors."""
        run, servers = self._run, self._servers
        llm, vision = servers.llm, servers.vision
        run.step(
            "[3/5] Sync: only right bytes are installed, whatever the mirrors send",
            f"{host(servers.dead)} is dead, {host(servers.wrong.url)} sends wrong bytes,",
            f"{host(servers.breaking.url)} will break off, {host(servers.slow.url)} is slow.",
            "No wrong byte may be installed, and no good byte downloaded twice.",
        )
        code, seconds = run.orch(*self._sync)
        run.check("exit code 0", code == 0)
        self._check_places()
        wrong = self._home / "store" / "quarantine" / servers.wrong_sha256 / "bytes"
        run.check(f"the {amount(vision.size)} of wrong bytes are in quarantine, not in models/", wrong.is_file())
        kept, rest, sent = (
            servers.breaking.sent(f"/{llm.name}"),
            servers.origin.sent(f"/{llm.name}"),
            servers.sent_bytes(),
        )
        run.check(
            f"{llm.name}: {amount(kept)} from the mirror that broke off, {amount(rest)} from the origin",
            kept >= llm.size / 2 and kept + rest <= llm.size + _LOST_BYTES,
        )
        run.check(
            f"the servers sent {amount(sent)} for {amount(self._total)} of files; the rest is the wrong bytes",
            sent <= self._total + vision.size + _LOST_BYTES,
        )
        self.results += (
            ("a dead mirror, and wrong bytes", "other sources used; no wrong byte in models/"),
            ("a mirror that broke off", f"{amount(llm.size - rest)} kept and not downloaded again"),
            ("all verified and in place", f"{amount(self._total)} in {seconds:.1f} s"),
        )

    def _repair(self) -> None:
        """Step 4: write into two placed files; `orch status` sees it and `orch sync` repairs both."""
        run, servers = self._run, self._servers
        llm, vision = servers.llm, servers.vision
        run.step(
            "[4/5] A program changes one byte in each of two installed files",
            "orch finds that by the size and the time stamp of each file, without reading it.",
        )
        blob = self._home / "store" / "blobs" / "sha256" / llm.sha256
        shared = os.path.samefile(blob, self._home / llm.place)
        for file in (llm, vision):
            _change_byte(self._home / file.place)
        code, _ = run.orch("status", _MANIFEST)
        run.check("exit code 6: two files were changed", code == ExitCode.DIGEST)
        before = {file: servers.sent_bytes(file) for file in (llm, vision)}
        code, _ = run.orch(*self._sync)
        run.check("exit code 0", code == 0)
        self._check_places()
        again = {file: servers.sent_bytes(file) - before[file] for file in (llm, vision)}
        run.check(f"{vision.name} (a copy) came from the store: nothing downloaded", again[vision] == 0)
        if shared:
            fact = f"{llm.name} (a hard link, so the store's file was changed too): {amount(again[llm])} downloaded"
            run.check(fact, llm.size <= again[llm] <= llm.size + _LOST_BYTES)
        else:
            run.check(f"{llm.name} (a reflink) came from the store: nothing downloaded", again[llm] == 0)
        how = "one from the store, one by a download" if shared else "both from the store"
        self.results.append(("two files changed by a program", f"repaired, {how}"))

    def _nothing_to_do(self) -> None:
        """Step 5: `orch sync` again, which asks no server."""
        run, asked = self._run, self._servers.requests()
        run.step(
            "[5/5] Sync again: nothing to do",
            "A sync runs on every machine each night, so it must cost next to nothing.",
        )
        code, seconds = run.orch(*self._sync)
        run.check(f"exit code 0 after {seconds:.2f} s, including the start of Python", code == 0)
        run.check("no server was asked for anything", self._servers.requests() == asked)
        self.results.append(("a sync with nothing to do", f"{seconds:.2f} s, no request"))

    def _check_places(self) -> None:
        """Check with a digest of our own that every file is in place and right."""
        right = all(_sha256(self._home / file.place) == file.sha256 for file in self._servers.files)
        self._run.check("all four files are in place, and their sha256 is right (computed without orch)", right)


def _change_byte(path: Path) -> None:
    """Invert one byte in the middle of a file, as a careless script might."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def _sha256(path: Path) -> str:
    """Compute a file's sha256 without orch's code, which is what the demo checks."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
