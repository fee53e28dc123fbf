"""Nothing is left to try: what became of each source, in words, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import nature
from orchestrator.errors import DigestError, OrchError, TransferError
from orchestrator.faults import Fault, Kind
from orchestrator.sources.history import host_of
from orchestrator.sources.signed import ends_in_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.policy import Attempt
    from orchestrator.transfer.effort import Effort

# Where the tokens of hubs come from: host name, variable, where a token is had (huggingface_hub constants.py and
# utils/_auth.py; modelscope hub/api.py; kagglehub config.py).
_TOKENS = (
    ("huggingface.co", "HF_TOKEN", "https://huggingface.co/settings/tokens"),
    ("hf.co", "HF_TOKEN", "https://huggingface.co/settings/tokens"),
    ("modelscope.cn", "MODELSCOPE_API_TOKEN", "https://modelscope.cn/my/myaccesstoken"),
    ("kaggle.com", "KAGGLE_KEY", "https://www.kaggle.com/settings"),
)


def despair(effort: Effort, attempts: Sequence[Attempt], fault: Fault | None) -> OrchError:
    """The error for people: wrong bytes before all."""
    tried = {(attempt.source, attempt.backend): attempt.fault.message for attempt in attempts}
    history = "; ".join(f"{source} ({backend}): {message}" for (source, backend), message in tried.items())
    name = effort.artifact.name
    if fault is not None and fault.kind is Kind.CORRUPT:
        hint = fault.hint or "compare the digest in the manifest with the publisher's"
        return DigestError(
            f"{name}: no source gave the right bytes: {history}",
            f"{hint}; wrong bytes are kept in {effort.kit.store.quarantine}",
        )
    word = fault.kind.value if fault else Kind.NETWORK.value
    return TransferError(f"{name}: every source failed: {history}", _hint(effort, attempts, fault), word)


def _hint(effort: Effort, attempts: Sequence[Attempt], fault: Fault | None) -> str:
    if fault is not None and fault.hint:
        return fault.hint
    match fault.kind if fault else None:
        case Kind.MISSING:
            return "look at the URL in the manifest: the file may have moved"
        case Kind.REFUSED:
            source = next((attempt.source for attempt in attempts if attempt.fault is fault), "")
            if fault is not None and fault.status in (401, 403):
                return login(source, fault.status, effort.kit.world.environ, effort.kit.world.now())
            return "the server refuses this program; see the commands: `orch sync -v`, or try another: --backend NAME"
        case Kind.TLS:
            return "name the server's CA in the manifest, `hosts: {NAME: {ca: FILE}}`, or set SSL_CERT_FILE"
        case Kind.BROKEN:
            return "see what the program says: `orch sync -v`, or try another one: --backend NAME"
        case _ if effort.proxies():
            return f"is the proxy right? https_proxy, http_proxy or all_proxy says {', '.join(effort.proxies())}"
        case _:
            return nature.LATER


def login(source: str, status: int, environ: Mapping[str, str], now: float) -> str:
    """What helps against a 401 (who are you?) or a 403 (not you, or not any more) from the host of `source`."""
    host = host_of(source).partition("://")[2].partition(":")[0]
    ends_in = ends_in_s(source, now)
    if ends_in is not None and ends_in < 0:
        return "the URL is signed and its time is over: put the address that redirects to it into the manifest"
    hub = environ.get("HF_ENDPOINT", "").partition("://")[2].partition("/")[0].partition(":")[0]
    for name, variable, where in ((hub, *_TOKENS[0][1:]), *_TOKENS):
        if not name or (host != name and not host.endswith(f".{name}")):
            continue
        if not environ.get(variable):
            return f"set {variable} to a token from {where}; a gated model wants its terms accepted on its page first"
        if status == 401:
            return f"{variable} is set but not accepted: is the token still valid? See {where}"
        return f"{variable} is set, but its account may not have this: accept the terms on the model's page"
    return (
        f"{host} wants a login or knows us and says no: name the variable that holds a token, "
        f"`hosts: {{{host}: {{token_env: NAME}}}}`; see the commands: `orch sync -v`"
    )
