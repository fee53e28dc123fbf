"""PURE: parse and normalise URLs, mask secrets in them, and read when signed ones expire."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from orchestrator.text import PLAIN_NAME, fault_of_name, fault_of_text, shown

SCHEMES = ("https", "http", "ftp", "rsync", "file")
# Patterns kept as text are compiled on first use, and urllib is imported then: most URLs need neither.
SECRETS = "token|access_token|private_token|api_key|apikey|password|passwd|secret|client_secret|auth"
SIGNATURES = "signature|sig|x-amz-(signature|credential|security-token)|x-goog-(signature|credential)|x-oss-signature"
# Most URLs: already normal, with nothing to refuse. This one match takes a tenth of the time of the other checks.
_CLEAN = re.compile(
    r"(?:https?|ftp|rsync)://([a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?)/"
    rf"(?!\.|.*/\.)(?:[\w./~!$&'()*+,;=:@-]*/)?(?:({PLAIN_NAME.pattern})|[\w.~!$&'()*+,;=:@-]*)",
    re.A,
)
# Sites of which people paste the address of a page, not that of the file: `manifest.pasted` reads these.
HUGGING_FACE = ("huggingface.co", "hf.co", "hf-mirror.com")
SITES = frozenset((
    *HUGGING_FACE, "modelscope.cn", "dropbox.com", "drive.google.com", "docs.google.com", "github.com", "gitlab.com",
    "zenodo.org", "civitai.com",
))  # fmt: skip
# A host as people write it before a path, without a scheme: one without a dot is known by its port.
BARE_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d{1,5})?"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*):"
_HOST = r"(?:[a-z0-9_][a-z0-9_-]*)(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]"
_PORT = r"[0-9]{1,5}"
_LONE_PERCENT = r"%(?![0-9A-Fa-f]{2})"
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_LONGEST = 4096  # characters of a message
_KEPT = "%!$&'()*+,;=:@/-._~"


class UrlError(Exception):
    """A URL cannot stand in a manifest; the message is a lower-case phrase that does not repeat the URL."""


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


def authority(url: str) -> str:
    """The authority of a normalised URL, as `split` gives it: asked for each line of a long plan."""
    return url.partition("#")[0].partition("://")[2].partition("?")[0].partition("/")[0]


def clean_parts(url: str) -> tuple[str, str]:
    """The host, with its port, and the last name of a URL that `normal` returns unchanged, as nearly all are.

    Both are "" of any other URL, and the name where `last_name` must be asked for it.
    """
    match = _CLEAN.fullmatch(url)
    return (match[1], match[2] or "") if match else ("", "")


def normal(url: str) -> str:
    """Normalise a URL to percent-encoded ASCII.

    The host becomes lower case (IDNA), `.` and `..` segments are resolved, the fragment is dropped; existing %XX and
    the port stay as they are written. `normal(normal(u)) == normal(u)`.

    Raises:
        UrlError: the scheme is not supported, the host or port is malformed, or the URL holds a secret.
    """
    if _CLEAN.fullmatch(url):
        return url
    if fault := fault_of_text(url):
        raise UrlError(f"the URL {fault}")
    match = re.match(_SCHEME, url)
    if match is None:
        raise UrlError(f"expected a URL such as `https://example.org/file`{_meant(url)}")
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        if meant := _meant(url):  # `localhost:8000/file`
            raise UrlError(f"expected a URL such as `https://example.org/file`{meant}")
        instead = _instead(scheme, url[match.end() :])
        raise UrlError(f"scheme `{shown(scheme)}` is not supported: {', '.join(SCHEMES)} are{instead}")
    rest = url[match.end() :]
    if not rest.startswith("//"):
        raise UrlError(f"expected `{scheme}://`")
    rest, _, fragment = rest[2:].partition("#")
    rest, asks, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    _refuse_secrets(query)
    _refuse_secrets(fragment)
    return _spelled(scheme, _authority(scheme, authority), path, asks, query)


def joined(url: str, location: str) -> str:
    """Resolve the Location of a redirect (RFC 3986, 5.2) without its fragment, as percent-encoded ASCII.

    A URL of another scheme than http and https comes back as it is. What `normal` refuses stays: a server may sign the
    URL that it leads to, or put a login into it.

    Raises:
        UrlError: it is no URL.
    """
    from urllib.parse import urljoin

    try:
        new = urljoin(url, location)
    except ValueError:
        raise UrlError("the address is not a URL") from None
    scheme, _, rest = new.partition(":")
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        return new
    if not rest.startswith("//"):  # curl takes `https:/host` all the same
        raise UrlError("the URL has no host")
    rest, asks, query = rest[2:].partition("#")[0].partition("?")
    authority, _, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    where = f"{_encoded(login)}{at}{_authority(scheme, host.removesuffix(':'))}"  # a port may be empty: RFC 3986, 3.2.3
    return _spelled(scheme, where, path, asks, query)


def _spelled(scheme: str, where: str, path: str, asks: str, query: str) -> str:
    """Put the parts of a URL together; `path` is without its first slash, `asks` is the `?` of a query."""
    return f"{scheme}://{where}{_folded('/' + _encoded(path))}{asks}{_encoded(query, '?')}"


def _meant(text: str) -> str:
    """What may be meant by a text without a scheme, to be added to a message: nothing that could hold a secret."""
    if text.startswith("/") and text.isprintable():
        return f", did you mean `file://{text}`?"
    if text[:1] in ("\u2018", "\u201c", "\u201e", "\u00ab"):  # as word processors and chats write quotes
        return ", without typographic quotes"
    if text.startswith(("./", "../", "~/")):
        return ", or `file:///folder/file`"
    if re.fullmatch(rf"{BARE_HOST}(/[\w.+-]+)+", text, re.A):
        return f", did you mean `{usual_scheme(text)}://{text}`?"
    return ""


def usual_scheme(address: str) -> str:
    """The scheme that an address without one most likely has: `http` where it is a server of one's own.

    That has an IP address, a name without a dot, or a port that is not that of TLS.
    """
    host, _, port = address.partition("/")[0].partition(":")
    is_own = "." not in host or re.fullmatch(r"[\d.]+", host) or (port and not port.endswith("443"))
    return "http" if is_own else "https"


def _instead(scheme: str, rest: str) -> str:
    """How to name what a URL of another scheme names, to be added to a message."""
    if scheme in ("hf", "modelscope"):
        return f"; a repository is `repo: {scheme}:ORG/NAME`"
    if public := re.fullmatch(r"//([\w.-]+)/([\w./+-]+)", rest, re.A):
        bucket, name = public.groups()
        if scheme == "s3":
            return f"; a public object is `https://{bucket}.s3.amazonaws.com/{name}`"
        if scheme == "gs":
            return f"; a public object is `https://storage.googleapis.com/{bucket}/{name}`"
    return ""


def masked(url: str) -> str:
    """Return a URL as a message may show it.

    A URL with a query, a fragment or a login is cut to scheme and host: any of these may be a secret.
    """
    if not re.search("[@?#]|%40", url) or re.match("(hf|modelscope):", url):
        return shown(url)
    scheme, colon, rest = url.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if not colon or "@" in rest or "%40" in rest:
        return f"{shown(scheme)}://..." if colon else "..."
    return f"{shown(scheme)}://{shown(host)}/..."


def masked_text(text: str) -> str:
    """Return a message, which may repeat a URL of a manifest, with the secrets in it replaced by `***`."""
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(rf"(?i)\b({SECRETS}|{SIGNATURES})=(?!`)[^\s&;#]+", lambda m: f"{m[1]}=***", text)


_TELLING_KEY = r"[\w.-]*(?:token|passw|secret|api_?key|credential|authorization)[\w.-]*"
_TELLING_WORD = r"\b(?:Bearer|Basic)\s+\S+|\bhf_[A-Za-z0-9]{16,}"


def masked_line(line: str, start: int, end: int) -> tuple[str, int, int]:
    """Return a line of a YAML file with its secrets masked, and where a piece of it then is.

    Masked are what `masked_text` masks, tokens, and the values of keys whose names speak of a secret.

    Args:
        line: the line.
        start: the first character of the piece, from 0.
        end: the character behind it.

    Returns:
        The line, and the piece's new `start` and `end`; both are -1 where it was masked away.
    """
    safe = re.sub(_TELLING_WORD, "***", masked_text(line))
    safe = re.sub(rf"""(?i)({_TELLING_KEY}["']?\s*:\s*)(?!\*\*\*)[^,}}\s][^,}}]*""", r"\1***", safe)
    if safe == line:
        return line, start, end
    same = next((n for n, (a, b) in enumerate(zip(line, safe, strict=False)) if a != b), min(len(line), len(safe)))
    if end <= same:
        return safe, start, end
    return (safe, start, len(safe)) if start <= same else (safe, -1, -1)


def instead(problem: UrlError | str) -> str:
    """Return the hint for a refused URL; "" where the message itself says what to do."""
    if "secret" in str(problem):
        return "leave the secret out; `token_env` in `hosts:` names the variable that holds a token (docs/manifest.md)"
    if "signed" in str(problem):
        return "give the file's lasting URL: a signed one is of no use when it has expired"
    return ""


def prefix(url: str) -> str:
    """Normalise a URL that is the beginning of others; the result ends with `/`.

    Raises:
        UrlError: it cannot be normalised, or has a query.
    """
    normalised = normal(url)
    if "?" in normalised:
        raise UrlError("a prefix has no query")
    return normalised if normalised.endswith("/") else normalised + "/"


def host(text: str) -> str:
    """Normalise a host name, with its port if it has one, as `normal` does in URLs.

    Raises:
        UrlError: it is not a host.
    """
    if "/" in text or "@" in text or fault_of_text(text):
        raise UrlError("expected a host such as `files.example.org` or `nas.example.org:8080`")
    return _authority("https", text)


def host_name(text: str) -> str:
    """Return a normalised host without its port, where it has one."""
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name.endswith("]")) else text


