"""Pass a file on while it is being downloaded: the part from its beginning that the lock file's piece hashes verify.

The host that has more gives (`Offer`), the host that has less takes (`fetch`), piece by piece; each judges all pieces
by its own lock. The web server between them is `orch serve`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator.backends import curl
from orchestrator.backends.base import Want
from orchestrator.errors import Stopped
from orchestrator.events import Failed, Progressed, Started
from orchestrator.faults import Kind
from orchestrator.limits import side_by_side
from orchestrator.model import Range
from orchestrator.sources.by_digest import url_by_digest, url_of_relay
from orchestrator.sources.redirects import ForbiddenError
from orchestrator.sources.route import plain_connection
from orchestrator.sources.sharing import why_private
from orchestrator.store import relay as published
from orchestrator.transfer import attempt
from orchestrator.transfer.holes import splice
from orchestrator.transfer.repair import Given
from orchestrator.verify.pieces import HASH_BYTES, decode
from orchestrator.verify.stream import first_hole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.model import Artifact
    from orchestrator.transfer.candidates import Candidates
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.run_context import RunContext
    from orchestrator.verify.pieces import Pieces

TELL_S = 1.0  # so often it is said how much is proven
PROVE_S = 0.1  # of each fifth of a second, for hashing: the program that downloads is watched between
LEAST_BYTES = 8 << 20  # a smaller file is here before anybody has asked twice
ASK_S = 0.5  # so often the giver is asked, while it has nothing new
ASK_AT_ONCE = 8
EACH_S = 0.1  # for each peer, where all are asked
TURN_S = 2.0  # so long a giver may have nothing new before all others are asked too
PATIENCE_S = 5.0  # without a byte anywhere
JUDGE_S, JUDGE_RATE = 10.0, 200e6  # for a whole file to be read, and flushed to the disk: bytes a second
SPREAD_S, MOST_SPREAD_S = 2.0, 15.0  # more at random for each peer, or all would go to the origin at once
MOST_FAILURES = 3  # of one peer: what it gave may have been complete by then, and was given otherwise a moment later
MOST_BYTES = 64 << 20  # of one request
TIMEOUT_S = 1.0
_MIB = 1 << 20
_MOST_ANSWER = 4096


class Offer:
    """What one download gives to others while it runs; does nothing where it may not, or cannot.

    It says at once when it began, by `mark`, before it asks anybody: of hosts that begin together each waits for those
    that began before it, by their clocks, and one waits for nobody.
    """

    def __init__(self, run: RunContext, artifact: Artifact, on_disk: PartialState) -> None:
        self._store, self._sha256, self._on_disk = run.store, artifact.sha256, on_disk
        self._clock = run.context.monotonic
        self._pieces: Pieces | None = None
        self._proven = 0
        self.mark = (run.context.now(), os.urandom(8).hex())
        self._told_s = 0.0
        self._retry_s = 0.0
        is_large = artifact.pieces and (artifact.size or 0) >= LEAST_BYTES and artifact.sha256
        if is_large and published.is_open(run.store) and not _is_private(run, artifact):
            self._pieces = decode(artifact.pieces, artifact.size)
            if self._pieces is not None:
                self._publish(self._pieces)

    def restart(self, missing: Sequence[Range] | None) -> None:
        """Prove nothing from the first of these ranges on: a program is about to write them."""
        if self._pieces is not None:
            self._proven, self._retry_s = min(self._proven, _front(missing, self._pieces)), 0.0
            self._publish(self._pieces)

    def look(self, _: int = 0) -> None:
        """Prove what has come since, for a moment, and say so once a second; for the watch of a program."""
        pieces, now = self._pieces, self._clock()
        if pieces is None:
            return
        if now >= self._retry_s:
            self._prove(pieces, now + PROVE_S)
        if now - self._told_s >= TELL_S:
            self._publish(pieces)

    def know(self, part: Range) -> None:
        """Take note that this range, which is here, is proven, and say so."""
        if self._pieces is not None and part.start <= self._proven < part.end:
            self._proven = part.end
            self._publish(self._pieces)

    def hold_back(self) -> None:
        """Give nothing while the whole file is judged, and say that it is here."""
        if self._pieces is not None:
            try:
                told = published.Told(self._pieces.size, 0, self._pieces.size, *self.mark)
                published.hold_back(self._store, self._sha256, told)
            except OSError:
                self.withdraw()

    def withdraw(self) -> None:
        """Give it no longer: it is whole in the store, or nobody is downloading it any more."""
        if self._pieces is not None:
            published.withdraw(self._store.relay, self._sha256)

    def _prove(self, pieces: Pieces, until_s: float) -> None:
        with suppress(OSError):
            fd = os.open(self._on_disk.partial.file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                end = first_hole(fd)
                while self._proven < pieces.size and self._clock() < until_s:
                    piece = pieces.range(self._proven // pieces.length)
                    if piece.end > end:
                        return
                    if not _is_right(fd, piece, piece.start, pieces):  # this file system may know no holes
                        self._retry_s = until_s + TELL_S
                        return
                    self._proven = piece.end
            finally:
                os.close(fd)

    def _publish(self, pieces: Pieces) -> None:
        path = self._on_disk.partial.file
        try:
            have = max(self._proven, min(os.lstat(path).st_blocks * 512, pieces.size))
        except OSError:
            have = 0
        try:
            told = published.Told(pieces.size, self._proven, have, *self.mark)
            published.publish(self._store, self._sha256, path, told)
        except OSError:  # no hard links here, a full disk, another user's folder: it is a help to others, no more
            self.withdraw()
            self._pieces = None
        self._told_s = self._clock()


def _is_private(run: RunContext, artifact: Artifact) -> bool:
    return any(why_private(wanted, run.context.environ, run.hosts) for wanted in artifact.wanted)


def _front(missing: Sequence[Range] | None, pieces: Pieces) -> int:
    """Where the first piece begins of which anything is missing (None: all of it)."""
    start = 0 if missing is None else missing[0].start if missing else pieces.size
    return start if start == pieces.size else start - start % pieces.length


def _is_right(fd: int, piece: Range, at: int, pieces: Pieces) -> bool:
    """Whether what an open file has from `at` on is this piece."""
    digest, left = hashlib.sha256(), piece.end - piece.start
    while left and (block := os.pread(fd, min(_MIB, left), at)):
        digest.update(block)
        at, left = at + len(block), left - len(block)
    return not left and digest.digest()[:HASH_BYTES] == pieces.hashes[piece.start // pieces.length]


class Relayed(NamedTuple):
    """What came from hosts that were downloading it, by whom; and the URLs where it is whole by now."""

    given: list[Given]
    whole: list[str]


def fetch(candidates: Candidates, offer: Offer) -> Relayed:
    """Fetch what peers that are still downloading a file have proven, as long as they get on.

    What came is in the partial, with a state of aria2c's that claims it; the sources have the rest.

    Raises:
        HeldError: another orch took the partial over.
        Stopped: a stop was asked for; the partial stays.
        OSError: the disk said no, or this machine has no descriptor, process or memory to spare.
    """
    pieces = decode(candidates.artifact.pieces, candidates.artifact.size)
    assert pieces is not None
    return _Taking(candidates, offer, pieces).run()


class _Taking:
    """One file that is taken from peers: who they are, what they said last, what came."""

    def __init__(self, candidates: Candidates, offer: Offer, pieces: Pieces) -> None:
        self._candidates, self._run, self._on_disk = candidates, candidates.run, candidates.on_disk
        self._offer, self._pieces, self._sha256 = offer, pieces, candidates.artifact.sha256
        first = candidates.artifact.wanted[0]
        self._title = (first.model, first.file)
        self._peers = [base for base in self._run.relays if base not in self._run.left_peers]
        self._told: dict[str, published.Told] = {}
        self._given: list[Given] = []
        self._whole: list[str] = []
        self._giver = ""
        self._failures: Counter[str] = Counter()

    def run(self) -> Relayed:
        clock, context = self._run.context.monotonic, self._run.context
        spread_s = context.jitter() * min(MOST_SPREAD_S, SPREAD_S * len(self._peers))
        moved_s = new_s = clock()
        was_told = False
        while self._peers and (front := _front(self._on_disk.missing(), self._pieces)) < self._pieces.size:
            self._check_on_us()
            self._offer.look()
            is_wide = not self._giver or clock() - new_s > TURN_S
            if self._ask(self._peers if is_wide else [self._giver], front):
                moved_s, was_told = clock(), True
            least = self._pieces.range(front // self._pieces.length).end
            ahead = [base for base in self._peers if base in self._told and self._told[base].proven >= least]
            if ahead:
                if self._giver not in ahead:
                    self._choose(ahead[int(context.jitter() * len(ahead)) % len(ahead)])
                if self._bring(self._part(front, self._told[self._giver].proven)):
                    moved_s = new_s = clock()
                elif context.sleep(ASK_S):
                    raise Stopped("stopped while downloading")
                continue
            if is_wide and not was_told:
                break
            if is_wide:
                self._whole = [url for base in self._peers if (url := self._has_whole(base))]
                if self._whole or clock() - moved_s > self._patience_s() + spread_s:
                    break
            if context.sleep(max(ASK_S, EACH_S * len(self._peers)) if is_wide else ASK_S):
                raise Stopped("stopped while downloading")
        return Relayed(self._given, self._whole)

    def _patience_s(self) -> float:
        """How long to wait for the peers that are there: longer for one that has all, and is judging it."""
        is_judged = any(told.have == told.size and not told.proven for told in self._told.values())
        return JUDGE_S + self._pieces.size / JUDGE_RATE if is_judged else PATIENCE_S if self._told else 0.0

    def _part(self, front: int, proven: int) -> Range:
        """What to ask for next: pieces from the front on, none of them whole already."""
        missing, end = self._on_disk.missing(), front
        while end < min(proven, front + MOST_BYTES):
            piece = self._pieces.range(end // self._pieces.length)
            is_lacking = missing is None or any(part.start < piece.end and piece.start < part.end for part in missing)
            if piece.end > proven or not is_lacking:
                break
            end = piece.end
        return Range(front, max(end, front))

    def _check_on_us(self) -> None:
        if self._run.context.stop.is_set():
            raise Stopped("stopped while downloading")
        attempt.refuse_lost(self._on_disk.partial)

    # Asking.

    def _ask(self, bases: Sequence[str], front: int) -> bool:
        """Ask peers how much they have; whether one that can help us has got on since it was asked last."""
        answers = dict(zip(bases, side_by_side(self._ask_one, bases, "orch-relay", ASK_AT_ONCE), strict=True))
        for base in self._run.left_peers.intersection(bases):
            self._leave(base)
        has_moved = False
        for base, told in answers.items():
            if told is None:
                self._told.pop(base, None)
            elif told != self._told.get(base):
                self._told[base] = told
                is_before_us = told.have > front or (told.since, told.id) < self._offer.mark
                has_moved = has_moved or is_before_us
            if base == self._giver and (told is None or told.proven < front):  # it is complete, or begins anew
                self._giver = ""
        return has_moved

    def _ask_one(self, base: str) -> published.Told | None:
        from http.client import HTTPException

        try:
            status, content = self._request(base, "GET", url_of_relay(base, self._sha256) + ".json")
            told = msgspec.json.decode(content, type=published.Told) if status == 200 else None
        except OSError:
            if base not in self._told:  # it is down: that costs a second once a run
                self._run.left_peers.add(base)
            return None
        except (HTTPException, ValueError):
            return None
        if told is None or told.size != self._pieces.size or told.proven > told.size:
            return None
        return told if told.id != self._offer.mark[1] else None  # ourselves, by one of our addresses

    def _has_whole(self, base: str) -> str:
        """The URL of the whole file at a peer; "" where it has none, or does not answer."""
        from http.client import HTTPException

        url = url_by_digest(base, self._sha256)
        try:
            return url if self._request(base, "HEAD", url)[0] == 200 else ""
        except (OSError, HTTPException, ValueError):
            return ""

    def _request(self, base: str, method: str, url: str) -> tuple[int, bytes]:
        route = self._candidates.route(base)
        connection = plain_connection(base, route.ca, TIMEOUT_S)
        try:
            connection.request(method, url[url.index("/", 8) :], headers={"User-Agent": route.user_agent})
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_ANSWER)
        finally:
            connection.close()

    def _leave(self, base: str) -> None:
        self._peers = [each for each in self._peers if each != base]
        self._told.pop(base, None)
        self._giver = "" if self._giver == base else self._giver

    # Taking.

    def _choose(self, base: str) -> None:
        self._giver, url = base, url_of_relay(base, self._sha256)
        program, have = self._run.programs[curl.NAME].path, self._on_disk.good_bytes()
        self._run.emit(Started(*self._title, curl.NAME, url, f"{program} {url}", have, self._pieces.size))
        if url not in self._on_disk.partial.info.sources:
            self._on_disk.partial.info.sources.append(url)  # on the disk before the first byte is
            self._on_disk.partial.save_info()

    def _bring(self, part: Range) -> bool:
        """Fetch pieces of the giver, judge them, keep the right ones; whether any came. A giver that fails is left."""
        base, partial, url = self._giver, self._on_disk.partial, url_of_relay(self._giver, self._sha256)
        path = f"{partial.folder}/relay"
        try:
            good, bad = self._take(path, part) if self._run_curl(url, part, path) else (part.start, None)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
        if good > part.start:
            self._given.append(Given(Range(part.start, good), curl.NAME, (url,)))
            self._offer.know(Range(part.start, good))
            self._run.emit(Progressed(*self._title, self._on_disk.good_bytes(), self._pieces.size))
        # A peer that began anew says so: what it said before is no lie.
        if bad is not None and (now := self._ask_one(base)) is not None and now.proven >= bad.end:
            self._run.left_peers.add(base)
            words = f"wrong bytes in the piece at {bad.start}: this peer is not asked again"
            self._run.emit(Failed(*self._title, curl.NAME, url, Kind.CORRUPT.value, words, self._on_disk.good_bytes()))
            self._leave(base)
        elif good < part.end:
            self._failures[base] += 1
            self._giver = ""
            if self._failures[base] >= MOST_FAILURES:
                self._leave(base)
        return good > part.start

    def _run_curl(self, url: str, part: Range, path: str) -> bool:
        """Fetch a range into a new file; false where nothing is fetched from there."""
        run, partial, route = self._run, self._on_disk.partial, self._candidates.route(url)
        try:
            resolved = attempt.judge_hosts(run, {url: url}, route)
        except (ForbiddenError, attempt.UnresolvedError):
            return False
        want = Want((url,), path, part.end - part.start, 0)
        with run.rate_share(resumes=False, between=True) as share:
            rate = share.look() if share is not None else None
            job = attempt.make_job(
                run, route, (want,), partial.folder, connections=1, resolved=resolved, rate=rate, part=part
            )
            launch = attempt.Launch(
                backend=curl,
                job=job,
                title=self._title,
                sources=(url,),
                have_bytes=self._on_disk.good_bytes(),
                size_bytes=self._pieces.size,
                folder=partial,
            )
            stall_s = PATIENCE_S if rate is None else max(PATIENCE_S, run.stall_s)
            exit_ = attempt.start(run, launch, lambda _: None, is_told=False, stall_s=stall_s)
        if exit_.ended == "stopped":
            raise Stopped("stopped while downloading")
        return True

    def _take(self, path: str, part: Range) -> tuple[int, Range | None]:
        """Copy the right pieces of a fetched range into the partial; where they end, and the first wrong one."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return part.start, None
        good, bad = part.start, None
        try:
            size = os.fstat(source).st_size
            for index in range(part.start // self._pieces.length, -(-part.end // self._pieces.length)):
                piece = self._pieces.range(index)
                if piece.end - part.start > size:
                    break
                if not _is_right(source, piece, piece.start - part.start, self._pieces):
                    bad = piece
                    break
                good = piece.end
            if good > part.start:
                splice(self._on_disk, source, Range(part.start, good), self._pieces.size, self._pieces.length)
        finally:
            os.close(source)
        return good, bad
