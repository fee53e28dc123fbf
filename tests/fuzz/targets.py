"""What is fuzzed: each reader of bytes that somebody else may have made, with its own errors and its first inputs.

A target takes bytes and returns what it would say to people. Whatever else it raises is a find, and so is a text with
control characters in it.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import checksums, urls
from orchestrator.backends import BACKENDS, aria2_control
from orchestrator.backends.base import Exit, Job, Want
from orchestrator.commands import import_list
from orchestrator.context import Context
from orchestrator.errors import ManifestError, OrchError
from orchestrator.formats import detect, lfs, safetensors, wrong_file, zip_directory
from orchestrator.formats.bounded import most_bytes, readable
from orchestrator.formats.policy import refusal
from orchestrator.hubs import huggingface, modelscope, sanity
from orchestrator.manifest import lockfile, parse, parse_site
from orchestrator.model import Repo
from orchestrator.placement import archive
from orchestrator.sources import stats
from orchestrator.sources.http import retry_after
from orchestrator.store import Store, partials, quarantine, records, tree_records
from orchestrator.store.verification_log import VerificationLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUSE = Path(__file__).resolve().parents[2]
DIGEST = "a" * 64
MANIFEST = f"""\
version: 1
store: /s
root: /r
hosts: {{h.example: {{token_env: T, connections: 3}}}}
mirrors: {{https://h.example/: [https://m.example/x/]}}
defaults: &d
  to: models/
models:
  m: {{url: "https://h.example/m-{DIGEST[:8]}.pth", sha256: {DIGEST}, size: 5, to: [models/, other/m.pth]}}
  r: {{repo: "hf:o/n@v1", include: ["*.json"], for: transformers}}
  f:
    to: x/
    unpack: true
    files:
      - {{url: https://h.example/f.tar.gz, sha256: "https://h.example/SHA256SUMS", mirrors: ["ftp://m.example/f"]}}
allow: [safetensors, pickle]
"""
SITE = "mirrors: {https://h.example/: [https://m.example/x/]}\nhosts: {h: {ca: /c.pem, proxy: 'http://p:1'}}\n"
LOCKED = {"sha256": DIGEST, "size": 5, "from": "hub API", "git": "b" * 40, "etag": "e", "pieces": "1048576:abc"}
LOCK = json.dumps({"version": 1, "models": {"r": {"fingerprint": "f", "files": {"a/b.json": LOCKED}, "commit": "c"}}})
SUMS = (
    f"{DIGEST}  m.pth\n{DIGEST} *dir/a b.bin\n\\{DIGEST}  odd\\nname\nSHA256 (x.bin) = {DIGEST}\n# sha256\n",
    f"SHA2-256(y.bin)= {DIGEST}\r\n{'b' * 40}  sha1.bin\n{DIGEST}\n",
    f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{DIGEST}  m.pth\n-----BEGIN PGP SIGNATURE-----\nx\n",
    f"m.pth sha256:{DIGEST} https://h/m.pth\nn.pth {DIGEST}\n",
    f"version https://git-lfs.github.com/spec/v1\noid sha256:{DIGEST}\nsize 12\n",
)
METALINK = (
    '<?xml version="1.0" encoding="UTF-8"?><metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="a/m.pth">'
    f'<size>5</size><hash type="sha-256">{DIGEST}</hash><url priority="1" location="de">https://h/m.pth</url>'
    f'<pieces length="262144" type="sha-1"><hash>{"b" * 40}</hash></pieces></file></metalink>',
    '<metalink version="3.0" xmlns="http://www.metalinker.org/"><files><file name="m"><size>5</size><verification>'
    f'<hash type="sha256">{DIGEST}</hash></verification><resources><url type="http" preference="9">http://h/m</url>'
    "</resources></file></files></metalink>",
)
URLS = (
    "https://h.example:443/a/../b%20c/%E2%82%AC?x=1&y#z",
    "http://[::1%25lo]:80/~u/",
    "http://user:pw@h/",
    "https://s3.example/k?X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-Signature=ab",
    "https://c.example/k?Expires=1700000000&Signature=a&Key-Pair-Id=b",
    "file:///a/b",
    "rsync://h/m/p",
    "https://müller.example/ü",
)
_HEADERS = 'retry-after: 5\nratelimit: "r";r=0;t=5\nretry-after: Fri, 31 Dec 2027 23:59:59 GMT\n'


class Target:
    """One reader: its name, its first inputs, and how it is called."""

    def __init__(self, name: str, seeds: Callable[[], list[bytes]], call: Callable[[bytes], Iterator[str]]) -> None:
        self.name, self._seeds, self._call = name, seeds, call

    def seeds(self) -> list[bytes]:
        """The inputs to begin with, and those that were finds once."""
        kept = sorted((HOUSE / "tests/fuzz/seeds").glob(f"{self.name}-*"))
        return [*self._seeds(), *(path.read_bytes() for path in kept)]

    def run(self, data: bytes) -> None:
        """Read one input.

        Raises:
            Exception: a find.
        """
        for words in self._call(data):
            bad = [c for c in words if not c.isprintable() and c != "\n"]
            assert not bad, f"control characters {bad[:3]!r} in {words[:200]!r}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _told(error: OrchError) -> Iterator[str]:
    yield error.message
    yield error.hint


def _manifest(data: bytes) -> Iterator[str]:
    for resolve in (True, False):
        try:
            parse(_text(data), "/p/team.yaml", "/home/u", resolve=resolve)
        except ManifestError as error:
            yield from _told(error)


def _site(data: bytes) -> Iterator[str]:
    try:
        parse_site(_text(data), "/p/site.yaml", "/home/u")
    except ManifestError as error:
        yield from _told(error)


def _lock(data: bytes) -> Iterator[str]:
    try:
        lock = lockfile.read(_text(data), "/p/team.lock.json")
        parse(MANIFEST.replace("defaults: &d\n  to: models/\n", ""), "/p/team.yaml", "/home/u", lock=lock)
    except ManifestError as error:
        yield from _told(error)


def _sums(data: bytes) -> Iterator[str]:
    try:
        found = checksums.parse(checksums.decode(data))
    except checksums.ChecksumsError as error:
        yield from (error.message, error.hint)
        return
    yield from (odd.why for odd in found.odd)
    checksums.find(found.entries, "/dir/m.pth")


def _list(data: bytes) -> Iterator[str]:
    path = _folder() / "list.sha256"
    path.write_bytes(data)
    try:
        import_list.read(str(path))
    except ManifestError as error:
        yield from _told(error)


def _pointer(data: bytes) -> Iterator[str]:
    try:
        lfs.parse(_text(data))
    except ValueError as error:
        yield str(error)


def _head(data: bytes) -> Iterator[str]:
    tail = data[-zip_directory.TAIL_BYTES :]
    for length in (len(data), len(data) + 100_000, None):
        for found in detect.formats_of(data[: detect.HEAD_BYTES], length, tail if length == len(data) else b""):
            yield detect.describe(found)
    expected = wrong_file.ExpectedFile("m.pth", 3000, DIGEST, ())
    wrong = wrong_file.diagnose(
        data[: wrong_file.header_bytes(data)], data[-wrong_file.TAIL_BYTES :], len(data), expected
    )
    yield from (wrong.words, wrong.hint)
    yield safetensors.safetensors_fault(data, len(data))
    safetensors.whole_bytes(data)


def _archive(data: bytes) -> Iterator[str]:
    path = _folder() / "archive"
    path.write_bytes(data)
    total = 0
    try:
        for member in archive.members(str(path)):
            while member.content is not None:
                with readable():  # as `placement.tree` reads it
                    block = member.content.read(1 << 20)
                if not block:
                    break
                total += len(block)
                assert total <= most_bytes(len(data)), "it unpacks to more than it may"
    except archive.ArchiveError as error:
        yield str(error)


def _gate(data: bytes) -> Iterator[str]:
    for allow, unpacked in (
        (("safetensors",), False),
        (("safetensors", "other", "zip", "tar"), True),
        (("pickle",), False),
    ):
        refused = refusal(io.BytesIO(data), len(data), allow, unpacked=unpacked)
        if refused is not None:
            yield refused.words


def _sidecar(data: bytes) -> Iterator[str]:
    yield from ()
    aria2_control.length(data)
    for backend in BACKENDS:
        for length in (8 << 20, 3000, 0):
            holes = backend.missing(data, length, min(length, 1000))
            assert all(0 <= hole.start <= hole.end <= length for hole in holes), holes
    for length in (8 << 20, 3000):
        (holes_of := aria2_control.read(data, length))
        assert holes_of is None or all(0 <= hole.start <= hole.end for hole in holes_of), holes_of


def _state(data: bytes) -> Iterator[str]:
    """Records, notes and logs, each with these bytes in the place of its own."""
    folder = _folder() / "state"
    shutil.rmtree(folder, ignore_errors=True)
    store = Store(f"{folder}/store", f"{folder}/local")
    key = f"{store.partials(DIGEST)}/w"
    trees = tree_records._path(store, DIGEST)
    note = f"{store.quarantine}/{DIGEST}"
    record = records._path(store, "/p/team.yaml")
    large = records._path(store, "/p/large.yaml")
    for path in (
        f"{key}/info.json",
        trees,
        f"{note}/about.json",
        record,
        f"{large}.0.journal",
        f"{store.state}/runs.jsonl",
        f"{store.state}/reads.jsonl",
    ):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(data)
    Path(f"{note}/bytes").write_bytes(b"x")
    Path(large).write_text('{"host": "h", "manifest": "/p/large.yaml", "places": {}}')
    for path in (record, large):
        with suppress(*records._DAMAGE):
            records._Known(path)
    fd = os.open(f"{key}/guard", os.O_RDWR | os.O_CREAT, 0o600)
    partials.Partial(key, fd).close()
    tree_records.read(store, DIGEST)
    records.of(store, "/p/team.yaml")
    yield from (entry.problem for entry in records.records(store) if entry.problem)
    list(records.made(store))
    stats._read(f"{store.state}/runs.jsonl")
    VerificationLog(store.state, 1e9)
    quarantine._read_note(note)


def _url(data: bytes) -> Iterator[str]:
    text = _text(data)
    for reader in (urls.split, urls.normal, urls.prefix, urls.host, urls.last_name):
        try:
            reader(text)
        except urls.UrlError as error:
            yield str(error)
            yield urls.instead(error)
    urls.masked(text)
    urls.masked_text(text)
    urls.host_of(text)
    urls.ends_in_s(text, 1.7e9)


def _ends(data: bytes) -> Iterator[str]:
    """What programs print, and what they make of a server's words."""
    yield from ()
    text, job = _text(data), Job((Want(("http://h/f",), "/p/f", 3000, 0),), "/p")
    many = Job((*job.wants, Want(("http://h/g",), "/p/g", 10, 0)), "/p")
    for backend in BACKENDS:
        for code in (0, 1, 4, 8, 22, 23, -11):
            backend.diagnose(job, Exit(code, text, text))
        if backend.NAME in ("aria2c", "curl"):
            backend.diagnose(many, Exit(1, text, text))
    headers = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
    retry_after({name.lower(): value for name, value in headers.items()})


def _index(data: bytes) -> Iterator[str]:
    yield from ()
    sanity.missing_of_index("a/m.index.json", data, ("a/m",))
    sanity.missing_shards(_text(data).split("\n"))
    for name in _text(data).split("\n"):
        sanity.named_digest(name)


def _hub(data: bytes) -> Iterator[str]:
    """Both hubs' clients, against a server on loopback whose answers are these bytes."""
    hub = _answering()
    hub.answer = data
    environ = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HOME": str(_folder())}
    context = Context(environ, str(_folder()))
    for resolve, name in ((huggingface.resolve, "hf"), (modelscope.resolve, "modelscope")):
        try:
            resolve(context, Repo(name, "o/n"))
        except OrchError as error:
            yield from _told(error)


class _Answering:
    """A hub: its first answer names a commit, all others are `answer`."""

    def __init__(self) -> None:
        self.answer = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = outer.answer
                if "/api/models/o/n/revision" in self.path or self.path.endswith("/api/models/o/n"):
                    body = b'{"id": "o/n", "sha": "%s", "gated": false, "siblings": []}' % (b"a" * 40)
                    body = outer.answer if outer.answer.startswith(b'{"id"') else body
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()


@functools.cache
def _answering() -> _Answering:
    return _Answering()


@functools.cache
def _kept_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="orch-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def _folder() -> Path:
    return Path(_kept_folder().name)


def clean_up() -> None:
    """Remove what the targets of this process wrote, as one that ends by `os._exit` must."""
    if _kept_folder.cache_info().currsize:
        _kept_folder().cleanup()
        _kept_folder.cache_clear()


def _archives() -> list[bytes]:
    """Small archives of every kind, with the oddities that a tar may have."""
    made = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, content in (("d/a.json", b'{"a": 1}'), ("w" * 90 + "/b.bin", bytes(600))):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            for name, kind in (("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("e", tarfile.DIRTYPE)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, "d/a.json"
                tar.addfile(entry)
        made.append(out.getvalue())
    plain = made[0]
    made += [gzip.compress(plain, mtime=0), bz2.compress(plain), lzma.compress(plain)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as zipped:
            zipped.writestr(zipfile.ZipInfo("archive/data.pkl"), pickle.dumps({"a": [1, 2]}))
            zipped.writestr(zipfile.ZipInfo("x/y.safetensors"), _tensors())
        made.append(out.getvalue())
    return made


def _tensors() -> bytes:
    header = json.dumps({"__metadata__": {"f": "pt"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(8)


def _heads() -> list[bytes]:
    npy = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }" + b" " * 12 + b"\n"
    pages = (
        b"<!-- a -->\n<!doctype html><title>Sign in</title>",
        b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
    )
    return [
        _tensors(),
        npy,
        *pages,
        pickle.dumps([{"a": 1}, b"x" * 300], 2),
        pickle.dumps(ValueError("x"), 0),
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"GGUF\x03\0\0\0" + bytes(64),
        b"\x89HDF\r\n\x1a\n" + bytes(64),
        b"\x08\x07\x12\x07pytorch\x1a\x031.0:\x05\n\x03abc",
        b'{"error": "not found"}',
        zlib.compress(pickle.dumps([1])),
        gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
        SUMS[4].encode(),
        *_archives(),
    ]


def _hub_answers() -> list[bytes]:
    lfs_entry = {"oid": "c" * 64, "size": 10, "pointerSize": 100}
    tree = [
        {"type": "file", "path": "a/b.bin", "size": 10, "oid": "b" * 40, "lfs": lfs_entry},
        {"type": "file", "path": "c.json", "size": 3, "oid": "d" * 40},
        {"type": "directory", "path": "a", "oid": "e"},
    ]
    about = {"id": "o/n", "sha": "a" * 40, "gated": "auto", "siblings": [], "lastModified": "2026-01-01T00:00:00.000Z"}
    files = [{"Path": "a/b.bin", "Type": "blob", "Size": 10, "Sha256": "c" * 64}, {"Path": "a", "Type": "tree"}]
    listing = {"Code": 200, "Success": True, "Data": {"Files": files, "LatestCommitter": {"Id": "a" * 40}}}
    return [json.dumps(each).encode() for each in (tree, about, listing)]


def _states() -> list[bytes]:
    place = {
        "sha256": DIGEST,
        "link": "copy",
        "how": "made",
        "dev": 1,
        "inode": 2,
        "size": 3,
        "mtime_ns": 4,
        "born_ns": 5,
    }
    place["previous"] = [[DIGEST, 1700000000]]
    info = {"backend": "curl", "length": 5, "etags": {"u": "e"}, "sources": ["u"], "adopted": ["/a", 1, 2]}
    run = {"time": 1.5, "host": "https://h", "backend": "curl", "bytes": 5, "seconds": 0.1, "connections": 1}
    return [
        json.dumps({"host": "h", "manifest": "/p/team.yaml", "places": {"/p/m.pth": place}}).encode(),
        json.dumps({**info, "condemned": {"u": [1.5, "why"]}}).encode(),
        json.dumps({"a/b": [5, DIGEST]}).encode(),
        json.dumps(run).encode() + b"\n" + json.dumps([[1, DIGEST, 2, 3], 1.5]).encode() + b"\n",
        json.dumps(["1:2", [1, 2, 3, DIGEST], "/p"]).encode() + b"\n",
    ]


def _said() -> list[bytes]:
    curl = "22\t404\tFri, 31 Dec 2027 23:59:59 GMT\tThe requested URL returned error: 404\n"
    wget = "  HTTP/1.1 503 Busy\n  Retry-After: 5\nERROR 503: Busy.\n"
    aria2 = "[ERROR] CUID#7 - Download aborted. URI=http://h/f\nerrorCode=22 The response status is wrong. status=429\n"
    return [curl.encode(), wget.encode(), aria2.encode(), b"ERROR 404: Not Found\n", _HEADERS.encode()]


def _sidecars() -> list[bytes]:
    axel = struct.pack("=Hq", 2, 2900) + struct.pack("=qqqq", 1450, 1500, 2950, 3000)
    holes = aria2_control.write(8 << 20, 1 << 20, ((1 << 20, 3 << 20), (5 << 20, 6 << 20)))  # type: ignore[arg-type]
    return [axel, holes]


def _encoded(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _manifests() -> list[bytes]:
    known = [path.read_bytes() for path in sorted((HOUSE / "manifests").glob("*.yaml"))]
    return [MANIFEST.encode(), *(content for content in known if len(content) < 8000)]


TARGETS = {
    target.name: target
    for target in (
        Target("manifest", _manifests, _manifest),
        Target("site", _encoded(SITE), _site),
        Target("lock", _encoded(LOCK), _lock),
        Target("sums", _encoded(*SUMS), _sums),
        Target("list", _encoded(*SUMS, *METALINK), _list),
        Target("pointer", _encoded(SUMS[4]), _pointer),
        Target("head", _heads, _head),
        Target("archive", _archives, _archive),
        Target("gate", _heads, _gate),
        Target("sidecar", _sidecars, _sidecar),
        Target("state", _states, _state),
        Target("url", _encoded(*URLS), _url),
        Target("words", _said, _ends),
        Target(
            "index", _encoded('{"weight_map": {"x": "m-1.bin"}}', "a-00001-of-00003.bin\nresnet-11ad3fa6.pth"), _index
        ),
        Target("hub", _hub_answers, _hub),
    )
}
