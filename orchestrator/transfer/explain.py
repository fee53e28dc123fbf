"""Explain a download that failed: what became of each source, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import DigestError, OrchError, TransferError
from orchestrator.faults import Fault, Kind
from orchestrator.formats import wrong_file
from orchestrator.sources.auth import advice
from orchestrator.urls import ends_in_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.model import Host
    from orchestrator.transfer.retry import Attempt
    from orchestrator.transfer.run_context import RunContext

# Where another source asked for a token, that is what can be fixed: HF_ENDPOINT is set where the hub is out of reach.
_LESS_TELLING = (Kind.REFUSED, Kind.NETWORK, Kind.STALLED, Kind.BUSY)


def explain_failure(
    run: RunContext, name: str, attempts: Sequence[Attempt], fault: Fault | None, proxies: Sequence[str]
) -> OrchError:
    """The error for people, wrong bytes before all.

    Args:
        run: the run.
        name: what people call the artifact.
        attempts: all that was tried.
        fault: the one that says most; None where nothing could be tried.
        proxies: the proxies that its sources were reached through, without credentials.
    """
    tried = {(attempt.source, attempt.backend): attempt.fault.message for attempt in attempts}
    history = "; ".join(f"{source} ({backend}): {message}" for (source, backend), message in tried.items())
    if fault is not None and fault.kind is Kind.CORRUPT:
        hint = fault.hint or "compare the digest in the manifest with the publisher's"
        return DigestError(
            f"{name}: no source gave the right bytes: {history}",
            f"{hint}; wrong bytes are kept in {run.store.quarantine}",
        )
    word = fault.kind.value if fault else Kind.NETWORK.value
    return TransferError(f"{name}: every source failed: {history}", _hint(run, attempts, fault, proxies), word)


def _hint(run: RunContext, attempts: Sequence[Attempt], fault: Fault | None, proxies: Sequence[str]) -> str:
    if fault is not None and fault.hint:
        return fault.hint
    for attempt in attempts if fault is None or fault.kind in _LESS_TELLING else ():
        if (status := attempt.fault.status) in (401, 403):
            return login(attempt.source, status, run.context.environ, run.hosts, run.context.now())
    match fault.kind if fault else None:
        case Kind.MISSING:
            return "look at the URL in the manifest: the file may have moved"
        case Kind.REFUSED:
            return "the server refuses this program; see the commands: `orch sync -v`, or try another: --backend NAME"
        case Kind.TLS:
            return "name the server's CA in the manifest, `hosts: {NAME: {ca: FILE}}`, or set SSL_CERT_FILE"
        case Kind.BROKEN:
            return "see what the program says: `orch sync -v`, or try another one: --backend NAME"
        case _ if proxies:
            return f"is the proxy right? https_proxy, http_proxy or all_proxy says {', '.join(proxies)}"
        case _:
            return wrong_file.LATER


def login(source: str, status: int, environ: Mapping[str, str], hosts: Mapping[str, Host], now: float) -> str:
    """What helps against a 401 (who are you?) or a 403 (not you, or not any more) from the host of `source`."""
    ends_in = ends_in_s(source, now)
    if ends_in is not None and ends_in < 0:
        return "the URL is signed and its time is over: put the address that redirects to it into the manifest"
    return advice(source, status, environ, hosts)
