"""PURE: BitTorrent version 1 (BEP 3) by aria2c: the torrent of a file, from its lock file, and its commands.

A torrent is named by the file's sha256 and is private (BEP 27): peers are told by its tracker and by nobody else.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from orchestrator.backends.base import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backends.base import Job

LEECH, SEED = "-OR0001-", "-OS0001-"  # how the ids of peers begin that are orch's: of `orch sync`, and of `orch seed`
MOST_PEERS = 55  # aria2's own default
_CLOSED = "http://127.0.0.1:1"  # tcpmux: only root could listen there


def bencode(value: int | str | bytes | Mapping[str, object]) -> bytes:
    """Encode a value as BEP 3 says; the keys of a dictionary are sorted."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    pairs = sorted((key.encode(), each) for key, each in value.items())
    return b"d%se" % b"".join(bencode(key) + bencode(each) for key, each in pairs)  # type: ignore[arg-type]


class Torrent(NamedTuple):
    """The torrent of one file: its sha256, its size and the length of a piece in bytes, the sha1 of all pieces."""

    sha256: str
    size: int
    piece_bytes: int
    hashes: bytes

    @property
    def name(self) -> str:
        """What the file is called in it; the info hash depends on it, so it is no user's."""
        return f"sha256-{self.sha256}"

    @property
    def _info(self) -> dict[str, object]:
        return {
            "length": self.size,
            "name": self.name,
            "piece length": self.piece_bytes,
            "pieces": self.hashes,
            "private": 1,
        }

    @property
    def info_hash(self) -> bytes:
        """What the tracker knows it by: 20 bytes."""
        return hashlib.sha1(bencode(self._info), usedforsecurity=False).digest()

    def metainfo(self, tracker: str) -> bytes:
        """The torrent file."""
        return bencode({"announce": tracker, "info": self._info})


def _common(ports: str) -> tuple[str, ...]:
    """No way to peers but the tracker, nothing obeyed that comes over the network, no word of a terminal."""
    return (
        "--no-netrc=true",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--enable-peer-exchange=false",
        "--bt-enable-lpd=false",
        "--follow-torrent=false",
        "--follow-metalink=false",
        "--bt-tracker-connect-timeout=3",
        "--bt-tracker-timeout=5",
        f"--listen-port={ports}",
        f"--bt-max-peers={MOST_PEERS}",
        "--seed-ratio=0.0",
        "--file-allocation=none",
        "--stderr=true",
        "--enable-color=false",
        "--show-console-readout=false",
        "--summary-interval=0",
        "--download-result=hide",
        "--check-certificate=true",
    )


def join_command(
    job: Job, torrent: Torrent, tracker: str, port: int, peer_id: str, rpc: tuple[int, str], seed_s: int
) -> Command:
    """Take part in the swarm of a file; web seeds are added later, by RPC.

    All pieces that are here are hashed first: the control file is not believed. aria2c cannot be told not to follow
    redirects, hence the closed proxy for all hosts but the tracker and the web seeds.

    Args:
        job: its one want has the path, and the web seeds as sources, of which only the hosts are told now.
        torrent: of the file.
        tracker: its announce URL.
        port: the one to listen on for peers.
        peer_id: 20 characters.
        rpc: the port on loopback, and the secret, which goes into a file of mode 0600.
        seed_s: how long it goes on by itself once the file is complete, in seconds.
    """
    (want,), (rpc_port, secret) = job.wants, rpc
    folder, _, name = want.path.rpartition("/")
    hosts = dict.fromkeys(urlsplit(url).hostname or "" for url in (tracker, *want.sources))
    conf = f"rpc-secret={secret}\nall-proxy={_CLOSED}\nno-proxy={','.join(hosts)}\n"
    argv = (
        "aria2c",
        f"--conf-path={job.folder}/swarm.conf",
        *_common(str(port)),
        "--console-log-level=notice",
        f"--dir={folder or '/'}",
        f"--index-out=1={name}",
        f"--peer-id-prefix={peer_id}",
        f"--seed-time={seed_s / 60:.2f}",  # minutes
        "--check-integrity=true",
        "--allow-overwrite=true",
        "--auto-save-interval=1",
        "--stream-piece-selector=random",  # two that fetch from one origin would fetch the same pieces
        f"--split={job.connections}",
        f"--max-connection-per-server={min(job.per_host or job.connections, 16)}",
        "--min-split-size=1M",
        "--max-tries=0",  # a web seed that fails for a moment is asked again
        "--retry-wait=2",
        "--connect-timeout=10",
        f"--timeout={job.timeout_s}",
        *((f"--max-overall-download-limit={job.rate}",) if job.rate is not None else ()),
        *((f"--max-overall-upload-limit={job.rate}",) if job.rate is not None else ()),
        *((f"--ca-certificate={job.ca}",) if job.ca is not None else ()),
        *((f"--user-agent={job.user_agent}",) if job.user_agent is not None else ()),
        "--enable-rpc=true",
        "--rpc-listen-all=false",
        f"--rpc-listen-port={rpc_port}",
        f"--torrent-file={job.folder}/swarm.torrent",
    )
    files = (("swarm.conf", conf.encode()), ("swarm.torrent", torrent.metainfo(tracker)))
    return Command(argv, files=files, env={"SSL_CERT_FILE": job.ca} if job.ca is not None else {})


def seed_command(
    folder: str, torrents: Sequence[tuple[Torrent, str]], ports: tuple[int, int], peer_id: str, ca: str | None
) -> Command:
    """Send whole files, which lie or are linked in `folder` under their torrents' names, until a signal ends it.

    `torrents` are these with the announce URLs of their trackers. The files are opened to be read only, and not hashed:
    who gets a piece checks it.
    """
    hosts = dict.fromkeys(urlsplit(tracker).hostname or "" for _, tracker in torrents)
    conf = f"all-proxy={_CLOSED}\nno-proxy={','.join(hosts)}\n"
    names = [f"{torrent.sha256}.torrent" for torrent, _ in torrents]
    argv = (
        "aria2c",
        f"--conf-path={folder}/seed.conf",
        *_common(f"{ports[0]}-{ports[1]}"),
        "--console-log-level=warn",
        f"--dir={folder}",
        f"--peer-id-prefix={peer_id}",
        "--bt-seed-unverified=true",
        f"--max-concurrent-downloads={len(torrents)}",
        *((f"--ca-certificate={ca}",) if ca is not None else ()),
        "--input-file=-",
    )
    files = [(name, torrent.metainfo(tracker)) for name, (torrent, tracker) in zip(names, torrents, strict=True)]
    stdin = "".join(f"{folder}/{name}\n" for name in names).encode()
    env = {"SSL_CERT_FILE": ca} if ca is not None else {}
    return Command(argv, stdin, (("seed.conf", conf.encode()), *files), env)
