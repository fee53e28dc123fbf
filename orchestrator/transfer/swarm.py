"""Download one large file together with other hosts: aria2c in a swarm, where one host asks the origin.

That host is the first that the tracker hears of. The id of a peer begins with the time at which it joined: where bytes
stop coming, the oldest that is there asks the origin. Whoever gets nothing for too long leaves, and fetches the file
by himself.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from orchestrator.backends import aria2c
from orchestrator.backends import torrent as torrents
from orchestrator.backends.base import Want
from orchestrator.errors import OrchError, Stopped
from orchestrator.events import Progressed, Started
from orchestrator.model import Role
from orchestrator.process import run_program
from orchestrator.sources.redirects import ForbiddenError, check_program_url
from orchestrator.sources.route import plain_connection
from orchestrator.sources.sharing import why_private
from orchestrator.transfer import attempt, disk_full
from orchestrator.transfer.child_bounds import child_bounds
from orchestrator.urls import host_of, split
from orchestrator.verify.pieces import decode_torrent, torrent_piece_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.backends.base import Exit, Job
    from orchestrator.backends.torrent import Torrent
    from orchestrator.context import Context
    from orchestrator.model import Artifact, Swarm, Wanted
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.sources.route import Route
    from orchestrator.store.partials import Partial
    from orchestrator.transfer.candidates import Candidates
    from orchestrator.transfer.rate_limit import Share
    from orchestrator.transfer.run_context import RunContext

LOOK_S = 0.4  # so often aria2c is asked while bytes come; at both ends as often as it is watched, each 0.2 s
MEET_S = 6.0  # peers have seen each other by then: aria2c's idle turns take a second, and three of them go by
ALONE_S = 4.0  # without a byte, and nobody there joined before: the web seeds are added
TURN_S = 10.0  # without a byte, for each peer that joined before and should have added them
QUIET_S = 0.5  # so long no peer has lacked a piece, before a complete file is left
TRACKER_S, GOODBYE_S = 3.0, 1.0
MOST_WEB_SEEDS = 4
_RPC_S = 2.0
_MOST_ANSWER = 1 << 20  # bytes: of the tracker's, and of aria2c's
_REASON = re.compile(rb"14:failure reason(\d+):(.*)", re.S)
_COUNTS = (re.compile(rb"8:completei(\d+)e"), re.compile(rb"10:incompletei(\d+)e"))
_TICKS = 16  # a second: the unit of the time in a peer's id


class NoSwarmError(OrchError):
    """A file cannot be fetched by a swarm; the message says why."""


def is_worth_it(artifact: Artifact) -> bool:
    """Whether a swarm is faster than a download: for a large file that no peer has by HTTP (`sources/peers.py`)."""
    is_large = torrent_piece_bytes(artifact.size or 0) is not None
    return is_large and not any(source.role is Role.PEER for source in artifact.sources)


def torrent_for(run: RunContext, artifact: Artifact) -> Torrent:
    """The torrent by which this machine may fetch an artifact, and give it to all who are in the swarm.

    Raises:
        NoSwarmError: it must not, or cannot.
    """
    if not run.can_run(aria2c.NAME):
        raise NoSwarmError("it needs aria2c, which cannot be used here")
    whys = (why_private(wanted, run.context.environ, run.hosts) for wanted in artifact.wanted)
    if why := next((why for why in whys if why), ""):
        raise NoSwarmError(f"{artifact.name} must not be shared ({why}); `share: true` in the manifest allows it")
    torrent = torrent_of(artifact)
    if torrent is None:
        raise NoSwarmError("the lock file has no sha1 pieces of some large files (`orch lock --pieces` writes them)")
    return torrent


def torrent_of(artifact: Artifact | Wanted) -> Torrent | None:
    """The torrent of an artifact; None where it is too small for a swarm, or its lock file has no sha1 pieces."""
    hashes = decode_torrent(artifact.sha1_pieces, artifact.size)
    length = torrent_piece_bytes(artifact.size or 0)
    if not hashes or artifact.size is None or length is None or not artifact.sha256:
        return None
    return torrents.Torrent(artifact.sha256, artifact.size, length, hashes)


def new_peer_id(now_s: float, kind: str = torrents.LEECH) -> str:
    """A peer's id (20 characters): of two with the same beginning the lower one joined first, by the hosts' clocks.

    The rest is random: a host name, or a pid, can be two containers' at once.
    """
    return f"{kind}{int(now_s * _TICKS) & 0xFFFFFFFFF:09x}{secrets.token_urlsafe(3)[:3]}"


class _Membership:
    """This host's place in a swarm: a port, a peer id, and what the tracker knows of it.

    Redirects of the tracker are not followed.
    """

    def __init__(self, context: Context, swarm: Swarm, route: Route, torrent: Torrent) -> None:
        self.peer_id = new_peer_id(context.now())
        self.port = 0
        self._context, self._url, self._route, self._torrent = context, swarm.tracker, route, torrent
        self._name, self._ports = split(swarm.tracker).authority, swarm.ports
        self._lock: socket.socket | None = None
        self._is_known = False

    def begin(self) -> bool:
        """Take a port and announce this host, which aria2c would do a second later.

        Returns:
            Whether it is the first that the tracker knows.

        Raises:
            NoSwarmError: no port is free; the tracker does not answer, refuses the torrent, or may not be asked.
            Stopped: a stop was asked for.
        """
        if self._route.proxy is not None:
            raise NoSwarmError(f"the tracker {self._name} would be asked through a proxy: name it in no_proxy")
        try:
            check_program_url(self._url, self._url, proxied=False, stop=self._context.stop)
        except ForbiddenError as error:
            raise NoSwarmError(f"the tracker {self._name} is not asked: {error}") from error
        self.port, self._lock = _take_port(self._ports)
        said = self._announce("started", TRACKER_S)
        self._is_known = True
        if not said.startswith(b"d"):
            raise NoSwarmError(f"{self._name} is no tracker")
        if (failure := _REASON.search(said)) is not None:
            reason = failure[2][: int(failure[1])].decode("utf-8", "replace")
            raise NoSwarmError(
                f"the tracker {self._name} refuses this file ({self._torrent.info_hash.hex()}): {reason}"
            )
        counts = [int(found[1]) for key in _COUNTS if (found := key.search(said)) is not None]
        return len(counts) == len(_COUNTS) and sum(counts) <= 1  # it counts this host too

    def end(self) -> None:
        """Tell the tracker that this host is gone, for which aria2c has not always the time, and free the port."""
        if self._is_known:
            with suppress(NoSwarmError):
                self._announce("stopped", GOODBYE_S)
        if self._lock is not None:
            self._lock.close()

    def _announce(self, event: str, timeout_s: float) -> bytes:
        """Ask the tracker as BEP 3 says, once.

        Raises:
            NoSwarmError: it does not answer.
        """
        from http.client import HTTPException

        connection = plain_connection(self._url, self._route.ca, timeout_s)
        path = self._url[self._url.index("/", 8) :] if "/" in self._url[8:] else "/"
        path += f"{'&' if '?' in path else '?'}info_hash={quote_from_bytes(self._torrent.info_hash, '')}"
        path += f"&peer_id={self.peer_id}&port={self.port}&uploaded=0&downloaded=0&left={self._torrent.size}"
        path += f"&compact=1&numwant=0&event={event}"
        try:
            connection.request("GET", path, headers={"User-Agent": self._route.user_agent})
            answer = connection.getresponse()
            content = answer.read(_MOST_ANSWER)
        except (OSError, HTTPException, ValueError) as error:
            raise NoSwarmError(f"the tracker {self._name} does not answer") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise NoSwarmError(f"the tracker {self._name} answers with {answer.status}")
        return content


def _take_port(ports: tuple[int, int]) -> tuple[int, socket.socket]:
    """Choose a port of these that is free.

    Returns:
        The port, and an abstract socket (unix(7)) named by it, which keeps all other orch of this machine from it
        until it is closed: aria2c takes the port a moment later.
    """
    first, last = ports
    start = secrets.randbelow(last - first + 1)
    for number in range(last - first + 1):
        port = first + (start + number) % (last - first + 1)
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0orch-swarm-{port}")
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", port))
        except OSError:
            lock.close()
            continue
        return port, lock
    raise NoSwarmError(f"none of the ports {first}-{last} is free (`swarm: {{ports: ...}}` names others)")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host of the swarm, as aria2c sees it: its id, whether it has pieces, and whether it has all."""

    id: str
    has_pieces: bool
    is_seeder: bool


