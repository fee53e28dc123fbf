"""PURE: when a signed URL ends, read from its query."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S, _LAST_S = 10**9, 10**11  # a number below is a duration or a flag, one above is no seconds


def ends_in_s(url: str, now: float) -> float | None:
    """Seconds until the signature of `url` ends, below 0 where it did; None where it tells no end.

    `now` is seconds since the epoch. Read are `X-Amz-Date` with `X-Amz-Expires` (S3 and its kin), `X-Goog-*`
    (Google), `se` (Azure) and `Expires` (CloudFront, nginx); of several the first to come.
    """
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return None
    ends = (
        _dated(query.get("x-amz-date", ""), query.get("x-amz-expires", "")),
        _dated(query.get("x-goog-date", ""), query.get("x-goog-expires", "")),
        _iso(query.get("se", "")),
        _number(query.get("expires", "")),
    )
    return min((end - now for end in ends if end is not None), default=None)


def _dated(begun: str, seconds: str) -> float | None:
    """A beginning such as `20260131T235959Z`, and how long it holds."""
    if not re.fullmatch(r"\d{1,9}", seconds, re.ASCII):
        return None
    try:
        when = datetime.strptime(begun, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return (when + timedelta(seconds=int(seconds)) - _EPOCH).total_seconds()
    except (ValueError, OverflowError):
        return None


def _iso(text: str) -> float | None:
    """`2026-01-31T23:59:59Z`, with or without the time of day; Azure means UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(:\d\d)?(?:\.\d+)?Z?)?", text, re.ASCII)
    if not found:
        return None
    try:
        when = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}{found[3] or ':00'}+00:00")
    except ValueError:
        return None
    return (when - _EPOCH).total_seconds()


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return None
    return float(text) if _FIRST_S <= int(text) < _LAST_S else None
