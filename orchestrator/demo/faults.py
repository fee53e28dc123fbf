"""The faults that the loopback origin can be given, and the wrong bytes that it then serves; no sockets here."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = tuple[tuple[str, str], ...]

_XOR = bytes(byte ^ 0x5A for byte in range(256))
_NEXT = bytes((byte + 1) % 256 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the origin answers for a path. The defaults are a good server; the fields combine."""

    # another answer than the file
    status: int | None = None  # this status instead ...
    status_after: int = 0  # ... once so many requests went well (a signed URL that expires)
    status_times: int | None = None  # ... and only so often
    retry_after: str | None = None  # the header, beside `status`
    redirect: str | None = None
    redirect_after: int = 0  # ... once so many requests were answered with the file
    redirect_holds_s: float | None = None  # it is signed: with an Expires= so many seconds ahead
    signed: bool = False  # 403 where the Expires= of the query is over, or missing
    redirect_loop: bool = False
    bearer: str | None = None  # 401 without this token
    one_auth: bool = False  # 400 where a token comes with a signed URL, as S3 says
    html: bool = False  # a sign-in page with 200
    html_on_range: bool = False  # the same, only where a Range starts after the first byte
    refuse_bare_get: bool = False  # 400 without a Range, as some hubs do for very large files
    # ranges and lengths
    ranges: Literal["honest", "ignored", "refused416", "wrong"] = "honest"
    bare_416: bool = False  # 416 without its Content-Range
    no_length: bool = False  # the end of the connection ends the body
    chunked: bool = False
    gzip: bool = False  # encoded although nobody asked
    # identity and bytes
    etag: str = "auto"  # "" sends none, "weak" one for all versions, "each" another one with each answer
    restless: bool = False  # another date with each answer
    replace_after: int | None = None  # after so many requests the file is another one of the same length
    replace_after_bytes: int | None = None  # ... or after so many bytes of it were sent
    wrong: bool = False  # every byte wrong, the length right
    wrong_at: int | None = None  # one byte wrong
    # headers
    content_type: str = "application/octet-stream"
    headers: Headers = ()
    status_line_escape: bool = False  # terminal escapes in the reason
    header_flood: int = 0  # bytes of useless headers
    # time and the connection
    delay_s: float = 0.0  # before each answer: a round trip
    rate: int | None = None  # bytes a second on one connection
    send_buffer: int | None = None  # bytes that wait in the kernel, else megabytes: what is counted was nearly received
    silent: bool = False  # never a word; with `rst` a reset at once
    stall_after: int | None = None  # nothing more after so many bytes of an answer
    stall_times: int | None = None
    cut_after: int | None = None  # closed after so many bytes of an answer
    cut_times: int | None = None
    rst: bool = False  # cut by a reset, not a FIN


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request; header names are lower case, the path is percent-decoded, `keep` is keep-alive."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Content:
    """What a path serves: bytes in memory, or a file that each answer opens again."""

    data: bytes = field(repr=False)
    file: str | None
    size: int
    etag: str
    modified_s: float

    @classmethod
    def of(cls, source: bytes | str | os.PathLike[str]) -> Content:
        """Make it of bytes, or of a file's name."""
        if isinstance(source, bytes):
            return cls(source, None, len(source), hashlib.sha256(source).hexdigest()[:16], 1.7e9)
        stat = os.stat(source)
        etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
        return cls(b"", os.fspath(source), stat.st_size, etag, stat.st_mtime)

    def whole(self) -> bytes:
        """Read all of it into memory."""
        if self.file is None:
            return self.data
        with open(self.file, "rb") as file:
            return file.read()


def wrong_bytes(data: bytes) -> bytes:
    """The bytes that `wrong` serves instead of `data`: every one differs."""
    return data.translate(_XOR)


def replaced(data: bytes) -> bytes:
    """The bytes of the file that `replace_after` puts in the place of `data`: of the same length."""
    return data.translate(_NEXT)


def block_transform(behaviour: Behaviour, changed: bool) -> Callable[[int, bytes], bytes] | None:
    """The function that changes a block, given its offset in the file; None where the bytes are sent unchanged."""
    if not (changed or behaviour.wrong or behaviour.wrong_at is not None):
        return None

    def transform(offset: int, chunk: bytes) -> bytes:
        chunk = replaced(chunk) if changed else chunk
        chunk = wrong_bytes(chunk) if behaviour.wrong else chunk
        at = -1 if behaviour.wrong_at is None else behaviour.wrong_at - offset
        if not 0 <= at < len(chunk):
            return chunk
        return chunk[:at] + wrong_bytes(chunk[at : at + 1]) + chunk[at + 1 :]

    return transform