class Election:
    """Decides when this host asks the origin, when it is done, and when it has waited too long. It reads no clock.

    `own` is this host's peer id, `first` says whether the tracker knew no other, `seeds` whether it has web seeds.
    """

    def __init__(self, own: str, *, first: bool, seeds: bool, size: int, stall_s: float, seed_s: float) -> None:
        self.feeds = False  # whether the web seeds were added
        self._own, self._first, self._seeds, self._size, self._stall_s, self._seed_s = (
            own,
            first,
            seeds,
            size,
            stall_s,
            seed_s,
        )
        self._began: float | None = None
        self._complete_since: float | None = None
        self._moved = self._needed = 0.0
        self._begun_with = self._have = 0  # the most that was here: what turns out wrong counts as here for a while

    def look(self, now: float, have: int, peers: Sequence[Peer]) -> str | None:
        """Say what to do at the time `now` (seconds), with `have` bytes here.

        Returns:
            "feed": add the web seeds; "done": the file is complete, and nobody needs us; "stalled": leave; None: wait.
        """
        if self._began is None:
            self._began = self._moved = now
            self._begun_with = self._have = have
        if have > self._have:
            self._have, self._moved = have, now
        if have >= self._size:
            return self._when_complete(now, peers)
        idle_s = now - self._moved
        if idle_s >= self._stall_s or (not self._seeds and not peers and idle_s >= MEET_S):
            return "stalled"
        if not self.feeds and self._seeds and self._is_turn(idle_s, peers):
            self.feeds, self._moved = True, now
            return "feed"
        return None

    def _is_turn(self, idle_s: float, peers: Sequence[Peer]) -> bool:
        is_fresh = self._have == self._begun_with
        if self._first and is_fresh and not any(peer.has_pieces for peer in peers):
            return True
        leeches = [p for p in peers if p.id.startswith(torrents.LEECH) and not p.is_seeder]
        if older := sum(p.id < self._own for p in leeches):
            return idle_s >= TURN_S * older
        # Over a slow line the pieces that others pass on come seconds apart.
        return idle_s >= (MEET_S if is_fresh or any(p.has_pieces for p in leeches) else ALONE_S)

    def _when_complete(self, now: float, peers: Sequence[Peer]) -> str | None:
        if self._complete_since is None:
            self._complete_since = self._needed = now
        if any(not p.is_seeder for p in peers):
            self._needed = now
        is_over = now - self._complete_since >= self._seed_s or now - self._needed >= min(QUIET_S, self._seed_s)
        return "done" if is_over else None


