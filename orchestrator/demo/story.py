"""The demo's story: five steps, each with the real commands, and facts that are looked at and must hold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator.demo.cast import RATE, SLOW_RATE
from orchestrator.demo.files import change_byte, sha256
from orchestrator.errors import ExitCode
from orchestrator.render.sink import amount
from orchestrator.render.words import host

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.demo.cast import Cast
    from orchestrator.demo.stage import Stage

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
