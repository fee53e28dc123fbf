"""`orch demo`: a folder to play in, the story, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import orchestrator
from orchestrator.demo.answers import Weights, change_byte, sha256
from orchestrator.demo.faults import wrong_bytes
from orchestrator.demo.servers import breaking_at, dead, origin
from orchestrator.demo.weights import make_safetensors, make_torch_zip
from orchestrator.errors import ExitCode, OrchError, Stopped, StoreError
from orchestrator.render.sink import amount
from orchestrator.render.words import host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.context import Context
    from orchestrator.demo.server import Origin


ROOM_BYTES = 500 << 20  # weights, store, copies and quarantine at their most
_GONE_S = 5.0
_ELSEWHERE = "name an empty folder with more room: orch demo --folder DIR"


def show(context: Context, folder: str | None, *, verbose: bool = False) -> int:
    """Play the demo in `folder`, which is kept, or in a temporary one, which is not.

    Returns:
        The exit code: 0, 4 where no downloader is here, 130 and 143 interrupted.

    Raises:
        DemoError: a fact does not hold.
        StoreError: the folder is not empty or has no room, or the disk said no.
    """
    try:
        with _folder(context, folder) as home, context.stop.raising():
            return _play(context, home, Stage(context), verbose=verbose)
    except Stopped:
        print(f"\ninterrupted; {f'what was made is in {folder}' if folder else 'nothing is left behind'}")
        return context.stop.code or int(ExitCode.INTERRUPTED)


def _play(context: Context, home: Path, stage: Stage, *, verbose: bool) -> int:
    began = context.monotonic()
    stage.say("orch demo: no network, less than a minute, everything in one folder.", "bold")
    stage.move(home)
    try:
        with cast(home / "origin") as players:
            story = Story(stage, home, players, verbose=verbose)
            if code := story.tell():
                return code
    except OSError as error:
        raise StoreError(f"{error.filename or home}: {error.strerror or error}", _ELSEWHERE) from error
    stage.step("What was shown")
    for what, result in story.shown:
        stage.say(f"  {what:<33}{result}")
    stage.say(f"All as it should be, in {context.monotonic() - began:.1f} s.", "bold green")
    return 0


@contextmanager
def _folder(context: Context, named: str | None) -> Iterator[Path]:
    """The folder to work in, as `named` or temporary; a temporary one is gone afterwards, whatever happened.

    Raises:
        StoreError: it cannot be made, is not empty, or has too little room.
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
        if shutil.disk_usage(home).free < ROOM_BYTES:
            raise StoreError(f"{home}: {ROOM_BYTES >> 20}M are needed for the demo", _ELSEWHERE)
        (home / "store").mkdir(mode=0o700)  # a store that everyone may write, as under umask 0, is refused
        yield home
    finally:
        if named is None:
            _remove(context, home)


def _remove(context: Context, home: Path) -> None:
    """Remove it, again where a downloader that was ended the hard way still writes its last."""
    until = context.monotonic() + _GONE_S
    while home.exists() and context.monotonic() < until:
        shutil.rmtree(home, ignore_errors=True)


RATE = 3 << 20  # bytes a second on one connection: slow enough for bars that are worth watching
SLOW_RATE = 256 << 10
BREAKS_AT = 0.6
_PORT = 8765  # the first of five; where they are taken any others do