@dataclass(frozen=True, slots=True)
class Joining:
    """What joining a swarm needs.

    `job` has one want: the partial's file, and the web seeds as sources. `have_bytes` of the file are here; `share` is
    what it may take of a limit of bandwidth, and other rates (bytes a second; None: no limit) come into `rates`.
    """

    title: tuple[str, str]
    torrent: Torrent
    swarm: Swarm
    route: Route
    job: Job
    partial: Partial
    have_bytes: int
    share: Share | None
    rates: list[int | None]


def web_seeds(candidates: Candidates, swarm: Swarm, ask: Callable[[str], SourceAnswer | None]) -> list[str]:
    """Choose the sources that aria2c may ask beside its peers: in ranges, without a token, by the tracker's route.

    `ask` gives a source's answer, if it honours ranges and has the file.

    Raises:
        Stopped: a stop was asked for.
    """
    run, found, route = candidates.run, list[str](), candidates.route(swarm.tracker)
    for source in candidates.stats.order(candidates.artifact.sources):
        url, way = source.url, candidates.route(source.url)
        same_way = (way.proxy, way.ca, way.user_agent) == (None, route.ca, route.user_agent)
        if len(found) >= MOST_WEB_SEEDS or not url.startswith("http") or way.bearer is not None or not same_way:
            continue
        if host_of(url) in map(host_of, found) or url in candidates.on_disk.partial.info.condemned:
            continue
        if run.known is not None and run.known.health.is_closed(host_of(candidates.address(url))):
            continue
        answer = ask(url)
        if answer is None or answer.cookies or answer.bare or answer.encoding:
            continue
        address = candidates.address(url)
        if address.endswith("/"):
            continue  # to a folder aria2c adds the torrent's name
        try:
            attempt.judge_hosts(run, {url: address}, way)
        except (ForbiddenError, attempt.UnresolvedError):
            continue
        found.append(url)
    return found


