"""`orch vcs`: tiers by size, and files that the real git and sha256sum read as they are meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.commands.vcs import BEGIN, END
from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256
from tests.servers import require

MIB, GIB = 1 << 20, 1 << 30
# Names that mean something to gitignore, gitattributes, sha256sum or a shell, if they are not escaped.
ODD = [
    "models/plain.pth",
    "models/with blank.pth",
    "models/[ab]*?.pth",
    "models/back\\slash.pth",
    'models/"quoted".pth',
    "models/#hash.pth",
    "models/!not.pth",
    "models/übung.pth",
    "models/deep/er/a.pth",
]
NEAR = ["models/a.pth", "models/ab.pth", "models/with", "models/slash.pth", "other/models/plain.pth", "models/not.pth"]


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    require("git")
    (tmp_path / "repo").mkdir()
    orch = Orch(tmp_path / "repo")
    orch.top["store"] = str(tmp_path / "store")
    git(orch, "init", "-q")
    return orch


def git(orch: Orch, *words: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(orch.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *words], cwd=orch.folder, env=environ, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def want(orch: Orch, place: str, size: int | None) -> None:
    orch.want(place, place.encode(), "http://127.0.0.1:9/w", to=place, size=size)


def is_lfs(orch: Orch, path: str) -> bool:
    told = git(orch, "check-attr", "-z", "filter", "diff", "merge", "text", "--", path).split("\0")[2::3]
    assert told in (["lfs", "lfs", "lfs", "unset"], ["unspecified"] * 4)
    return told[0] == "lfs"


def is_ignored(orch: Orch, path: str) -> bool:
    return bool(git(orch, "check-ignore", "--", path))


def test_tiers_by_size_and_what_github_says(orch: Orch) -> None:
    sizes = {"a": 100 * MIB - 1, "b": 100 * MIB, "c": GIB, "d": GIB + 1, "e": None, "f": 10, "g": 51 * MIB}
    for name, size in sizes.items():
        want(orch, f"models/{name}", size)
    orch.want("twin", b"models/f", "http://127.0.0.1:9/w", to="models/twin", size=10)  # the same bytes count once
    done = orch.run("vcs", "--json", "team.yaml")
    assert done.code == 0
    assert {e["model"].removeprefix("models/"): e["tier"] for e in done.named("tier")} == {
        "a": "git", "b": "lfs", "c": "lfs", "d": "remote", "e": "remote", "f": "git", "g": "git", "twin": "git"
    }  # fmt: skip
    totals = {e["tier"]: (e["files"], e["size"], e["unknown"]) for e in done.named("total")}
    assert totals == {
        "git": (3, 151 * MIB - 1 + 10, 0),
        "lfs": (2, 100 * MIB + GIB, 0),
        "remote": (2, GIB + 1, 1),
    }
    notes = {e["model"].removeprefix("models/"): e["note"] for e in done.named("tier")}
    assert "warns" in notes["a"]
    assert "warns" in notes["g"]
    assert "unknown" in notes["e"]
    assert not notes["f"]
    for words in (("--git-max", "1G", "--lfs-max", "6G"), ("--git-max=1073741824",)):
        rows = {e["model"]: e for e in orch.run("vcs", "--json", *words, "team.yaml").named("tier")}
        assert rows["models/b"]["tier"] == "git"
    assert "Free and Pro: above 2 GB" not in rows["models/d"]["note"]
    want(orch, "models/h", 3 * 10**9)
    want(orch, "models/i", 101 * MIB)
    rows = {e["model"]: e for e in orch.run("vcs", "--json", "--git-max=1G", "--lfs-max=6G", "team.yaml").named("tier")}
    assert rows["models/h"]["note"] == "too large for GitHub's LFS on Free and Pro: above 2 GB"
    assert "refuses" in rows["models/i"]["note"]
    said = orch.run("vcs", "team.yaml").out
    assert "8 clones a month" in said
    assert "refuses above 100 MiB" in said
    assert not (orch.folder / ".gitattributes").exists()
    assert orch.run("vcs", "--git-max", "much", "team.yaml").code == 2


def test_git_reads_each_name_as_it_is_meant(orch: Orch) -> None:
    for place in ODD:
        want(orch, place, 200 * MIB)
    assert orch.run("vcs", "--write", "team.yaml").code == 0
    assert [place for place in ODD if not is_lfs(orch, place)] == []
    assert [place for place in NEAR if is_lfs(orch, place)] == []
    assert not (orch.folder / ".gitignore").exists()
    for model in orch.models.values():
        model["size"] = 2 * GIB
    assert orch.run("vcs", "--write", "team.yaml").code == 0
    assert [place for place in ODD if not is_ignored(orch, place)] == []
    assert [place for place in NEAR if is_ignored(orch, place)] == []
    assert not (orch.folder / ".gitattributes").exists()  # it held our block alone


def test_the_rest_of_a_file_stays_and_a_second_time_writes_nothing(orch: Orch) -> None:
    ignore, attributes = orch.folder / ".gitignore", orch.folder / ".gitattributes"
    ignore.write_bytes(b"*.log\r\n\tmine  \nno newline at the end")
    attributes.write_bytes(b"*.py text\n")
    attributes.chmod(0o640)
    want(orch, "large.bin", 2 * GIB)
    want(orch, "middle.bin", 200 * MIB)
    done = orch.run("vcs", "--json", "--write", "team.yaml")
    names = [os.path.basename(e["path"]) for e in done.named("file")]
    assert names == [".gitattributes", ".gitignore", "middle.bin.sha256"]
    assert ignore.read_bytes().startswith(b"*.log\r\n\tmine  \nno newline at the end\n" + BEGIN)
    assert b"orch vcs --write team.yaml" in ignore.read_bytes()
    assert attributes.stat().st_mode & 0o777 == 0o640
    attributes.write_bytes(attributes.read_bytes() + b"*.md text\n")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in orch.folder.iterdir() if path.is_file()}
    assert orch.run("vcs", "--write", "team.yaml").out.splitlines()[-1].startswith("nothing to write")
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert path.name == "team.yaml" or path.stat().st_mtime_ns == time
    orch.models = {name: {**model, "size": 1} for name, model in orch.models.items()}
    assert orch.run("vcs", "--write", "team.yaml").code == 0
    assert ignore.read_bytes() == b"*.log\r\n\tmine  \nno newline at the end\n"
    lines = attributes.read_text().splitlines()
    assert (lines[0], lines[3:5], lines[-1]) == ("*.py text", ["/large.bin -text", "/middle.bin -text"], "*.md text")
    ignore.write_bytes(BEGIN + b"\n/x\n")
    want(orch, "large.bin", 2 * GIB)
    done = orch.run("vcs", "--write", "team.yaml")
    assert (done.code, ignore.read_bytes()) == (7, BEGIN + b"\n/x\n")
    assert END.decode() in done.err


def test_what_git_keeps_comes_out_of_a_clone_as_it_went_in(orch: Orch, tmp_path: Path) -> None:
    require("sha256sum")
    require("curl")
    (orch.folder / ".gitattributes").write_text("* text=auto\n*.json text eol=crlf\n")
    contents = {"w/vocab.txt": b"[PAD]\r\n[UNK]\r\n", "w/a b.json": b"{\n}\n", "w/m.bin": bytes(range(256))}
    with Origin() as origin:
        for place, content in contents.items():
            orch.want(place, content, origin.serve(f"/{len(content)}", content), to=place)
        assert orch.sync().code == 0
    assert orch.run("vcs", "--write", "team.yaml").code == 0
    git(orch, "config", "core.safecrlf", "false")
    git(orch, "add", "-A", ".gitattributes", "w", "team.yaml")
    git(orch, "-c", "user.name=x", "-c", "user.email=x@x.x", "commit", "-qm", "x")
    git(orch, "-c", "core.autocrlf=true", "clone", "-q", ".", str(tmp_path / "clone"))
    for place, content in contents.items():
        assert (tmp_path / "clone" / place).read_bytes() == content
    sums = [f"{os.path.basename(place)}.sha256" for place in contents]
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", *sums], cwd=tmp_path / "clone/w", check=True)


def test_checksums_stand_beside_what_is_tracked_and_sha256sum_reads_them(orch: Orch) -> None:
    require("sha256sum")
    require("curl")
    contents = {place: place.encode() for place in ODD}
    with Origin() as origin:
        for number, (place, content) in enumerate(contents.items()):
            orch.want(place, content, origin.serve(f"/{number}", content), to=place)
        large = made(3 * MIB)
        orch.want("large", large, origin.serve("/large", large), to="models/large.pth", size=None)
        assert orch.sync().code == 0
    words = ("vcs", "--write", "--lfs-max", "2M", "--git-max", "1M", "team.yaml")
    assert orch.run(*words).code == 0
    for place in contents:
        beside = orch.folder / f"{place}.sha256"
        checked = ["sha256sum", "--strict", "-c", beside.name]
        done = subprocess.run(checked, cwd=beside.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
    assert is_ignored(orch, "models/large.pth")  # whose size only the store knows
    assert not (orch.folder / "models/large.pth.sha256").exists()
    beside = orch.folder / "models/plain.pth.sha256"
    orch.models["models/plain.pth"] |= {"sha256": sha256(b"new"), "size": 5 * MIB}
    assert orch.run(*words).code == 0
    assert beside.read_text() == f"{sha256(b'new')}  plain.pth\n"  # of no use any more, but never wrong
    beside.write_text("mine\n")
    assert orch.run(*words).code == 0
    assert beside.read_text() == "mine\n"


def test_only_below_the_manifests_work_tree(orch: Orch, tmp_path: Path) -> None:
    elsewhere, nested = tmp_path / "elsewhere", orch.folder / "nested"
    nested.mkdir()
    subprocess.run(["git", "init", "-q", str(nested)], check=True)
    orch.top["allow_absolute"] = [str(tmp_path)]
    places = ["in.pth", f"{elsewhere}/out.pth", "nested/other.pth"]
    orch.want("m", b"m", "http://127.0.0.1:9/w", to=places, size=2 * GIB)
    orch.want("s", b"s", "http://127.0.0.1:9/s", to="link.pth", size=1, link="symlink")
    orch.want("t", b"t", "http://127.0.0.1:9/t.tar", to="tree", size=1, unpack=True)
    done = orch.run("vcs", "--json", "--write", "team.yaml")
    assert done.code == 0
    assert {e["path"] for e in done.named("skipped")} == {f"{elsewhere}/out.pth", str(nested / "other.pth")}
    ignored = (orch.folder / ".gitignore").read_text().splitlines()
    assert ignored[2:-1] == ["/in.pth", "/link.pth", "/tree/"]
    assert not elsewhere.exists()
    assert [path.name for path in nested.iterdir()] == [".git"]
    bare = Orch(tmp_path / "elsewhere")
    bare.folder.mkdir()
    bare.want("m", b"m", "http://127.0.0.1:9/w", to="m.pth")
    assert "not in this work tree" in bare.run("vcs", "team.yaml").out
    done = bare.run("vcs", "--write", "team.yaml")
    assert done.code == 2
    assert "git init" in done.err
