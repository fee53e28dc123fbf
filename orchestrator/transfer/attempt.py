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
from orchestrator.process import run_program
from orchestrator.sources.ranking import FASTER
from orchestrator.transfer.connections import USUAL_RATE, piece_bytes, repair_piece_bytes
from orchestrator.transfer.masking import shown_command
from orchestrator.transfer.monitor import Monitor, SpeedMonitor, measure, refine_fault
from orchestrator.transfer.partial import total
from orchestrator.transfer.repair import given
from orchestrator.transfer.revalidate import ONE_VERSION_HINT, compare, revalidate
from orchestrator.transfer.state import MENDED
from orchestrator.urls import host_of
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, end_of_file, first_hole, is_clear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backends.base import Backend, Exit
    from orchestrator.sources.http import SourceAnswer
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.state import Download


LOOK_BYTES = 8 << 20  # a larger file is worth a round trip: its ETag guards every later resume
SPLIT_BYTES = 1 << 20  # a larger file is asked for in several ranges at once: are they honoured?
_BY_ASKING = (Kind.CORRUPT, Kind.UNRESUMABLE, Kind.REFUSED)
AXEL_BYTES_PER_S = 256 << 10  # axel never gives up by itself: its time limit, as the rate that we would wait for
STREAM_BYTES = 4 << 20  # below this a check afterwards is as quick
FULL_BYTES = 1 << 20


def try_once(download: Download, backend_name: str, source: str) -> Fault | None:
    """Run one backend on one source once.

    Returns:
        The fault, or None where the partial is complete by the program's own word, which is still to be proved.

    Raises:
        Stopped: a stop was asked for; the partial stays.
    """
    backend = by_name(backend_name)
    assert backend is not None
    was_empty = download.on_disk.good_bytes() == 0
    fault = _attempt(download, backend, source)
    if was_empty and _was_ours(download, source, fault):
        return _attempt(download, backend, source)
    return fault


def _attempt(download: Download, backend: Backend, source: str) -> Fault | None:
    on_disk, blind = download.on_disk, download.artifact.is_unpinned
    resumes = on_disk.good_bytes() > 0
    if source in download.first_probe or _must_look(download, backend, source, resumes=resumes):
        seen = _look(download, source)
        if isinstance(seen, Fault):
            return seen
        if blind and resumes and not download.is_proven(source, seen) and not source.startswith(MENDED):
            download.empty()  # nothing tells whether what is here and what would come are of one version
            resumes = False
        if seen is not None and (fault := compare(download, source, seen, resumes=resumes)):
            return fault
        if seen is not None and seen.bare:
            download.bare.add(source)
        if seen is not None and seen.chunked and Trait.CHUNKED not in backend.TRAITS:
            return Fault(Kind.REFUSED, f"{backend.NAME} would write the chunks' headers into the file")
    if blind and backend.NAME == "axel" and download.wants_one_answer(source):
        return Fault(Kind.REFUSED, "axel joins several answers, which may be of two versions", hint=ONE_VERSION_HINT)
    if blind:  # on the disk before the first byte is: a killed run must not leave bytes of nobody
        on_disk.partial.info.sources = [source]
    try:
        with ExitStack() as stack:
            shares = take_connections(download, stack, (source, *companions(download, backend, source)))
            job = hand_over(on_disk, backend, _job(download, shares))
            before, missing = on_disk.good_bytes(), on_disk.missing()
            download.stream = _begin_stream(download, backend, job)
            exit_ = _run(download, backend, job, tuple(shares), before)
            if download.stream is not None:
                state = (on_disk.length() or 0) // (8 * job.piece_bytes) if backend.SIDECAR else 0
                download.stream.account(exit_, state_bytes=state)
            if download.has_pieces and missing is not None:
                download.given += given(missing, on_disk.missing() or (), backend.NAME, tuple(shares))
        return _read_end(download, backend, job, exit_, tuple(shares), before)
    except OSError as error:
        where = error.filename or on_disk.partial.folder
        return Fault(Kind.DISK, f"{where}: {reason(error)}", errno=error.errno or 0)


def _was_ours(download: Download, source: str, fault: Fault | None) -> bool:
    """Whether an attempt from the first byte failed by the way it asked, so that the same program should ask anew.

    The server answers a range wrongly and all of the file rightly; or `size:` is wrong, and no file too long for it.
    """
    is_odd = download.on_disk.is_too_long() if fault is None else fault.kind in _BY_ASKING or fault.status == 500
    if not is_odd or not source.startswith("http") or download.wants_one_answer(source):
        return False
    seen = revalidate(download, source)
    if seen is None or isinstance(seen, Fault):
        return False
    if seen.bare:
        download.bare.add(source)
        download.drop_stream()
        download.empty()
        return True
    expected = download.artifact.size
    if compare(download, source, seen, resumes=False) is not None or download.artifact.size == expected:
        return False
    download.drop_stream()
    return not download.on_disk.is_complete()


