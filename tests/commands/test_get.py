"""`orch get`: one thing now, and lines that make a manifest which has nothing left to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.hub import Hub
from tests.orch import Done, Orch, made, sha256
from tests.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DATA = made(3 * MIB + 5)
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "deep/vocab.txt": b"one\ntwo\n",
    "pytorch_model.bin": made(70_000, 3),
}


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path, environ={"ORCH_STORE": str(tmp_path / "store")})


@pytest.fixture
def hub(orch: Orch) -> Iterator[Hub]:
    with Hub() as hub:
        orch.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(orch.folder / "hf")}
        yield hub


def pasted(orch: Orch, got: Done) -> Done:
    """A sync of a manifest made of the printed lines, from the store alone."""
    (orch.folder / "pasted.yaml").write_text(f"version: 1\nmodels:\n{got.out}")
    return orch.run("sync", "--json", "pasted.yaml", "--offline")


def is_no_op(done: Done) -> bool:
    return done.code == 0 and done.summary["present"] == done.summary["files"] > 0


def test_a_short_file_in_the_way_is_no_matter_of_adopt(orch: Orch, origin: Origin) -> None:
    """`orch adopt` wants a manifest, which `orch get` has none of."""
    url = origin.serve("/x.bin", DATA)
    (orch.folder / "x.bin").write_bytes(DATA[: 2 * MIB])
    got = orch.run("get", url, "--sha256", sha256(DATA))
    assert got.code == ExitCode.PLACEMENT
    assert f"`orch get --force --sha256 {sha256(DATA)} {url}`" in got.err
    assert "or save to another path: -o PATH" in got.err
    assert "orch adopt" not in got.err


def test_a_url_without_a_digest(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/v1/x y.bin", DATA)
    got = orch.run("get", url)
    assert got.code == 0, got.err
    assert (orch.folder / "x y.bin").read_bytes() == DATA
    assert got.out == (
        f'  "x y":\n    url: {url}\n    sha256: {sha256(DATA)}  # first download\n'
        f'    size: {len(DATA)}\n    to: "x y.bin"\n'
    )
    assert f"x y.bin: no checksum was given: the first download has {sha256(DATA)}" in got.err
    assert is_no_op(pasted(orch, got))
    again = orch.run("get", url, "--json")
    assert (again.code, again.summary["present"], again.summary["bytes_fetched"]) == (0, 1, 0)


@pytest.mark.parametrize("to", ["weights/", "there", "renamed.bin", "../out/", "{abs}/deep/"])
def test_places_as_people_type_them(orch: Orch, origin: Origin, tmp_path: Path, to: str) -> None:
    orch.folder = tmp_path / "here"
    (orch.folder / "there").mkdir(parents=True)
    got = orch.run("get", origin.serve("/x.bin", DATA), "--sha256", sha256(DATA), "--to", to.format(abs=tmp_path))
    assert got.code == 0, got.err
    (found,) = (path for path in tmp_path.rglob("*.bin") if path.is_file())
    wanted = os.path.normpath(os.path.join(orch.folder, to.format(abs=tmp_path)))
    assert str(found) in (wanted, f"{wanted}/x.bin")
    assert "first download has" not in got.err
    first, _, rest = got.out.partition("\n")
    absolute = to.startswith(("..", "{abs}"))
    assert ("allow_absolute" in first) is absolute
    top, text = (first.partition("manifest: ")[2] + "\n", rest) if absolute else ("", got.out)
    (orch.folder / "pasted.yaml").write_text(f"version: 1\n{top}models:\n{text}")
    assert is_no_op(orch.run("sync", "--json", "pasted.yaml", "--offline"))


def test_wrong_bytes_and_a_dead_url(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/x.bin", DATA)
    got = orch.run("get", url, "--sha256", "0" * 64, "--json")
    assert (got.code, got.named("lines")) == (ExitCode.DIGEST, [])
    assert got.summary["exit_code"] == ExitCode.DIGEST
    got = orch.run("get", origin.url + "/none.bin", "--retries", "0")
    assert (got.code, got.out) == (ExitCode.TRANSFER, "")
    assert "hint: check the URL: the file may have moved" in got.err
    short = orch.run("get", url, "--sha256", "123")
    assert (short.code, short.err.partition("\n")[0]) == (2, "error: --sha256: expected 64 hex digits, found 123")
    assert orch.run("get", "nonsense").code == ExitCode.MANIFEST
    assert not [path for path in orch.folder.iterdir() if path.suffix == ".bin"]


def test_a_frameworks_own_cache(orch: Orch, origin: Origin) -> None:
    got = orch.run("get", origin.serve("/m/resnet18.pth", DATA), "--for", "torch", "--name", "r18", "--tag", "ci")
    assert got.code == 0, got.err
    assert (orch.folder / "home/.cache/torch/hub/checkpoints/resnet18.pth").read_bytes() == DATA
    assert "    for: torch\n    tags: [ci]\n" in got.out
    assert is_no_op(pasted(orch, got))


def test_a_repository_for_its_framework(orch: Orch, hub: Hub) -> None:
    commit = hub.repo("org/tiny", FILES)
    got = orch.run("get", "hf:org/tiny", "--for", "huggingface", "--exclude", "*.bin")
    assert got.code == 0, got.err
    snapshot = orch.folder / f"hf/hub/models--org--tiny/snapshots/{commit}"
    found = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert found == {path: data for path, data in FILES.items() if not path.endswith(".bin")}
    assert (snapshot.parents[1] / "refs/main").read_text() == commit
    assert got.out.count(f"https://huggingface.co/org/tiny/resolve/{commit}/") == 3
    calls = hub.api_calls
    assert is_no_op(pasted(orch, got))
    assert hub.api_calls == calls
    again = orch.run("get", "hf:org/tiny", "--for", "huggingface", "--exclude", "*.bin", "--json")
    assert (again.summary["present"], again.summary["bytes_fetched"]) == (3, 0)
    client = "import huggingface_hub as h; print(h.snapshot_download('org/tiny', local_files_only=True))"
    done = subprocess.run([sys.executable, "-c", client], env=orch.env(), capture_output=True, text=True)
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_a_repository_into_a_folder(orch: Orch, hub: Hub) -> None:
    hub.repo("org/tiny", FILES)
    got = orch.run("get", "hf:org/tiny", "--include", "deep/*", "--include", "*.bin", "--json")
    assert (got.code, got.summary["fetched"]) == (0, 2)
    assert (orch.folder / "tiny/deep/vocab.txt").read_bytes() == FILES["deep/vocab.txt"]
    (orch.folder / "pasted.yaml").write_text(f"version: 1\nmodels:\n{got.named('lines')[0]['text']}")
    assert is_no_op(orch.run("sync", "--json", "pasted.yaml", "--offline"))
    assert orch.run("get", "hf:org/none").code == ExitCode.MANIFEST
    assert orch.run("get", "hf:org/tiny", "--include", "*.xyz").code == ExitCode.MANIFEST


def test_prune_drops_what_was_only_got_and_not_its_place(orch: Orch, origin: Origin) -> None:
    assert orch.run("get", origin.serve("/x.bin", DATA)).code == 0
    done = orch.run("prune", "--yes", "--json")
    assert sha256(DATA) in {event["sha256"] for event in done.named("pruned")}
    assert (orch.folder / "x.bin").read_bytes() == DATA


def test_a_framework_without_a_place_is_told_before_a_byte_is_fetched(orch: Orch, origin: Origin) -> None:
    got = orch.run("get", origin.serve("/4.tar.gz", DATA), "--for", "tfhub")
    assert (got.code, origin.sent("/4.tar.gz") < MIB) == (ExitCode.MANIFEST, True)
    assert "tfhub needs the handle" in got.err


def test_a_peer_is_asked_first_where_the_digest_is_known(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "peer/sha256").mkdir(parents=True)
    (tmp_path / "peer/sha256" / sha256(DATA)).write_bytes(DATA)
    other = made(5000, 7)
    with nginx(tmp_path / "peer") as peer:
        (tmp_path / "home/.config/orch.yaml").write_text(json.dumps({"peers": [peer.url]}))
        done = orch.run("get", "http://127.0.0.1:9/x.bin", "--sha256", sha256(DATA), "--json")
        assert done.code == 0, done.err
        assert {e["source"] for e in done.named("finished")} == {f"{peer.url}/sha256/{sha256(DATA)}"}
        assert (orch.folder / "x.bin").read_bytes() == DATA
        asked = peer.counts()
        assert orch.run("get", origin.serve("/y.bin", other)).code == 0
        assert peer.counts() == asked, "what it is was not known before it was here"


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (("-o", "renamed.bin"), "renamed.bin"),
        (("-O", "new/deep.bin"), "new/deep.bin"),
        (("-o", "there"), "there/x.bin"),
        (("-d", "out"), "out/x.bin"),
        (("--output-dir", "out", "--for", "torch"), "out/x.bin"),
    ],
)
def test_where_it_goes_as_curl_and_wget_say_it(orch: Orch, origin: Origin, flags: tuple[str, ...], place: str) -> None:
    (orch.folder / "there").mkdir()
    got = orch.run("get", origin.serve("/x.bin", DATA), *flags)
    assert got.code == 0, got.err
    assert (orch.folder / place).read_bytes() == DATA
    assert is_no_op(pasted(orch, got))


def test_several_at_once_and_one_that_fails(orch: Orch, origin: Origin, hub: Hub) -> None:
    hub.repo("org/tiny", FILES)
    good = origin.serve("/a/w.bin", DATA)
    got = orch.run("get", good, "hf:org/tiny", origin.url + "/none.bin", "-d", "out", "--retries", "0", "--json")
    summary = got.summary
    assert (got.code, summary["models"], summary["files"]) == (ExitCode.TRANSFER, 3, 2 + len(FILES))
    assert [each["model"] for each in summary["failed"]] == ["none"]
    assert (orch.folder / "out/w.bin").read_bytes() == DATA
    assert (orch.folder / "out/tiny/deep/vocab.txt").read_bytes() == FILES["deep/vocab.txt"]
    assert [line["text"].count("sha256:") for line in got.named("lines")] == [1 + len(FILES)]
    again = orch.run("get", good, "hf:org/tiny", "-d", "out", "--json").summary
    assert (again["present"], again["bytes_fetched"]) == (1 + len(FILES), 0)
    other = origin.serve("/b/w.bin", made(70_000, 5))
    clash = orch.run("get", good, other)
    assert (clash.code, f"{good} and {other} would be the same file" in clash.err) == (ExitCode.MANIFEST, True)
    assert orch.run("get", good, other, "-o", "x").code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("digest", "said"),
    [
        ((), "an existing file is in the way (4 bytes, the new one "),
        (("--sha256", sha256(DATA)), "a file that orch did not make "),
    ],
)
def test_a_file_in_the_way_is_told_before_a_byte_is_fetched(
    orch: Orch, origin: Origin, digest: tuple[str, ...], said: str
) -> None:
    url, there = origin.serve("/w.bin", DATA), orch.folder / "w.bin"
    there.write_bytes(b"mine")
    got = orch.run("get", url, *digest)
    assert (got.code, got.out) == (ExitCode.PLACEMENT, "")
    assert f"w.bin: {said}" in got.err
    assert "--force" in got.err
    assert there.read_bytes() == b"mine"
    assert origin.sent("/w.bin") < MIB
    assert orch.run("get", url, *digest, "--force").code == 0
    assert there.read_bytes() == DATA
    there.unlink()
    there.write_bytes(DATA)  # by another program, and right
    assert orch.run("get", url, *digest).code == 0


def test_a_url_that_was_not_asked_is_told(orch: Orch, origin: Origin) -> None:
    assert "was not asked" not in orch.run("get", origin.serve("/a.bin", DATA), "--sha256", sha256(DATA)).err
    other = f"{origin.url}/none/b.bin"
    got = orch.run("get", other, "--sha256", sha256(DATA))
    assert got.code == 0, got.err
    assert f"b.bin: the store has these bytes: {other} was not asked" in got.err


def test_a_page_in_the_place_of_a_file_is_told_as_one(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/page.bin", b"<!DOCTYPE html><html><title>Log in</title></html>")
    for _ in range(2):
        got = orch.run("get", url)
        assert got.code == ExitCode.DIGEST, got.err
        assert f"page.bin: not the file from {url}: found " in got.err
        assert "unknown" not in got.err and "it gave this" not in got.err
        assert "get: 1 failed in " in got.err or "get: 1 failed; " in got.err


def test_what_is_not_whole_fails_alone(orch: Orch, origin: Origin, hub: Hub) -> None:
    index = json.dumps({"weight_map": {"w": "b.safetensors"}}).encode()
    hub.repo("org/half", {"x.safetensors.index.json": index})
    half = orch.run("get", "hf:org/half", origin.serve("/v.bin", DATA), "--json")
    assert half.code == ExitCode.MANIFEST
    assert [(each["model"], each["exit_code"]) for each in half.summary["failed"]] == [("half", 3)]
    assert (orch.folder / "v.bin").read_bytes() == DATA
    assert not (orch.folder / "half").exists()
    bad = origin.serve("/bad.safetensors", FILES["model.safetensors"] + b"more")
    got = orch.run("get", bad)
    assert (got.code, got.out) == (ExitCode.DIGEST, "")
    assert "error: bad/bad.safetensors: " in got.err
    assert got.err.splitlines()[-1].startswith("get: 1 failed; "), "it is not counted as downloaded too"
    both = orch.run("get", bad, origin.serve("/w.bin", DATA), "--json")
    assert both.code == ExitCode.DIGEST
    assert [(each["model"], each["fault"]) for each in both.summary["failed"]] == [("bad", "corrupt")]
    assert (both.summary["models"], both.summary["files"]) == (2, 2)
    assert (orch.folder / "w.bin").read_bytes() == DATA
    assert not (orch.folder / "bad.safetensors").exists()


def test_an_address_without_a_name_is_taken_with_o(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/w/", DATA)
    got = orch.run("get", url, "-o", "idx.bin")
    assert got.code == 0, got.err
    assert (orch.folder / "idx.bin").read_bytes() == DATA
    assert is_no_op(pasted(orch, got))
    refused = orch.run("get", url)
    assert (refused.code, "name it with -o FILE" in refused.err) == (ExitCode.MANIFEST, True)


def test_a_mirror_and_a_size_are_taken(orch: Orch, origin: Origin) -> None:
    mirror = origin.serve("/m/w.bin", DATA)
    dead = "http://127.0.0.1:9/w.bin"
    size = ("--size", str(len(DATA)))
    got = orch.run("get", dead, "--mirror", mirror, *size, "--sha256", sha256(DATA), "--retries", "0")
    assert got.code == 0, got.err
    assert (orch.folder / "w.bin").read_bytes() == DATA
    assert f"    mirrors: [{mirror}]\n" in got.out
    assert is_no_op(pasted(orch, got))


@pytest.mark.parametrize("is_rotten", [False, True])
def test_what_was_downloaded_again_takes_no_second_room(orch: Orch, origin: Origin, is_rotten: bool) -> None:
    """The server names no version by an ETag, so that only the bytes tell that the store has them."""
    url = origin.serve("/x.bin", DATA, etag="")
    first, second = orch.folder / "first.bin", orch.folder / "second.bin"
    assert orch.run("get", url, "-o", first.name).code == 0
    if is_rotten:
        status = first.stat()
        first.chmod(0o644)
        with first.open("r+b") as file:
            file.write(b"rotten")
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert orch.run("get", url, "-o", second.name).code == 0
    assert second.read_bytes() == orch.blob(DATA).read_bytes() == DATA
    assert orch.blob(DATA).samefile(second)
    assert first.samefile(second) is not is_rotten
    assert not list((orch.store / "partial").iterdir())


def test_a_file_that_is_there_already_is_told_once_as_its_summary_counts_it(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/x.bin", DATA)
    for words, how in ((("-o", "x.bin"), "fetched"), (("-o", "x.bin"), "present"), (("-o", "y.bin"), "placed")):
        done = orch.run("get", "--json", url, *words)
        assert [event["how"] for event in done.named("finished")] == [how]
        assert done.summary[how] == 1


def test_an_address_that_is_given_twice_is_one(orch: Orch, origin: Origin) -> None:
    url = origin.serve("/x.bin", DATA)
    done = orch.run("get", url, url, "-o", "y.bin")
    assert done.code == 0
    assert (orch.folder / "y.bin").read_bytes() == DATA
