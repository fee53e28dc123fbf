"""Run one program over one or many files: build its job, hand the partial over, start it, read how it ended."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.backends import aria2_control, aria2c
from orchestrator.backends.base import Job, Trait, Want
from orchestrator.errors import HeldError, Stopped
from orchestrator.events import Progressed, Started
from orchestrator.faults import Fault, Kind
from orchestrator.process import run_program
from orchestrator.sources.redirects import check_program_url, host_and_port, numeric
from orchestrator.store.locks import LONGER
from orchestrator.transfer.child_bounds import child_bounds
from orchestrator.transfer.connections import MIB, SHORT_PIECE_BYTES, USUAL_RATE, piece_bytes, repair_piece_bytes
from orchestrator.transfer.masking import shown_command
from orchestrator.transfer.partial import total
from orchestrator.verify.pieces import decode
from orchestrator.verify.stream import Stream, end_of_file, first_hole, is_clear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.backends.base import Backend, Exit
    from orchestrator.sources.route import Route
    from orchestrator.store.partials import WriterFolder
    from orchestrator.transfer.candidates import Candidates
    from orchestrator.transfer.partial import PartialState
    from orchestrator.transfer.run_context import RunContext


AXEL_BYTES_PER_S = 256 << 10  # axel never gives up by itself: its time limit, as the rate that we would wait for
STDOUT_BYTES = 2 << 20  # curl's report on a batch whose files all redirect to signed URLs
LIMITED_STALL_S = 10.0  # the pauses that programs make to keep a rate look like a stall to less patience
LIMITED_CONNECTIONS = 4
STREAM_BYTES = 4 << 20  # below this a check afterwards is as quick


class UnresolvedError(Exception):
    """The name of a source's host has no address now: no program is started for it."""

    def __init__(self, host: str) -> None:
        self.fault = Fault(Kind.NETWORK, f"cannot resolve {host}", unresolved=True)
        super().__init__(self.fault.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One run of a program, before its start.

    `title` is the model and the file that events name; `sources` are the URLs as the manifest has them, the first of
    them asked first; `have_bytes` are the good bytes that are here, of `size_bytes` in all (None: nobody knows);
    `folder` is the writer's, whose guard the program inherits. `redirected`: as of `Started`.
    """

    backend: Backend
    job: Job
    title: tuple[str, str]
    sources: tuple[str, ...]
    have_bytes: int
    size_bytes: int | None
    folder: WriterFolder
    redirected: bool = False

    @property
    def files(self) -> int:
        """How many files it is to bring."""
        return len(self.job.wants)


def start(
    run: RunContext,
    launch: Launch,
    monitor: Callable[[int], str | None],
    *,
    is_told: bool = True,
    stall_s: float | None = None,
) -> Exit:
    """Tell that a program is started, by its command without secrets, and run it to its end.

    `is_told` is false for one of many requests, of which the first was told. `stall_s` is how long to wait without a
    byte; None: as long as the run's options say.

    Raises:
        HeldError: another orch took the folder over; the program was ended.
        OSError: the disk said no, or this machine has no descriptor, process or memory to spare.
    """
    backend, job = launch.backend, launch.job
    program = run.programs[backend.NAME].path
    redirected = set(job.wants[0].sources) - set(launch.sources)  # they may be signed
    shown = shown_command(backend, job, program, redirected)
    have, size, also = launch.have_bytes, launch.size_bytes, launch.sources[1:]
    if is_told:
        many = launch.files, launch.redirected
        run.emit(Started(*launch.title, backend.NAME, launch.sources[0], shown, have, size, also, *many))

    def watch(written_bytes: int) -> str | None:
        return "lost" if launch.folder.is_known_lost() else monitor(written_bytes)

    exit_ = run_program(
        backend.command(job),
        program,
        stop=run.context.stop,
        folder=job.folder,
        environ=environment(run.context.environ),
        watch=watch,
        stall_s=_patience_s(run, job.rate) if stall_s is None else stall_s,
        limit_s=60 + (size or 0) / AXEL_BYTES_PER_S if backend.NAME == "axel" else None,
        keep_fd=launch.folder.guard_fd,
        stdout_bytes=STDOUT_BYTES,
        bounds=child_bounds(backend.NAME, job, size),
    )
    return unless_lost(exit_)


def unless_lost(exit_: Exit) -> Exit:
    """Return how a program ended.

    Raises:
        HeldError: it was ended because another orch took its folder over.
    """
    if exit_.ended == "lost":
        raise _lost()
    return exit_


def refuse_lost(folder: WriterFolder) -> None:
    """Go on only with a folder that is still ours.

    Raises:
        HeldError: another orch took it over.
    """
    if folder.is_known_lost():
        raise _lost()


def _lost() -> HeldError:
    return HeldError("another orch took this download over", LONGER)


def read_end(run: RunContext, launch: Launch, exit_: Exit, done_bytes: int, kept: str) -> Fault | None:
    """Tell how much is here now that a program ended, and give its backend's diagnosis.

    Args:
        run: the run.
        launch: what was started.
        exit_: how it ended.
        done_bytes: how many good bytes are here.
        kept: what stays where a stop was asked for, in words.

    Raises:
        Stopped: a stop was asked for.
    """
    run.emit(Progressed(*launch.title, done_bytes, launch.size_bytes, launch.files))
    if exit_.ended == "stopped":
        raise Stopped(f"stopped; {kept} is kept")
    return launch.backend.diagnose(launch.job, exit_)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of our environment: no proxies, no secrets, no locale."""
    return {key: environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in environ}


def _patience_s(run: RunContext, rate: int | None) -> float:
    return run.stall_s if rate is None else max(run.stall_s, LIMITED_STALL_S)


def make_job(run: RunContext, route: Route, wants: tuple[Want, ...], folder: str, **options: Any) -> Job:
    """A job for sources that are all reached by one route; `options` are further fields of `Job`."""
    return Job(
        wants=wants,
        folder=folder,
        timeout_s=max(4, int(_patience_s(run, options.get("rate")))),
        ca=route.ca,
        proxy=route.proxy,
        user_agent=route.user_agent,
        **options,
    )


def judge_hosts(
    run: RunContext, addresses: Mapping[str, str], route: Route, *, ipv4_only: bool = False
) -> tuple[str, ...]:
    """Judge the hosts that a program is about to connect to.

    Args:
        run: the run.
        addresses: maps the URLs of the manifest to those that the program is given, where redirects from there ended.
        route: how this machine gets there.
        ipv4_only: whether IPv6 addresses are to be left out.

    Returns:
        The addresses of those hosts that have a name, as `Job.resolved` wants them: it may mean others by the time that
        the program looks it up.

    Raises:
        ForbiddenError: nothing is fetched from one of them.
        UnresolvedError: the first of them has no address.
        Stopped: a stop was asked for.
    """
    resolved: dict[str, None] = {}
    for source, address in addresses.items():
        if not address.startswith("http"):
            continue
        found = check_program_url(address, source, proxied=route.proxy is not None, stop=run.context.stop)
        host, port = host_and_port(address)
        if not found and route.proxy is None and source == next(iter(addresses)):
            raise UnresolvedError(host)
        usable = [f"[{ip}]" if ":" in ip else ip for ip in found if not (ipv4_only and ":" in ip)]
        if usable and not numeric(host):
            resolved[f"{host}:{port}:{','.join(usable)}"] = None
    return tuple(resolved)


def job_of_one_file(candidates: Candidates, shares: Mapping[str, int], rate: int | None = None) -> Job:
    """The job for one file; `shares` maps its sources, the first of them asked first, to their connections.

    `rate` is how many bytes a second it may take; None: as many as come.

    Raises:
        ForbiddenError: nothing is fetched from one of their hosts.
        UnresolvedError: the first of them has no address.
        Stopped: a stop was asked for.
    """
    source, run, on_disk = next(iter(shares)), candidates.run, candidates.on_disk
    length, connections, partial = on_disk.length(), sum(shares.values()), on_disk.partial
    answer = candidates.answers.get(source)
    bare = candidates.wants_one_answer(source)
    if bare or (answer is not None and not answer.ranges):
        connections = 1  # aria2c with several would end with exit 8 on a server that ignores Range (1.36, Metalink)
        if answer is not None and answer.length is None and not on_disk.good_bytes():
            length = None  # nor does it take a file whose length the server does not tell where we tell it
    answers = [each for each in map(candidates.answers.get, shares) if each is not None]
    trip_s = max((each.round_trip_s for each in answers), default=0.0)
    usual = candidates.stats.rate(source, 1) or USUAL_RATE
    if rate is not None:  # each of them keeps some of what came in the kernel, which is lost where the program ends
        connections = min(connections, max(LIMITED_CONNECTIONS, math.ceil(2 * rate / usual)))
    piece, in_order = piece_bytes(length, connections, trip_s, usual)
    if rate is not None:
        piece = max(piece, SHORT_PIECE_BYTES)
    piece = _keeping_piece_bytes(on_disk, piece)
    pieces = decode(candidates.artifact.pieces, on_disk.size) if partial.info.repaired else None
    if pieces is not None:
        piece, in_order = repair_piece_bytes(total(on_disk.missing() or ()), connections, pieces.length), True
    addresses, route = {url: candidates.address(url) for url in shares}, candidates.route(source)
    ipv4_only = any(each.ipv4_only for each in answers)
    return make_job(
        run,
        route,  # the way by which our own request got there
        (Want(tuple(addresses.values()), partial.file, length, 0),),
        partial.folder,
        connections=connections,
        per_host=max(shares.values()) if len(shares) > 1 else None,
        piece_bytes=piece,
        in_order=in_order,
        bearer=candidates.bearer(source),
        cookies=answer.cookies if answer is not None else "",
        ipv4_only=ipv4_only,
        resolved=judge_hosts(run, addresses, route, ipv4_only=ipv4_only),
        bare=bare,
        rate=rate,
    )


def _keeping_piece_bytes(on_disk: PartialState, piece: int) -> int:
    """The largest piece length up to `piece` by which aria2c keeps all that it left with another one, in bytes.

    A piece of its state is declared present from its beginning only: a longer one loses what follows its first hole.
    """
    info, length, missing = on_disk.partial.info, on_disk.length(), on_disk.missing()
    least = max(info.piece_bytes, MIB)
    if info.backend != aria2c.NAME or length is None or not missing or not on_disk.good_bytes():
        return piece

    def asked(size: int) -> int:
        return total(tuple(aria2_control.read(aria2_control.write(length, size, missing), length) or ()))

    kept = asked(least)
    while piece > least and asked(piece) > kept:
        piece = max(piece // 2, least)
    return piece


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


def begin_stream(run: RunContext, launch: Launch, on_disk: PartialState, sha256: str) -> Stream | None:
    """Start a checksum program that reads behind the download, where the file grows in a way that lets it follow."""
    length, missing, traits = on_disk.length(), on_disk.missing(), launch.backend.TRAITS
    if length is None or length < STREAM_BYTES or run.judge is None or not sha256 or missing is None:
        return None
    if Trait.APPENDS not in traits or (launch.backend.SIDECAR and not launch.job.in_order):
        return None
    if not is_clear(on_disk.partial.file, missing):
        return None
    prefix = first_hole if Trait.IN_ORDER in traits else end_of_file
    try:
        return Stream(run.context, run.judge, sha256, on_disk.partial.file, prefix, total(missing), stall_s=run.stall_s)
    except OSError:  # no descriptor or thread to spare: the plain check says
        return None
