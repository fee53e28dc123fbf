"""A small text from a server, such as a SHA256SUMS: redirects judged as a look judges them, its size limited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from orchestrator.faults import Fault, Kind
from orchestrator.sources.history import host_of
from orchestrator.sources.look import look, time_limit, trust

if TYPE_CHECKING:
    from orchestrator.sources.reach import Reach

LIMIT_BYTES = 4 << 20  # 40,000 lines of a SHA256SUMS
TIMEOUT_S = 30.0


def read(url: str, way: Reach, *, limit_bytes: int = LIMIT_BYTES) -> str | Fault:
    """Read the text at `url` (http or https), or say why it cannot be had."""
    seen = look(url, proxy=way.proxy, ca=way.ca, user_agent=way.user_agent, timeout_s=TIMEOUT_S, bearer=way.bearer)
    if isinstance(seen, Fault):
        return seen
    headers = {"Accept-Encoding": "identity", "User-Agent": way.user_agent}
    if way.bearer is not None and host_of(seen.last_url) == host_of(url):
        headers["Authorization"] = f"Bearer {way.bearer}"
    content = b""
    try:
        with (
            time_limit(TIMEOUT_S) as trace,
            httpx2.Client(verify=trust(way.ca), proxy=way.proxy, trust_env=False, timeout=TIMEOUT_S) as client,
            client.stream("GET", seen.last_url, headers=headers, extensions={"trace": trace}) as answer,
        ):
            if answer.status_code != 200:
                return Fault(Kind.REFUSED, f"server answered {answer.status_code}", answer.status_code)
            for block in answer.iter_raw():
                content += block
                if len(content) > limit_bytes:
                    return Fault(Kind.CORRUPT, f"more than {limit_bytes >> 20} MiB: this is no list of digests")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Fault(Kind.NETWORK, str(error).strip() or type(error).__name__)
    return content.decode("utf-8", "replace")
