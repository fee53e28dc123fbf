"""Wrong bytes said in words: what they are, and what to type next; in downloads, at places, at foreign files."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.demo.answers import HTML
from orchestrator.demo.server import Origin
from orchestrator.formats import wrong_file
from orchestrator.formats.wrong_file import ExpectedFile, WrongFile
from orchestrator.transfer.explain import login
from tests.orch import Orch, made, sha256

WANTED = made(2 << 20)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(WANTED)}\nsize {len(WANTED)}\n".encode()
OTHER_POINTER = POINTER.replace(sha256(WANTED).encode(), b"0" * 64)
S3 = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Request has expired</Message><RequestId>4</RequestId></Error>"
)
EMPTY = sha256(b"")


def tensors(size: int) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = json.dumps({"__metadata__": {"a": "b"}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    return struct.pack("<Q", len(header)) + header.encode() + made(size)


def packed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", made(100_000))
    return file.getvalue()


TENSORS, ZIP = tensors(300_000), packed()
SAID = {
    "empty": (b"", "w.bin", "an empty file"),
    "pointer": (POINTER, "w.bin", "a Git LFS pointer to the expected file (oid "),
    "other pointer": (
        OTHER_POINTER,
        "w.bin",
        "a Git LFS pointer to another file than the expected one (oid 000000000000, size ",
    ),
    "page": (HTML, "w.bin", "an HTML page (Sign in)"),
    "page behind blanks": (b"\xef\xbb\xbf\n " + HTML, "w.bin", "an HTML page (Sign in)"),
    "gzipped page": (gzip.compress(HTML), "w.bin", "an HTML page (Sign in), gzipped"),
    "wanted page": (HTML, "w.html", ""),
    "hub's error": (b'{"error":"Repository not found"}', "config.json", "a JSON error (Repository not found)"),
    "proxy's error": (b'{"errors": [{"message": "no\\n"}]}', "w.bin", "a JSON error (no\\n)"),
    "json": (b'{"a": 1}', "w.bin", "a JSON document"),
    "wanted json": (b'{"a": 1, "error": "x"}', "config.json", ""),
    "storage error": (S3, "w.bin", "a storage server's XML error (AccessDenied: Request has expired)"),
    "wanted xml": (b"<?xml version='1.0'?><a/>", "a.xml", ""),
    "cut safetensors": (
        TENSORS[:-1],
        "w.safetensors",
        f"a truncated safetensors file: its header requires {len(TENSORS)} bytes, it has {len(TENSORS) - 1}",
    ),
    "cut in its header": (
        TENSORS[:50],
        "w.safetensors",
        "a truncated safetensors file: its header requires at least ",
    ),
    "long safetensors": (TENSORS + b"xy", "w.safetensors", "a safetensors file with 2 bytes after its end"),
    "whole safetensors": (TENSORS, "w.safetensors", ""),
    "cut zip": (ZIP[:-100], "w.pth", f"a truncated zip (or .pth): {len(ZIP) - 100} bytes without the directory"),
    "whole zip": (ZIP, "w.pth", ""),
    "zip for tensors": (ZIP, "w.safetensors", "a zip archive"),
    "noise": (made(1000), "w.bin", ""),
}


def look(content: bytes, wish: ExpectedFile) -> WrongFile:
    return wrong_file.diagnose(
        content[: wrong_file.header_bytes(content)], content[-wrong_file.TAIL_BYTES :], len(content), wish
    )


@pytest.mark.parametrize("case", SAID)
def test_what_bytes_are(case: str) -> None:
    content, name, words = SAID[case]
    found = look(content, ExpectedFile(name, len(content), sha256(WANTED)))
    assert found.words.startswith(words) if words else not found.words, found
    assert bool(found.hint) == bool(words and case not in ("long safetensors", "zip for tensors"))


def test_lengths_and_the_pin_of_an_empty_file() -> None:
    noise = made(1000)
    assert look(noise, ExpectedFile("w.bin", 1500)).words == "short by 500 of 1500 bytes"
    assert look(noise, ExpectedFile("w.bin", 900)).words == "100 bytes more than the 900 expected"
    assert look(noise, ExpectedFile("w.bin", 1000)) == WrongFile()
    assert "empty file" in look(noise, ExpectedFile("w.bin", 1000, EMPTY)).words
    assert "empty file" in look(noise, ExpectedFile("w.bin", 1000, "", ("d41d8cd98f00b204e9800998ecf8427e",))).words


@pytest.mark.parametrize("content", [POINTER, HTML, b"", S3, TENSORS[:-1]], ids=["lfs", "html", "empty", "s3", "cut"])
@pytest.mark.parametrize("sized", [True, False], ids=["size known", "size unknown"])
def test_a_download_of_something_else(tmp_path: Path, content: bytes, sized: bool) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("w", WANTED, origin.serve("/w.safetensors", content), size=len(WANTED) if sized else None)
        done = orch.sync()
    (failed,) = done.summary["failed"]
    assert (done.code, failed["fault"]) == (6, "corrupt")
    expected = look(content, ExpectedFile("w.safetensors", len(WANTED) if sized else None, sha256(WANTED)))
    words = expected.words.partition("safetensors file")[0]  # a look at the source sees no file's end
    assert words in failed["message"] or (sized and content == TENSORS[:-1])
    if content != TENSORS[:-1]:
        assert failed["hint"].startswith(expected.hint)
    for wrong in done.named("mismatched"):
        assert wrong["nature"].startswith(words)


def test_small_files_that_come_together(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    padded = HTML + b" " * (4000 - len(HTML))
    with Origin() as origin:
        for n in range(3):
            orch.want(f"w{n}", made(4000, n), origin.serve(f"/w{n}.bin", padded if n == 1 else made(4000, n)))
        done = orch.sync()
        people = orch.run("sync", "team.yaml")
    (failed,) = done.summary["failed"]
    assert "an HTML page (Sign in)" in failed["message"]
    assert "open the URL in a browser" in failed["hint"]
    assert "(an HTML page (Sign in)); the file was moved to " in people.err


def test_an_empty_file_and_the_pin_of_one(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("w", b"", origin.serve("/w.bin", WANTED), size=None)
        wrong = orch.sync()
        assert wrong.code == 6
        assert wrong_file.EMPTY_PIN in wrong.summary["failed"][0]["message"]
        assert wrong_file.EMPTY_PIN_HINT in wrong.summary["failed"][0]["hint"]
        orch.want("w", b"", origin.serve("/w.bin", b""), size=None)
        right = orch.sync()
    assert right.code == 0
    assert any(wrong_file.EMPTY_PIN in e["message"] for e in right.named("noticed"))


def spoil(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.write_bytes(content)


@pytest.mark.parametrize("command", ["sync", "plan", "verify"])
def test_a_file_at_its_place(tmp_path: Path, command: str) -> None:
    orch = Orch(tmp_path)
    place = orch.want("w", WANTED, "http://127.0.0.1:1/w.bin")
    spoil(place, OTHER_POINTER)
    done = orch.run(command, "--json", "team.yaml")
    (failed,) = done.summary["failed"]
    assert (done.code, failed["fault"]) == ((6, "corrupt") if command == "verify" else (7, "foreign"))
    assert "a Git LFS pointer to another file than the expected one" in failed["message"]


def test_a_file_of_ours_that_was_written_into(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        place = orch.want("w", WANTED, origin.serve("/w.bin", WANTED), link="copy")
        assert orch.sync().code == 0
        with place.open("r+b") as file:
            file.truncate(1000)
        done = orch.sync()
    assert done.code == 0
    assert [e["nature"] for e in done.named("mismatched")] == [f"short by {len(WANTED) - 1000} of {len(WANTED)} bytes"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_login(tmp_path: Path, status: int) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("w", WANTED, origin.serve("/w.bin", WANTED, status=status))
        done = orch.sync()
    (failed,) = done.summary["failed"]
    assert (failed["fault"], done.code) == ("refused", 5)
    assert f"server answered {status}" in failed["message"]
    assert "{token_env: NAME}}" in failed["hint"]


SAYS: dict[str, Callable[[], str]] = {
    "or set HF_TOKEN": lambda: login("https://huggingface.co/a/b/resolve/main/c", 401, {}, {}, 0),
    "does not accept the token": lambda: login("https://huggingface.co/a", 401, {"HF_TOKEN": "x"}, {}, 0),
    "ask for access": lambda: login("https://huggingface.co/a", 403, {"HF_TOKEN": "x"}, {}, 0),
    "{token_env: HF_TOKEN, plain: true}": lambda: login(
        "http://hub.corp:8080/a", 401, {"HF_ENDPOINT": "http://hub.corp:8080"}, {}, 0
    ),
    "{token_env: MODELSCOPE_API_TOKEN}": lambda: login("https://www.modelscope.cn/a", 403, {}, {}, 0),
    "signed URL has expired": lambda: login("https://s3.corp/a?Expires=1700000000", 403, {}, {}, 1.8e9),
    "hosts: {s3.corp: {token_env: NAME}}": lambda: login("https://s3.corp/a?Expires=1900000000", 403, {}, {}, 1.8e9),
    "hosts: {nothf.co: ": lambda: login("https://nothf.co/a", 403, {}, {}, 1.8e9),
}


@pytest.mark.parametrize("words", SAYS)
def test_which_variable_would_help(words: str) -> None:
    assert words in SAYS[words]()
