"""`python -m benchmarks.fleet`: many hosts of one origin; how often the bytes leave it, how long the last host takes.

All hosts are processes of this machine, each with a store, a local state and a port of its own on loopback. The origin
gives each connection 512 KiB/s, so one host gets 8 MiB/s: twice that, and what 8 hosts write and hash takes both of
two processors, which are the limit then. Only ratios within one run mean anything, and only on a quiet machine.
"""

# ruff: noqa: S603 - every command is made in this package

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import KIB, MIB, Corpus, make
from benchmarks.measure import LIMIT_S, BenchError, Place
from benchmarks.orch import manifest, program
from benchmarks.servers import find, nobody, origin
from orchestrator.backends.torrent import Torrent
from orchestrator.manifest import parse
from orchestrator.manifest.lockfile import Lock, LockedFile, LockedModel, fingerprint, write
from orchestrator.verify.pieces import Hasher, encode, piece_bytes, torrent_piece_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.servers import Server

RATE = 512 * KIB  # bytes a second of each connection
MOST_COPIES, MOST_WALL = 1.1, 1.15
DEAD_TRACKER = "http://127.0.0.1:1/announce"
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: `copies` is what left the origin, in sizes of the corpus; `wall_s` until the last host ended."""

    what: str
    copies: float
    wall_s: float
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Bed:
    """One scenario: an origin, and the hosts that sync from it below a folder."""

    folder: Path
    corpus: Corpus
    origin: Server

    def host(self, name: str, peers: Sequence[str] = ()) -> Place:
        """Make a host with a manifest, and a site file that names its peers."""
        place = Place(self.folder / name)
        (Path(place.env["HOME"]) / ".config").mkdir(parents=True)
        (Path(place.env["HOME"]) / ".config" / "orch.yaml").write_text(json.dumps({"peers": list(peers)}))
        manifest(place, self.corpus.files, self.origin.url)
        return place

    def sync(self, places: Sequence[Place], *flags: str) -> tuple[float, str]:
        """Sync hosts at once, and read every byte of each; the seconds until the last ended, and what orch said."""
        began = time.monotonic()
        running = [
            subprocess.Popen(
                [*program(), "sync", "--json", "team.yaml", *flags],
                cwd=place.folder,
                env=place.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for place in places
        ]
        said = [each.communicate(timeout=LIMIT_S)[0] for each in running]
        wall_s = time.monotonic() - began
        for each, text in zip(running, said, strict=True):
            if each.returncode != 0:
                raise BenchError(f"orch ended with {each.returncode}:\n{text[-2000:]}")
        for place in places:
            self.corpus.check(place.files)
        return wall_s, "".join(said)


@contextmanager
def bed(top: Path, corpus: Corpus) -> Iterator[Bed]:
    """An origin with an empty log, and a folder for hosts that is removed at the end."""
    folder = top / "hosts"
    folder.mkdir()
    try:
        with origin(corpus.folder, "--rate", str(RATE)) as server:
            yield Bed(folder, corpus, server)
    finally:
        shutil.rmtree(folder)


@contextmanager
def serving(place: Place, port: int, *flags: str) -> Iterator[None]:
    """`orch serve` of one host."""
    argv = [*program(), "serve", "--listen", f"127.0.0.1:{port}", *flags, "team.yaml"]
    with place.log.open("ab") as log:
        child = subprocess.Popen(argv, cwd=place.folder, env=place.env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _READY_S
        while not _answers(port):
            if child.poll() is not None or time.monotonic() > end:
                raise BenchError(f"orch serve did not start:\n{place.log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    with suppress(OSError, http.client.HTTPException):
        connection.request("HEAD", "/")
        return connection.getresponse().status == 404
    return False


def _ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def alone(bed: Bed, hosts: int) -> float:
    """So many hosts at once, and nobody helps."""
    return bed.sync([bed.host(f"host{n}") for n in range(hosts)])[0]


def two_waves(bed: Bed, hosts: int) -> float:
    """Each host serves its store and knows the others: one syncs, then all others at once; the second wave's time."""
    ports = _ports(hosts)
    with ExitStack() as stack:
        places = [bed.host(f"host{n}", [f"http://127.0.0.1:{port}" for port in ports]) for n in range(hosts)]
        for place, port in zip(places, ports, strict=True):
            stack.enter_context(serving(place, port))
        bed.sync(places[:1])
        return bed.sync(places[1:])[0]


def slice_cache(bed: Bed, hosts: int) -> float:
    """All hosts at once, through one cache."""
    (port,) = _ports(1)
    with serving(bed.host("cache"), port, "--cache", "slices", "--cache-size", "10G"):
        return bed.sync([bed.host(f"host{n}", [f"http://127.0.0.1:{port}"]) for n in range(hosts)])[0]