def _must_look(download: Download, backend: Backend, source: str, *, resumes: bool) -> bool:
    least = SPLIT_BYTES if Trait.SEGMENTS in backend.TRAITS else LOOK_BYTES
    large = (download.on_disk.length() or least) >= least
    blind = download.artifact.is_unpinned
    return resumes or blind or source in download.suspect or backend.NAME == "axel" or large


def _look(download: Download, source: str) -> SourceAnswer | Fault | None:
    """Look at a source; what was seen when its program was chosen counts once."""
    first = download.first_probe.get(source)
    if first is None:
        return revalidate(download, source)
    download.first_probe[source] = None
    return first


def _job(download: Download, shares: dict[str, int]) -> Job:
    """The job for one source, or for several at once; `shares` are the connections that each may have."""
    source = next(iter(shares))
    way, run, partial = download.route(download.address(source)), download.run, download.on_disk.partial
    length, connections = download.on_disk.length(), sum(shares.values())
    look = download.looks.get(source)
    one = download.wants_one_answer(source)
    if one or (look is not None and not look.ranges):
        connections = 1  # aria2c with several would end with exit 8 on a server that ignores Range (1.36, Metalink)
        if look is not None and look.length is None and not download.on_disk.good_bytes():
            length = None  # nor does it take a file whose length the server does not tell where we tell it
    trip_s = max((download.looks[url].round_trip_s for url in shares if url in download.looks), default=0.0)
    rate = download.known.rate(source, 1) or USUAL_RATE
    piece, in_order = piece_bytes(length, connections, trip_s, rate)
    if partial.info.repaired and (pieces := decode(download.artifact.pieces, download.artifact.size)):
        piece, in_order = repair_piece_bytes(total(download.on_disk.missing() or ()), connections, pieces.length), True
    return Job(
        wants=(Want(tuple(download.address(url) for url in shares), partial.file, length, 0),),
        folder=partial.folder,
        connections=connections,
        per_host=max(shares.values()) if len(shares) > 1 else None,
        piece_bytes=piece,
        in_order=in_order,
        timeout_s=max(4, int(run.stall_s)),
        ca=way.ca,
        proxy=way.proxy,
        user_agent=way.user_agent,
        bearer=download.bearer(source),
        ipv4_only=any(download.looks[url].ipv4_only for url in shares if url in download.looks),
        bare=one,
    )


def _begin_stream(download: Download, backend: Backend, job: Job) -> Stream | None:
    """Start the judge behind the download, where the file grows in a way that lets it follow."""
    on_disk, run, sha256 = download.on_disk, download.run, download.artifact.sha256
    length, missing = on_disk.length(), on_disk.missing()
    if length is None or length < STREAM_BYTES or run.judge is None or not sha256 or missing is None:
        return None
    if Trait.APPENDS not in backend.TRAITS or (backend.SIDECAR and not job.in_order):
        return None
    if not is_clear(on_disk.partial.file, missing):
        return None
    prefix = first_hole if Trait.IN_ORDER in backend.TRAITS else end_of_file
    try:
        return Stream(run.context, run.judge, sha256, on_disk.partial.file, prefix, total(missing), run.stall_s)
    except OSError:  # no descriptor or thread to spare: the plain check says
        return None


def _run(download: Download, backend: Backend, job: Job, givers: tuple[str, ...], before: int) -> Exit:
    run, on_disk, source = download.run, download.on_disk, givers[0]
    command, program = backend.command(job), run.programs[backend.NAME].path
    hidden = {download.address(url) for url in givers} - set(givers)
    shown = shown_command(backend, job, program, hidden)
    run.emit(Started(*download.talk, backend.NAME, source, shown, before, on_disk.length(), givers[1:]))
    limit_s = 60 + (on_disk.length() or 0) / AXEL_BYTES_PER_S if backend.NAME == "axel" else None
    with download.known.transferring():
        return run_program(
            command,
            program,
            stop=run.context.stop,
            folder=job.folder,
            environ=environment(run.context.environ),
            watch=SpeedMonitor(download, backend, job, source, before, Monitor(download, backend, before)),
            stall_s=run.stall_s,
            limit_s=limit_s,
            keep_fd=on_disk.partial.guard_fd,
        )


