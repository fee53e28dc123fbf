"""Files that pass from host to host while they are being downloaded: real orch processes, real nginx between them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from orchestrator import manifest
from orchestrator.demo.server import Origin
from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel, fingerprint, write
from orchestrator.store import relay as published
from orchestrator.verify.pieces import Hasher, encode
from tests.commands.test_serve import ask, host, serving, site
from tests.orch import Orch, made, sha256
from tests.servers import nginx, origin_process

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
PIECE = 4 * MIB
CONTENT = made(24 * MIB)
DIGEST = sha256(CONTENT)
SLOW = ("--rate", "200000")  # of each connection: 3 MB/s for a host


def peer(folder: Path, name: str, url: str, peers: list[str], content: bytes = CONTENT, **keys: Any) -> Orch:
    """A host whose lock has the pieces of `content`, and whose site file names peers."""
    orch = host(folder, name)
    orch.want("m", CONTENT, f"{url}/w.bin", to="store", **keys)
    orch.write()
    (model,) = manifest.parse(orch.manifest.read_text(), str(orch.manifest)).models
    hasher = Hasher(PIECE)
    hasher.update(content)
    entry = LockedFile(DIGEST, len(CONTENT), "manifest", pieces=encode(PIECE, hasher.hashes()))
    locked = LockedModel(fingerprint(model), {model.files[0].name: entry})
    (orch.folder / "team.lock.json").write_text(write(Lock({"m": locked})))
    site(orch, peers=peers)
    return orch


@contextlib.contextmanager
def syncing(orch: Orch) -> Iterator[subprocess.Popen[str]]:
    """`orch sync --json` that runs while the block does, and is dead after it."""
    child = orch.start("sync", "--json", "team.yaml")
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def events(child: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


def told(url: str) -> dict[str, int]:
    """What a peer says of the file that it is downloading."""
    status, _, content = ask(url, f"/relay/{DIGEST}.json")
    said: dict[str, int] = json.loads(content) if status == 200 else {}
    return said


def wait_for_proof(url: str, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while told(url).get("proven", 0) < PIECE:
        assert child.poll() is None
        assert time.monotonic() < end, told(url)
        time.sleep(0.1)


def sources(happened: list[dict[str, Any]]) -> list[str]:
    return [event["source"] for event in happened if event["event"] == "started"]


def is_whole(orch: Orch) -> bool:
    blob = orch.blob(CONTENT)
    return blob.read_bytes() == CONTENT and blob.stat().st_nlink == 1 and not list((orch.store / "relay").glob("*"))


@pytest.fixture
def www(public_path: Path) -> Path:
    (public_path / "www").mkdir()
    (public_path / "www" / "w.bin").write_bytes(CONTENT)
    return public_path / "www"


def test_hosts_that_join_in_the_middle_take_what_is_proven_and_the_origin_gives_one_copy(
    www: Path, public_path: Path
) -> None:
    with origin_process(www, *SLOW) as origin, contextlib.ExitStack() as stack:
        first = peer(public_path, "first", origin.url, [])
        url, _ = stack.enter_context(serving(first))
        second = peer(public_path, "second", origin.url, [url])
        other, _ = stack.enter_context(serving(second))
        third = peer(public_path, "third", origin.url, [f"{other}/"])  # knows only who is himself taking
        stack.enter_context(serving(third))
        one = stack.enter_context(syncing(first))
        wait_for_proof(url, one)
        assert ask(url, "/relay/")[0] == ask(url, f"/relay/{'0' * 64}.json")[0] == 404
        assert ask(url, f"/relay/{DIGEST}", "POST")[0] == 405
        assert ask(url, f"/relay/{DIGEST}", Range="bytes=0-9")[2] == CONTENT[:10]
        two = stack.enter_context(syncing(second))
        wait_for_proof(other, two)
        three = stack.enter_context(syncing(third))
        assert sources(events(one)) == [f"{origin.url}/w.bin"]
        assert sources(events(two))[0].startswith(url)  # on a busy machine it may have it whole by then
        happened = events(three)
        assert sources(happened)[0].startswith(other)  # as above
        assert not [event for event in happened if event["event"] == "failed"]
        assert all(map(is_whole, (first, second, third)))
    sent = int(str(origin.totals["sent"]))
    assert sent < 2 * len(CONTENT), sent / len(CONTENT)  # each by itself: 3


def test_the_giver_is_killed_and_the_origin_gives_the_rest_to_both(www: Path, public_path: Path) -> None:
    with Origin(folder=www, rate=100_000) as origin, contextlib.ExitStack() as stack:
        first = peer(public_path, "first", origin.url, [])
        url, _ = stack.enter_context(serving(first))
        second = peer(public_path, "second", origin.url, [url])
        with syncing(first) as one:
            wait_for_proof(url, one)
            two = stack.enter_context(syncing(second))
            end = time.monotonic() + 60
            while not any((second.store / "partial").glob("*/*/f")):  # it has something
                assert time.monotonic() < end
                time.sleep(0.05)
        origin.serve("/w.bin", www / "w.bin", rate=None)  # to who asks from now on
        assert told(url), "the killed one left what was published"
        happened = events(two)
        assert sources(happened)[0] == f"{url}/relay/{DIGEST}"
        assert sources(happened)[-1] == f"{origin.url}/w.bin"
        assert happened[-1]["bytes_fetched"] <= len(CONTENT) + PIECE
        assert second.blob(CONTENT).read_bytes() == CONTENT
        done = first.sync()  # with what the killed one left, of which it made no copy
        assert done.summary["bytes_reused"] >= PIECE
        assert is_whole(first)
        assert not told(url)


def test_a_peer_that_lies_is_named_and_not_asked_again_and_one_that_is_silent_is_left(
    www: Path, public_path: Path
) -> None:
    lies = public_path / "lies" / "relay"
    lies.mkdir(parents=True)
    (lies / DIGEST).write_bytes(CONTENT[:PIECE] + bytes(2 * PIECE))
    (lies / f"{DIGEST}.json").write_bytes(msgspec.json.encode(published.Told(len(CONTENT), 3 * PIECE, 3 * PIECE)))
    with origin_process(www) as origin, nginx(public_path / "lies") as liar:
        orch = peer(public_path, "host", origin.url, [liar.url, "http://127.0.0.1:1"])
        done = orch.sync()
        assert done.summary["fetched"] == 1
        assert orch.blob(CONTENT).read_bytes() == CONTENT
        (failed,) = done.named("failed")
        assert (failed["fault"], failed["source"]) == ("corrupt", f"{liar.url}/relay/{DIGEST}")
        assert f"at {PIECE}:" in failed["message"]
        assert liar.counts()[f"/relay/{DIGEST}"] == 1
        assert failed["kept_bytes"] == PIECE  # its right piece
        wrong = peer(public_path, "wrong", origin.url, [], content=bytes(len(CONTENT)))
        assert wrong.sync().code == 0  # pieces of other bytes in the lock prove nothing, and do no harm


def test_nothing_is_published_of_what_is_not_for_everybody_or_where_nobody_serves(www: Path, public_path: Path) -> None:
    seen: list[str] = []
    with origin_process(www, "--rate", "600000") as origin:
        private = peer(public_path, "private", origin.url, [], share=False)
        alone = peer(public_path, "alone", origin.url, [])
        with serving(private) as (url, _), syncing(private) as one, syncing(alone) as two:
            over = threading.Event()

            def look() -> None:
                while not over.wait(0.05):
                    seen.extend(os.listdir(private.store / "relay"))

            thread = threading.Thread(target=look)
            thread.start()
            try:
                assert ask(url, f"/relay/{DIGEST}.json")[0] == 404
                events(one)
                events(two)
            finally:
                over.set()
                thread.join()
        assert not seen
        assert not (alone.store / "relay").exists()
        assert alone.blob(CONTENT).stat().st_nlink == 1


def test_of_hosts_that_begin_at_once_one_asks_the_origin(www: Path, public_path: Path) -> None:
    with origin_process(www, *SLOW) as origin, contextlib.ExitStack() as stack:
        hosts = [peer(public_path, f"h{number}", origin.url, []) for number in range(3)]
        urls = [stack.enter_context(serving(orch))[0] for orch in hosts]
        for orch in hosts:
            site(orch, peers=urls)  # itself too
        running = [stack.enter_context(syncing(orch)) for orch in hosts]
        asked = [sources(events(child))[0] for child in running]
        assert asked.count(f"{origin.url}/w.bin") == 1, asked
        assert all(map(is_whole, hosts))
    assert int(str(origin.totals["sent"])) < 2 * len(CONTENT)
