"""A program that follows a script (writes so much, lies, dies, hangs) under transfer's real loop."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import wget
from orchestrator.demo.server import Origin
from orchestrator.errors import DigestError, StoreError, TransferError
from orchestrator.events import Event, Mismatched, Verified
from orchestrator.store import Store, blobs, partials
from tests.backends.rig import Rig
from tests.orch import Orch, file_digest, made, sha256
from tests.servers import nginx

DATA = made(400_000, 77)
KIB = 1 << 10
PROGRAM = '''#!{python}
"""Stands in for wget: does what the next line of the script says."""
import fcntl, json, os, signal, sys, time
folder = os.path.dirname(os.path.abspath(__file__))
if "--version" in sys.argv:
    print("GNU Wget 1.21.3 built on linux-gnu.")
    raise SystemExit(0)
with open(folder + "/script", "r+") as script:
    fcntl.flock(script, fcntl.LOCK_EX)
    steps = json.load(script)
    step = steps.pop(0) if steps else {{}}
    script.seek(0)
    script.truncate()
    json.dump(steps, script)
with open(folder + "/ran", "a") as ran:
    ran.write("x")
path = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output-document="))
goes_on = "--continue" in sys.argv
with open(folder + "/data", "rb") as data, open(path, "r+b" if goes_on else "wb") as file:
    whole = data.read()
    begin = file.seek(0, 2) if goes_on else 0
    end = len(whole) if step.get("bytes") is None else begin + step["bytes"]
    send = whole[begin:end]
    if step.get("lies"):
        send = bytes(byte ^ 1 for byte in send)
    if step.get("rewrites"):
        file.seek(0)
        file.write(b"?" * min(begin, 1000))
        file.seek(begin)
    file.write(send + b"?" * step.get("extra", 0))
if step.get("removes"):
    os.unlink(path)
if step.get("hangs"):
    time.sleep(600)
if step.get("dies"):
    os.kill(os.getpid(), signal.SIGKILL)
sys.stderr.write(step.get("says", ""))
raise SystemExit(step.get("code", 0))
'''
LOST = {"code": 4, "says": "Read error (Connection reset by peer)\n"}
HONEST: dict[str, Any] = {}
STEPS: list[dict[str, Any]] = [
    HONEST,
    {"bytes": 100 * KIB, **LOST},
    {"bytes": 0, **LOST},
    {"bytes": 0},  # says that all is well, and brought nothing
    {"bytes": 50 * KIB},
    {"bytes": 150 * KIB, "dies": True},
    {"bytes": 0, "dies": True},
    {"lies": True},
    {"bytes": 80 * KIB, "lies": True, **LOST},
    {"rewrites": True},
    {"extra": 500},
    {"bytes": 10 * KIB, "hangs": True},
    {"removes": True},
    {"bytes": 0, "code": 8, "says": "  HTTP/1.1 503 Service Unavailable\n"},
    {"bytes": 0, "code": 8, "says": "  HTTP/1.1 404 Not Found\n"},
    {"bytes": 0, "code": 77, "says": "what nobody has heard of\n"},
]


class Scripted(Rig):
    """A Rig whose wget follows a script."""

    def __init__(self, tmp_path: Path, server: Origin) -> None:
        super().__init__(tmp_path, wget)
        self.server = server
        self.folder = tmp_path / "programs"
        self.folder.mkdir()
        (self.folder / "wget").write_text(PROGRAM.format(python=sys.executable))
        (self.folder / "wget").chmod(0o755)
        (self.folder / "data").write_bytes(DATA)
        self.environ["ORCH_PROGRAMS"] = str(self.folder)

    def follow(self, *steps: dict[str, Any]) -> None:
        (self.folder / "script").write_text(json.dumps(steps))

    @property
    def runs(self) -> int:
        ran = self.folder / "ran"
        return len(ran.read_text()) if ran.exists() else 0

    def served(self, count: int = 1) -> list[str]:
        """So many sources: for our own looks at them, since this program asks nobody."""
        self.server.serve("/w.bin", DATA)
        return [f"{self.server.at(f'127.0.0.{n + 1}')}/w.bin" for n in range(count)]

    def blobs(self) -> list[str]:
        return os.listdir(f"{self.store.path}/blobs/sha256")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Scripted]:
    with Origin(also=("127.0.0.2", "127.0.0.3")) as server:
        yield Scripted(tmp_path, server)


def test_what_came_before_a_loss_a_death_or_a_hang_is_gone_on_with(rig: Scripted) -> None:
    rig.follow(STEPS[1], STEPS[5], {"bytes": 10 * KIB, "hangs": True}, HONEST)
    rig.fetch(DATA, *rig.served(), stall_s=1.0)
    rig.assert_committed(DATA)
    assert rig.runs == 4


def test_a_program_that_says_all_is_well_and_brings_nothing_is_left(rig: Scripted) -> None:
    rig.follow(*[{"bytes": 0}] * 50)
    with pytest.raises(TransferError):
        rig.fetch(DATA, *rig.served())
    assert rig.runs < 20
    rig.assert_absent(DATA)


def test_wrong_bytes_are_never_a_blob_and_the_next_source_gives_the_right_ones(rig: Scripted) -> None:
    rig.follow({"lies": True}, HONEST)
    rig.fetch(DATA, *rig.served(2))
    rig.assert_committed(DATA)
    lied = bytes(byte ^ 1 for byte in DATA)
    rig.assert_quarantined(lied, rig.served()[0])


@pytest.mark.parametrize("spoils", [{"rewrites": True}, {"extra": 500}], ids=["rewrites", "sends too much"])
def test_a_program_that_spoils_what_was_good_is_found_out(rig: Scripted, spoils: dict[str, Any]) -> None:
    rig.follow({"bytes": 100 * KIB, **LOST}, spoils, HONEST, HONEST)
    rig.fetch(DATA, *rig.served(3))
    rig.assert_committed(DATA)


def test_what_is_told_of_a_wrong_file_and_of_the_right_one_that_follows(rig: Scripted) -> None:
    """Each at its time: wrong bytes lie in quarantine when they are told, the right ones are a blob."""
    at_mismatch, at_verified = [], []

    def hear(event: Event) -> None:
        if isinstance(event, Mismatched):
            at_mismatch.append(os.listdir(event.quarantine))
        if isinstance(event, Verified):
            at_verified.append(rig.blobs())

    rig.hear = hear
    rig.follow({"lies": True}, HONEST)
    one, two = rig.served(2)
    receipt = rig.fetch(DATA, one, two)
    told = [type(event).__name__ for event in rig.events]
    assert told == ["Started", "Progressed", "Mismatched", "Failed", "Started", "Progressed", "Verified"]
    assert ("bytes" in at_mismatch[0], at_verified) == (True, [[sha256(DATA)]])
    assert (receipt.source, receipt.bytes_fetched) == (two, 2 * len(DATA))
    assert [attempt.source for attempt in receipt.attempts] == [one]


@pytest.mark.parametrize("seed", range(24))
def test_any_history_ends_and_no_wrong_byte_is_a_blob(rig: Scripted, seed: int) -> None:
    chance = random.Random(seed)
    steps = [chance.choice(STEPS) for _ in range(chance.randint(1, 12))]
    steps = [{**step, "bytes": chance.randrange(0, 200 * KIB)} if step.get("bytes") else step for step in steps]
    rig.follow(*steps)
    try:
        rig.fetch(DATA, *rig.served(chance.randint(1, 3)), retries=2, stall_s=0.7)
        rig.assert_committed(DATA)
    except (TransferError, DigestError, StoreError):
        rig.assert_absent(DATA)
    assert rig.runs < 60, steps
    assert rig.blobs() in ([], [sha256(DATA)])
    # A later run with a program that works ends well, whatever was left.
    rig.follow()
    rig.fetch(DATA, *rig.served(), stall_s=5.0)
    rig.assert_committed(DATA)


def test_a_file_that_another_orch_finished_just_before_is_not_fetched_again(
    rig: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets its guard go between our look at the blob and our taking of the partial."""
    acquire = partials.acquire

    def acquire_late(store: Store, key: str) -> partials.Partial:
        partial = acquire(store, key)
        with open(f"{partial.folder}/other", "wb") as file:
            file.write(DATA)
        blobs.commit(store, [(file.name, key)])
        return partial

    monkeypatch.setattr(partials, "acquire", acquire_late)
    receipt = rig.fetch(DATA, *rig.served())
    assert (rig.runs, receipt.sha256, receipt.bytes_fetched) == (0, sha256(DATA), 0)
    rig.assert_committed(DATA)


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