@dataclass(frozen=True)
class Cast:
    """Who plays: the files by name, and the servers."""

    llm: Weights
    vision: Weights
    vocab: Weights
    config: Weights
    lie: str  # the sha256 of what the liar sends
    good: Origin
    slow: Origin
    liar: Origin
    breaking: Origin
    dead: str  # a URL where nobody listens

    @property
    def files(self) -> tuple[Weights, ...]:
        return self.llm, self.vision, self.vocab, self.config

    @property
    def servers(self) -> tuple[Origin, ...]:
        return self.good, self.slow, self.liar, self.breaking

    def sent(self, weights: Weights | None = None) -> int:
        """How many bytes of bodies left all servers, for one file or for all."""
        records = (record for server in self.servers for record in server.log)
        return sum(record.sent for record in records if weights is None or record.path == f"/{weights.name}")

    def requests(self) -> int:
        """How often any server was asked for anything."""
        return sum(len(server.log) for server in self.servers)

    def manifest(self) -> str:
        """What a team would write; manifests/demo.yaml is the same with more comments."""
        llm, vision, vocab, config, good = self.llm, self.vision, self.vocab, self.config, self.good.url
        return f"""\
version: 1
models:
  llm:
    url: {good}/{llm.name}
    mirrors: [{self.breaking.url}/{llm.name}]  # breaks at 60 %
    sha256: {llm.sha256}
    size: {llm.size}
    to: models/llm/
  vision:
    url: {good}/{vision.name}
    mirrors:
      - {self.dead}/{vision.name}  # dead
      - {self.liar.url}/{vision.name}  # lies
    sha256: {vision.sha256}
    size: {vision.size}
    to: models/vision/
    link: copy
  tokenizer:
    files:
      - path: {vocab.name}
        url: {good}/{vocab.name}
        mirrors: [{self.slow.url}/{vocab.name}]  # slow
        sha256: {vocab.sha256}
        size: {vocab.size}
      - path: {config.name}
        url: {good}/{config.name}
        sha256: {config.sha256}
        size: {config.size}
    to: models/tokenizer/
"""


@contextmanager
def cast(folder: Path) -> Iterator[Cast]:
    """Make the weights in `folder` and let the servers run.

    Raises:
        OSError: the disk said no.
    """
    folder.mkdir()
    vocab = "".join(f"token{number:06}\n" for number in range(87_000)).encode()
    config = json.dumps({"model_type": "demo", "vocab_size": 87_000}, indent=2).encode()
    for name, content in (("vocab.txt", vocab), ("config.json", config)):
        (folder / name).write_bytes(content)
    # Below 64 MiB one source serves a file alone: the hand-over can be watched.
    llm = Weights("models/llm/model.safetensors", *make_safetensors(folder / "model.safetensors", 60, seed=1))
    vision = Weights("models/vision/vision.pth", *make_torch_zip(folder / "vision.pth", 32, seed=2))
    with ExitStack() as stack:
        good, slow, liar, breaking = (
            stack.enter_context(origin(port, folder, rate))
            for port, rate in enumerate((RATE, SLOW_RATE, RATE, RATE), _PORT)
        )
        liar.serve(vision.name, folder / vision.name, wrong=True)
        stack.enter_context(breaking_at(breaking, f"/{llm.name}", BREAKS_AT * llm.size))
        yield Cast(
            llm=llm,
            vision=vision,
            vocab=Weights("models/tokenizer/vocab.txt", hashlib.sha256(vocab).hexdigest(), len(vocab)),
            config=Weights("models/tokenizer/config.json", hashlib.sha256(config).hexdigest(), len(config)),
            lie=hashlib.sha256(wrong_bytes((folder / vision.name).read_bytes())).hexdigest(),
            good=good,
            slow=slow,
            liar=liar,
            breaking=breaking,
            dead=stack.enter_context(dead(_PORT + 4)),
        )


_READ_S = 1.5
_PATIENCE_S = 1.5
_KEPT = ("ORCH_PROGRAMS", "ORCH_SHA256SUM")


class DemoError(OrchError):
    """Something did not come out as it should."""