def last_name(url: str) -> str:
    """Return the file name at the end of a normalised URL's path, percent-decoded.

    Raises:
        UrlError: the path ends in no name that a file can have.
    """
    above, _, name = url.rpartition("/")
    if above.endswith(":/") or "?" in url or "#" in url:
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
    """Return a path without `.` and `..` segments (RFC 3986, 5.2.4)."""
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


_BEGIN = re.compile(r"[^:/?#]*://[^/?#]*")  # scheme and authority: RFC 3986, appendix B
_FIRST_S, _LAST_S = 10**9, 10**11  # seconds since the epoch: a smaller number is a duration, a larger one milliseconds


def host_of(url: str) -> str:
    """Return `scheme://name:port` of a URL, the port only where it is not the scheme's default; no login or path."""
    begin = _BEGIN.match(url)
    return _host_of(begin[0] if begin else url)


@lru_cache(maxsize=256)  # asked several times of each of many thousand files, which have few hosts
def _host_of(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "unknown://"
    name = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(parts.scheme) else "")


def ends_in_s(url: str, now: float) -> float | None:
    """Return in how many seconds a signed URL expires, below 0 if it has; None if it does not say.

    Known are `X-Amz-Date` with `X-Amz-Expires` (S3 and compatible), `X-Goog-*` (Google), `se` (Azure) and `Expires`
    (CloudFront, nginx); of several the earliest counts.

    Args:
        url: any URL.
        now: seconds since the epoch.
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
    """The end, in seconds since the epoch, of a time such as `20260131T235959Z` plus a number of seconds."""
    if not re.fullmatch(r"\d{1,9}", seconds, re.ASCII):
        return None
    from datetime import UTC, datetime, timedelta

    try:
        when = datetime.strptime(begun, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return (when + timedelta(seconds=int(seconds))).timestamp()
    except (ValueError, OverflowError):
        return None


def _iso(text: str) -> float | None:
    """A time such as `2026-01-31T23:59:59Z`, with or without the time of day, in UTC as Azure has it."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(:\d\d)?(?:\.\d+)?Z?)?", text, re.ASCII)
    if not match:
        return None
    from datetime import datetime

    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00'}{match[3] or ':00'}+00:00").timestamp()
    except ValueError:
        return None


def _number(text: str) -> float | None:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return None
    return float(text) if _FIRST_S <= int(text) < _LAST_S else None
