"""Flag, then ORCH_<FLAG>, then manifest, then site file, then default; and where sources come in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.context import Context
from orchestrator.workspace import open_workspace
from tests.orch import Orch, made

LEVELS = ("default", "site", "manifest", "environment", "flag")


@pytest.mark.parametrize("highest", LEVELS)
def test_the_store_is_the_first_that_is_set(tmp_path: Path, highest: str) -> None:
    given = LEVELS[: LEVELS.index(highest) + 1]
    orch = Orch(tmp_path)
    lines = ["version: 1", "models: {w: {url: http://127.0.0.1:9/w, sha256: " + "0" * 64 + ", to: store}}"]
    if "manifest" in given:
        lines.append("store: by-manifest")
    orch.manifest.write_text("\n".join(lines))
    if "site" in given:
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "orch.yaml").write_text("store: ~/by-site\n")
    orch.environ["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    if "environment" in given:
        orch.environ["ORCH_STORE"] = str(tmp_path / "by-environment")
    flag = ("--store", "by-flag") if "flag" in given else ()
    words = [sys.executable, "-m", "orchestrator", "path", "--no-check", "w", "team.yaml", *flag]
    out = subprocess.run(words, cwd=tmp_path, env=orch.env(), capture_output=True, text=True, check=True).stdout
    expected = {
        "default": "home/.cache/orch",
        "site": "home/by-site",
        "manifest": "by-manifest",
        "environment": "by-environment",
        "flag": "by-flag",
    }[highest]
    assert out.startswith(f"{tmp_path / expected}/blobs/")


@pytest.mark.parametrize("flag", [False, True])
def test_an_option_from_the_environment_yields_to_the_flag(tmp_path: Path, flag: bool) -> None:
    orch = Orch(tmp_path, environ={"ORCH_BACKEND": "nget"})
    orch.want("w", b"w", "http://127.0.0.1:9/w")
    done = orch.run("sync", "--json", "team.yaml", *(("--backend", "curl", "--retries", "0") if flag else ()))
    assert done.code == (5 if flag else 2)


def test_the_order_of_sources(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "orch.yaml").write_text(
        "mirrors: [{origin: https://huggingface.co/, urls: [http://lan.example/hub/]}]\n"
    )
    (tmp_path / "m.yaml").write_text(f"""
version: 1
mirrors: [{{origin: https://huggingface.co/, urls: [https://prefix.example/]}}]
models:
  w:
    url: https://huggingface.co/a/resolve/main/w
    mirrors: [https://own.example/w]
    sha256: {"0" * 64}
    to: w
""")
    environ = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "HF_ENDPOINT": "https://endpoint.example",
    }
    space = open_workspace(Context(environ, str(tmp_path)), ["m.yaml"])
    assert [source.url for source in space.wanted[0].sources] == [
        "http://lan.example/hub/a/resolve/main/w",
        "https://own.example/w",
        "https://prefix.example/a/resolve/main/w",
        "https://endpoint.example/a/resolve/main/w",
        "https://huggingface.co/a/resolve/main/w",
    ]


def test_root_can_be_given(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    orch.want("w", made(10), "http://127.0.0.1:9/w", to="models/w")
    assert (
        orch.run("path", "w", "team.yaml", "--no-check", "--root", "elsewhere").out
        == f"{tmp_path}/elsewhere/models/w\n"
    )
