"""What a lock is told by lists of digests, file names, shards and indexes: by text alone."""

from __future__ import annotations

import json

import pytest

from orchestrator import checksums
from orchestrator.hubs import sanity

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        (f"{A}  w.pth\n{B}  v.pth\n", "/models/w.pth", A),
        (f"{A} *w.pth\r\n", "/models/w.pth", A),
        (f"# list\n{B}  ./small/w.pth\n{A}  large/w.pth\n", "/x/large/w.pth", A),
        (f"{A}  a/w.pth\n{B}  b/w.pth\n", "/x/w.pth", None),
        (f"SHA256 (w.pth) = {A.upper()}\n", "/w.pth", A),
        (f"SHA512 (w.pth) = {A}{A}\nSHA256(w.pth)= {A}\n", "/w.pth", A),
        (f"{A}\n", "/w.pth", A),
        (f"{A}  other.pth\n", "/w.pth", None),
        (f"\\{A}  a\\\\b\n", "/a\\b", A),
        ("<html>not here</html>", "/w.pth", None),
    ],
    ids=[
        "gnu",
        "binary",
        "the nearest name",
        "two that differ",
        "bsd",
        "several kinds",
        "bare",
        "none",
        "escaped",
        "page",
    ],
)
def test_a_publishers_list(text: str, path: str, found: str | None) -> None:
    assert checksums.find(checksums.parse(text).entries, path) == found


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet50-11ad3fa6.pth", "11ad3fa6"),
        ("efficientnet_b0_rwightman-7f5810bc.pth", "7f5810bc"),
        (f"x/y-{A}.pt", A),
        ("20180402-114759-vggface2.pt", ""),
        ("sam_vit_b_01ec64.pth", ""),
        ("mobilenet_qnnpack_37f702c5.pth", ""),
        ("detector-20240131.pt", ""),
        ("model-00001-of-00002.safetensors", ""),
        ("plain.bin", ""),
    ],
)
def test_the_digest_in_a_name(name: str, digest: str) -> None:
    assert sanity.named_digest(name) == digest


def test_shards_that_are_not_there() -> None:
    assert sanity.missing_shards(["a/m-00001-of-00003.bin", "a/m-00003-of-00003.bin", "b.json"]) == (
        "a/m-00002-of-00003.bin",
        1,
    )
    assert sanity.missing_shards(["m-00001-of-00001.safetensors", "x-1-of-2.bin"]) is None
    assert sanity.missing_shards([f"m{n}-00002-of-99999.bin" for n in range(400)]) == (
        "m0-00001-of-99999.bin",
        400 * 99998,
    )
    index = json.dumps({"weight_map": {"x": "m-1.bin", "y": "m-2.bin", "z": "m-1.bin"}})
    assert sanity.missing_of_index("a/m.index.json", index, ["a/m-1.bin"]) == ("a/m-2.bin", 1)
    assert sanity.missing_of_index("m.index.json", index, ["m-1.bin", "m-2.bin"]) is None
    assert sanity.missing_of_index("m.index.json", "[]", []) is None
