"""Swarms of several orch processes on loopback, by real aria2c and opentracker: one copy leaves the origin."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import manifest
from orchestrator.backends.torrent import Torrent
from orchestrator.demo.server import Origin
from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel, fingerprint, write
from orchestrator.transfer.swarm import Election, Peer, new_peer_id
from orchestrator.verify import pieces
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256
from tests.servers import origin_process, require, tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
SIZE = 64 * MIB
RATE = ("--rate", str(MIB))  # of each connection: 16 MiB/s for one host
DEAD = "http://127.0.0.1:1/announce"


@dataclass(frozen=True)
class Weights:
    """One large file in a folder for an origin, and its torrent."""

    folder: Path
    content: bytes
    torrent: Torrent

    @property
    def sha1_pieces(self) -> str:
        return pieces.encode(MIB, [self.torrent.hashes])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    require("aria2c")
    require("opentracker")
    folder, content = tmp_path_factory.mktemp("origin"), made(SIZE)
    (folder / "w.bin").write_bytes(content)
    hashes = b"".join(hashlib.sha1(content[at : at + MIB]).digest() for at in range(0, SIZE, MIB))
    return Weights(folder, content, Torrent(sha256(content), SIZE, MIB, hashes))


def host(folder: Path, name: str, weights: Weights, url: str, announce: str, **keys: Any) -> Orch:
    """A host with a store, a home and a lock of its own."""
    (folder / name).mkdir()
    orch = Orch(folder / name, {}, {"swarm": {"tracker": announce}})
    orch.want("m", weights.content, f"{url}/w.bin", to="store", **keys)
    orch.write()
    (model,) = manifest.parse(orch.manifest.read_text(), str(orch.manifest)).models
    entry = LockedFile(sha256(weights.content), SIZE, "manifest", sha1_pieces=weights.sha1_pieces)
    locked = LockedModel(fingerprint(model), {model.files[0].name: entry})
    (orch.folder / "team.lock.json").write_text(write(Lock({"m": locked})))
    return orch


def begin(orch: Orch, *words: str) -> subprocess.Popen[str]:
    return orch.start("sync", "--json", "--swarm", "team.yaml", *words)


def end(running: Sequence[subprocess.Popen[str]]) -> list[list[dict[str, Any]]]:
    """Wait for all; gives the events of each."""
    told = []
    for each in running:
        out, err = each.communicate(timeout=180)
        assert each.returncode == 0, out + err
        told.append([json.loads(line) for line in out.splitlines()])
    return told


def has(orch: Orch, weights: Weights) -> bool:
    blob = orch.blob(weights.content)
    return blob.read_bytes() == weights.content and oct(blob.stat().st_mode)[-3:] == "444"


def notices(events: Sequence[dict[str, Any]]) -> str:
    return "\n".join(event["message"] for event in events if event["event"] == "noticed")


def test_three_hosts_at_once_take_one_copy_from_the_origin_and_a_late_one_none(
    weights: Weights, tmp_path: Path
) -> None:
    with tracker(weights.torrent.info_hash) as announce, origin_process(weights.folder, *RATE) as origin:
        hosts = [host(tmp_path, f"h{n}", weights, origin.url, announce) for n in range(3)]
        events = end([begin(orch) for orch in hosts])
        assert all(has(orch, weights) for orch in hosts)
        assert all(told[-1]["fetched"] == 1 for told in events)
        for orch in hosts:
            assert not list((orch.store / "partial").glob("*"))
        seeder = hosts[0].start("seed", "team.yaml")
        try:
            assert seeder.stderr is not None
            line = seeder.stderr.readline()
            assert "seeding 1 file" in line, line + seeder.stderr.read()
            late = host(tmp_path, "late", weights, origin.url, announce)
            end([begin(late)])
            assert has(late, weights)
        finally:
            seeder.send_signal(signal.SIGTERM)
            seeder.communicate(timeout=30)
        assert seeder.returncode == 143
        assert has(hosts[0], weights)
    sent = int(str(origin.totals["sent"]))
    assert SIZE <= sent <= 1.3 * SIZE, sent / SIZE


def test_the_host_that_asks_the_origin_is_killed_and_the_next_one_takes_over(weights: Weights, tmp_path: Path) -> None:
    with tracker(weights.torrent.info_hash) as announce, origin_process(weights.folder, "--rate", "500000") as origin:
        hosts = [host(tmp_path, f"h{n}", weights, origin.url, announce) for n in range(3)]
        first = begin(hosts[0])
        assert first.stdout is not None
        started = time.monotonic()
        while not _partial_bytes(hosts[0]):  # it asks the origin by now
            assert time.monotonic() < started + 60
            time.sleep(0.05)
        others = [begin(orch) for orch in hosts[1:]]
        while not all(_partial_bytes(orch) for orch in hosts[1:]):  # they have something of it
            assert time.monotonic() < started + 60
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()  # aria2c ends with it
        first.communicate()
        events = end(others)
        assert all(has(orch, weights) for orch in hosts[1:])
        assert {e["source"] for told in events for e in told if e["event"] == "started"} == {announce}
        (told,) = end([begin(hosts[0])])  # with what the killed one left
        assert has(hosts[0], weights)
        assert told[-1]["bytes_reused"] >= MIB
    assert int(str(origin.totals["sent"])) <= 2.5 * SIZE


def _partial_bytes(orch: Orch) -> int:
    return sum(os.stat(path).st_blocks for path in (orch.store / "partial").glob("*/*/f"))


@pytest.mark.parametrize("way", ["dead", "closed", "no tracker"])
def test_without_a_tracker_that_helps_all_is_fetched_from_the_origin(
    weights: Weights, tmp_path: Path, way: str
) -> None:
    with origin_process(weights.folder) as origin, tracker() as closed:
        announce = {"dead": DEAD, "closed": closed, "no tracker": f"{origin.url}/w.bin"}[way]
        orch = host(tmp_path, "h", weights, origin.url, announce)
        (told,) = end([begin(orch)])
        assert has(orch, weights)
        words = {"dead": "does not answer", "closed": "not authorized", "no tracker": "is no tracker"}[way]
        assert words in notices(told)


def test_a_host_alone_whose_source_a_swarm_cannot_ask_leaves_and_downloads(weights: Weights, tmp_path: Path) -> None:
    with (
        tracker(weights.torrent.info_hash) as announce,
        origin_process(weights.folder, "--ranges", "ignored") as origin,
    ):
        orch = host(tmp_path, "h", weights, origin.url, announce)
        (events,) = end([begin(orch)])
        assert has(orch, weights)
        assert "no data was received" in notices(events)


def test_a_seed_sends_several_files_to_a_host_whose_sources_have_none(
    weights: Weights, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, content = tmp_path_factory.mktemp("more"), made(SIZE, 2)
    (folder / "w.bin").write_bytes(content)
    hashes = b"".join(hashlib.sha1(content[at : at + MIB]).digest() for at in range(0, SIZE, MIB))
    more = Weights(folder, content, Torrent(sha256(content), SIZE, MIB, hashes))
    with tracker(weights.torrent.info_hash, more.torrent.info_hash) as announce:
        with origin_process(weights.folder) as origin, origin_process(more.folder) as other:
            urls = {"m": (weights, origin.url), "n": (more, other.url)}
            hosts = [_host_of_two(tmp_path, name, urls, announce) for name in ("seeder", "late")]
            assert hosts[0].run("sync", "team.yaml").code == 0
        seeder = hosts[0].start("seed", "team.yaml")  # the origins are gone
        try:
            assert seeder.stderr is not None
            line = seeder.stderr.readline()
            assert "seeding 2 files" in line, line + seeder.stderr.read()
            (told,) = end([begin(hosts[1])])
            assert told[-1]["fetched"] == 2
            assert has(hosts[1], weights)
            assert has(hosts[1], more)
        finally:
            seeder.send_signal(signal.SIGTERM)
            seeder.communicate(timeout=30)
        assert not list((hosts[0].folder / "home").rglob("seed/*"))  # its links are gone


def _host_of_two(folder: Path, name: str, urls: dict[str, tuple[Weights, str]], announce: str) -> Orch:
    (folder / name).mkdir()
    orch = Orch(folder / name, {}, {"swarm": {"tracker": announce}})
    for model, (each, url) in urls.items():
        orch.want(model, each.content, f"{url}/w.bin", to="store")
    orch.write()
    locked = {}
    for parsed in manifest.parse(orch.manifest.read_text(), str(orch.manifest)).models:
        each = urls[parsed.name][0]
        entry = LockedFile(sha256(each.content), SIZE, "manifest", sha1_pieces=each.sha1_pieces)
        locked[parsed.name] = LockedModel(fingerprint(parsed), {parsed.files[0].name: entry})
    (orch.folder / "team.lock.json").write_text(write(Lock(locked)))
    return orch


def test_a_disk_that_gets_full_ends_it_with_what_came_kept(weights: Weights, tmp_path: Path) -> None:
    with (
        tracker(weights.torrent.info_hash) as announce,
        Origin(folder=weights.folder, rate=500_000) as origin,
        tmpfs(tmp_path / "small", "100m") as small,
    ):
        orch = host(tmp_path, "h", weights, origin.url, announce)
        orch.top["store"] = str(small / "store")
        running, began = begin(orch), time.monotonic()
        partials = small / "store" / "partial"
        while sum(os.stat(path).st_blocks * 512 for path in partials.glob("*/*/f")) < 8 * MIB:
            assert running.poll() is None
            assert time.monotonic() < began + 60
            time.sleep(0.05)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass
        out, err = running.communicate(timeout=120)
        summary = json.loads(out.splitlines()[-1])
        assert [(failed["fault"], "df -h" in failed["hint"]) for failed in summary["failed"]] == [("disk", True)], err
        filler.unlink()
        origin.serve("/w.bin", weights.folder / "w.bin", rate=None)
        (told,) = end([begin(orch)])
        assert told[-1]["bytes_reused"] >= 4 * MIB
        blob = small / "store" / "blobs" / "sha256" / sha256(weights.content)
        assert blob.read_bytes() == weights.content


def test_a_tracker_by_https_is_judged_by_the_ca_that_is_named(weights: Weights, tmp_path: Path) -> None:
    key, ca = tmp_path / "key.pem", tmp_path / "ca.pem"
    argv = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(ca), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*argv, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    with tracker(weights.torrent.info_hash) as plain, origin_process(weights.folder, *RATE) as origin:

        class Front(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with urllib.request.urlopen(plain + self.path.removeprefix("/announce"), timeout=10) as answer:
                    content = answer.read()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("localhost", 0), Front) as server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(ca, key)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            announce = f"https://localhost:{server.server_port}/announce"
            try:
                hosts = [host(tmp_path, f"h{n}", weights, origin.url, announce) for n in range(2)]
                for orch in hosts:
                    orch.environ["SSL_CERT_FILE"] = str(ca)
                events = end([begin(orch) for orch in hosts])
                assert all(has(orch, weights) for orch in hosts)
                assert {e["source"] for told in events for e in told if e["event"] == "started"} == {announce}
                stranger = host(tmp_path, "stranger", weights, origin.url, announce)
                (told,) = end([begin(stranger)])
                assert has(stranger, weights)
                assert "does not answer" in notices(told)
            finally:
                server.shutdown()
                thread.join()
    assert int(str(origin.totals["sent"])) < 2.5 * SIZE  # one copy of the two together, one of the stranger


def test_a_peer_with_wrong_bytes_is_dropped_and_the_origin_gives_the_right_ones(
    weights: Weights, tmp_path: Path
) -> None:
    aria2c = require("aria2c")
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / weights.torrent.name).write_bytes(bytes(SIZE))
    with tracker(weights.torrent.info_hash) as announce, origin_process(weights.folder) as origin:
        (lies / "t.torrent").write_bytes(weights.torrent.metainfo(announce))
        argv = [aria2c, "--no-conf=true", f"--dir={lies}", "--enable-dht=false", "--bt-seed-unverified=true"]
        argv += ["--seed-ratio=0.0", "--listen-port=20881-20999", f"--torrent-file={lies}/t.torrent"]
        liar = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            orch = host(tmp_path, "h", weights, origin.url, announce)
            end([begin(orch)])
            assert has(orch, weights)
            assert not (orch.store / "quarantine").exists() or not os.listdir(orch.store / "quarantine")
        finally:
            liar.kill()
            liar.wait()


def test_wrong_sha1_pieces_in_the_lock_end_in_quarantine_and_the_origin_serves(
    weights: Weights, tmp_path: Path
) -> None:
    """The torrent is of other bytes, which a peer has: the sha256 is the judge."""
    aria2c = require("aria2c")
    other = bytes(SIZE)
    hashes = hashlib.sha1(other[:MIB]).digest() * (SIZE // MIB)
    wrong = Weights(weights.folder, weights.content, Torrent(sha256(weights.content), SIZE, MIB, hashes))
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / wrong.torrent.name).write_bytes(other)
    with tracker(wrong.torrent.info_hash) as announce, origin_process(weights.folder) as origin:
        (lies / "t.torrent").write_bytes(wrong.torrent.metainfo(announce))
        argv = [aria2c, "--no-conf=true", f"--dir={lies}", "--enable-dht=false", "--bt-seed-unverified=true"]
        argv += ["--seed-ratio=0.0", "--listen-port=20881-20999", f"--torrent-file={lies}/t.torrent"]
        liar = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            orch = host(tmp_path, "h", wrong, origin.url, announce)
            (events,) = end([begin(orch)])
            assert has(orch, weights)
            assert [e["source"] for e in events if e["event"] == "mismatched"] == [announce]
        finally:
            liar.kill()
            liar.wait()


def test_what_is_not_for_everybody_and_what_has_no_sha1_pieces_is_fetched_as_ever(
    weights: Weights, tmp_path: Path
) -> None:
    with tracker(weights.torrent.info_hash) as announce, origin_process(weights.folder) as origin:
        private = host(tmp_path, "private", weights, origin.url, announce, share=False)
        unlocked = host(tmp_path, "unlocked", weights, origin.url, announce)
        (unlocked.folder / "team.lock.json").unlink()
        events = end([begin(private), begin(unlocked)])
        assert has(private, weights)
        assert has(unlocked, weights)
        for told, words in zip(events, ("`share: false`", "orch lock --pieces"), strict=True):
            assert words in notices(told)
            assert [e["source"] for e in told if e["event"] == "started"] == [f"{origin.url}/w.bin"]
        alone = host(tmp_path, "alone", weights, origin.url, announce)
        del alone.top["swarm"]
        done = alone.run("sync", "--swarm", "team.yaml")
        assert (done.code, "needs a tracker" in done.err) == (2, True)


OLD, MINE, YOUNG = (new_peer_id(1_000_000.0 + n) for n in range(3))


def election(**keys: Any) -> Election:
    return Election(MINE, **{"first": False, "seeds": True, "size": 100, "stall_s": 30.0, "seed_s": 30.0, **keys})


def test_the_first_asks_the_origin_and_the_others_only_where_nothing_comes() -> None:
    assert OLD < MINE < YOUNG
    assert len(MINE) == 20
    first = election(first=True)
    assert [first.look(t, 0, []) for t in (0.0, 0.4)] == ["feed", None]
    second = election()
    assert {second.look(t, 0, [Peer(OLD, False, False)]) for t in (0.0, 2.0, 9.0)} == {None}
    assert second.look(9.5, 0, []) == "feed"  # the first one is gone
    unmet = election()
    assert [unmet.look(t, 0, [Peer(YOUNG, True, False)]) for t in (0.0, 5.9, 6.1)] == [None, None, "feed"]
    unknown = election()
    assert [unknown.look(t, 0, []) for t in (0.0, 5.9, 6.1)] == [None, None, "feed"]
    back = election(first=True)  # where others have something already, bytes will come
    assert [back.look(t, 0, [Peer(YOUNG, True, False)]) for t in (0.0, 5.9, 6.1)] == [None, None, "feed"]
    served = election()
    assert {served.look(float(t), t, [Peer(OLD, True, False)]) for t in range(90)} == {None}
    assert [served.look(t, 89, [Peer(OLD, True, False)]) for t in (98.0, 99.1)] == [None, "feed"]
    assert served.look(130.0, 89, []) == "stalled"


def test_who_has_no_source_to_ask_leaves_soon_where_nobody_is_there_and_who_has_all_waits_for_those_who_lack() -> None:
    lonely = election(seeds=False)
    assert [lonely.look(t, 0, []) for t in (0.0, 2.0, 6.1)] == [None, None, "stalled"]
    done = election()
    assert done.look(0.0, 100, [Peer(OLD, True, False)]) is None
    assert done.look(5.0, 100, [Peer(OLD, True, False)]) is None
    assert [done.look(t, 100, [Peer(OLD, True, True)]) for t in (5.4, 5.6)] == [None, "done"]
    bounded = election()
    assert [bounded.look(t, 100, [Peer(OLD, True, False)]) for t in (0.0, 29.0, 30.0)] == [None, None, "done"]
    assert election(seed_s=0.0).look(0.0, 100, [Peer(OLD, True, False)]) == "done"