def _read_end(
    download: Download, backend: Backend, job: Job, exit_: Exit, givers: tuple[str, ...], before: int
) -> Fault | None:
    """Book what the program left, and say why it ended; exit 0 with bytes missing is not done."""
    on_disk, source = download.on_disk, givers[0]
    partial, length = on_disk.partial, on_disk.length()
    on_disk.ended_well = exit_.code == 0 and exit_.ended == "itself"
    after, complete = on_disk.good_bytes(), on_disk.is_complete()
    landed = max(0, (partial.have if complete else after) - before)
    if not complete and length is not None:
        landed = max(landed, min(exit_.written_bytes, length - before))
    download.bytes_fetched += landed
    measure(download, job, backend, exit_, landed)
    # A program may end before its bytes were counted, and leave a file that is too long to be claimed.
    if (landed or partial.have > job.wants[0].have or length == 0) and not set(givers) <= set(partial.info.sources):
        partial.info.sources += [url for url in givers if url not in partial.info.sources]
        partial.save_info()
    download.emit_progress(after)
    if exit_.ended == "stopped":
        raise Stopped("stopped; the partial is kept")
    fault = refine_fault(download, source, backend.diagnose(job, exit_), landed, lambda: revalidate(download, source))
    if fault is not None:
        return replace(fault, message=download.masked(fault.message))
    if complete:
        return None
    return _explain_short(download, source)


def _explain_short(download: Download, source: str) -> Fault | None:
    """Why a program claimed success and bytes are missing: a full disk, another file, or a line that was cut."""
    status = os.statvfs(download.on_disk.partial.folder)
    if status.f_bavail * status.f_frsize < FULL_BYTES:
        return Fault(Kind.DISK, "the disk is full")
    seen = revalidate(download, source)
    if isinstance(seen, Fault):
        return seen
    other = compare(download, source, seen, resumes=False) if seen is not None else None
    if other is None and download.on_disk.is_complete():
        return None  # `size:` was wrong
    if other is None and seen is not None and seen.encoding:
        other = Fault(Kind.CORRUPT, f"the server compresses the file on its way ({seen.encoding})")
    if other is None and seen is not None and seen.bare and source not in download.bare:
        return Fault(Kind.UNRESUMABLE, "the server answers ranges wrongly")
    if other is None:
        return Fault(Kind.NETWORK, "ended early: bytes are missing")
    if other.remedy is Remedy.AFRESH or not os.path.exists(download.on_disk.partial.file):
        return other
    return download.quarantine()  # what it sent is no part of the file: nothing may be appended to it


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of our environment: no proxies, no secrets, no locale."""
    return {key: environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in environ}


def hand_over(on_disk: PartialState, backend: Backend, job: Job) -> Job:
    """Leave the partial as `backend` wants it, with no good byte lost that it can keep, and no foreign sidecar.

    Returns:
        The job, with the size of the file that it starts from.

    Raises:
        OSError: the disk said no.
    """
    partial, state = on_disk.partial, None
    missing, good = on_disk.missing(), on_disk.good_bytes()
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


def companions(download: Download, backend: Backend, source: str) -> tuple[str, ...]:
    """Other sources that may serve the same large file at the same time: looked at, as long, and nearly as fast.

    Only while nothing failed: a mixed file that turns out wrong condemns nobody by itself, so after any fault the
    sources go one by one.
    """
    length = download.on_disk.length()
    if download.bearer(source) is not None:
        return ()  # a token is for one host
    if download.attempts or download.needs_single_source or length is None or length < SHARED_BYTES:
        return ()
    if not {Trait.MIRRORS, Trait.IN_ORDER} <= backend.TRAITS or source not in download.looks:
        return ()
    own, way, found = download.known.rate(source, 1) or 0.0, download.route(source), [source]
    for other in download.artifact.sources:
        if other.url in download.on_disk.partial.info.condemned:
            continue
        rate, theirs = download.known.rate(other.url, 1), download.route(other.url)
        same_way = (theirs.proxy, theirs.ca, theirs.user_agent) == (way.proxy, way.ca, way.user_agent)
        if len(found) > MOST_COMPANIONS or rate is None or rate * FASTER < own or not same_way:
            continue
        if host_of(other.url) in map(host_of, found) or not any(
            c.backend is backend and not c.obstacle for c in download.choices(other.url)
        ):
            continue
        seen = revalidate(download, other.url)
        if (
            seen is None
            or isinstance(seen, Fault)
            or not seen.ranges
            or download.bearer(other.url) is not None
            or compare(download, other.url, seen, resumes=False)
        ):
            continue
        found.append(other.url)
    return tuple(found[1:])


def take_connections(download: Download, stack: ExitStack, sources: Sequence[str]) -> dict[str, int]:
    """Take each source's connections: the first waits for some, the others join only where some are free."""
    connection_limits, shares = download.run.connection_limits, dict[str, int]()
    for place, url in enumerate(sources):
        limit = download.route(url).connections
        taken = connection_limits.connections(
            download.run.context, host_of(url), download.ticket, limit, wait=place == 0
        )
        if number := stack.enter_context(taken):
            shares[url] = number
    return shares
