"""The first moments of a source's file: how fast it comes, and what it begins with. The bytes are thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from orchestrator.formats.wrong_file import EMPTY_HINT, HEAD_BYTES, OTHER_VERSION_HINT, Nature, Wish, page
from orchestrator.sources.connect import client
from orchestrator.sources.http import time_limit

if TYPE_CHECKING:
    import threading

    from orchestrator.sources.http import Look
    from orchestrator.sources.route import Reach

TASTE_BYTES = 1 << 20
TASTE_S = 0.3
TELLING_BYTES, TELLING_S = 256 << 10, 0.2  # less says nothing of a rate
FASTEST = 32.0 * (1 << 20)  # bytes a second; above, so short a look measures this machine's mood
PAGE_BYTES = 1 << 20  # more than this is no page: its beginning is not asked for


@dataclass(frozen=True, slots=True)
class Taste:
    """Bytes a second on one connection (None: too little came to tell), and the file's first bytes."""

    rate: float | None
    head: bytes


def taste(
    url: str,
    *,
    proxy: str | None,
    ca: str,
    user_agent: str,
    timeout_s: float,
    bearer: str | None = None,
    stop: threading.Event | None = None,
) -> Taste:
    """Read the beginning of `url`, where a look's redirects ended, for a moment; whatever fails is no measure."""
    headers = {"Range": f"bytes=0-{TASTE_BYTES - 1}", "Accept-Encoding": "identity", "User-Agent": user_agent}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    size, began, head = 0, None, b""
    try:
        session, _ = client(ca=ca, proxy=proxy, timeout_s=timeout_s, stop=stop)
        with (
            time_limit(timeout_s, stop) as trace,
            session,
            session.stream("GET", url, headers=headers, extensions={"trace": trace}) as answer,
        ):
            if answer.status_code not in (200, 206):
                return Taste(None, b"")
            began = time.monotonic()
            for block in answer.iter_raw():
                size += len(block)
                head = (head + block)[:HEAD_BYTES] if len(head) < HEAD_BYTES else head
                if size >= TASTE_BYTES or time.monotonic() - began >= TASTE_S:
                    break
    except (ImportError, httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError):
        pass  # what came before it broke counts
    took_s = time.monotonic() - began if began is not None else 0.0
    telling = size >= TELLING_BYTES or (size and took_s >= TELLING_S)
    return Taste(min(FASTEST, size / max(took_s, 1e-6)) if telling else None, head)


def begins_as(
    seen: Look, wish: Wish, way: Reach, timeout_s: float = 2.0, stop: threading.Event | None = None
) -> Nature:
    """What a file of another length is, where its beginning tells: a page, a pointer, nothing at all."""
    what = Nature("an empty file", EMPTY_HINT) if seen.length == 0 else Nature()
    if seen.length and seen.length <= PAGE_BYTES and timeout_s > 0:
        proxy, ca, agent = way.proxy, way.ca, way.user_agent
        begun = taste(seen.last_url, proxy=proxy, ca=ca, user_agent=agent, timeout_s=timeout_s, stop=stop)
        what = page(begun.head, wish)
    if not what and "text/html" in seen.content_type:
        what = Nature("an HTML page")
    return what


def other_file(seen: Look, wish: Wish, what: Nature) -> Nature:
    """Say that a source serves a file of another length, and what it is."""
    words = f"wrong length: {seen.length} bytes{f' of {what.words}' if what else ''}, instead of {wish.size}"
    return Nature(words, what.hint or OTHER_VERSION_HINT)
