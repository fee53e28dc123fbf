"""One attempt: look at the source, hand the partial over, run the program, read what it left."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.backends import by_name
from orchestrator.backends.base import Job, Trait, Want
from orchestrator.errors import Stopped
from orchestrator.events import Started
from orchestrator.faults import Fault, Kind, Remedy
from orchestrator.files import reason
from orchestrator.process import run
from orchestrator.sources.ranking import FASTER
from orchestrator.transfer.connections import USUAL_RATE, mending_bytes, piece_bytes
from orchestrator.transfer.monitor import Pace, Watch, measure, sharpen
from orchestrator.transfer.partial import total
from orchestrator.transfer.repair import given
from orchestrator.transfer.revalidate import ONE_VERSION_HINT, compare, glance
from orchestrator.transfer.shown import shown_command
from orchestrator.transfer.state import MENDED
from orchestrator.urls import host_of
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, end_of_file, first_hole, is_clear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backends.base import Backend, Exit
    from orchestrator.sources.http import Look
    from orchestrator.transfer.partial import Holding
    from orchestrator.transfer.state import Effort


LOOK_BYTES = 8 << 20  # a larger file is worth a round trip: its ETag guards every later resume
SPLIT_BYTES = 1 << 20  # a larger file is asked for in several ranges at once: are they honoured?
_BY_ASKING = (Kind.CORRUPT, Kind.UNRESUMABLE, Kind.REFUSED)
AXEL_BYTES_PER_S = 256 << 10  # axel never gives up by itself: its time limit, as the rate that we would wait for
STREAM_BYTES = 4 << 20  # below this a check afterwards is as quick
FULL_BYTES = 1 << 20


def try_once(effort: Effort, backend_name: str, source: str) -> Fault | None:
    """Run one backend on one source once.

    Returns:
        The fault, or None where the partial is complete by the program's own word, which is still to be proved.

    Raises:
        Stopped: a stop was asked for; the partial stays.
    """
    backend = by_name(backend_name)
    assert backend is not None
    was_empty = effort.holding.good_bytes() == 0
    fault = _attempt(effort, backend, source)
    if was_empty and _was_ours(effort, source, fault):
        return _attempt(effort, backend, source)
    return fault


def _attempt(effort: Effort, backend: Backend, source: str) -> Fault | None:
    holding, blind = effort.holding, effort.artifact.is_blind
    resumes = holding.good_bytes() > 0
    if source in effort.met or _must_look(effort, backend, source, resumes=resumes):
        seen = _look(effort, source)
        if isinstance(seen, Fault):
            return seen
        if blind and resumes and not effort.is_proven(source, seen) and not source.startswith(MENDED):
            effort.empty()  # nothing tells whether what is here and what would come are of one version
            resumes = False
        if seen is not None and (fault := compare(effort, source, seen, resumes=resumes)):
            return fault
        if seen is not None and seen.bare:
            effort.bare.add(source)
        if seen is not None and seen.chunked and Trait.CHUNKED not in backend.TRAITS:
            return Fault(Kind.REFUSED, f"{backend.NAME} would write the chunks' headers into the file")
    if blind and backend.NAME == "axel" and effort.wants_one_answer(source):
        return Fault(Kind.REFUSED, "axel joins several answers, which may be of two versions", hint=ONE_VERSION_HINT)
    if blind:  # on the disk before the first byte is: a killed run must not leave bytes of nobody
        holding.partial.info.sources = [source]
    try:
        with ExitStack() as stack:
            shares = take_connections(effort, stack, (source, *companions(effort, backend, source)))
            job = hand_over(holding, backend, _job(effort, shares))
            before, missing = holding.good_bytes(), holding.missing()
            effort.stream = _begin_stream(effort, backend, job)
            exit_ = _run(effort, backend, job, tuple(shares), before)
            if effort.stream is not None:
                state = (holding.length() or 0) // (8 * job.piece_bytes) if backend.SIDECAR else 0
                effort.stream.account(exit_, state_bytes=state)
            if effort.mends and missing is not None:
                effort.given += given(missing, holding.missing() or (), backend.NAME, tuple(shares))
        return _read_end(effort, backend, job, exit_, tuple(shares), before)
    except OSError as error:
        where = error.filename or holding.partial.folder
        return Fault(Kind.DISK, f"{where}: {reason(error)}", errno=error.errno or 0)


def _was_ours(effort: Effort, source: str, fault: Fault | None) -> bool:
    """Whether an attempt from the first byte failed by the way it asked, so that the same program should ask anew.

    The server answers a range wrongly and all of the file rightly; or `size:` is wrong, and no file too long for it.
    """
    is_odd = effort.holding.is_too_long() if fault is None else fault.kind in _BY_ASKING or fault.status == 500
    if not is_odd or not source.startswith("http") or effort.wants_one_answer(source):
        return False
    seen = glance(effort, source)
    if seen is None or isinstance(seen, Fault):
        return False
    if seen.bare:
        effort.bare.add(source)
        effort.drop_stream()
        effort.empty()
        return True
    expected = effort.artifact.size
    if compare(effort, source, seen, resumes=False) is not None or effort.artifact.size == expected:
        return False
    effort.drop_stream()
    return not effort.holding.is_complete()


def _must_look(effort: Effort, backend: Backend, source: str, *, resumes: bool) -> bool:
    least = SPLIT_BYTES if Trait.SEGMENTS in backend.TRAITS else LOOK_BYTES
    large = (effort.holding.length() or least) >= least
    blind = effort.artifact.is_blind
    return resumes or blind or source in effort.doubted or backend.NAME == "axel" or large


def _look(effort: Effort, source: str) -> Look | Fault | None:
    """Look at a source; what was seen when its program was chosen counts once."""
    first = effort.met.get(source)
    if first is None:
        return glance(effort, source)
    effort.met[source] = None
    return first


def _job(effort: Effort, shares: dict[str, int]) -> Job:
    """The job for one source, or for several at once; `shares` are the connections that each may have."""
    source = next(iter(shares))
    way, kit, partial = effort.reach(effort.address(source)), effort.kit, effort.holding.partial
    length, connections = effort.holding.length(), sum(shares.values())
    look = effort.looks.get(source)
    one = effort.wants_one_answer(source)
    if one or (look is not None and not look.ranges):
        connections = 1  # aria2c with several would end with exit 8 on a server that ignores Range (1.36, Metalink)
        if look is not None and look.length is None and not effort.holding.good_bytes():
            length = None  # nor does it take a file whose length the server does not tell where we tell it
    trip_s = max((effort.looks[url].round_trip_s for url in shares if url in effort.looks), default=0.0)
    rate = effort.known.rate(source, 1) or USUAL_RATE
    piece, in_order = piece_bytes(length, connections, trip_s, rate)
    if partial.info.mended and (pieces := decode(effort.artifact.pieces, effort.artifact.size)):
        piece, in_order = mending_bytes(total(effort.holding.missing() or ()), connections, pieces.length), True
    return Job(
        wants=(Want(tuple(effort.address(url) for url in shares), partial.file, length, 0),),
        folder=partial.folder,
        connections=connections,
        per_host=max(shares.values()) if len(shares) > 1 else None,
        piece_bytes=piece,
        in_order=in_order,
        timeout_s=max(4, int(kit.stall_s)),
        ca=way.ca,
        proxy=way.proxy,
        user_agent=way.user_agent,
        bearer=effort.bearer(source),
        ipv4_only=any(effort.looks[url].ipv4_only for url in shares if url in effort.looks),
        bare=one,
    )


def _begin_stream(effort: Effort, backend: Backend, job: Job) -> Stream | None:
    """Start the judge behind the download, where the file grows in a way that lets it follow."""
    holding, kit, sha256 = effort.holding, effort.kit, effort.artifact.sha256
    length, missing = holding.length(), holding.missing()
    if length is None or length < STREAM_BYTES or kit.judge is None or not sha256 or missing is None:
        return None
    if Trait.APPENDS not in backend.TRAITS or (backend.SIDECAR and not job.in_order):
        return None
    if not is_clear(holding.partial.file, missing):
        return None
    prefix = first_hole if Trait.IN_ORDER in backend.TRAITS else end_of_file
    try:
        return Stream(kit.world, kit.judge, sha256, holding.partial.file, prefix, total(missing), kit.stall_s)
    except OSError:  # no descriptor or thread to spare: the plain check says
        return None


def _run(effort: Effort, backend: Backend, job: Job, givers: tuple[str, ...], before: int) -> Exit:
    kit, holding, source = effort.kit, effort.holding, givers[0]
    command, program = backend.command(job), kit.programs[backend.NAME].path
    hidden = {effort.address(url) for url in givers} - set(givers)
    shown = shown_command(backend, job, program, hidden)
    kit.emit(Started(*effort.talk, backend.NAME, source, shown, before, holding.length(), givers[1:]))
    limit_s = 60 + (holding.length() or 0) / AXEL_BYTES_PER_S if backend.NAME == "axel" else None
    with effort.known.transferring():
        return run(
            command,
            program,
            stop=kit.world.stop,
            folder=job.folder,
            environ=environment(kit.world.environ),
            watch=Pace(effort, backend, job, source, before, Watch(effort, backend, before)),
            stall_s=kit.stall_s,
            limit_s=limit_s,
            keep_fd=holding.partial.guard_fd,
        )


def _read_end(
    effort: Effort, backend: Backend, job: Job, exit_: Exit, givers: tuple[str, ...], before: int
) -> Fault | None:
    """Book what the program left, and say why it ended; exit 0 with bytes missing is not done."""
    holding, source = effort.holding, givers[0]
    partial, length = holding.partial, holding.length()
    holding.ended_well = exit_.code == 0 and exit_.ended == "itself"
    after, complete = holding.good_bytes(), holding.is_complete()
    landed = max(0, (partial.have if complete else after) - before)
    if not complete and length is not None:
        landed = max(landed, min(exit_.written_bytes, length - before))
    effort.bytes_fetched += landed
    measure(effort, job, backend, exit_, landed)
    # A program may end before its bytes were counted, and leave a file that is too long to be claimed.
    if (landed or partial.have > job.wants[0].have or length == 0) and not set(givers) <= set(partial.info.sources):
        partial.info.sources += [url for url in givers if url not in partial.info.sources]
        partial.save_info()
    effort.emit_progress(after)
    if exit_.ended == "stopped":
        raise Stopped("stopped; the partial is kept")
    fault = sharpen(effort, source, backend.diagnose(job, exit_), landed, lambda: glance(effort, source))
    if fault is not None:
        return replace(fault, message=effort.masked(fault.message))
    if complete:
        return None
    return _explain_short(effort, source)


def _explain_short(effort: Effort, source: str) -> Fault | None:
    """Why a program claimed success and bytes are missing: a full disk, another file, or a line that was cut."""
    status = os.statvfs(effort.holding.partial.folder)
    if status.f_bavail * status.f_frsize < FULL_BYTES:
        return Fault(Kind.DISK, "the disk is full")
    seen = glance(effort, source)
    if isinstance(seen, Fault):
        return seen
    other = compare(effort, source, seen, resumes=False) if seen is not None else None
    if other is None and effort.holding.is_complete():
        return None  # `size:` was wrong
    if other is None and seen is not None and seen.encoding:
        other = Fault(Kind.CORRUPT, f"the server compresses the file on its way ({seen.encoding})")
    if other is None and seen is not None and seen.bare and source not in effort.bare:
        return Fault(Kind.UNRESUMABLE, "the server answers ranges wrongly")
    if other is None:
        return Fault(Kind.NETWORK, "ended early: bytes are missing")
    if other.remedy is Remedy.AFRESH or not os.path.exists(effort.holding.partial.file):
        return other
    return effort.banish()  # what it sent is no part of the file: nothing may be appended to it


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of our environment: no proxies, no secrets, no locale."""
    return {key: environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in environ}


