"""Which manifest is meant where none is named: ORCH_MANIFEST, else one found from the working folder upwards."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.context import Context
from orchestrator.errors import ManifestError
from orchestrator.workspace import default_manifests, has_manifest, hub_mirror, manifest_paths, open_workspace
from tests.orch import Orch, made

EMPTY = "version: 1\nmodels: {}\n"


def at(context: Context, folder: Path, **environ: str) -> Context:
    return replace(context, cwd=str(folder), environ={**context.environ, **environ})


def written(path: Path, text: str = EMPTY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_manifest_is_found_upwards_as_far_as_the_home(context: Context, tmp_path: Path) -> None:
    home = tmp_path / "someone"
    deep = home / "project/src/deep"
    deep.mkdir(parents=True)
    context = at(context, deep, HOME=str(home))
    written(tmp_path / "team.yaml")  # above the home: not looked at
    assert default_manifests(context) == ("manifests/team.yaml",)
    assert not has_manifest(context)
    with pytest.raises(ManifestError) as error:
        open_workspace(context, ())
    assert "`orch init`" in error.value.hint
    written(home / "team.yaml")
    assert default_manifests(context) == ("../../../team.yaml",)
    found = written(home / "project/manifests/team.yaml")
    assert default_manifests(context) == ("../../manifests/team.yaml",)
    assert open_workspace(context, ()).manifests[0].file == str(found)
    assert default_manifests(at(context, found.parent)) == ("team.yaml",)


def test_a_variable_names_them(context: Context, tmp_path: Path) -> None:
    one, two = written(tmp_path / "one.yaml"), written(tmp_path / "b/two.yaml")
    written(tmp_path / "b/team.yaml")
    named = at(context, tmp_path / "b", ORCH_MANIFEST=f"../one.yaml::{two}")
    assert [m.file for m in open_workspace(named, ()).manifests] == [str(one), str(two)]
    assert [m.file for m in open_workspace(named, ("team.yaml",)).manifests] == [str(tmp_path / "b/team.yaml")]
    typo = at(context, tmp_path / "b", ORCH_MANIFEST="typo.yaml")
    assert has_manifest(typo)
    with pytest.raises(ManifestError, match="no such file"):
        open_workspace(typo, ())


def test_a_folder_stands_for_its_manifest(context: Context, tmp_path: Path) -> None:
    flat, deep = written(tmp_path / "flat/team.yaml"), written(tmp_path / "deep/manifests/team.yaml")
    assert manifest_paths(context, ("flat", "deep", "deep/manifests", str(flat))) == (str(flat), str(deep))
    with pytest.raises(ManifestError, match="is a directory") as none:
        open_workspace(context, ("home",))
    assert none.value.hint == f"no manifest is in it; `orch init {tmp_path}/home` starts one"
    written(tmp_path / "home/my models.yaml")
    with pytest.raises(ManifestError, match="is a directory") as other:
        open_workspace(context, ("home",))
    assert other.value.hint == f"name the manifest in it: `orch COMMAND '{tmp_path}/home/my models.yaml'`"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_strangers_manifest_above_is_passed_over(context: Context, tmp_path: Path) -> None:
    deep = tmp_path / "shared/mine"
    deep.mkdir(parents=True)
    theirs = written(tmp_path / "shared/team.yaml")
    os.chown(theirs, 65534, 65534)
    context = at(context, deep)
    with pytest.raises(ManifestError) as error:
        open_workspace(context, ())
    assert f"{theirs} is another user's" in error.value.hint
    assert has_manifest(at(context, deep, SUDO_UID="65534"))
    assert has_manifest(at(context, deep.parent))  # one's own working folder is as if it was named


def test_the_commands_take_it(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    data = made(1000)
    (tmp_path / "a.bin").write_bytes(data)
    orch.want("a", data, f"file://{tmp_path}/a.bin")
    orch.write()
    deep = tmp_path / "src/deep"
    deep.mkdir(parents=True)
    for words in (("status",), ("plan",), ("vcs",), ("env",), ("lock", "-n"), ("prune", "-n"), ("quarantine",)):
        command = [sys.executable, "-m", "orchestrator", *words]
        done = subprocess.run(command, cwd=deep, env=orch.env(), check=False, capture_output=True, text=True)
        assert done.returncode in (0, 5), (words, done.stderr)


def test_a_hubs_framework_with_a_plain_url_names_the_entry_that_it_takes(context: Context, tmp_path: Path) -> None:
    for framework, repo in (("huggingface", "hf:ORG/NAME"), ("modelscope", "modelscope:ORG/NAME")):
        entry = f"{{url: http://h/a.bin, sha256: {'a' * 64}, for: {framework}}}"
        path = written(tmp_path / "team.yaml", f"version: 1\nmodels:\n  m: {entry}\n")
        with pytest.raises(ManifestError) as refused:
            open_workspace(at(context, tmp_path), [str(path)])
        assert refused.value.hint == f"write `repo: {repo}` instead of `url:`, or `to: PATH` instead of `for:`"


def test_a_tag_or_a_model_in_the_others_place_is_told(context: Context, tmp_path: Path) -> None:
    entry = f"{{url: http://h/a.bin, sha256: {'a' * 64}, to: a.bin, tags: [vision]}}"
    path = written(tmp_path / "team.yaml", f"version: 1\nmodels:\n  resnet: {entry}\n")
    for word, said, hint in (
        ("vision", "no model is named `vision`", "it is a tag: `--only tag:vision`"),
        ("vis*", "no model is named `vis*`", "it is a tag: `--only 'tag:vis*'`"),
        ("tag:resnet", "no tag is named `resnet`", "it is a model: `--only resnet`"),
        ("resnt", "no model or tag is named `resnt`", "did you mean `resnet`?"),
        ("tag:visin", "no model or tag is named `visin`", "did you mean `tag:vision`?"),
    ):
        with pytest.raises(ManifestError) as refused:
            open_workspace(at(context, tmp_path), [str(path)], only=[word])
        assert (refused.value.problems[0].message, refused.value.hint) == (said, hint)


def test_an_endpoint_without_a_scheme_is_guessed() -> None:
    with pytest.raises(ManifestError) as caught:
        hub_mirror(Context(environ={"HF_ENDPOINT": "hf-mirror.com"}, cwd="/"))
    assert caught.value.hint == "did you mean `https://hf-mirror.com`?"
