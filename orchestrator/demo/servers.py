"""The demo's weight files, the servers that offer them (four have a fault), and a manifest that names both."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.demo.faults import wrong_bytes
from orchestrator.demo.server import Origin
from orchestrator.demo.weights import make_safetensors, make_torch_zip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 3 << 20  # bytes a second on one connection: slow enough for bars that are worth watching
SLOW_RATE = 256 << 10
_BREAKS_AT = 0.6  # the part of the largest file that leaves the breaking server before it goes down
_PORT = 8765  # the first of five; where they are taken any others do
_WATCH_S = 0.01


@dataclass(frozen=True, slots=True)
class DemoFile:
    """One weight file: its place below the demo's folder, and what it must be."""

    place: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """Its file name, which is also its path on every server."""
        return self.place.rpartition("/")[2]


@dataclass(frozen=True)
class DemoServers:
    """The running servers of the demo and the files that they serve.

    `dead` is a URL where nobody listens; `wrong_sha256` is the digest of what the wrong mirror sends for `vision`.
    """

    llm: DemoFile
    vision: DemoFile
    vocab: DemoFile
    config: DemoFile
    wrong_sha256: str
    origin: Origin
    slow: Origin
    wrong: Origin
    breaking: Origin
    dead: str

    @property
    def files(self) -> tuple[DemoFile, ...]:
        """All files, the largest first."""
        return self.llm, self.vision, self.vocab, self.config

    def sent_bytes(self, file: DemoFile | None = None) -> int:
        """How many bytes of bodies left all servers, for one file or for all."""
        records = (record for server in self._running for record in server.log)
        return sum(record.sent for record in records if file is None or record.path == f"/{file.name}")

    def requests(self) -> int:
        """How many requests all servers got."""
        return sum(len(server.log) for server in self._running)

    @property
    def _running(self) -> tuple[Origin, ...]:
        return self.origin, self.slow, self.wrong, self.breaking

    def manifest(self) -> str:
        """The manifest that a team would write; manifests/demo.yaml is the same with more comments."""
        llm, vision, vocab, config, origin = self.llm, self.vision, self.vocab, self.config, self.origin.url
        return f"""\
version: 1
models:
  llm:
    url: {origin}/{llm.name}
    mirrors: [{self.breaking.url}/{llm.name}]  # breaks off at 60 %
    sha256: {llm.sha256}
    size: {llm.size}
    to: models/llm/
  vision:
    url: {origin}/{vision.name}
    mirrors:
      - {self.dead}/{vision.name}  # dead
      - {self.wrong.url}/{vision.name}  # sends wrong bytes
    sha256: {vision.sha256}
    size: {vision.size}
    to: models/vision/
    link: copy
  tokenizer:
    files:
      - path: {vocab.name}
        url: {origin}/{vocab.name}
        mirrors: [{self.slow.url}/{vocab.name}]  # slow
        sha256: {vocab.sha256}
        size: {vocab.size}
      - path: {config.name}
        url: {origin}/{config.name}
        sha256: {config.sha256}
        size: {config.size}
    to: models/tokenizer/
"""


@contextmanager
def start_servers(folder: Path) -> Iterator[DemoServers]:
    """Make the weight files in `folder`, and serve them until the block ends.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder.mkdir()
    vocab = "".join(f"token{number:06}\n" for number in range(87_000)).encode()
    config = json.dumps({"model_type": "demo", "vocab_size": 87_000}, indent=2).encode()
    for name, content in (("vocab.txt", vocab), ("config.json", config)):
        (folder / name).write_bytes(content)
    # Below 64 MiB one source serves a file alone: the switch from one source to the next can be watched.
    llm = DemoFile("models/llm/model.safetensors", *make_safetensors(folder / "model.safetensors", 60, seed=1))
    vision = DemoFile("models/vision/vision.pth", *make_torch_zip(folder / "vision.pth", 32, seed=2))
    with ExitStack() as stack:
        origin, slow, wrong, breaking = (
            stack.enter_context(_serve_folder(port, folder, rate))
            for port, rate in enumerate((RATE, SLOW_RATE, RATE, RATE), _PORT)
        )
        wrong.serve(vision.name, folder / vision.name, wrong=True)
        stack.enter_context(_stop_after(breaking, f"/{llm.name}", _BREAKS_AT * llm.size))
        yield DemoServers(
            llm=llm,
            vision=vision,
            vocab=DemoFile("models/tokenizer/vocab.txt", hashlib.sha256(vocab).hexdigest(), len(vocab)),
            config=DemoFile("models/tokenizer/config.json", hashlib.sha256(config).hexdigest(), len(config)),
            wrong_sha256=hashlib.sha256(wrong_bytes((folder / vision.name).read_bytes())).hexdigest(),
            origin=origin,
            slow=slow,
            wrong=wrong,
            breaking=breaking,
            dead=stack.enter_context(_refusing_url(_PORT + 4)),
        )


@contextmanager
def _serve_folder(port: int, folder: Path, rate: int) -> Iterator[Origin]:
    """Serve a folder at `rate` bytes a second a connection, on this port or, where it is taken, on any free one."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Origin(port=port, folder=folder, rate=rate))
        except OSError:  # another demo, or another program, listens there
            server = stack.enter_context(Origin(folder=folder, rate=rate))
        yield server


@contextmanager
def _stop_after(server: Origin, path: str, size: float) -> Iterator[None]:
    """Stop the server once `size` bytes of `path` have left it, over however many connections that was."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            if server.sent(path) >= size:
                server.__exit__()
                return

    watcher = threading.Thread(target=watch, name="breaks", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _refusing_url(port: int) -> Iterator[str]:
    """A URL that refuses connections: its port is bound, so that no other program takes it, but nobody listens."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