def fetch(
    candidates: Candidates, torrent: Torrent, swarm: Swarm, limits: Mapping[str, int | None], ticket: int
) -> Exit:
    """Take part in a swarm with a partial, as `join`: note who gave its bytes, keep what aria2c says is here.

    Args:
        candidates: the artifact, its partial, and how its sources are reached.
        torrent: the artifact's.
        swarm: the tracker and the ports.
        limits: the web seeds, with how many connections the host of each may get.
        ticket: of the file, in the run's connection limits.

    Raises:
        NoSwarmError, HeldError, Stopped: as `join`.
        StoreError: the disk said no.
    """
    run, on_disk, tracker = candidates.run, candidates.on_disk, swarm.tracker
    partial, route = on_disk.partial, candidates.route(tracker)
    if on_disk.length() != torrent.size:
        raise NoSwarmError(
            f"all sources of {candidates.artifact.name} have a file of another size than the lock file says"
        )
    had, is_new = on_disk.good_bytes(), tracker not in partial.info.sources
    rates: list[int | None] = []
    try:
        with (
            run.connection_limits.shares(run.context, ticket, limits) as shares,
            run.rate_share(resumes=False, change=rates.append) as share,
        ):
            want = Want(tuple(candidates.address(url) for url in shares), partial.file, torrent.size, 0)
            job = attempt.make_job(
                run,
                route,
                (want,),
                partial.folder,
                connections=max(1, sum(shares.values())),
                per_host=max(shares.values(), default=1),
                piece_bytes=torrent.piece_bytes,
                rate=share.rate if share is not None else None,
            )
            job = attempt.hand_over(on_disk, aria2c, job)
            if is_new:
                partial.info.sources.append(tracker)  # on the disk before the first byte is
                partial.save_info()
            first = candidates.artifact.wanted[0]
            return join(run, Joining((first.model, first.file), torrent, swarm, route, job, partial, had, share, rates))
    except OSError as error:
        fault = disk_full.fault_of(error, partial.folder)
        raise disk_full.full(run.store, candidates.artifact.name, fault) from error
    finally:
        if state := partial.sidecar(aria2c.SIDECAR):  # it may claim less than before: what was here was hashed
            partial.keep_sidecar(state)
        if is_new and on_disk.good_bytes() <= had and tracker in partial.info.sources:
            partial.info.sources.remove(tracker)


def join(run: RunContext, joining: Joining) -> Exit:
    """Take part in a swarm until the file is complete and no peer lacks any of it, or nothing comes.

    Raises:
        NoSwarmError: there is no port, or no tracker that takes this host and the file.
        HeldError: another orch took the partial over.
        Stopped: a stop was asked for.
        OSError: the disk said no, or this machine has no descriptor, process or memory to spare.
    """
    job, torrent, swarm = joining.job, joining.torrent, joining.swarm
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        rpc = (sock.getsockname()[1], secrets.token_hex(16))
    member, options = _Membership(run.context, swarm, joining.route, torrent), run.options
    try:
        is_first = member.begin()
    except BaseException:
        member.end()
        raise
    seed_s = int(options.seed_time_s) + 60  # we end it
    command = torrents.join_command(job, torrent, swarm.tracker, member.port, member.peer_id, rpc, seed_s)
    program = run.programs["aria2c"].path
    shown = shlex.join((program, *command.argv[1:]))
    run.emit(Started(*joining.title, "aria2c", swarm.tracker, shown, joining.have_bytes, torrent.size))
    election = Election(
        member.peer_id,
        first=is_first,
        seeds=bool(job.wants[0].sources),
        size=torrent.size,
        stall_s=run.stall_s,
        seed_s=options.seed_time_s,
    )
    try:
        exit_ = run_program(
            command,
            program,
            stop=run.context.stop,
            folder=job.folder,
            environ=attempt.environment(run.context.environ),
            watch=_Watch(run, joining, election, _Rpc(*rpc)),
            keep_fd=joining.partial.guard_fd,
            bounds=child_bounds("aria2c", job, torrent.size),
        )
    finally:
        member.end()
    if attempt.unless_lost(exit_).ended == "stopped":
        raise Stopped("stopped while downloading")
    return exit_


