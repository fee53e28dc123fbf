"""`allow:` - one line refuses all but some formats, by content, whatever the file is called and wherever it was."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy
import pytest
from safetensors.numpy import load, save

from orchestrator import formats
from orchestrator.demo.server import Origin
from orchestrator.errors import PlacementError
from orchestrator.formats.policy import refusal
from orchestrator.manifest.types import Format
from orchestrator.model import Place, Wanted
from orchestrator.placement import allow
from tests.formats.test_formats import KINDS, ONNX, PICKLES, PIECES, TENSORS, TORCH, tarred, zipped
from tests.orch import Orch
from tests.servers import require

LONG = {f"{'n' * 200}{number}": b"" for number in range(400)}  # names that push the first ones out of any tail
NEVER = {
    **PICKLES,
    "a zip behind tensors": TENSORS + TORCH,
    "a zip within tensors": save({"a": numpy.frombuffer(TORCH, "u1")}),
    "a harmless zip within tensors": save({"a": numpy.frombuffer(zipped(a=b"text"), "u1")}),
    "a call behind more text than a head": b"V" + b"x" * 100_000 + b"\n0cos\nsystem\n(S'true'\ntR.",
    "tensors behind a pickle": pickle.dumps({"a": 1}) + TENSORS,
    "a zip whose first names its tail does not show": zipped(x__data=pickle.dumps(print, 0), **LONG),
    "a file too short for its header": TENSORS[:-4],
    "a file too long for its header": TENSORS + bytes(4),
    "a header that is a pickle too": b"(i" + bytes(6) + b'{"a":{}}' + b"\0",
    "text with a zip behind it": b"# only a card\n" * 99 + TORCH,
    "noise": os.urandom(5000),
    "an archive": zipped(a=b"text"),
    "another format": ONNX,
}
ALWAYS = {name: KINDS[name] for name in ("json", "text", "html", "xml", "empty", "lfs", "sentencepiece")}


def judged(content: bytes, *allow: str) -> str | None:
    found = refusal(io.BytesIO(content), len(content), allow)
    return found and found.words


@pytest.mark.parametrize("what", NEVER)
def test_nothing_but_tensors(what: str) -> None:
    assert judged(NEVER[what], "safetensors")


@pytest.mark.parametrize("what", ALWAYS)
def test_what_no_model_comes_without_is_always_allowed(what: str) -> None:
    assert judged(ALWAYS[what], "gguf") is None


def test_each_word_lets_in_its_format_and_no_other() -> None:
    words = get_args(Format)
    made = {**{word: KINDS[word] for word in words if word != "pickle"}, "pickle": PICKLES["values, protocol 4"]}
    for word in words:
        allowed = {name for name, content in made.items() if judged(content, word) is None}
        assert allowed == {word}
    assert judged(TORCH, "pickle") is None  # its coat is no archive
    assert judged(PICKLES["gzip"], "pickle") is None


def test_members_of_archives_are_judged_by_their_own_bytes() -> None:
    good = {"a.bin": TENSORS, "b.json": b"{}"}
    bad = {"a.bin": TENSORS, "b.safetensors": pickle.dumps(1, 4)}
    deflated = zipfile.ZIP_DEFLATED
    for make, word in (
        (lambda m: zipped(**m), "zip"),
        (lambda m: zipped(deflated, **m), "zip"),
        (lambda m: tarred(**m), "tar"),
        (lambda m: tarred("w:gz", **m), "tar"),
        (lambda m: tarred("w:xz", **m), "tar"),
    ):
        assert judged(make(good), word, "safetensors") is None
        assert "only" not in str(judged(make(bad), word, "safetensors"))
        assert "a pickle (protocol 4) in it (b.safetensors)" in str(judged(make(bad), word, "safetensors"))
        assert judged(make(bad), word, "safetensors", "pickle") is None
        assert "an archive of its own" in str(judged(make({"x": zipped(a=b"1")}), word, "zip", "tar"))
        whole = make(good)
        assert judged(whole[: min(700, len(whole) // 2)], word, "safetensors")
    objects = io.BytesIO()
    numpy.savez(objects, a=numpy.zeros(3), b=numpy.array([{}], dtype=object), allow_pickle=True)
    assert "b.npy" in str(judged(objects.getvalue(), "zip", "npy"))


def test_a_large_header_is_read_whole() -> None:
    many = save({f"layer.{number}.weight": numpy.zeros(1, "f4") for number in range(3000)})
    assert formats.header_bytes(many) > formats.HEAD_BYTES
    assert load(many)
    assert judged(many, "safetensors") is None
    assert judged(many[:-1], "safetensors")


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    require("curl")
    orch = Orch(tmp_path)
    orch.top["allow"] = ["safetensors"]
    return orch


def test_one_line_refuses_pickles_whatever_they_are_called(orch: Orch) -> None:
    large = pickle.dumps(bytes(3 << 20), 4)
    with Origin() as origin:
        good = orch.want("good", TENSORS, origin.serve("/good.pth", TENSORS))
        card = orch.want("card", b"# A card\n", origin.serve("/README.md", b"# A card\n"))
        places = [
            orch.want("torch", TORCH, origin.serve("/model.safetensors", TORCH)),
            orch.want("large", large, origin.serve("/large.safetensors", large)),
        ]
        done = orch.sync()
        assert done.code == 7
        assert good.read_bytes() == TENSORS
        assert card.exists()
        assert not any(os.path.lexists(place) for place in places)
        failed = {f["model"]: f for f in done.summary["failed"]}
        assert failed.keys() == {"torch", "large"}
        for model, what in (("torch", "a pickle (torch)"), ("large", "a pickle (protocol 4)")):
            assert (failed[model]["fault"], failed[model]["exit_code"]) == ("placement", 7)
            assert f"is {what}, and only safetensors may be placed" in failed[model]["message"]
            assert f"add `pickle` to `allow:` in {orch.manifest}" in failed[model]["hint"]
        asked = len(origin.log)
        assert orch.sync().code == 7  # the bytes are in the store, and do not come again
        assert len(origin.log) == asked
        orch.top["allow"] = ["safetensors", "pickle"]
        done = orch.sync()
        assert (done.code, done.summary["placed"], len(origin.log)) == (0, 2, asked)
        assert all(place.exists() for place in places)


def test_bytes_that_were_there_before_are_judged_too(orch: Orch) -> None:
    name = f"{'long' * 50}.safetensors"
    with Origin() as origin:
        url = origin.serve("/a", TORCH)
        orch.want("a", TORCH, url, to="store")
        assert orch.sync().code == 0  # in the store it may be: that is no place
        place = orch.want("a", TORCH, url, to=f"models/{name}")
        assert orch.sync().code == 7  # from the blob
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(TORCH)
        done = orch.sync()  # a user's own file is not adopted
        assert done.code == 7
        assert done.summary["failed"][0]["fault"] == "placement"
        assert place.read_bytes() == TORCH
        del orch.top["allow"]
        assert orch.sync().code == 0
        orch.top["allow"] = ["safetensors"]
        assert orch.sync().summary["present"] == 1  # nothing to do is one stat a file


def test_of_an_archive_that_is_unpacked_the_members_count(tmp_path: Path) -> None:
    wanted = Wanted("/team.yaml", "m", "x.tar", "0" * 64, None, (), (Place("/x", unpack=True),), allow=("safetensors",))
    path = tmp_path / "x.tar"
    good = {"a/model.safetensors": TENSORS, "a/spiece.model": PIECES, "a/LICENSE": b"V" + b"x " * 9000}
    late = b"V" + b"x" * (2 << 20) + b"\n0cos\nsystem\n(S'true'\ntR."  # more than is kept of a member
    for make in (tarred, lambda **m: tarred("w:gz", **m), zipped):
        path.write_bytes(make(**good))
        allow.check(str(path), wanted)
        for bad in (pickle.dumps({"a": print}, 0), TENSORS + TORCH, TENSORS[:-1], zipped(a=b"text"), late):
            path.write_bytes(make(**good, **{"a/bad.json": bad}))
            with pytest.raises(
                PlacementError, match=r"is an archive with .* in it \(a/bad\.json\)|is a pickle \(torch\)"
            ):
                allow.check(str(path), wanted)
    path.write_bytes(TENSORS)
    allow.check(str(path), wanted)  # what is no archive fails when it is to be unpacked


def test_a_refused_archive_is_not_unpacked(orch: Orch) -> None:
    good, bad = tarred("w:gz", **{"a/m.bin": TENSORS}), tarred("w:gz", **{"a/m.bin": TENSORS, "b.safetensors": TORCH})
    with Origin() as origin:
        tree = orch.want("good", good, origin.serve("/good.tar.gz", good), to="good", unpack=True)
        orch.want("bad", bad, origin.serve("/bad.tar.gz", bad), to="bad", unpack=True)
        done = orch.sync()
    assert (done.code, done.summary["fetched"]) == (7, 1)
    assert [f["model"] for f in done.summary["failed"]] == ["bad"]
    assert "(b.safetensors)" in done.summary["failed"][0]["message"]
    assert (tree / "a/m.bin").read_bytes() == TENSORS
    assert not (tree.parent / "bad").exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [([], "is empty"), (["pickles"], "expected one of gguf"), ("safetensors", "a list"), (None, "")],
)
def test_the_key_is_judged(orch: Orch, value: Any, words: str) -> None:
    orch.want("a", TENSORS, "http://127.0.0.1:9/a")
    orch.top["allow"] = value
    done = orch.run("status", "--json", "team.yaml")
    assert done.code == (3 if words else 5)
    assert not words or words in done.named("problem")[0]["message"]
