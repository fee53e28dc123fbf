"""PURE: say what a file with the wrong digest is, and what to do: an HTML page, an LFS pointer, a truncated file ..."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.formats import lfs, safetensors
from orchestrator.formats.bounded import broken
from orchestrator.formats.html_page import is_html
from orchestrator.text import shown

if TYPE_CHECKING:
    from orchestrator.model import Wanted

HEAD_BYTES = 4096  # enough for every page and pointer
TAIL_BYTES = 65_557  # a zip ends with its directory's end: 22 bytes and a comment of at most 65,535 (APPNOTE 4.3.16)
POINTER = b"version https://git-lfs"
EMPTY = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "sha256",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709": "sha1",
    "d41d8cd98f00b204e9800998ecf8427e": "md5",
    "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e": "sha512",
}
EMPTY_PIN = "the expected checksum is that of an empty file"
EMPTY_PIN_HINT = "put the publisher's checksum into the manifest: this one is of an empty download"
OTHER_VERSION_HINT = "compare size and checksum in the manifest with the publisher's: they may be of another version"
EMPTY_HINT = "see what the source answers: `curl -sIL URL`; or add a mirror"
LATER = "run the command again later, or add a mirror to the manifest"
_LAYERS = 2
_BINARY = ("safetensors", "h5", "gguf", "onnx", "bin", "pt", "pth", "ckpt", "npz", "zip", "gz", "tgz", "msgpack")
_PLAIN = ("safetensors", "h5", "gguf", "onnx", "json", "txt")  # endings of files that are never compressed
_FORMS = ((b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip data"), (b"\x28\xb5\x2f\xfd", "zstd data"))
_JSON_ERROR = re.compile(
    rb'\{\s*"(?:error|errors|message|detail|error_description)"\s*:[\s\[{]*(?:"message"\s*:\s*)?"([^"]{1,200})'
)


class WrongFile(NamedTuple):
    """What the bytes of a file are: `words` is a phrase, `hint` says what to do; both "" where nothing is known."""

    words: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.words)

    @property
    def after(self) -> str:
        """The words as the end of a sentence: ": a truncated zip", or ""."""
        return f": {self.words}" if self.words else ""


class ExpectedFile(NamedTuple):
    """What a file should have been: its name, size in bytes, sha256 and weaker digests, each as far as it is known."""

    name: str = ""
    size: int | None = None
    sha256: str = ""
    pins: tuple[str, ...] = ()


def expected_file(wanted: Wanted) -> ExpectedFile:
    """Return what a wanted file should be; its name is the last one of its path, of its place or of its URL."""
    paths = (wanted.file, *(place.path for place in wanted.places), *(source.url for source in wanted.sources))
    named = next((path for path in paths if path), "")
    return ExpectedFile(
        named.rpartition("/")[2].partition("?")[0], wanted.size, wanted.sha256, tuple(pin.hex for pin in wanted.pins)
    )


def header_bytes(head: bytes) -> int:
    """Return how many of a file's first bytes `diagnose` needs: more than HEAD_BYTES only for a safetensors header."""
    return max(HEAD_BYTES, safetensors.header_bytes(head))


def diagnose(head: bytes, tail: bytes, size: int, expected: ExpectedFile) -> WrongFile:
    """Say what a file is that has the wrong digest.

    Args:
        head: its first bytes, as many as `header_bytes` says.
        tail: its last TAIL_BYTES bytes, or all of a shorter file.
        size: its size in bytes.
        expected: what it should have been.
    """
    if size == 0:
        return WrongFile("an empty file", EMPTY_HINT)
    try:
        return _diagnose(head, tail, size, expected)
    except broken():
        return WrongFile()  # the answer is only a help for people: without one, the digest's mismatch stands alone


def _diagnose(head: bytes, tail: bytes, size: int, expected: ExpectedFile) -> WrongFile:
    if known := page(head, expected) or _cut_off(head, tail, size):
        return known
    if any(digest in EMPTY for digest in (expected.sha256, *expected.pins)):
        return WrongFile(EMPTY_PIN, EMPTY_PIN_HINT)
    odd = _other_form(head, expected)
    if expected.size is not None and size < expected.size:
        short = f"short by {expected.size - size} of {expected.size} bytes"
        return WrongFile(f"{odd}, {short}" if odd else short, LATER)
    if expected.size is not None and size > expected.size:
        long = f"{size - expected.size} bytes more than the {expected.size} expected"
        return WrongFile(f"{odd}, {long}" if odd else long, OTHER_VERSION_HINT)
    return WrongFile(odd)


