"""One attempt: look at the source, hand the partial over, run the program, read what it left."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from orchestrator.backends import by_name
from orchestrator.backends.base import Job, Trait, Want
from orchestrator.events import Started
from orchestrator.faults import Fault, Kind
from orchestrator.process import run
from orchestrator.transfer.handover import hand_over
from orchestrator.transfer.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backends.base import Backend, Command, Exit
    from orchestrator.sources.look import Look
    from orchestrator.transfer.effort import Effort

LOOK_BYTES = 8 << 20  # a larger file is worth a round trip: its ETag guards every later resume
SPLIT_BYTES = 1 << 20  # a larger file is asked for in several ranges at once: are they honoured?
AXEL_BYTES_PER_S = 256 << 10  # axel never gives up by itself: its time limit, as the rate that we would wait for
FULL_BYTES = 1 << 20


def try_once(effort: Effort, backend_name: str, source: str) -> Fault | None:
    """Run one backend on one source once.

    Returns:
        The fault, or None where the partial is complete by the program's own word, which is still to be proved.

    Raises:
        InterruptedError: a stop was asked for; the partial stays.
    """
    backend = by_name(backend_name)
    assert backend is not None
    holding = effort.holding
    resumes = holding.good_bytes() > 0
    least = SPLIT_BYTES if Trait.SEGMENTS in backend.TRAITS else LOOK_BYTES
    if resumes or source in effort.doubted or backend.NAME == "axel" or (holding.length() or least) >= least:
        seen = _look(effort, source)
        if isinstance(seen, Fault):
            return seen
        if seen is not None and (fault := _compare(effort, source, seen, resumes=resumes)):
            return fault
        if seen is not None and seen.chunked and Trait.CHUNKED not in backend.TRAITS:
            return Fault(Kind.REFUSED, f"{backend.NAME} would write the chunks' headers into the file")
    try:
        job = hand_over(holding, backend, _job(effort, source))
        before = holding.good_bytes()
        exit_ = _run(effort, backend, job, source, before)
        return _read_end(effort, backend, job, exit_, source, before)
    except InterruptedError:
        raise
    except OSError as error:
        return Fault(Kind.DISK, f"{error.filename or holding.partial.folder}: {error.strerror or error}")


def _look(effort: Effort, source: str) -> Look | Fault | None:
    """Ask the source what it would serve; None where it cannot be asked."""
    if not source.startswith("http"):
        return None
    from orchestrator.sources.look import look

    way = effort.reach(source)
    if way.line.proxy.startswith("socks"):
        return None  # the HTTP client speaks none without an extra; curl does
    missing = effort.holding.missing()
    at = missing[0].start if missing else 0
    seen = look(source, proxy=way.proxy, ca=way.ca, user_agent=way.user_agent, at=at)
    if isinstance(seen, Fault):
        # A refused look condemns nothing: hubs refuse by program. The backend will hear it again.
        return None if seen.kind is Kind.REFUSED and seen.status is not None else seen
    effort.looks[source] = seen
    return seen


def _compare(effort: Effort, source: str, seen: Look, *, resumes: bool) -> Fault | None:
    """Hold what the source would serve against what is wanted and what is here; then remember it."""
    info, expected = effort.holding.partial.info, effort.artifact.size
    if seen.encoding:
        return Fault(Kind.CORRUPT, f"the server compresses the file on its way ({seen.encoding})")
    if seen.length is not None and expected is not None and seen.length != expected:
        page = ", an HTML page" if "text/html" in seen.content_type else ""
        return Fault(Kind.CORRUPT, f"wrong length: {seen.length} bytes{page}, instead of {expected}")
    if resumes:
        if source in info.etags and seen.etag and info.etags[source] != seen.etag:
            return Fault(Kind.UNRESUMABLE, "the file changed at the source since the partial was begun")
        if info.length is not None and seen.length is not None and info.length != seen.length:
            return Fault(Kind.UNRESUMABLE, f"the file's length changed at the source: {seen.length} bytes")
        if not seen.ranges:
            return Fault(Kind.UNRESUMABLE, "the source does not honour ranges")
    if seen.etag:
        info.etags[source] = seen.etag
    info.length = seen.length if seen.length is not None else info.length
    return None


def _job(effort: Effort, source: str) -> Job:
    way, kit, partial = effort.reach(source), effort.kit, effort.holding.partial
    connections, length = min(kit.connections, way.connections or kit.connections), effort.holding.length()
    look = effort.looks.get(source)
    if look is not None and not look.ranges:
        connections = 1  # aria2c with several would end with exit 8 on a server that ignores Range (1.36, Metalink)
        if look.length is None and not effort.holding.good_bytes():
            length = None  # nor does it take a file whose length the server does not tell where we tell it
    return Job(
        wants=(Want((source,), partial.file, length, 0),),
        folder=partial.folder,
        connections=connections,
        timeout_s=max(4, int(kit.stall_s)),
        ca=way.ca,
        proxy=way.proxy,
        user_agent=way.user_agent,
    )


def _run(effort: Effort, backend: Backend, job: Job, source: str, before: int) -> Exit:
    kit, holding = effort.kit, effort.holding
    command, program = backend.command(job), kit.programs[backend.NAME].path
    shown = pasteable(command, program)
    kit.emit(Started(*effort.talk, backend.NAME, source, shown, before, holding.length()))
    limit_s = 60 + (holding.length() or 0) / AXEL_BYTES_PER_S if backend.NAME == "axel" else None
    return run(
        command,
        program,
        stop=kit.world.stop,
        folder=job.folder,
        environ=environment(kit.world.environ),
        watch=Watch(effort, backend, before),
        stall_s=kit.stall_s,
        limit_s=limit_s,
        keep_fd=holding.partial.guard_fd,
    )


def _read_end(effort: Effort, backend: Backend, job: Job, exit_: Exit, source: str, before: int) -> Fault | None:
    """Book what the program left, and say why it ended; exit 0 with bytes missing is not done."""
    holding = effort.holding
    partial, length = holding.partial, holding.length()
    holding.ended_well = exit_.code == 0 and exit_.ended == "itself"
    after, complete = holding.good_bytes(), holding.is_complete()
    landed = max(0, (partial.have if complete else after) - before)
    if not complete and length is not None:
        landed = max(landed, min(exit_.written_bytes, length - before))
    effort.bytes_fetched += landed
    # A program may end before its bytes were counted, and leave a file that is too long to be claimed.
    if (landed or partial.have > job.wants[0].have) and source not in partial.info.sources:
        partial.info.sources.append(source)
        partial.save_info()
    effort.emit_progress(after)
    if exit_.ended == "stopped":
        raise InterruptedError("stopped; the partial is kept")
    fault = backend.diagnose(job, exit_)
    if complete or fault is not None:
        return fault
    return _explain_short(effort, source)


def _explain_short(effort: Effort, source: str) -> Fault:
    """Why a program claimed success and bytes are missing: a full disk, another file, or a line that was cut."""
    status = os.statvfs(effort.holding.partial.folder)
    if status.f_bavail * status.f_frsize < FULL_BYTES:
        return Fault(Kind.DISK, "the disk is full")
    seen = _look(effort, source)
    if isinstance(seen, Fault):
        return seen
    other = _compare(effort, source, seen, resumes=False) if seen is not None else None
    if other is not None:
        # What it sent is no part of the file: nothing may be appended to it.
        return effort.banish() if os.path.exists(effort.holding.partial.file) else other
    return Fault(Kind.NETWORK, "ended early: bytes are missing")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child needs of our environment: no proxies, no secrets, no locale."""
    return {key: environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in environ}


def pasteable(command: Command, program: str) -> str:
    """The command as one line for a shell; what goes in by stdin as a here-string."""
    line = shlex.join((program, *command.argv[1:]))
    if not command.stdin:
        return line
    return f"{line} <<< {shlex.quote(command.stdin.decode('utf-8', 'replace'))}"
