"""URLs made one way: percent-encoded ASCII, or refused; a secret in one is never repeated."""

from __future__ import annotations

import re
from typing import NamedTuple

from orchestrator.text import PLAIN_NAME, fault_of_name, fault_of_text, shown

SCHEMES = ("https", "http", "ftp", "rsync", "file")
# Patterns as text are compiled when one is first used, and so is urllib imported: neither is for the most URLs.
SECRETS = "token|access_token|private_token|api_key|apikey|password|passwd|secret|client_secret|auth"
SIGNATURES = "signature|sig|x-amz-(signature|credential|security-token)|x-goog-(signature|credential)|x-oss-signature"
# Nothing to do and nothing to refuse: most URLs, at a tenth of the price.
_CLEAN = re.compile(
    r"(?:https?|ftp|rsync)://[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?/"
    r"(?!\.|.*/\.)[\w./~!$&'()*+,;=:@-]*",
    re.A,
)
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*):"
_HOST = r"(?:[a-z0-9_][a-z0-9_-]*)(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]"
_PORT = r"[0-9]{1,5}"
_LONE_PERCENT = r"%(?![0-9A-Fa-f]{2})"
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_LONGEST = 4096  # characters of a message
_KEPT = "%!$&'()*+,;=:@/-._~"


class UrlError(Exception):
    """Why a URL cannot stand in a manifest: a lower-case phrase without the URL."""


class Parts(NamedTuple):
    """A URL taken apart: `path` begins with `/` or is empty; all parts are percent-encoded as they were."""

    scheme: str
    authority: str
    path: str
    query: str


def split(url: str) -> Parts:
    """Take a normalised URL apart; a fragment is dropped. urllib's import would cost more than all else here."""
    scheme, _, rest = url.partition("#")[0].partition("://")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return Parts(scheme, authority, slash + path, query)


def normal(url: str) -> str:
    """`url` as percent-encoded ASCII: host lower-case (IDNA), dots folded, no fragment, existing %XX kept.

    The port is kept as it is written. `normal(normal(u)) == normal(u)`. Raises `UrlError`.
    """
    if _CLEAN.fullmatch(url):
        return url
    if fault := fault_of_text(url):
        raise UrlError(f"the URL {fault}")
    match = re.match(_SCHEME, url)
    if match is None:
        raise UrlError("expected a URL such as `https://example.org/file`")
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        raise UrlError(f"scheme `{shown(scheme)}` is not supported: {', '.join(SCHEMES)} are")
    rest = url[match.end() :]
    if not rest.startswith("//"):
        raise UrlError(f"expected `{scheme}://`")
    rest, _, fragment = rest[2:].partition("#")
    rest, asks, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    _refuse_secrets(query)
    _refuse_secrets(fragment)
    where = _authority(scheme, authority)
    return f"{scheme}://{where}{_folded('/' + _encoded(path))}{asks}{_encoded(query, '?')}"


def masked(url: str) -> str:
    """A URL that may hold a secret, for a message: no more than its scheme and host where it has more than a path."""
    if not re.search("[@?#]|%40", url) or re.match("(hf|modelscope):", url):
        return shown(url)
    scheme, colon, rest = url.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if not colon or "@" in rest or "%40" in rest:
        return f"{shown(scheme)}://..." if colon else "..."
    return f"{shown(scheme)}://{shown(host)}/..."


def masked_text(text: str) -> str:
    """Words of ours that may repeat a URL of a manifest, with what is secret in it as `***`."""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(rf"(?i)\b({SECRETS}|{SIGNATURES})=(?!`)[^\s&;#]+", lambda m: f"{m[1]}=***", text)


def instead(problem: UrlError | str) -> str:
    """What to type in the place of a URL that was refused; "" where the problem says it itself."""
    if "secret" in str(problem):
        return "leave the secret out; `token_env` in `hosts:` names the variable that holds a token (docs/manifest.md)"
    if "signed" in str(problem):
        return "give the file's lasting URL: a signed one is of no use when it has expired"
    return ""


