"""`orch import`: lists of others become models; of the manifest not one other byte changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Done, Orch, made, sha256

A, B = made(3000, 1), made(4000, 2)
TEAM = """\
# the team's weights é with care
version: 1
root: out
models:
    # a first one
    old:
        url:   http://127.0.0.1:9/old.bin     # two blanks, and a remark
        sha256: "{digest}"
        to:
        - models/old.bin
        # so much for it

    # the next section's own remark
defaults: {{tags:   [x]}}
"""


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def team(orch: Orch) -> tuple[Path, str]:
    path = orch.folder / "mine.yaml"
    text = TEAM.format(digest=sha256(B))
    path.write_text(text)
    return path, text


def lines_of(done: Done) -> str:
    return f"version: 1\nmodels:\n{done.out}"


def test_not_one_other_byte_changes_and_the_result_syncs(orch: Orch) -> None:
    path, text = team(orch)
    (orch.folder / "SHA256SUMS").write_text(f"{sha256(A)}  a.pth\n\n# a remark\n{sha256(B).upper()} *sub/b c.bin\n")
    with Origin() as origin:
        origin.serve("/v1/a.pth", A)
        origin.serve("/v1/sub/b c.bin", B)
        done = orch.run("import", "SHA256SUMS", "--into", "mine.yaml", "--base", f"{origin.url}/v1/", "--tag", "ci")
        assert done.code == 0, done.err
        after = path.read_text()
        new = f"""\
    a:
        url: {origin.url}/v1/a.pth
        sha256: {sha256(A)}  # from SHA256SUMS
        tags: [ci]
        to: models/
    "b c":
        url: {origin.url}/v1/sub/b%20c.bin
        sha256: {sha256(B)}  # from SHA256SUMS
        tags: [ci]
        to: "models/sub/b c.bin"