class Stage:
    """Says things on stdout and runs `orch` there; a stop goes to the command that runs, and ends the play."""

    def __init__(self, context: Context) -> None:
        self._context, self._folder = context, Path()
        self._console = Console(highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line; unless told to stop.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._context.stop.is_set():
            raise Stopped("stopped")
        self._console.print(text, style=style)
        sys.stdout.flush()  # a command that follows writes to the same file

    def step(self, title: str, *why: str) -> None:
        """Begin a step: what happens, and why it matters. Who watches gets a moment to read the last one."""
        if self._console.is_terminal:
            self._context.sleep(_READ_S)
        self.say()
        self.say(title, "bold")
        for text in why:
            self.say(text)

    def command(self, line: str) -> None:
        """Show a command as it is typed."""
        self.say()
        self.say(f"$ {line}", "bold cyan")

    def move(self, folder: Path) -> None:
        """Go where the commands will run."""
        self._folder = folder
        self.command(f"cd {folder}")

    def run(self, *words: str) -> tuple[int, float]:
        """Run `orch` as a user would type it; its exit code and its wall time in seconds.

        Raises:
            Stopped: a stop was asked for.
        """
        self.command(f"orch {' '.join(words)}")
        began = self._context.monotonic()
        # A session of its own: Ctrl-C comes to us alone and we hand it on, so that it is never heard twice.
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, words of ours
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self._folder,
            env=dict(_environ(self._context.environ, self._folder)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,  # the story is one stream, so that a log of it is whole
            start_new_session=True,
        )
        try:
            code = child.wait()
        finally:
            _end(child)
        if self._context.stop.is_set():
            raise Stopped("stopped")
        return code, self._context.monotonic() - began

    def must(self, fact: str, holds: bool) -> None:
        """State a fact that was looked at.

        Raises:
            DemoError: it does not hold.
        """
        self.say(f"  {'ok' if holds else 'NO'}  {fact}", "green" if holds else "bold red")
        if not holds:
            raise DemoError(f"not as it should be: {fact}", "look at what is left: orch demo -v --folder NEW_FOLDER")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs; its own children go with it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is None:
            child.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)