@contextmanager
def _relaying(bed: Bed, hosts: int) -> Iterator[list[Place]]:
    """Hosts that serve what they have and know each other, with pieces in their locks."""
    ports = _ports(hosts)
    with ExitStack() as stack:
        places = [bed.host(f"host{n}", [f"http://127.0.0.1:{port}" for port in ports]) for n in range(hosts)]
        for place, port in zip(places, ports, strict=True):
            _lock(bed, place)
            stack.enter_context(serving(place, port))
        yield places


def relay(bed: Bed, hosts: int) -> float:
    """All hosts at once; each serves what it has, and knows the others."""
    with _relaying(bed, hosts) as places:
        return bed.sync(places)[0]


def killed_giver(bed: Bed, hosts: int) -> float:
    """As the relay, and the first host is killed when half of the file has left the origin; the others' time."""
    with _relaying(bed, hosts) as places, _killed_half_way(bed, places[0]):
        time.sleep(1.0)
        return bed.sync(places[1:])[0]


@contextmanager
def _killed_half_way(bed: Bed, place: Place, *flags: str) -> Iterator[None]:
    """A host that syncs, and is killed when about half of the file has left the origin."""
    argv = [*program(), "sync", "--quiet", "team.yaml", *flags]
    child = subprocess.Popen(argv, cwd=place.folder, env=place.env)
    killer = threading.Timer(1.0 + bed.corpus.total / (16 * RATE) / 2, child.kill)
    killer.start()
    try:
        yield
    finally:
        killer.cancel()
        child.kill()
        child.wait(30)


def _with_peer(bed: Bed, *faults: str) -> float:
    """One host, and a peer that has the large file, and a fault."""
    large = max(bed.corpus.files, key=lambda file: file.size)
    folder = bed.folder / "peer" / "sha256"
    folder.mkdir(parents=True)
    os.link(bed.corpus.folder / large.name, folder / large.digest)
    with origin(folder.parent, *faults) as peer:
        wall_s, said = bed.sync([bed.host("host", [peer.url])], "--stall", "3s")
    wrong = [line for line in said.splitlines() if '"fault": "corrupt"' in line]
    if "--wrong" in faults and not any(peer.url in line and bed.origin.url not in line for line in wrong):
        raise BenchError(f"the liar was not named:\n{said[-3000:]}")
    return wall_s


def lying_peer(bed: Bed, _: int) -> float:
    """A peer that gives wrong bytes: it is named, and the origin serves."""
    return _with_peer(bed, "--wrong")


def stalling_peer(bed: Bed, _: int) -> float:
    """A peer that falls silent in each answer after 256 KiB."""
    return _with_peer(bed, "--stall-after", str(256 * KIB))


def dead_peer(bed: Bed, _: int) -> float:
    """A peer that refuses."""
    with nobody() as dead:
        return bed.sync([bed.host("host", [dead.url])])[0]


def _torrent(file: Path, digest: str) -> Torrent:
    length = torrent_piece_bytes(file.stat().st_size)
    if length is None:
        raise BenchError("the file is too small for a swarm")
    hasher = Hasher(length, torrent=True)
    with file.open("rb") as content:
        while block := content.read(MIB):
            hasher.update(block)
    return Torrent(digest, file.stat().st_size, length, b"".join(hasher.hashes()))


@contextmanager
def tracking(bed: Bed) -> Iterator[str]:
    """An opentracker that serves the corpus; gives its announce URL."""
    (file,) = bed.corpus.files
    folder = bed.folder / "tracker"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "white.txt").write_text(f"{_torrent(bed.corpus.folder / file.name, file.digest).info_hash.hex()}\n")
    (port,) = _ports(1)
    argv = [find("opentracker") or "", "-i", "127.0.0.1", "-p", str(port), "-P", str(port), "-d", str(folder)]
    argv += ["-w", "white.txt", *(["-u", "nobody"] if os.geteuid() == 0 else [])]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/announce"
    finally:
        child.terminate()
        child.wait(30)


def _lock(bed: Bed, place: Place) -> None:
    """Give a host a lock that has both kinds of pieces, as `orch lock --pieces` writes it."""
    (file,) = bed.corpus.files
    torrent, length = _torrent(bed.corpus.folder / file.name, file.digest), piece_bytes(file.size)
    if length is None:
        raise BenchError("the file is too small for pieces")
    hasher = Hasher(length)
    with (bed.corpus.folder / file.name).open("rb") as content:
        while block := content.read(MIB):
            hasher.update(block)
    pieces, sha1_pieces = encode(length, hasher.hashes()), encode(torrent.piece_bytes, [torrent.hashes])
    path = place.folder / "team.yaml"
    (model,) = parse(path.read_text(), str(path)).models
    entry = LockedFile(file.digest, file.size, pieces=pieces, sha1_pieces=sha1_pieces)
    lock = Lock({model.name: LockedModel(fingerprint(model), {model.files[0].name: entry})})
    (place.folder / "team.lock.json").write_text(write(lock))