# A wrong `size:`, and a server that cannot resume.


def test_a_size_far_too_small_is_a_warning_where_the_digest_is_right(orch: Orch, origin: Origin) -> None:
    content = made(70 << 20)
    place = orch.want("m", content, origin.serve("/m.bin", content), size=1000)
    done = orch.run("sync", "team.yaml", "--backend", "curl")
    assert done.code == 0, done.err
    with place.open("rb") as file:
        assert file_digest(file) == sha256(content)
    assert "checksum mismatch" not in done.err
    line = 1 + next(n for n, text in enumerate(orch.manifest.read_text().splitlines()) if '"size"' in text)
    assert f"team.yaml:{line}: `size:` says 1000, every source says {len(content)}" in done.err


def test_a_length_that_is_not_believed_names_size_and_blames_no_checksum(orch: Orch, tmp_path: Path) -> None:
    """orch ends the program for `size:`, so no digest of what came says anything, and nothing is quarantined."""
    (tmp_path / "www").mkdir()
    with open(tmp_path / "www/m.bin", "wb") as file:
        file.truncate(3 << 30)
    with nginx(tmp_path / "www") as server:
        orch.want("m", b"the right one", f"{server.url}/m.bin", size=1000)
        done = orch.run("sync", "team.yaml", "--backend", "curl", "--retries", "0")
    assert done.code == 6, done.err
    line = 1 + next(n for n, text in enumerate(orch.manifest.read_text().splitlines()) if '"size"' in text)
    assert f"team.yaml:{line} says `size: 1000`, the server says {3 << 30}: correct or drop `size:`" in done.err
    assert "checksum mismatch" not in done.err
    assert "quarantine" not in done.err


def test_what_a_server_cannot_resume_is_not_told_as_reused(orch: Orch) -> None:
    content = made(24 << 20)
    with Origin(rate=8 << 20) as origin:
        place = orch.want("m", content, origin.serve("/m.bin", content, ranges="ignored"))
        assert orch.run("sync", "team.yaml", "--max-time", "2s").code == 9
        done = orch.run("sync", "team.yaml")
    assert done.code == 0, done.err
    assert place.read_bytes() == content
    assert "starts over (" in done.err
    assert done.err.count("starts over") == 1
    assert " reused" not in done.err