def _environ(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """The user's environment without what would lead out of the demo's folder or past its servers."""
    for key, value in environ.items():
        if not key.lower().endswith("_proxy") and (key in _KEPT or not key.startswith("ORCH_")):
            yield key, value
    yield "ORCH_STORE", f"{folder}/store"
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        yield f"XDG_{name}_HOME", f"{folder}/home/{name.lower()}"
    yield "PYTHONUNBUFFERED", "1"  # answers on stdout and errors on stderr keep their order in a log
    house = Path(orchestrator.__file__).resolve().parents[1]
    if house.name not in ("site-packages", "dist-packages"):  # run from a tree: the commands are this tree's too
        yield "PYTHONPATH", f"{house}:{environ.get('PYTHONPATH', '')}".rstrip(":")


LOST_BYTES = (
    12 << 20
)  # what a breaking server may have sent in vain: unfinished blocks, and axel saves but now and then
_MANIFEST = "demo.yaml"


class Story:
    """Tells it on a stage; `shown` is what to sum up afterwards."""

    def __init__(self, stage: Stage, home: Path, players: Cast, *, verbose: bool) -> None:
        self.shown: list[tuple[str, str]] = []
        self._stage, self._home, self._players = stage, home, players
        self._sync = ("sync", "-v", _MANIFEST) if verbose else ("sync", _MANIFEST)
        self._total = sum(weights.size for weights in players.files)

    def tell(self) -> int:
        """Go through all steps.

        Returns:
            The exit code: 0, or that of `orch backends` where there is no downloader.
        """
        if code := self._make():
            return code
        for step in (self._plan, self._fetch, self._mend, self._again):
            step()
        return 0

    def _make(self) -> int:
        stage, cast = self._stage, self._players
        stage.step(
            "[1/5] Weights and servers, made on the spot",
            "Files as teams have them, servers as they are: one is good, four have a flaw.",
        )
        for weights in cast.files:
            stage.say(f"  {amount(weights.size):>7}  {weights.name:<18} sha256 {weights.sha256[:16]}...")
        for url, what in (
            (cast.good.url, f"the origin: good, {amount(RATE)}/s a connection"),
            (cast.slow.url, f"a mirror that is slow: {amount(SLOW_RATE)}/s"),
            (cast.liar.url, "a mirror that lies: the right length, the wrong bytes"),
            (cast.breaking.url, "a mirror that breaks when 60 % of a file have left it"),
            (cast.dead, "a mirror that is dead: nobody listens"),
        ):
            stage.say(f"  {host(url)}  {what}")
        stage.say("orch fetches no bytes itself: it runs the best program that this machine has.")
        code, _ = stage.run("backends")
        self.shown.append(("weights made on the spot", f"{len(cast.files)} files, {amount(self._total)}"))
        return code

    def _plan(self) -> None:
        stage, text = self._stage, self._players.manifest()
        (self._home / _MANIFEST).write_text(text)
        stage.step(
            "[2/5] The manifest, and what would be done",
            "Written once, for every machine: where the bytes are, what they must be, and",
            "where they go.",
        )
        stage.command(f"cat {_MANIFEST}")
        stage.say(text.rstrip())
        code, _ = stage.run("plan", "--exit-code", _MANIFEST)
        stage.must("exit code 10: there is work to do", code == ExitCode.WORK)
        stage.must("no server was asked for anything yet", not self._players.requests())

    def _fetch(self) -> None:
        stage, cast = self._stage, self._players
        llm, vision = cast.llm, cast.vision
        stage.step(
            "[3/5] Sync: whatever the mirrors do, the right bytes or none",
            f"{host(cast.dead)} is dead, {host(cast.liar.url)} lies,",
            f"{host(cast.breaking.url)} will break, {host(cast.slow.url)} is slow.",
            "Yet no wrong byte may get to its place, and no good one be fetched twice.",
        )
        code, seconds = stage.run(*self._sync)
        stage.must("exit code 0", code == 0)
        self._must_be_right()
        lie = self._home / "store" / "quarantine" / cast.lie / "bytes"
        stage.must(f"the liar's {amount(vision.size)} lie in quarantine, none of them in models/", lie.is_file())
        kept, rest, sent = cast.breaking.sent(f"/{llm.name}"), cast.good.sent(f"/{llm.name}"), cast.sent()
        stage.must(
            f"{llm.name}: {amount(kept)} from what broke, only {amount(rest)} from the origin",
            kept >= llm.size / 2 and kept + rest <= llm.size + LOST_BYTES,
        )
        stage.must(
            f"{amount(sent)} left the servers for {amount(self._total)} of files: the rest is the lie",
            sent <= self._total + vision.size + LOST_BYTES,
        )
        self.shown += (
            ("a dead mirror and a liar", "passed by; no wrong byte in models/"),
            ("a mirror that broke", f"{amount(llm.size - rest)} of its bytes kept, not fetched again"),
            ("all verified and in place", f"{amount(self._total)} in {seconds:.1f} s"),
        )

    def _mend(self) -> None:
        stage, cast = self._stage, self._players
        llm, vision = cast.llm, cast.vision
        stage.step(
            "[4/5] Something writes into two placed files, one byte each",
            "Careless scripts do that. Each file has a seal: one stat is enough to see it.",
        )
        blob = self._home / "store" / "blobs" / "sha256" / llm.sha256
        shared = os.path.samefile(blob, self._home / llm.place)
        for weights in (llm, vision):
            change_byte(self._home / weights.place)
        code, _ = stage.run("status", _MANIFEST)
        stage.must("exit code 6: two broken seals", code == ExitCode.DIGEST)
        before = {weights: cast.sent(weights) for weights in (llm, vision)}
        code, _ = stage.run(*self._sync)
        stage.must("exit code 0", code == 0)
        self._must_be_right()
        again = {weights: cast.sent(weights) - before[weights] for weights in (llm, vision)}
        stage.must(f"{vision.name} (a copy) came from the store: no byte by wire", again[vision] == 0)
        if shared:
            fact = f"{llm.name} (a hard link, so the store was hit too): {amount(again[llm])} by wire"
            stage.must(fact, llm.size <= again[llm] <= llm.size + LOST_BYTES)
        else:
            stage.must(f"{llm.name} (a reflink) came from the store: no byte by wire", again[llm] == 0)
        how = "one from the store, one by wire" if shared else "both from the store"
        self.shown.append(("two placed files written into", f"mended, {how}"))

    def _again(self) -> None:
        stage, asked = self._stage, self._players.requests()
        stage.step(
            "[5/5] Sync again: nothing to do",
            "It runs on every machine each night, so it must cost next to nothing.",
        )
        code, seconds = stage.run(*self._sync)
        stage.must(f"exit code 0 after {seconds:.2f} s, with the start of Python", code == 0)
        stage.must("no server was asked for anything", self._players.requests() == asked)
        self.shown.append(("a sync with nothing to do", f"{seconds:.2f} s, no request"))

    def _must_be_right(self) -> None:
        right = all(sha256(self._home / weights.place) == weights.sha256 for weights in self._players.files)
        self._stage.must("all four files are in place, and their sha256, read anew, is right", right)