"""
        before, marker, rest = text.partition("        # so much for it\n")
        assert after == f"{before}{marker}{new}{rest}"
        synced = orch.run("sync", "mine.yaml", "--only", "tag:ci", "--json", "--store", str(orch.store))
        assert (synced.code, synced.summary["fetched"]) == (0, 2)
    assert (orch.folder / "out/models/sub/b c.bin").read_bytes() == B


@pytest.mark.parametrize("text", ["", "version: 1\nmodels: {}\n", '{"version": 1, "models": {}}'])
def test_a_new_an_empty_and_a_json_manifest(orch: Orch, text: str) -> None:
    if text:
        (orch.folder / "m.yaml").write_text(text)
    (orch.folder / "x.bin.sha256").write_text(sha256(A) + "\n")
    for name in ("one", "no"):
        done = orch.run(
            "import", "x.bin.sha256", "--into", "m.yaml", "--base", "http://h/", "--name", name, "--to", "d/"
        )
        assert done.code == 0, done.err
    assert [
        json.loads(line)["path"]
        for line in orch.run("path", "--no-check", "no", "m.yaml", "--json").out.splitlines()[:1]
    ] == [str(orch.folder / "d/x.bin")]


def test_a_clash_a_taken_name_and_no_base_change_nothing(orch: Orch) -> None:
    path, text = team(orch)
    sums = orch.folder / "s.sha256"
    for line, words, said in (
        (f"{sha256(A)}  old.bin", ["--base", "http://h/"], "of this name already exists"),
        (f"{sha256(A)}  new.bin", [], "give the URL of their folder: --base URL"),
        (f"{sha256(A)}  new.bin", ["--base", "http://h/", "--to", "models/old.bin"], "models/old.bin"),
        (f"{sha256(A)}  new.bin", ["--base", "http://h/", "--to", "../x"], ".."),
        (f"{sha256(A)}  new.bin", ["--base", "http://h/", "--for", "huggingface"], "is not a hub's file"),
        (f"{sha256(A)[1:]}  new.bin", ["--base", "http://h/"], "s.sha256:1"),
        ("", ["--base", "http://h/"], "no checksum"),
    ):
        sums.write_text(line + "\n")
        done = orch.run("import", "s.sha256", "--into", "mine.yaml", *words)
        assert (done.code, path.read_text()) == (ExitCode.MANIFEST, text), line
        assert said in done.err
        assert sorted(p.name for p in orch.folder.iterdir()) == ["home", "mine.yaml", "s.sha256", "team.yaml"]


def test_lfs_pointers_of_a_folder_give_sizes_too(orch: Orch) -> None:
    repo = orch.folder / "clone"
    (repo / ".git").mkdir(parents=True)
    (repo / "deep").mkdir()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    (repo / "deep/a.safetensors").write_text(pointer.format(sha256(A), len(A)))
    (repo / "b.bin").write_text(pointer.format(sha256(B), len(B)))
    (repo / ".git/c.bin").write_text(pointer.format(sha256(B), len(B)))
    (repo / "README.md").write_text("not a pointer")
    with Origin() as origin:
        origin.serve("/m/deep/a.safetensors", A)
        origin.serve("/m/b.bin", B)
        done = orch.run("import", "clone", "--base", f"{origin.url}/m", "--name", "mine", "--to", "weights/")
        (orch.folder / "m.yaml").write_text(lines_of(done))
        assert f"size: {len(A)}" in done.out
        assert orch.run("sync", "m.yaml", "--store", str(orch.store)).code == 0
    assert (orch.folder / "weights/deep/a.safetensors").read_bytes() == A
    (repo / "b.bin").write_text(pointer.format("x", 1))
    assert "damaged LFS pointer" in orch.run("import", "clone", "--base", "http://h/").err


def test_pointers_that_an_editor_or_a_merge_came_over(orch: Orch) -> None:
    spec, clone = "version https://git-lfs.github.com/spec/v1", orch.folder / "clone"
    clone.mkdir()
    (clone / "a.bin").write_bytes(f"{spec}\r\noid sha256:{sha256(A)}\r\nsize 3000\r\n".encode())
    (clone / "b.bin").write_bytes(f"\ufeff{spec}\noid sha256:{sha256(B)}\nsize 4000".encode())
    (clone / "notes.md").write_text(f"It begins with\n\n`{spec}`\n")
    done = orch.run("import", "clone", "--base", "http://h/")
    assert done.code == 0, done.err
    assert (done.out.count("url:"), f"{sha256(A)}  # from" in done.out, "size: 4000" in done.out) == (2, True, True)
    side = "oid sha256:{}\nsize {}\n"
    sides = side.format(sha256(A), 3000), side.format(sha256(B), 4000)
    for text in (
        f"{spec}\n<<<<<<< HEAD\n{sides[0]}=======\n{sides[1]}>>>>>>> c2f3281\n",
        f"<<<<<<< HEAD\n{spec}\n{sides[0]}=======\n{spec}\n{sides[1]}>>>>>>> c2f3281\n",
    ):
        (clone / "b.bin").write_text(text)
        for source in ("clone", "clone/b.bin"):
            done = orch.run("import", source, "--base", "http://h/")
            assert (done.code, done.out) == (ExitCode.MANIFEST, "")
            assert "b.bin:" in done.err
            assert "merge-conflict markers" in done.err
    (clone / "b.bin").write_text(f"{spec}\n{sides[0]}{sides[1]}")
    assert "damaged LFS pointer" in orch.run("import", "clone", "--base", "http://h/").err


def test_a_folder_of_a_list_for_each_file(orch: Orch) -> None:
    """As `for f in *; do sha256sum $f > $f.sha256; done` leaves it; some write the digest alone."""
    folder = orch.folder / "sums"
    folder.mkdir()
    (folder / "a.bin.sha256").write_text(f"{sha256(A)}  a.bin\n")
    (folder / "b.bin.sha256").write_text(f"{sha256(B)}\n")
    (folder / "b.bin").write_bytes(B)
    done = orch.run("import", "sums", "--base", "http://h/", "--name", "m")
    assert done.code == 0, done.err
    for name, content in (("a.bin", A), ("b.bin", B)):
        assert f"url: http://h/{name}\n        sha256: {sha256(content)}" in done.out
    (folder / "a.bin.sha256").unlink()
    (folder / "b.bin.sha256").unlink()
    assert "neither a list of checksums nor an LFS pointer is in this folder" in orch.run("import", "sums").err


def test_folders_of_a_list_are_kept_below_every_place(orch: Orch) -> None:
    (orch.folder / "S").write_text(f"{sha256(A)}  a/README.md\n{sha256(B)}  b/README.md\n{sha256(B)}  a-README.md\n")
    for text, places in (
        ("", ["models/a/README.md", "models/b/README.md", "models/"]),
        ("version: 1\ndefaults: {to: w/}\nmodels: {}\n", ["w/a/README.md", "w/b/README.md"]),
        ("version: 1\ndefaults: {for: torch}\nmodels: {}\n", []),
    ):
        path = orch.folder / "m.yaml"
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
        done = orch.run(
            "import", "S", "--base", "https://h/w", "--into", "m.yaml", *(["--to", "store"] if not places else [])
        )
        assert done.code == 0, done.err
        assert len(set(done.out.splitlines())) == 3
        assert re.findall("    to: (.*)", path.read_text()) == (places or ["store"] * 3)


@pytest.mark.parametrize("name", ["weights .pth", " .pth", "x" * 240 + ".pth", "a b.tar.gz"])
def test_a_name_that_orch_chooses_is_one(orch: Orch, name: str) -> None:
    (orch.folder / "S").write_text(f"{sha256(A)} *{name}\n")
    done = orch.run("import", "S", "m.yaml", "--base", "https://h/w", "--to", "w.pth")
    assert done.code == 0, done.err


def test_lists_of_urls_and_what_looks_like_a_registry(orch: Orch) -> None:
    for line in (f"{sha256(A)}  https://h/v1/a%20b.pth?x=1", f"https://h/v1/a%20b.pth?x=1 {sha256(A)}"):
        (orch.folder / "S").write_text(line + "\n")
        done = orch.run("import", "S")
        assert done.code == 0, done.err
        assert "url: https://h/v1/a%20b.pth?x=1" in done.out
        assert '"a b":' in done.out
    (orch.folder / "S").write_text(f"a.pth {sha256(A)}\nand: some text\n")
    assert orch.run("import", "S", "--base", "http://h/").code == ExitCode.MANIFEST


def test_several_digests_of_a_file_are_one_model_and_two_that_differ_are_told(orch: Orch) -> None:
    md5, sha512 = hashlib.md5(A).hexdigest(), hashlib.sha512(A).hexdigest()
    text = f"MD5 (a.pth) = {md5}\nSHA512 (a.pth) = {sha512}\nSIZE (a.pth) = 3000\n{sha512}  ./a.pth\n"
    (orch.folder / "S").write_text(text)
    done = orch.run("import", "S", "--base", "http://h/")
    assert done.code == 0, done.err
    assert (done.out.count("url:"), md5 in done.out, sha512 in done.out, "size: 3000" in done.out) == (
        1,
        True,
        True,
        True,
    )
    (orch.folder / "S").write_text(text + f"MD5 (a.pth) = {'0' * 32}\n")
    done = orch.run("import", "S", "--base", "http://h/")
    assert "S:5: another checksum of `a.pth` than above" in done.err


def test_eight_at_once_into_one_manifest_are_all_in_it(orch: Orch) -> None:
    path, _ = team(orch)
    (orch.folder / "link.yaml").symlink_to("mine.yaml")
    path.chmod(0o640)
    started = [
        orch.start(
            "add", f"http://h/w/{n}.bin", ("mine.yaml", "link.yaml")[n % 2], "--name", f"new{n}", "--sha256", sha256(A)
        )
        for n in range(8)
    ]
    codes = [process.wait() for process in started]
    for process in started:
        process.communicate()
    assert codes == [0] * 8
    assert len(re.findall("^    new", path.read_text(), re.M)) == 8
    assert (path.stat().st_mode & 0o777, (orch.folder / "link.yaml").is_symlink()) == (0o640, True)
    assert {p.name for p in orch.folder.iterdir()} == {"home", "mine.yaml", "link.yaml", "team.yaml"}


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:hunter2@h/a.bin",
        "https://ann:hun/hunter2@h/a.bin",
        "https://h/a.bin?token=hunter2",
        "https://h/a.bin?X-Amz-Signature=hunter2",
        "https://h/a.bin?a=1&sig=hunter2#x",
        "https://h/a.bin#access_token=hunter2",
    ],
)
def test_a_secret_in_a_url_is_refused_and_never_repeated(orch: Orch, url: str) -> None:
    path, text = team(orch)
    (orch.folder / "S").write_text(f"{sha256(A)}  {url}\n")
    (orch.folder / "B").write_text(f"{sha256(A)}  a.bin\n")
    bad = {"url": url, "sha256": sha256(A), "to": "w/"}
    (orch.folder / "bad.yaml").write_text(
        json.dumps({"version": 1, "hosts": {url: {}}, "models": {url: bad, "m": {**bad, "mirrors": [url], url: 1}}})
    )
    for words in (
        ("add", url, "mine.yaml"),
        ("get", url),
        ("import", "S"),
        ("import", "B", "--base", url),
        ("export", "mine.yaml", "--format", "mirror", "dir", "--url", url),
        ("sync", "bad.yaml"),
        ("plan", "bad.yaml", "--json"),
        ("lock", "bad.yaml"),
    ):
        done = orch.run(*words)
        assert done.code == ExitCode.MANIFEST, (words, done)
        assert "hunter2" not in done.out + done.err, words
        assert "hint: " in done.err or "--json" in words
    assert path.read_text() == text


def test_a_registry_of_pooch(orch: Orch) -> None:
    (orch.folder / "registry.txt").write_text(
        f"# names, digests, URLs\na.bin {sha256(A)}\n'b c.bin' md5:{hashlib.md5(B).hexdigest()} http://else/b\n"
        f"d/e.bin sha512:{hashlib.sha512(A).hexdigest()}\n"
    )
    done = orch.run("import", "registry.txt", "--base", "http://h/w")
    (orch.folder / "m.yaml").write_text(lines_of(done))
    assert f"md5: {hashlib.md5(B).hexdigest()}  # from registry.txt" in done.out
    assert "mirrors: [http://else/b]" in done.out
    assert "url: http://h/w/d/e.bin" in done.out
    assert orch.run("path", "--no-check", "b c", "m.yaml").code == 0


def test_metalink_4_as_we_write_it_and_3_as_mirrors_serve_it(orch: Orch) -> None:
    orch.want("a", A, "http://h/o/a.bin", mirrors=["http://fast/a.bin", "rsync://near/m/a.bin"])
    (orch.folder / "x.meta4").write_text(orch.run("export", "team.yaml", "--format", "metalink").out)
    (orch.folder / "m.yaml").write_text(lines_of(orch.run("import", "x.meta4")))
    told = [orch.run("export", name, "--format", "metalink").out for name in ("team.yaml", "m.yaml")]
    assert told[0] == told[1]
    (orch.folder / "y.metalink").write_text(
        '<?xml version="1.0"?><metalink version="3.0" xmlns="http://www.metalinker.org/"><files>'
        f'<file name="deb.iso"><size>{len(A)}</size><verification><hash type="md5">{hashlib.md5(A).hexdigest()}</hash>'
        f'<hash type="sha256">{sha256(A)}</hash><pieces length="99" type="sha1"><hash piece="0">00</hash></pieces>'
        '</verification><resources><url type="http" preference="10">http://slow/deb.iso</url>'
        '<url type="http" preference="90">http://fast/deb.iso</url><url type="bittorrent">magnet:?x</url></resources>'
        "</file></files></metalink>"
    )
    done = orch.run("import", "y.metalink")
    assert (
        f"  deb:\n    url: http://slow/deb.iso\n    mirrors: [http://fast/deb.iso]\n    sha256: {sha256(A)}" in done.out
    )
    (orch.folder / "z.metalink").write_text("<html>")
    assert orch.run("import", "z.metalink").code == ExitCode.MANIFEST


def test_a_list_at_a_url_is_to_be_fetched_first(orch: Orch) -> None:
    done = orch.run("import", "https://example.org/v1/SHA256SUMS", "team.yaml")
    first = "`curl -O https://example.org/v1/SHA256SUMS`, then `orch import SHA256SUMS --base https://example.org/v1/`"
    assert (done.code, done.err) == (2, f"error: a LIST is a file, not a URL: {first}\n")


def test_json(orch: Orch) -> None:
    path, _ = team(orch)
    (orch.folder / "net.sha256").write_text(f"SHA256 (net.bin) = {sha256(A)}\n")
    done = orch.run("import", "net.sha256", "--base", "http://h/", "--into", "mine.yaml", "--json")
    assert done.named("added")[0] | {"time": ""} == {
        "event": "added",
        "time": "",
        "manifest": str(path),
        "model": "net",
        "pinned": True,
    }
    assert done.summary["exit_code"] == 0
    assert "net:" in orch.run("import", "net.sha256", "--base", "http://h/", "--json").named("lines")[0]["text"]


def test_add_a_url_and_a_repository(orch: Orch) -> None:
    path, text = team(orch)
    url = "http://h/w/resnet50-11ad3fa6.pth"
    done = orch.run("add", url, "mine.yaml", "--sha256", sha256(A), "--for", "torch", "--tag", "ci", "--tag", "x")
    assert (done.code, done.out) == (0, "added resnet50-11ad3fa6\n")
    assert "next: orch sync mine.yaml" in done.err
    done = orch.run("add", "http://h/w/b.bin", "mine.yaml", "--name", "unpinned", "--to", "d/")
    assert "next: orch lock mine.yaml" in done.err
    repo = "hf:org/Some-Model@main"
    done = orch.run("add", repo, "mine.yaml", "--include", "*.json", "--include", "a b*", "--for", "huggingface")
    assert done.code == 0, done.err
    new = f"""\
    resnet50-11ad3fa6:
        url: {url}
        sha256: {sha256(A)}
        for: torch
        tags: [ci, x]
    unpinned:
        url: http://h/w/b.bin
        to: d/
    Some-Model:
        repo: {repo}
        include: ["*.json", "a b*"]
        for: huggingface
