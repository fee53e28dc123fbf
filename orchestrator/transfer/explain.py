"""Explain a download that failed: the result of each source, and what to type next."""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.errors import DigestError, OrchError, TransferError
from orchestrator.faults import Fault, Kind
from orchestrator.formats import wrong_file
from orchestrator.manifest.paths import lock_path
from orchestrator.sources.auth import advice
from orchestrator.sources.host_health import is_busy
from orchestrator.urls import ends_in_s, host_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.model import Artifact, Host, Wanted
    from orchestrator.transfer.retry import Attempt
    from orchestrator.transfer.run_context import RunContext

# Where another source asked for a token, that is what can be fixed: HF_ENDPOINT is set where the hub is out of reach.
_LESS_TELLING = (Kind.REFUSED, Kind.NETWORK, Kind.STALLED, Kind.BUSY)


def explain_failure(
    run: RunContext,
    artifact: Artifact,
    attempts: Sequence[Attempt],
    fault: Fault | None,
    proxies: Sequence[str],
    gone: Mapping[str, str] = MappingProxyType({}),
    *,
    kept: str = "",
) -> OrchError:
    """The error for people, wrong bytes before all.

    Args:
        run: the run.
        artifact: what was to be downloaded.
        attempts: all that was tried.
        fault: the one that says most; None where nothing could be tried.
        proxies: the proxies that its sources were reached through, without credentials.
        gone: maps the URLs of sources to their hosts, as `HostHealth` names them, where those are given up or closed.
        kept: how much of it is here for the next run, in words; empty: nothing.
    """
    name = artifact.name
    tried = {(attempt.source, attempt.backend): attempt.fault.message for attempt in attempts}
    told = [f"{source} ({backend}): {message}" for (source, backend), message in tried.items()]
    asked = {attempt.source for attempt in attempts}
    if gone and run.known is not None:
        health = run.known.health
        told += [f"{url}: {health.verdict(host)}" for url, host in gone.items() if url not in asked]
        fault = fault or next((health.fault(host) for host in gone.values()), None)
    history = "; ".join(told)
    if fault is not None and fault.kind is Kind.CORRUPT:
        hint = fault.hint or f"compare the checksum{pinned_in(artifact.wanted[0])} with the publisher's"
        judged = any(each.fault.message.startswith(("wrong bytes", "this is not the file")) for each in attempts)
        kept = "; the wrong file is kept: `orch quarantine`" if judged else ""
        hint = _for_command(artifact, hint)
        return DigestError(f"{name}: no source gave the right bytes: {history}", f"{hint}{kept}")
    word = fault.kind.value if fault else Kind.NETWORK.value
    message, hint = f"{name}: every source failed: {history}", _hint(run, attempts, fault, proxies)
    if kept and hint == wrong_file.LATER:
        hint = f"{kept} are kept: run the command again to resume, or add a mirror to the manifest"
    return TransferError(message, _for_command(artifact, hint), word, shared=_shared(run, attempts, gone))


def pinned_in(wanted: Wanted) -> str:
    """In which file a checksum is, with its line where it is in one line only: ` in team.yaml:6`, or of the lock file.

    Empty for a file of `orch get`, which has no manifest.
    """
    manifest, said = wanted.manifest, re.compile(wanted.sha256, re.I)
    if not os.path.isabs(manifest):
        return ""
    found = (_where(manifest, said) or _where(lock_path(manifest), said)) if wanted.sha256 else ""
    return f" in {found or manifest}"


# What `orch get`, which has no manifest, takes instead of what a hint says of one.
_INSTEAD = {
    "add a mirror to the manifest": "add a mirror: --mirror URL",
    "size and checksum in the manifest": "size and checksum",
    "CA in the manifest, `hosts:": "CA in the site file, `hosts:",
}


def _for_command(artifact: Artifact, hint: str) -> str:
    """A hint as the command that runs can follow it."""
    if os.path.isabs(artifact.wanted[0].manifest):
        return hint
    for said, instead in _INSTEAD.items():
        hint = hint.replace(said, instead)
    return hint


def size_line(wanted: Wanted) -> str:
    """`FILE:LINE` of a file's `size:` in its manifest; the manifest alone where the line is not found."""
    return _where(wanted.manifest, re.compile(rf"\bsize[\"']?\s*:\s*{wanted.size}\b")) or wanted.manifest


def _where(path: str, said: re.Pattern[str]) -> str:
    """The file and the one line that says it; the file alone where several do; "" where none does, or it is unread."""
    try:
        with open(path, encoding="utf-8") as file:
            numbers = [number for number, line in enumerate(file, 1) if said.search(line)]
    except (OSError, ValueError):
        return ""
    return f"{path}:{numbers[0]}" if len(numbers) == 1 else path if numbers else ""


def _is_of_host(fault: Fault) -> bool:
    return fault.is_unreachable or is_busy(fault)


def _shared(run: RunContext, attempts: Sequence[Attempt], gone: Mapping[str, str]) -> str:
    """Why nothing comes from these hosts, where that is all that went wrong."""
    if run.known is None or any(each.source not in gone or not _is_of_host(each.fault) for each in attempts):
        return ""
    health = run.known.health
    return "; ".join(health.verdict(host) for host in sorted(set(gone.values())))


def _hint(run: RunContext, attempts: Sequence[Attempt], fault: Fault | None, proxies: Sequence[str]) -> str:
    if fault is not None and fault.hint:
        return fault.hint
    for attempt in attempts if fault is None or fault.kind in _LESS_TELLING else ():
        if (status := attempt.fault.status) in (401, 403):
            return login(attempt.source, status, run.context.environ, run.hosts, run.context.now())
    match fault.kind if fault else None:
        case Kind.MISSING:
            return "check the URL: the file may have moved"
        case Kind.REFUSED:
            return "the server refuses this program; see the commands: `orch sync -v`, or try another: --backend NAME"
        case Kind.TLS:
            return "name the server's CA in the manifest, `hosts: {NAME: {ca: FILE}}`, or set SSL_CERT_FILE"
        case Kind.BROKEN:
            return "see what the program says: `orch sync -v`, or try another one: --backend NAME"
        case _ if proxies:
            return f"check the proxy: https_proxy, http_proxy or all_proxy says {', '.join(proxies)}"
        case _ if fault is not None and fault.is_unreachable and not any(each.gained_bytes for each in attempts):
            hosts = " and ".join(dict.fromkeys(host_of(each.source) for each in attempts))
            if fault.unresolved:
                return "check the network, DNS and proxy of this machine; or add a mirror to the manifest"
            return f"check the URL, and whether {hosts or 'its host'} is up; or add a mirror to the manifest"
        case _:
            return wrong_file.LATER


def login(source: str, status: int, environ: Mapping[str, str], hosts: Mapping[str, Host], now: float) -> str:
    """What helps against a 401 (who are you?) or a 403 (not you, or not any more) from the host of `source`."""
    ends_in = ends_in_s(source, now)
    if ends_in is not None and ends_in < 0:
        return "the signed URL has expired: put the address that redirects to it into the manifest"
    return advice(source, status, environ, hosts)