def _swarmed(bed: Bed, hosts: int, announce: str) -> list[Place]:
    """Hosts with a lock and a tracker."""
    places = [bed.host(f"host{n}") for n in range(hosts)]
    for place in places:
        (place.folder / "team.yaml").open("a").write(f"swarm: {{tracker: '{announce}', ports: 20881-20999}}\n")
        _lock(bed, place)
    return places


def swarm(bed: Bed, hosts: int) -> float:
    """All hosts at once, in a swarm."""
    with tracking(bed) as announce:
        return bed.sync(_swarmed(bed, hosts, announce), "--swarm")[0]


def late_joiner(bed: Bed, hosts: int) -> float:
    """One host joins when all others are done, and one of them runs `orch seed`; the late one's time."""
    with tracking(bed) as announce:
        places = _swarmed(bed, hosts, announce)
        bed.sync(places[1:], "--swarm")
        seeder = places[1]
        argv = [*program(), "seed", "team.yaml"]
        with seeder.log.open("ab") as log:
            child = subprocess.Popen(argv, cwd=seeder.folder, env=seeder.env, stdout=log, stderr=log)
        try:
            return bed.sync(places[:1], "--swarm")[0]
        finally:
            child.terminate()
            child.wait(30)


def killed_seeder(bed: Bed, hosts: int) -> float:
    """The host that asks the origin is killed when half of the file has left it; the others' time."""
    with tracking(bed) as announce:
        places = _swarmed(bed, hosts, announce)
        with _killed_half_way(bed, places[0], "--swarm"):
            time.sleep(1.0)
            return bed.sync(places[1:], "--swarm")[0]


def dead_tracker(bed: Bed, hosts: int) -> float:
    """All hosts at once, and the tracker refuses connections."""
    return bed.sync(_swarmed(bed, hosts, DEAD_TRACKER), "--swarm")[0]


def measure(top: Path, corpus: Corpus, hosts: int, only: str = "") -> list[Row]:
    """Run all scenarios whose names the pattern `only` fits, each with an origin and stores of its own."""
    scenarios: list[tuple[str, Callable[[Bed, int], float], int, bool]] = [
        ("one host", alone, 1, False),
        (f"{hosts} hosts at once, no help", alone, hosts, False),
        (f"peers: one host, then {hosts - 1} at once", two_waves, hosts, True),
        (f"slice cache: {hosts} hosts at once", slice_cache, hosts, True),
        (f"relay: {hosts} hosts at once", relay, hosts, True),
        (f"relay: {hosts} hosts, the one that asks the origin is killed", killed_giver, hosts, False),
        (f"swarm: {hosts} hosts at once", swarm, hosts, True),
        (f"swarm: a host comes when {hosts - 1} are done (its time)", late_joiner, hosts, False),
        (f"swarm: {hosts} hosts, the one that asks the origin is killed", killed_seeder, hosts, False),
        (f"swarm: {hosts} hosts, the tracker is dead", dead_tracker, hosts, False),
        ("one host, its peer gives wrong bytes", lying_peer, 1, False),
        ("one host, its peer stalls", stalling_peer, 1, False),
        ("one host, its peer is dead", dead_peer, 1, False),
    ]
    rows = []
    for what, work, count, judged in scenarios:
        if re.search(only, what) is None:
            continue
        with bed(top, corpus) as here:
            wall_s = work(here, count)
        rows.append(Row(what, here.origin.totals["sent"] / corpus.total, wall_s, judged))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; walls as multiples of the first and the second row's.

    What is judged is judged by the first row: the origin's line, not the number of hosts, is to be the limit. One
    machine starts all hosts here, so the second row says how much of the rest is its processors'.
    """
    one, many = rows[0].wall_s, rows[min(1, len(rows) - 1)].wall_s
    lines = [
        "| what | copies from the origin | wall s | x one host | x all hosts, no help | reached |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        good = row.copies <= MOST_COPIES and row.wall_s <= MOST_WALL * one
        reached = ("yes" if good else "**no**") if row.judged else "—"
        walls = f"{row.wall_s:.1f} | {row.wall_s / one:.2f} | {row.wall_s / many:.2f}"
        lines.append(f"| {row.what} | {row.copies:.2f} | {walls} | {reached} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure hosts of one origin, on loopback."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=main.__doc__)
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="MiB of the one file (default: 256)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only rows whose names fit this")
    given = parser.parse_args(words)
    if lacking := [name for name in ("nginx", "aria2c", "opentracker") if not find(name)]:
        print(f"error: there is no {' and no '.join(lacking)} here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="orch-fleet-") as folder:
        top = Path(folder)
        top.chmod(0o755)  # as root, nginx's workers are nobody
        load = os.getloadavg()[0]
        corpus = make(top / "corpus", {"weights.bin": given.size * MIB})
        try:
            rows = measure(top, corpus, given.hosts, given.only)
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(table(rows))
    print(f"\nprocesses that ran or waited when it began (load average of a minute): {load:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
