"""What a file is, by its bytes: made by the very libraries that write and read such files."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import safetensors
from safetensors.numpy import load, save

from orchestrator import formats
from orchestrator.formats import lfs, pickles, zip_directory

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools' own, of noise


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def zipped(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return whole.getvalue()


def tarred(mode: str = "w", format_: int = tarfile.PAX_FORMAT, **members: bytes) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode, format=format_) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return whole.getvalue()


def saved(array: Any) -> bytes:
    whole = io.BytesIO()
    numpy.save(whole, array, allow_pickle=True)
    return whole.getvalue()


TENSORS = save({"a": numpy.zeros((3, 5), "f4"), "b": numpy.arange(7)}, metadata={"format": "pt"})
TORCH = zipped(**{"archive/data.pkl": pickle.dumps(OrderedDict(w=1), 2)})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 46830571\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x90\x01" + b"\x0a\x10node" * 20
SAVED_MODEL = b"\x08\x01\x12\xb0\x02\x0a\x20\x12\x05serve\x2a\x01\x00\x08\x09" + b"\x00\x81" * 200
PIECES = (
    b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"
    b"\x0a\x0c\x0a\x03<s>\x15\0\0\0\0\x18\x03"
    b"\x0a\x0d\x0a\x04</s>\x15\0\0\0\0\x18\x03"
    b"\x0a\x0b\x0a\x04\xe2\x96\x81t\x15\0\0\0\xc0"
)

KINDS = {
    "safetensors": TENSORS,
    "gguf": b"GGUF\x03\0\0\0" + bytes(64),
    "onnx": ONNX,
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(512),
    "npy": saved(numpy.zeros((4, 4))),
    "tflite": b"\x1c\0\0\0TFL3" + bytes(64),
    "zip": zipped(a=b"hello"),
    "tar": tarred(a=b"hello"),
    "sentencepiece": PIECES,
    "html": b" \n<!DOCTYPE HTML><html><head><title>Sign in</title>",
    "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "json": b'{"error": {"message": "Repository not found"}}',
    "text": b"[PAD]\n[UNK]\nthe\n##ing\n",
    "lfs": POINTER,
    "empty": b"",
    "other": SAVED_MODEL,
}
# Whatever an unpickler would take, in each of its coats.
PICKLES = {
    **{f"calls, protocol {p}": pickle.dumps(Evil(), p) for p in range(6)},
    **{f"values, protocol {p}": pickle.dumps({"a": [1, 2.5, "x", b"y", None, 2**70]}, p) for p in range(6)},
    **{f"long, protocol {p}": pickle.dumps(list(range(100_000)), p) for p in range(6)},
    "torch": TORCH,
    "torch, before 1.6": b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})),
    "numpy objects": saved(numpy.array([{}, Evil()], dtype=object)),
    "numpy objects in a record": saved(numpy.zeros(2, dtype=[("a", "i4"), ("b", object)])),
    "joblib's zlib": zlib.compress(pickle.dumps(Evil(), 4)),
    "gzip": gzip.compress(pickle.dumps(Evil())),
    "bzip2": bz2.compress(pickle.dumps(Evil())),
    "xz": lzma.compress(pickle.dumps(Evil())),
    "no end": pickle.dumps(Evil(), 0)[:-1],
    "text before the call": b"Vhello\n0(S'true'\nios\nsystem\n.",
    "another protocol on the way": b"N0\x80\x02cos\nsystem\nU\x04true\x85R.",
}
TEXTS = [
    b"cat\ndog\nbird\n", b"Nothing here.\n", b"I love you.\n", b"(c) 2026\n", b"the\nof\nand\n", b"1\n2\n3\n",
    b"#version: 0.2\n\xc4\xa0 t\n", "\ufeffDas Öl\n".encode(), b"S is a letter\n", b"a: 1\nb: 2\n", b"123", b"PK text",
    b"---\nlicense: apache-2.0\n---\n", b"x" * 100_000,
]  # fmt: skip


def seen(content: bytes) -> tuple[formats.Detected, ...]:
    return formats.formats_of(content[: formats.HEAD_BYTES], len(content), content[-formats.TAIL_BYTES :])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_known_from_all_of_it_and_from_its_head(kind: str) -> None:
    content = KINDS[kind]
    assert [s.format for s in seen(content)] == [kind]
    assert formats.identify(content, len(content)).format == kind
    if kind != "tar":  # whose header has 512 bytes
        assert formats.identify(content[:256]).format == kind
    assert formats.describe(seen(content)[0])


@pytest.mark.parametrize("how", PICKLES)
def test_a_pickle_is_a_pickle_in_every_coat(how: str) -> None:
    content = PICKLES[how]
    assert seen(content)[0].format == "pickle"
    if how != "torch":
        assert formats.identify(content[: formats.HEAD_BYTES], None).format == "pickle"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_text_that_begins_like_a_pickle_is_text(text: bytes) -> None:
    assert {s.format for s in seen(text)} == {"text"}


def test_noise_is_no_pickle() -> None:
    chance = random.Random(5)
    kinds = [formats.identify(chance.randbytes(600), 600).format for _ in range(5000)]
    assert kinds.count("pickle") <= 5  # `N.` is one, and so is what else begins so
    # A safetensors header's length may begin as any pickle does: all of the first two bytes, as they come.
    for length in range(8, 1 << 16, 8):
        head = length.to_bytes(8, "little") + b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        assert formats.identify(head + b" " * 99, 1 << 30).format == "safetensors"
        whole = io.BytesIO(head + b"\n\n" + bytes(99))
        assert pickles.scan(whole, len(head) + 101) in (pickles.ScanResult.NOT_A_PICKLE, pickles.ScanResult.ENDS), (
            length
        )


def test_whatever_is_damaged_has_an_answer_and_soon() -> None:
    chance = random.Random(7)
    pool = [content for content in (*KINDS.values(), *PICKLES.values()) if 0 < len(content) < 20_000]
    for _ in range(3000):
        damaged = bytearray(chance.choice(pool))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(damaged))
            damaged[at : at + chance.randint(0, 9)] = chance.choice((b"", bytes(8), b"\xff" * 8, chance.randbytes(3)))
            damaged = damaged or bytearray(b"x")
        assert formats.describe(formats.identify(bytes(damaged), len(damaged)))


def test_a_file_of_two_kinds_shows_both() -> None:
    both = TENSORS + TORCH
    assert {s.format for s in seen(both)} == {"safetensors", "pickle", "zip"}
    covered = save(
        {"a": numpy.frombuffer(TORCH, "u1")}
    )  # whole by its own header, and a zip for who reads from the end
    assert zipfile.is_zipfile(io.BytesIO(covered))
    assert load(covered)
    assert formats.safetensors_fault(covered, len(covered)) == ""
    assert {s.format for s in seen(covered)} == {"safetensors", "pickle", "zip"}
    text = b"#!/bin/sh\n" + zipped(a=b"x")
    assert {s.format for s in seen(text)} == {"other", "zip"}


def test_old_tars_have_no_mark_and_are_known() -> None:
    content = bytearray(tarred(format_=tarfile.USTAR_FORMAT, pickle=b"x"))
    content[257:265] = bytes(8)
    header = bytes(content[:148]) + b" " * 8 + bytes(content[156:512])
    content[148:156] = b"%06o\0 " % sum(header)
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as archive:
        assert archive.getnames() == ["pickle"]
    assert seen(bytes(content))[0].format == "tar"
    assert seen(tarred("w:gz", a=b"x"))[0] == formats.Detected("tar", "in gzip")


def test_a_zips_names_come_from_its_end_alone() -> None:
    content = zipped(**{"a/b": b"1" * 9999, "long" * 60: b"2"})
    names = ("a/b", "long" * 60)
    for whole in (content, b"prefix" * 99 + content):
        for size in (400, 4000, len(whole)):
            assert formats.directory(whole[-size:], len(whole)) == zip_directory.Directory(names, whole=True)
    cut = formats.directory(content[-100:], len(content))
    assert cut is not None
    assert not cut.whole
    assert formats.directory(content[:-30], len(content) - 30) is None
    assert formats.directory(os.urandom(500) + zip_directory.END + bytes(18), 522) == zip_directory.Directory(
        (), whole=True
    )
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:  # more than 65,535 members: zip64
        for number in range(66_000):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    found = formats.directory(many.getvalue(), len(many.getvalue()))
    assert found is not None
    assert (len(found.names), found.whole) == (66_000, True)


def changed(**entry: Any) -> bytes:
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


BROKEN = {
    "require 1 byte more": TENSORS[:-1],
    "1 byte too many": TENSORS + b"x",
    "its header requires": TENSORS[:60],
    "are not a safetensors file": TENSORS[:7],
    "another size": changed(shape=[3]),
    "does not begin where": changed(data_offsets=[8, 16]),
    "describes": changed(data_offsets=[0]),
    "not JSON": (16).to_bytes(8, "little") + b'{"a":{"dtype":"F' + bytes(8),
    "does not begin with": b"x" * 99,
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_broken_safetensors_file_is_told_as_its_own_library_does(why: str) -> None:
    content = BROKEN[why]
    with pytest.raises(safetensors.SafetensorError):
        load(content)
    assert why in formats.safetensors_fault(content, len(content))
    assert formats.safetensors_fault(content[: formats.header_bytes(content)], len(content)) or not content[8:]


def test_a_pointer_says_what_it_stands_for() -> None:
    assert lfs.is_exact(POINTER)
    assert lfs.parse(POINTER.decode()) == lfs.Pointer("ab" * 32, 46830571, is_whole=True)
    assert not lfs.is_exact(POINTER + b"more\n")
    assert not lfs.parse("oid sha256:12").is_whole