def page(head: bytes, expected: ExpectedFile, layers: int = _LAYERS) -> WrongFile:
    """Say what a server sent instead of a file: an LFS pointer, an HTML page, an error; nothing if it may be the file.

    Args:
        head: the first bytes that it sent.
        expected: what the file should have been.
        layers: how many gzip compressions inside each other to look through.
    """
    if head.startswith(POINTER):
        return _pointer(head, expected)
    text = head[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    low = text[:64].lower()
    suffix = expected.name.rpartition(".")[2].lower()
    if is_html(text) and suffix not in ("html", "htm"):
        title = _match(rb"<title[^>]*>([^<]{1,200})", text)
        words = f"an HTML page{f' ({title})' if title else ''}"
        return WrongFile(words, "open the URL in a browser: it may need a login, or the file may have moved")
    if low.startswith((b"<?xml", b"<error")) and b"<Error" in text:
        code, message = _match(rb"<Code>([^<]{1,80})", text), _match(rb"<Message>([^<]{1,200})", text)
        detail = ": ".join(part for part in (code, message) if part)
        return WrongFile(f"a storage server's XML error{f' ({detail})' if detail else ''}", _storage(code))
    if error := _JSON_ERROR.match(text):
        return WrongFile(f"a JSON error ({_line(error[1])})", "open the URL in a browser: it may need a login")
    if low.startswith(b"{") and suffix in _BINARY:
        return WrongFile("a JSON document", "open the URL in a browser: it may be the URL of an API, not of the file")
    if layers and head.startswith(b"\x1f\x8b") and (inner := page(_inflated(head), expected, layers - 1)):
        return WrongFile(f"{inner.words}, gzipped", inner.hint)
    return WrongFile()


def _pointer(head: bytes, expected: ExpectedFile) -> WrongFile:
    """Describe the pointer that a git clone has in the place of a file where git-lfs is not installed."""
    oid, size, _ = lfs.parse(head.decode("utf-8", "replace"))
    parts = (f"oid {oid[:12]}" if oid else "", f"size {size}" if size is not None else "")
    about = ", ".join(part for part in parts if part)
    which = " to the expected file" if oid and oid == expected.sha256 else ""
    if oid and expected.sha256 and oid != expected.sha256:
        which = " to another file than the expected one"
    hint = (
        "take the URL of the file and not of its pointer (`/resolve/` for `/raw/` on a hub, "
        "media.githubusercontent.com/media/ for raw.githubusercontent.com/); "
        "in a clone: `git lfs install && git lfs pull`"
    )
    return WrongFile(f"a Git LFS pointer{which}{f' ({about})' if about else ''}", hint)


def _storage(code: str) -> str:
    """What may help after an error of an S3-compatible storage server (S3 API reference, error responses)."""
    if code in ("NoSuchKey", "NoSuchBucket", "NoSuchVersion"):
        return "check the URL: the file may have moved"
    if code in ("AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"):
        return "a signed URL expires: put the address that redirects to it into the manifest"
    return LATER


def _cut_off(head: bytes, tail: bytes, size: int) -> WrongFile:
    """A file whose own header or end says that it should be longer or shorter."""
    if header := safetensors.header_bytes(head):
        calls = safetensors.whole_bytes(head)
        if size < header or (calls is not None and calls > size):
            needs = calls if calls is not None else header
            least = "" if calls is not None else "at least "
            return WrongFile(
                f"a truncated safetensors file: its header requires {least}{needs} bytes, it has {size}", LATER
            )
        if calls is not None and calls < size:
            return WrongFile(f"a safetensors file with {size - calls} bytes after its end")
    if head.startswith(b"PK\x03\x04") and b"PK\x05\x06" not in tail:
        return WrongFile(f"a truncated zip (or .pth): {size} bytes without the directory at its end", LATER)
    return WrongFile()


def _other_form(head: bytes, expected: ExpectedFile) -> str:
    """Compressed bytes in a file whose name says that it is not compressed."""
    if expected.name.rpartition(".")[2].lower() not in _PLAIN:
        return ""
    return next((words for magic, words in _FORMS if head.startswith(magic)), "")


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def _match(pattern: bytes, text: bytes) -> str:
    """The first group of a match as one short line; "" where nothing matches."""
    match = re.search(pattern, text)
    return _line(match[1]) if match else ""


def _line(text: bytes) -> str:
    return shown(" ".join(text.decode("utf-8", "replace").split())[:120])
