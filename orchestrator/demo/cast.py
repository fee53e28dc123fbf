"""The demo's cast: weights made on the spot, one good origin, and four mirrors with a flaw each."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.demo.faults import wrong_bytes
from orchestrator.demo.files import Weights
from orchestrator.demo.servers import breaking_at, dead, origin
from orchestrator.demo.weights import make_safetensors, make_torch_zip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.demo.server import Origin

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
