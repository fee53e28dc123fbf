"""A small text from a server, such as a SHA256SUMS, or a file's first bytes: redirects judged as a look judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from orchestrator.faults import Fault, Kind
from orchestrator.sources.connect import client
from orchestrator.sources.http import look, time_limit
from orchestrator.sources.stats import host_of

if TYPE_CHECKING:
    import threading

    from orchestrator.sources.route import Reach

LIMIT_BYTES = 4 << 20  # 40,000 lines of a SHA256SUMS
TIMEOUT_S = 30.0


def read(url: str, way: Reach, stop: threading.Event | None = None) -> str | Fault:
    """Read the text at `url` (http or https), or say why it cannot be had. Raises Stopped where `stop` is set."""
    content = _get(url, way, LIMIT_BYTES + 1, {}, stop)
    if isinstance(content, Fault):
        return content
    if len(content) > LIMIT_BYTES:
        return Fault(Kind.CORRUPT, f"more than {LIMIT_BYTES >> 20} MiB: this is no list of digests")
    return content.decode("utf-8", "replace")


def head(url: str, way: Reach, count: int, stop: threading.Event | None = None) -> bytes | Fault:
    """Read the first `count` bytes of the file at `url` (http or https), fewer where it is shorter.

    Raises:
        Stopped: `stop` was set meanwhile.
    """
    content = _get(url, way, count, {"Range": f"bytes=0-{count - 1}"}, stop)
    return content if isinstance(content, Fault) else content[:count]


def _get(url: str, way: Reach, most_bytes: int, headers: dict[str, str], stop: threading.Event | None) -> bytes | Fault:
    """Read a body until it ends or `most_bytes` are here; a token is shown to the host of `url` only."""
    seen = look(
        url,
        proxy=way.proxy,
        ca=way.ca,
        user_agent=way.user_agent,
        timeout_s=TIMEOUT_S,
        bearer=way.bearer,
        stop=stop,
    )
    if isinstance(seen, Fault):
        return seen
    headers = {"Accept-Encoding": "identity", "User-Agent": way.user_agent, **headers}
    if way.bearer is not None and host_of(seen.last_url) == host_of(url):
        headers["Authorization"] = f"Bearer {way.bearer}"
    content = b""
    try:
        session, _ = client(ca=way.ca, proxy=way.proxy, timeout_s=TIMEOUT_S, stop=stop)
        with (
            time_limit(TIMEOUT_S, stop) as trace,
            session,
            session.stream("GET", seen.last_url, headers=headers, extensions={"trace": trace}) as answer,
        ):
            if answer.status_code not in (200, 206):
                return Fault(Kind.REFUSED, f"server answered {answer.status_code}", answer.status_code)
            for block in answer.iter_raw():
                content += block
                if len(content) >= most_bytes:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Fault(Kind.NETWORK, str(error).strip() or type(error).__name__)
    return content