class _Watch:
    """Watches aria2c some five times a second, asks it how things are, and does what the election says."""

    def __init__(self, run: RunContext, joining: Joining, election: Election, rpc: _Rpc) -> None:
        self._run, self._joining, self._election, self._rpc = run, joining, election, rpc
        self._clock = run.context.monotonic
        self._began = self._looked = self._clock()
        self._gid = ""
        self._is_flowing = False

    def __call__(self, _: int) -> str | None:
        """Do what is due; a word ends the program."""
        joining, now = self._joining, self._clock()
        if joining.partial.is_known_lost():
            return "lost"
        if self._is_flowing and now - self._looked < LOOK_S:
            return None
        self._looked = now
        self._gid = self._gid or self._first_gid()
        status = self._rpc("tellStatus", self._gid) if self._gid else None
        if not isinstance(status, dict):
            return "stalled" if now - self._began > self._run.stall_s else None  # it starts, or it ends
        if status.get("status") == "error":  # with its RPC on, aria2c does not end for that
            return "timeout"
        if "verifiedLength" in status or "verifyIntegrityPending" in status:  # it reads what is here
            self._began = now
            return None
        self._began = now
        have = int(status.get("completedLength", 0))
        self._run.emit(Progressed(*joining.title, min(have, joining.torrent.size), joining.torrent.size))
        self._is_flowing = 0 < have < joining.torrent.size
        todo = self._election.look(now, have, _peers(self._rpc("getPeers", self._gid)))
        if todo == "feed" and self._rpc("changeUri", self._gid, 1, [], list(joining.job.wants[0].sources)) is None:
            self._election.feeds = False
        if joining.share is not None:
            joining.share.must_yield()
            while joining.rates:
                names = ("max-overall-download-limit", "max-overall-upload-limit")
                self._rpc("changeGlobalOption", dict.fromkeys(names, str(joining.rates.pop(0) or 0)))
        if todo in ("done", "stalled"):
            self._rpc("forceRemove", self._gid)  # for a signal alone it tells the tracker first: up to 2 s
        return {"done": "yielded", "stalled": "stalled"}.get(todo or "")

    def _first_gid(self) -> str:
        found = self._rpc("tellActive", ["gid"]) or self._rpc("tellStopped", 0, 1, ["gid"])
        return str(found[0]["gid"]) if isinstance(found, list) and found else ""


def _peers(told: Any) -> list[Peer]:
    found = []
    for each in told if isinstance(told, list) else ():
        name = unquote_to_bytes(each.get("peerId", "")).decode("latin-1")
        has_pieces = bool(each.get("bitfield", "").strip("0"))
        found.append(Peer(name, has_pieces, each.get("seeder") == "true"))
    return found


class _Rpc:
    """aria2c's RPC on loopback; what is not answered is None."""

    def __init__(self, port: int, secret: str) -> None:
        self._port, self._secret = port, secret

    def __call__(self, method: str, *params: Any) -> Any:
        """Call a method of aria2's."""
        import http.client

        body = {"jsonrpc": "2.0", "id": "1", "method": f"aria2.{method}", "params": [f"token:{self._secret}", *params]}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_RPC_S)
        try:
            connection.request("POST", "/jsonrpc", json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read(_MOST_ANSWER)).get("result")
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            return None
        finally:
            connection.close()