def prefix(url: str) -> str:
    """`url` as the beginning of others: normalised, with a trailing `/`. Raises `UrlError`."""
    made = normal(url)
    if "?" in made:
        raise UrlError("a prefix has no query")
    return made if made.endswith("/") else made + "/"


def host(text: str) -> str:
    """A host name with its port, if it has one, in the form that URLs are given here. Raises `UrlError`."""
    if "/" in text or "@" in text or fault_of_text(text):
        raise UrlError("expected a host such as `files.example.org` or `nas.example.org:8080`")
    return _authority("https", text)


def last_name(url: str) -> str:
    """The file's name that a normalised `url` ends with, percent-decoded. Raises `UrlError`."""
    name = split(url).path.rpartition("/")[2]
    if PLAIN_NAME.fullmatch(name):
        return name
    if "%" in name:
        from urllib.parse import unquote

        try:
            name = unquote(name, errors="strict")
        except UnicodeDecodeError:
            raise UrlError("the URL's last name is not UTF-8, name the file in `to:`") from None
    if fault := fault_of_name(name):
        raise UrlError(f"the URL's last name {fault}, name the file in `to:`")
    if "/" in name or name in (".", ".."):
        raise UrlError("the URL's last name is not a file's name, name the file in `to:`")
    return name


def _authority(scheme: str, text: str) -> str:
    if "@" in text:
        raise UrlError("a literal secret (`user:password@`) does not belong in a manifest")
    if scheme == "file":
        if text:
            raise UrlError("a `file` URL has no host: `file:///folder/file`")
        return ""
    name, colon, port = text, "", ""
    if not text.endswith("]"):
        name, colon, port = text.partition(":") if not text.startswith("[") else text.rpartition(":")
    if not name:
        raise UrlError("the URL has no host")
    try:
        name = name.lower() if name.isascii() else name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise UrlError("the host is not a name") from None
    if not re.fullmatch(_HOST, name):
        raise UrlError("the host is not a name")
    if colon and not (re.fullmatch(_PORT, port) and 0 < int(port) < 65536):
        raise UrlError("the port is not a number from 1 to 65535")
    return name + colon + port


def _refuse_secrets(query: str) -> None:
    from urllib.parse import unquote

    for pair in re.split("[&;]", query):
        key = unquote(pair.partition("=")[0]).strip().lower()
        if re.fullmatch(SIGNATURES, key):
            raise UrlError("a signed URL does not belong in a manifest")
        if re.fullmatch(SECRETS, key):
            raise UrlError(f"a literal secret (`{key}=`) does not belong in a manifest")


def _encoded(text: str, also: str = "") -> str:
    from urllib.parse import quote

    return quote(re.sub(_LONE_PERCENT, "%25", text), safe=_KEPT + also)


def _folded(path: str) -> str:
    """`path` without `.` and `..` segments (RFC 3986, 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_FIRST_S, _LAST_S = 10**9, 10**11  # a number below is a duration or a flag, one above is no seconds


def host_of(url: str) -> str:
    """`scheme://name:port` of a URL, the port only where it is not the usual one; no user, path or query."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "unknown://"
    name = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(parts.scheme) else "")


def ends_in_s(url: str, now: float) -> float | None:
    """Seconds until the signature of `url` ends, below 0 where it did; None where it tells no end.

    `now` is seconds since the epoch. Read are `X-Amz-Date` with `X-Amz-Expires` (S3 and its kin), `X-Goog-*`
    (Google), `se` (Azure) and `Expires` (CloudFront, nginx); of several the first to come.
    """
    from urllib.parse import parse_qsl, urlsplit

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
    from datetime import UTC, datetime, timedelta

    try:
        when = datetime.strptime(begun, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return (when + timedelta(seconds=int(seconds))).timestamp()
    except (ValueError, OverflowError):
        return None


def _iso(text: str) -> float | None:
    """`2026-01-31T23:59:59Z`, with or without the time of day; Azure means UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(:\d\d)?(?:\.\d+)?Z?)?", text, re.ASCII)
    if not found:
        return None
    from datetime import datetime

    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}{found[3] or ':00'}+00:00").timestamp()
    except ValueError:
        return None


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return None
    return float(text) if _FIRST_S <= int(text) < _LAST_S else None