def hand_over(holding: Holding, backend: Backend, job: Job) -> Job:
    """Leave the partial as `backend` wants it, with no good byte lost that it can keep, and no foreign sidecar.

    Returns:
        The job, with the size of the file that it starts from.

    Raises:
        OSError: the disk said no.
    """
    partial, state = holding.partial, None
    missing, good = holding.missing(), holding.good_bytes()
    if missing is None:
        # Nobody knows the length: only a true prefix can be gone on from, and only by a program that appends.
        if good == 0 or backend.SIDECAR is not None:
            partial.empty()
    else:
        state = backend.sidecar(job, missing) if good else None
        if good == 0 and os.path.lexists(partial.file):
            os.unlink(partial.file)
        elif state is None and missing and partial.have > missing[0].start:
            os.truncate(partial.file, missing[0].start)
    partial.change_writer(backend.NAME, job.piece_bytes, backend.SIDECAR, state)
    return replace(job, wants=(replace(job.wants[0], have=partial.have),))


SHARED_BYTES = 64 << 20  # below this one source is done before a second one has been looked at
MOST_COMPANIONS = 3


def companions(effort: Effort, backend: Backend, source: str) -> tuple[str, ...]:
    """Other sources that may serve the same large file at the same time: looked at, as long, and nearly as fast.

    Only while nothing failed: a mixed file that turns out wrong condemns nobody by itself, so after any fault the
    sources go one by one.
    """
    length = effort.holding.length()
    if effort.bearer(source) is not None:
        return ()  # a token is for one host
    if effort.attempts or effort.must_go_alone or length is None or length < SHARED_BYTES:
        return ()
    if not {Trait.MIRRORS, Trait.IN_ORDER} <= backend.TRAITS or source not in effort.looks:
        return ()
    own, way, found = effort.known.rate(source, 1) or 0.0, effort.reach(source), [source]
    for other in effort.artifact.sources:
        if other.url in effort.holding.partial.info.condemned:
            continue
        rate, theirs = effort.known.rate(other.url, 1), effort.reach(other.url)
        same_way = (theirs.proxy, theirs.ca, theirs.user_agent) == (way.proxy, way.ca, way.user_agent)
        if len(found) > MOST_COMPANIONS or rate is None or rate * FASTER < own or not same_way:
            continue
        if host_of(other.url) in map(host_of, found) or not any(
            c.backend is backend and not c.obstacle for c in effort.choices(other.url)
        ):
            continue
        seen = glance(effort, other.url)
        if (
            seen is None
            or isinstance(seen, Fault)
            or not seen.ranges
            or effort.bearer(other.url) is not None
            or compare(effort, other.url, seen, resumes=False)
        ):
            continue
        found.append(other.url)
    return tuple(found[1:])


def take_connections(effort: Effort, stack: ExitStack, sources: Sequence[str]) -> dict[str, int]:
    """Take each source's connections: the first waits for some, the others join only where some are free."""
    budget, shares = effort.kit.budget, dict[str, int]()
    for place, url in enumerate(sources):
        limit = effort.reach(url).connections
        taken = budget.connections(effort.kit.world, host_of(url), effort.ticket, limit, wait=place == 0)
        if number := stack.enter_context(taken):
            shares[url] = number
    return shares
