"""`orch init` and the first `orch add`: from an empty folder to a manifest that `orch sync` takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import manifest
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, sha256

DATA = made(5000)


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    folder = tmp_path / "project"
    folder.mkdir()
    return Orch(folder, environ={"ORCH_STORE": str(tmp_path / "store")})


@pytest.fixture
def bare(orch: Orch, monkeypatch: pytest.MonkeyPatch) -> Orch:
    monkeypatch.setattr(orch, "write", lambda: None)
    return orch


def test_from_nothing_to_a_model_in_place(bare: Orch, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(DATA)
    done = bare.run("init")
    assert (done.code, done.out) == (0, "written: manifests/team.yaml\n")
    assert "next: orch add URL" in done.err
    text = (bare.folder / "manifests/team.yaml").read_text()
    assert manifest.parse(text, str(bare.folder / "manifests/team.yaml")).root == str(bare.folder)
    deep = bare.folder / "src"
    deep.mkdir()
    added = subprocess.run(
        [sys.executable, "-m", "orchestrator", "add", f"file://{source}"],
        cwd=deep,
        env=bare.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert added.stdout == "added weights\n"
    assert f"    url: file://{source}\n    to: models/\n" in added.stderr
    assert added.stderr.endswith("next: orch lock  (it finds the checksums)\n")
    assert bare.run("lock").code == 0
    assert bare.run("sync").code == 0
    assert (bare.folder / "models/weights.bin").read_bytes() == DATA
    new = (bare.folder / "manifests/team.yaml").read_text()
    assert new.replace("models:\n  weights:\n" + f"    url: file://{source}\n    to: models/\n", "models: {}\n") == text


def test_nothing_that_is_there_is_changed(bare: Orch) -> None:
    assert bare.run("init", "new/one").code == 0
    there = bare.folder / "new/one/manifests/team.yaml"
    before = there.stat()
    for folder in ("new/one", str(bare.folder / "new/one")):
        done = bare.run("init", folder)
        assert done.code == ExitCode.MANIFEST
        assert "hint: `orch add URL new/one/manifests/team.yaml`" in done.err
    assert there.stat() == before
    (bare.folder / "flat").mkdir()
    (bare.folder / "flat/team.yaml").write_text("mine")
    assert bare.run("init", "flat", "--json").summary["exit_code"] == ExitCode.MANIFEST
    assert [path.name for path in (bare.folder / "flat").iterdir()] == ["team.yaml"]


def test_a_manifest_is_not_taken_for_a_folder(bare: Orch) -> None:
    done = bare.run("init", "team.yaml")
    assert done.code == ExitCode.USAGE
    assert "`orch add URL team.yaml`" in done.err
    assert not bare.manifest.exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "# weights, which orch downloads\n/models/\n"),
        ("*.pyc", "*.pyc\n# weights, which orch downloads\n/models/\n"),
        ("/models/\n", "/models/\n"),
        ("!models\n", "!models\n"),
    ],
)
def test_git_is_told_what_not_to_take(bare: Orch, before: str | None, after: str) -> None:
    subprocess.run(["git", "init", "-q", bare.folder], check=True)
    ignore = bare.folder / ".gitignore"
    if before is not None:
        ignore.write_text(before)
    done = bare.run("init", "--json")
    assert ignore.read_text() == after
    files = [(Path(event["path"]).name, event["how"]) for event in done.named("file")]
    how = [] if before == after else [(".gitignore", "extended" if before else "written")]
    assert files == [("team.yaml", "written"), *how]
    assert done.summary["changed"] is True


def test_add_makes_the_manifest_that_sync_takes(bare: Orch) -> None:
    page = "https://huggingface.co/openai-community/gpt2"
    done = bare.run("add", page, "http://h/w/a.bin", f"{page}/blob/main/config.json", "--tag", "x")
    assert (done.code, done.out) == (0, "added gpt2\nadded a\nadded config\n")
    assert "note: the web page of a repository: using hf:openai-community/gpt2" in done.err
    assert "manifests/team.yaml (a new manifest):" in done.err
    text = (bare.folder / "manifests/team.yaml").read_text()
    assert "\nroot: .." in text
    assert "  gpt2:\n    repo: hf:openai-community/gpt2\n    tags: [x]\n    for: huggingface\n" in text
    assert f"    url: {page}/resolve/main/config.json\n" in text
    assert bare.run("add", "https://modelscope.cn/models/Qwen/Qwen3/summary").code == 0
    assert "    repo: modelscope:Qwen/Qwen3\n    for: modelscope\n" in (bare.folder / "manifests/team.yaml").read_text()
    more = bare.run("add", "http://h/b.bin", "--mirror", "http://m/b.bin", "--size", "5", "--sha256", sha256(DATA))
    assert more.code == 0, more.err
    lines = f"    url: http://h/b.bin\n    mirrors: [http://m/b.bin]\n    sha256: {sha256(DATA)}\n    size: 5\n"
    assert lines in (bare.folder / "manifests/team.yaml").read_text()
    assert more.err.endswith("next: orch sync\n")


def test_a_new_manifest_is_the_same_whether_its_path_was_typed_or_not(bare: Orch) -> None:
    texts = []
    for folder, words in (("a", ()), ("b", ("manifests/team.yaml",)), ("c", ("team.yaml",))):
        top = bare.folder / folder
        subprocess.run(["git", "init", "-q", top], check=True)
        done = Orch(top, environ=bare.environ)
        done.write = lambda: None  # type: ignore[method-assign]
        added = done.run("add", "http://h/a.bin", *words)
        assert added.code == 0, added.err
        assert "written: .gitignore" in added.err
        assert (top / ".gitignore").read_text() == "# weights, which orch downloads\n/models/\n"
        path = top / (words or ("manifests/team.yaml",))[0]
        texts.append(path.read_text())
        parsed = manifest.parse(texts[-1], str(path), resolve=False)
        assert parsed.models[0].files[0].places[0].path == str(top / "models/a.bin")
    assert texts[0] == texts[1]
    assert "written: .gitignore" not in bare.run("add", "-n", "http://h/a.bin").err
    (bare.folder / "plain").mkdir()
    bare.run("add", "http://h/a.bin", "plain/team.yaml")
    assert not (bare.folder / "plain/.gitignore").exists()


def test_add_can_be_looked_at_first(bare: Orch) -> None:
    for _ in range(2):
        done = bare.run("add", "-n", "http://h/a.bin")
        assert (done.code, done.out) == (0, "would add a\n")
        assert "    url: http://h/a.bin\n    to: models/\n" in done.err
        assert "next:" not in done.err
        assert not (bare.folder / "manifests").exists()


def test_what_is_no_file_is_refused_with_the_right_form(bare: Orch) -> None:
    done = bare.run("add", "https://drive.google.com/file/d/abc/view", "new.yaml")
    assert done.code == ExitCode.MANIFEST
    assert "download?id=abc&export=download" in done.err
    for words in (("hf:o/n", "--size", "1"), ("http://h/a", "nothing")):
        assert bare.run("add", *words, "new.yaml").code == ExitCode.MANIFEST, words
    for words in (("x.yaml",), ("http://h/a", "http://h/b", "--name", "one"), ("http://h/a", "--size", "-1")):
        assert bare.run("add", *words).code == ExitCode.USAGE, words
    assert not list(bare.folder.glob("**/*.yaml"))
    several = Orch(bare.folder, environ={"ORCH_MANIFEST": "a.yaml:b.yaml"}).run("add", "http://h/a")
    assert several.code == ExitCode.USAGE