"""
    before, marker, rest = text.partition("        # so much for it\n")
    assert path.read_text() == f"{before}{marker}{new}{rest}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.bin"], "expected a URL"),
        (["hf:../up"], "hf:"),
        (["hf:o/n", "--sha256", "0" * 64], "has no sha256 of its own"),
        (["http://h/a", "--include", "*"], "belong to a repository"),
        (["http://h/a", "--sha256", "12"], "64 hex digits"),
        (["http://u:p@h/a"], "literal secret"),
        (["http://h/old.bin"], "of this name already exists"),
        (["http://h/a", "--name", "\x1b[31m"], "control characters"),
    ],
)
def test_what_cannot_be_added_changes_nothing(orch: Orch, words: list[str], said: str) -> None:
    path, text = team(orch)
    done = orch.run("add", words[0], "mine.yaml", *words[1:])
    assert (done.code, path.read_text()) == (ExitCode.MANIFEST, text)
    assert said in done.err
    assert "\x1b" not in done.err


HOSTILE = (
    '<metalink><file name="{}"><size>{}</size><hash type="sha-256">{}</hash>'
    '<url priority="{}">{}</url></file></metalink>'
)
LIST_URL = "http://127.0.0.1:9/a.bin"


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE.format("a.bin", 3, "ab\n    to: /etc/", 1, LIST_URL),
        HOSTILE.format("../../a.bin", 3, "a" * 64, 1, LIST_URL),
        HOSTILE.format("", 3, "a" * 64, 1, LIST_URL),
        HOSTILE.format("\u202eab.bin", 3, "a" * 64, 1, LIST_URL),
        f"\\{'a' * 64}  a\\nb.bin\n",
        f"a.bin {'a' * 64} http://h/\u202ea.bin\n",
        f"a.bin {'a' * 64} http://ann:secret@h/a.bin\n",
        f"a.bin {'a' * 64} http://h/a.bin?token=secret\n",
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize {'9' * 5000}\n",
    ],
)
def test_a_hostile_list_is_refused(orch: Orch, text: str) -> None:
    (orch.folder / "list").write_text(text)
    done = orch.run("import", "list", "--base", "http://127.0.0.1:9/")
    assert (done.code, done.out) == (ExitCode.MANIFEST, ""), done.err


@pytest.mark.parametrize(("size", "priority"), [("\u00b2", "\u00b2"), ("9" * 5000, "9" * 5000)])
def test_numbers_that_are_none_count_for_nothing(orch: Orch, size: str, priority: str) -> None:
    (orch.folder / "list").write_text(HOSTILE.format("a.bin", size, "a" * 64, priority, LIST_URL))
    done = orch.run("import", "list")
    assert done.code == 0, done.err
    assert "size" not in done.out


def test_a_fifo_in_a_folder_of_pointers_is_not_waited_for(orch: Orch) -> None:
    (orch.folder / "lfs").mkdir()
    os.mkfifo(orch.folder / "lfs" / "fifo")
    assert orch.run("import", "lfs").code == ExitCode.MANIFEST


def test_a_list_that_is_not_there(orch: Orch) -> None:
    for words in (("import", "GONE"), ("verify", "GONE.sha256")):
        done = orch.run(*words)
        assert done.code == ExitCode.MANIFEST
        assert f"hint: check its name: `ls {orch.folder}`\n" in done.err
