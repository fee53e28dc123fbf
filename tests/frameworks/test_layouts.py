"""Where frameworks look: each by its own variables and defaults; and the commands that say so to a shell."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator.commands.env import SHELLS
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import below, by_name, with_layouts
from orchestrator.manifest.lockfile import fingerprint
from orchestrator.manifest.parse import parse
from orchestrator.manifest.types import Framework
from orchestrator.manifest.values import File, Model
from orchestrator.model import Link, Place, Repo
from tests.formats.test_formats import tarred
from tests.orch import Done, Orch, made, sha256
from tests.servers import require

HOME = {"HOME": "/h"}
COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"
URL = "https://download.pytorch.org/models/resnet%2018-f37072fd.pth?download=1"
NAME = "resnet%2018-f37072fd.pth"
HF = f"https://huggingface.co/org/na.me/resolve/{COMMIT}/sub/b%20c.json?download=true"
HANDLE = "https://tfhub.dev/google/universal-sentence-encoder/4"
USE4 = "063d866c06683311b44b4992fd46003be952409c"  # of that handle, as seven public repositories have it
MS = "https://modelscope.cn/models/Qwen/Qwen3-0.6B/resolve/master/config.json"
SHA, GIT = "1" * 64, "9" * 40
HUB = "models--org--na.me"


def at(framework: str, url: str, value: str = "", **environ: str) -> list[str]:
    """Where a framework has one file in that environment: its places, then its extra files."""
    context = Context(environ={**HOME, **environ}, cwd="/w", read=lambda _: "")
    file = with_layouts(context, Model("m", (), (File("m", url, (), SHA, 3, ()),), ((framework, value),))).files[0]
    return [p.path for p in file.places] + [m.path for m in file.extra_files]


HUGGING = (f"blobs/{SHA}", f"snapshots/{COMMIT}/sub/b c.json", "refs/main")


def hub(base: str) -> list[str]:
    return [f"{base}/{HUB}/{name}" for name in HUGGING]


KAGGLE = "google/gemma/pyTorch/2b/7"
# framework, URL, value, environment -> its places and extra files
TABLE: list[tuple[str, str, str, dict[str, str], list[str]]] = [
    ("torch", URL, "", {}, [f"/h/.cache/torch/hub/checkpoints/{NAME}"]),
    ("torch", URL, "", {"XDG_CACHE_HOME": "/x"}, [f"/x/torch/hub/checkpoints/{NAME}"]),
    ("torch", URL, "", {"XDG_CACHE_HOME": "/x", "TORCH_HOME": "~/t"}, [f"/h/t/hub/checkpoints/{NAME}"]),
    ("torch", URL, "", {"TORCH_HOME": "t/../u"}, [f"/w/u/hub/checkpoints/{NAME}"]),
    ("torch", URL, "", {"TORCH_HOME": ""}, [f"/w/hub/checkpoints/{NAME}"]),
    ("torch", URL, "mine.pth", {}, ["/h/.cache/torch/hub/checkpoints/mine.pth"]),
    ("facenet", URL, "", {"TORCH_HOME": "/t"}, [f"/t/checkpoints/{NAME}"]),
    ("keras", URL, "", {"XDG_CACHE_HOME": "/x"}, [f"/h/.keras/models/{NAME}"]),
    ("keras", URL, "datasets/a.h5", {"KERAS_HOME": "~/k"}, ["/h/k/datasets/a.h5"]),
    ("tf_keras", URL, "", {"KERAS_HOME": "/k"}, [f"/h/.keras/models/{NAME}"]),
    ("tfhub", URL, HANDLE, {}, [f"/tmp/tfhub_modules/{USE4}"]),
    ("tfhub", URL, HANDLE, {"TMPDIR": "", "TEMP": "/t"}, [f"/t/tfhub_modules/{USE4}"]),
    ("tfhub", URL, HANDLE, {"TFHUB_CACHE_DIR": "~/t"}, [f"/w/~/t/{USE4}"]),
    ("huggingface", HF, "", {}, hub("/h/.cache/huggingface/hub")),
    ("huggingface", HF, "", {"XDG_CACHE_HOME": "/x"}, hub("/x/huggingface/hub")),
    ("huggingface", HF, "", {"XDG_CACHE_HOME": "/x", "HF_HOME": "$A/${B}", "A": "/a", "B": "b"}, hub("/a/b/hub")),
    ("huggingface", HF, "", {"HF_HOME": "/f", "HUGGINGFACE_HUB_CACHE": "~/old"}, hub("/h/old")),
    ("huggingface", HF, "", {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, hub("/new")),
    ("sentence-transformers", HF, "", {"HF_HOME": "/f"}, hub("/f/hub")),
    ("sentence-transformers", HF, "", {"HF_HOME": "/f", "SENTENCE_TRANSFORMERS_HOME": "~/s"}, hub("/h/s")),
    ("whisper", URL, "", {}, [f"/h/.cache/whisper/{NAME}"]),
    ("whisper", URL, "", {"XDG_CACHE_HOME": "/x"}, [f"/x/whisper/{NAME}"]),
    ("clip", URL, "", {"XDG_CACHE_HOME": "/x"}, [f"/h/.cache/clip/{NAME}"]),
    ("open_clip", URL, "", {"XDG_CACHE_HOME": "/x"}, [f"/h/.cache/clip/{NAME}"]),
    ("open_clip", HF, "", {"XDG_CACHE_HOME": "/x"}, hub("/x/huggingface/hub")),
    (
        "kagglehub",
        URL,
        KAGGLE,
        {"KAGGLEHUB_CACHE": "/k"},
        [
            f"/k/models/{KAGGLE}/m",
            "/k/models/google/gemma/pyTorch/2b/.complete/7/m.complete",
            f"/k/models/{KAGGLE}.complete",
        ],
    ),
    ("modelscope", MS, "", {}, ["/h/.cache/modelscope/models/Qwen--Qwen3-0.6B/snapshots/master/config.json"]),
    (
        "modelscope",
        MS,
        "",
        {"MODELSCOPE_CACHE": "~/ms"},
        ["/h/ms/models/Qwen--Qwen3-0.6B/snapshots/master/config.json"],
    ),
    ("comfyui", URL, "loras", {}, [f"/h/comfy/ComfyUI/models/loras/{NAME}"]),
    ("comfyui", URL, "loras/", {}, [f"/h/comfy/ComfyUI/models/loras/{NAME}"]),
    ("comfyui", URL, "loras/SD1.5", {}, [f"/h/comfy/ComfyUI/models/loras/SD1.5/{NAME}"]),
    ("comfyui", URL, "embeddings/hand-neg.pt", {}, ["/h/comfy/ComfyUI/models/embeddings/hand-neg.pt"]),
    ("comfyui", "https://x.org/9", "clip/a/b.SFT", {}, ["/h/comfy/ComfyUI/models/text_encoders/a/b.SFT"]),
    ("comfyui", "https://x.org/b.xyz", "vae/a.xyz", {}, ["/h/comfy/ComfyUI/models/vae/a.xyz"]),
    ("comfyui", URL, "unet", {"COMFYUI_PATH": "/c"}, [f"/c/models/diffusion_models/{NAME}"]),
    ("comfyui", URL, "vae", {"COMFYUI_PATH": "/c", "COMFYUI_FOLDERS_BASE_PATH": "/b"}, [f"/b/models/vae/{NAME}"]),
    ("ultralytics", URL, "", {}, [f"/w/weights/{NAME}"]),
    (
        "ultralytics",
        URL,
        "",
        {"YOLO_CONFIG_DIR": "/y"},
        [f"/y/weights/{NAME}", "/y/Ultralytics/settings.json"],
    ),
]


@pytest.mark.parametrize(("framework", "url", "value", "environ", "expected"), TABLE)
def test_a_framework_looks_there(
    framework: str, url: str, value: str, environ: dict[str, str], expected: list[str]
) -> None:
    assert at(framework, url, value, **environ) == expected


def test_every_framework_is_in_the_table_and_under_one_folder_if_asked() -> None:
    assert {row[0] for row in TABLE} == set(get_args(Framework))
    everything = {name: "/elsewhere" for row in TABLE for name in row[3]}
    context = below(Context(environ={**HOME, **everything}, cwd="/w", read=lambda _: ""), "c")
    unmoved = set()
    for framework, url, value, _, _ in TABLE:
        model = Model("m", (), (File("m", url, (), SHA, 3, ()),), ((framework, value),))
        if not all(p.path.startswith("/w/c/") for p in with_layouts(context, model).files[0].places):
            unmoved.add(framework)
        assert all(path.startswith("/w/c") for path in by_name(framework).variables(context).values())
    assert unmoved == {"clip", "open_clip", "tf_keras"}, "no variable leads them"


REWRITING = ("keras", "tf_keras", "whisper", "clip", "open_clip")
UNSAFE = {
    *((name, link) for name in REWRITING for link in (Link.HARD, Link.SYMLINK)),
    *((name, Link.SYMLINK) for name in ("huggingface", "sentence-transformers")),
    *(("tfhub", link) for link in (Link.HARD, Link.SYMLINK, Link.REFLINK)),
}


def test_the_paper_of_frameworks_is_true() -> None:
    house = Path(__file__).resolve().parents[2]
    paper = (house / "docs/frameworks.md").read_text()
    for framework in get_args(Framework):
        layout = by_name(framework)
        row = next(line for line in paper.splitlines() if line.startswith(f"| `{framework}` |"))
        named = Context(environ={**HOME, "YOLO_CONFIG_DIR": "/y"}, cwd="/w")
        if framework not in ("sentence-transformers", "open_clip"):
            assert [name for name in layout.variables(named) if name not in row] == []
        safe = row.split("|")[5].strip()
        assert safe in ("as `huggingface`", "all", ", ".join(link.value for link in layout.SAFE))
        assert (safe == "all") == (set(layout.SAFE) == set(Link) - {Link.AUTO})
        assert [name for name in layout.OFFLINE if name not in paper] == []
    if (house / "tests/clients").is_dir():
        proofs = set(re.findall(r"tests/clients/\w+\.py", paper))
        assert [path for path in proofs if not (house / path).is_file()] == []


@pytest.mark.parametrize("framework", get_args(Framework))
@pytest.mark.parametrize("link", [Link.HARD, Link.SYMLINK, Link.COPY, Link.REFLINK])
def test_only_safe_links_may_be_insisted_on(framework: str, link: Link) -> None:
    url, value = next((row[1], row[2]) for row in TABLE if row[0] == framework)
    model = Model("m", (), (File("m", url, (), SHA, 3, ()),), ((framework, value),), link)
    context = Context(environ=HOME, cwd="/w", read=lambda _: "")
    if (framework, link) not in UNSAFE:
        assert with_layouts(context, model).files[0].places
    else:
        with pytest.raises(LayoutError, match="is not safe"):
            with_layouts(context, model)


REFUSED = [
    ("huggingface", URL, "", "not a hub's file"),
    ("huggingface", "https://huggingface.co/org/n/resolve/main/a", "", "not a commit"),
    ("huggingface", f"https://huggingface.co/org/n/resolve/{COMMIT}/a%2F..%2F..%2Fb", "", "not a path"),
    ("huggingface", f"https://huggingface.co/%2e%2e/n/resolve/{COMMIT}/a", "", "not a path"),
    ("huggingface", f"https://huggingface.co/org/n/resolve/{COMMIT}/a%0Ab", "", "not a path"),
    ("huggingface", HF, "main", "takes no value"),
    ("modelscope", HF, "", "not a file of ModelScope"),
    ("tfhub", URL, "", "needs the handle"),
    ("kagglehub", URL, "", "needs the versioned handle"),
    ("kagglehub", URL, "google/gemma/pyTorch/2b", "needs the versioned handle"),
    ("kagglehub", URL, "google/../../../1", "not a path"),
    ("comfyui", URL, "", "needs the kind"),
    ("comfyui", URL, "../custom_nodes", "not a path"),
    ("keras", URL, "../../x", "not a path"),
    ("torch", "https://x.org/folder/", "", "does not end in a file's name"),
    ("whisper", URL, "tiny.pt", "takes no value"),
]


@pytest.mark.parametrize(("framework", "url", "value", "why"), REFUSED)
def test_what_a_framework_has_no_place_for(framework: str, url: str, value: str, why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        at(framework, url, value)


def test_settings_of_ultralytics_and_comfy_cli_are_read() -> None:
    settings = {"/h/.config/Ultralytics/settings.json": '{"weights_dir": "/data/yolo", "sync": true}'}
    settings["/h/.config/comfy-cli/config.ini"] = "[DEFAULT]\ndefault_workspace = /data/ComfyUI\n"
    context = Context(environ=HOME, cwd="/w", read=lambda path: settings.get(path, ""))
    model = Model("m", (), (File("m", URL, (), SHA, 3, ()),), (("ultralytics", ""), ("comfyui", "vae")))
    places = [p.path for p in with_layouts(context, model).files[0].places]
    assert places == [f"/data/yolo/{NAME}", f"/data/ComfyUI/models/vae/{NAME}"]


def of_repo(framework: str, repo: Repo, commit: str = COMMIT) -> tuple[tuple[Place, ...], list[tuple[str, str]]]:
    file = File("1_Pooling/config.json", "https://huggingface.co/x", (), SHA, 3, (), git=GIT)
    model = Model("m", (), (file,), ((framework, ""),), repo=repo, commit=commit)
    result = with_layouts(Context(environ=HOME, cwd="/w"), model).files[0]
    return result.places, [(m.path, m.text) for m in result.extra_files]


def test_a_repository_in_the_hubs_cache() -> None:
    base = "/h/.cache/huggingface/hub/models--org--n"
    places, marks = of_repo("huggingface", Repo("hf", "org/n"))
    pointer = f"{base}/snapshots/{COMMIT}/1_Pooling/config.json"
    assert places == (Place(f"{base}/blobs/{GIT}"), Place(pointer, target=f"../../../blobs/{GIT}"))
    assert os.path.normpath(os.path.join(os.path.dirname(pointer), places[1].target)) == places[0].path
    assert marks == [(f"{base}/refs/main", COMMIT)]
    assert of_repo("huggingface", Repo("hf", "org/n", "refs/pr/1"))[1] == [(f"{base}/refs/refs/pr/1", COMMIT)]
    assert of_repo("huggingface", Repo("hf", "org/n", COMMIT))[1] == [(f"{base}/refs/main", COMMIT)]
    legacy = of_repo("huggingface", Repo("hf", "gpt2"))[0]
    assert legacy[0].path.startswith("/h/.cache/huggingface/hub/models--gpt2/")


def test_a_short_name_is_below_sentence_transformers() -> None:
    cache = "/h/.cache/huggingface/hub"
    short = of_repo("sentence-transformers", Repo("hf", "all-MiniLM-L6-v2"))[0]
    assert short[0].path == f"{cache}/models--sentence-transformers--all-MiniLM-L6-v2/blobs/{GIT}"
    known = of_repo("sentence-transformers", Repo("hf", "bert-base-uncased"))[0]
    assert known[0].path == f"{cache}/models--bert-base-uncased/blobs/{GIT}"


def test_a_repository_of_another_hub_has_no_place() -> None:
    with pytest.raises(LayoutError, match="not in the Hugging Face hub's cache"):
        of_repo("huggingface", Repo("modelscope", "org/n"))
    places, _ = of_repo("modelscope", Repo("modelscope", "org/n", "v1"))
    assert places[0].path == "/h/.cache/modelscope/models/org--n/snapshots/v1/1_Pooling/config.json"


# The commands, with a home of their own.

WEIGHTS = {name: made(3000, number) for number, name in enumerate(("resnet.pth", "resnet.h5", "tiny.pt"))}
HUB_FILES = {"config.json": b"{}\n", "1_Pooling/config.json": b'{"dim": 3}\n', "model.safetensors": made(5000, 9)}


def want(orch: Orch, name: str, content: bytes, url: str, frameworks: object, **keys: Any) -> None:
    """Add a one-file model that frameworks look for."""
    orch.models[name] = {"url": url, "sha256": sha256(content), "size": len(content), "for": frameworks, **keys}


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def team(tmp_path: Path) -> tuple[Orch, Origin]:
    """A manifest of several frameworks, its lock, and an origin that has it all."""
    orch = Orch(tmp_path)
    with Origin() as origin:
        meant = (["torch", "facenet"], "keras", "whisper")
        for (name, content), frameworks in zip(WEIGHTS.items(), meant, strict=True):
            want(orch, name, content, origin.serve(f"/{name}", content), frameworks)
        model: dict[str, Any] = {"repo": "hf:org/n", "for": ["huggingface", "sentence-transformers"]}
        orch.models["hub"] = model
        base = origin.serve("/hub", b"")
        orch.environ["HF_ENDPOINT"] = base
        files = {}
        for path, content in HUB_FILES.items():
            origin.serve(f"/hub/org/n/resolve/{COMMIT}/{path}", content)
            small = path.endswith(".json")
            files[path] = {"sha256": sha256(content), "size": len(content), "git": git_sha1(content) if small else ""}
        orch.write()
        known = next(m for m in parse(orch.manifest.read_text(), "/team.yaml", resolve=False).models if m.repo)
        lock = {"version": 1, "models": {"hub": {"fingerprint": fingerprint(known), "commit": COMMIT, "files": files}}}
        (tmp_path / "team.lock.json").write_text(json.dumps(lock))
        yield orch, origin


def variables(done: Done) -> dict[str, str]:
    assert done.code == 0, done.err
    return {e["name"]: e["value"] for e in done.named("variable")}


def test_a_sync_puts_all_where_their_frameworks_look(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    done = orch.sync()
    assert done.code == 0, done.err
    home = orch.folder / "home"
    cache = home / ".cache"
    assert (cache / "torch/hub/checkpoints/resnet.pth").samefile(orch.blob(WEIGHTS["resnet.pth"]))
    assert (cache / "torch/checkpoints/resnet.pth").read_bytes() == WEIGHTS["resnet.pth"]
    for path, content in ((home / ".keras/models/resnet.h5", "resnet.h5"), (cache / "whisper/tiny.pt", "tiny.pt")):
        assert path.read_bytes() == WEIGHTS[content]
        assert path.stat().st_ino != orch.blob(WEIGHTS[content]).stat().st_ino, "its client writes into it"
    repo = cache / "huggingface/hub/models--org--n"
    assert (repo / "refs/main").read_bytes() == COMMIT.encode(), "no newline"
    for path, content in HUB_FILES.items():
        pointer = repo / "snapshots" / COMMIT / path
        etag = git_sha1(content) if path.endswith(".json") else sha256(content)
        assert pointer.is_symlink() and not os.path.isabs(os.readlink(pointer))
        assert pointer.resolve() == repo.resolve() / "blobs" / etag
        assert pointer.read_bytes() == content
    assert sorted(p.name for p in repo.iterdir()) == ["blobs", "refs", "snapshots"]
    assert orch.run("path", "hub", "team.yaml").out == f"{repo}/snapshots/{COMMIT}\n"
    again = orch.sync()
    assert again.summary["present"] == again.summary["files"] == 6
    assert orch.run("verify", "--json", "team.yaml").code == 0
    (repo / "refs/main").unlink()
    (repo / "blobs" / git_sha1(HUB_FILES["config.json"])).unlink()
    assert orch.run("status", "--json", "team.yaml").code == 5
    assert orch.sync().summary["placed"] == 2
    assert (repo / "snapshots" / COMMIT / "config.json").read_bytes() == HUB_FILES["config.json"]


def relocked(orch: Orch, origin: Origin, commit: str) -> None:
    """Serve the repository at another commit, and lock it there."""
    lock = json.loads((orch.folder / "team.lock.json").read_text())
    lock["models"]["hub"]["commit"] = commit
    (orch.folder / "team.lock.json").write_text(json.dumps(lock))
    for path, content in HUB_FILES.items():
        origin.serve(f"/hub/org/n/resolve/{commit}/{path}", content)


def test_a_ref_follows_the_lock_where_orch_wrote_it(team: tuple[Orch, Origin]) -> None:
    orch, origin = team
    ref = orch.folder / "home/.cache/huggingface/hub/models--org--n/refs/main"
    assert orch.sync().code == 0
    relocked(orch, origin, "b" * 40)
    assert (orch.sync().code, ref.read_text()) == (0, "b" * 40), "else the old weights would be loaded"
    ref.write_text("c" * 40)  # an online client's, which would load that commit from now on
    assert orch.run("status", "--json", "team.yaml").code == 5
    done = orch.sync()
    assert (done.code, ref.read_text()) == (0, "b" * 40)
    assert any("changed by another program" in e["message"] for e in done.named("noticed"))
    assert orch.sync().summary["present"] == 6
    assert os.listdir(ref.parent) == ["main"]


def test_kagglehub_finds_each_file_of_an_archive(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    content = tarred("w:gz", **{"config.json": b"{}", "a/model.h5": b"weights"})
    with Origin() as origin:
        url = origin.serve("/m.tar.gz", content)
        want(orch, "gemma", content, url, {"kagglehub": KAGGLE})
        assert orch.sync().code == 0
    variation = orch.folder / "home/.cache/kagglehub/models" / KAGGLE.rpartition("/")[0]
    assert (variation / "7/a/model.h5").read_bytes() == b"weights"
    marks = [variation / f".complete/7/{name}.complete" for name in ("config.json", "a/model.h5")]
    marks.append(variation / "7.complete")
    assert all(mark.is_file() for mark in marks)
    assert orch.sync().summary["present"] == 1
    marks[1].unlink()
    assert orch.run("status", "--json", "team.yaml").code == 5
    assert (orch.sync().code, marks[1].is_file()) == (0, True)


def test_a_ref_that_orch_never_wrote_is_left(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    ref = orch.folder / "home/.cache/huggingface/hub/models--org--n/refs/main"
    ref.parent.mkdir(parents=True)
    ref.write_text("c" * 40)
    done = orch.sync()
    assert (done.code, ref.read_text()) == (0, "c" * 40)
    assert any("left unchanged" in e["message"] for e in done.named("noticed"))
    assert orch.sync().summary["present"] == 6


def test_a_mark_that_cannot_be_written_is_a_failed_file(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    refs = orch.folder / "home/.cache/huggingface/hub/models--org--n/refs"
    refs.parent.mkdir(parents=True)
    refs.write_text("a file where a folder should be")
    done = orch.sync().summary  # which sees that the counts add up
    assert (done["exit_code"], len(done["failed"]), done["failed"][0]["model"]) == (7, 1, "hub")


def test_one_folder_for_all_caches(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    orch.models["clip"] = {**orch.models["tiny.pt"], "for": ["clip", "ultralytics"]}
    orch.environ.update(TORCH_HOME="/nowhere", HUGGINGFACE_HUB_CACHE="/nowhere")
    done = orch.sync("--caches", "caches")
    assert (done.code, re.findall(r"no variable leads (\w+)", done.err)) == (0, ["clip"])
    caches = orch.folder / "caches"
    assert (caches / "torch/hub/checkpoints/resnet.pth").is_file()
    assert (caches / "keras/models/resnet.h5").is_file()
    assert (caches / "whisper/tiny.pt").is_file()
    assert (caches / "ultralytics/weights/tiny.pt").is_file()
    settings = json.loads((caches / "ultralytics/Ultralytics/settings.json").read_text())
    assert settings == {"weights_dir": f"{caches}/ultralytics/weights"}
    assert (caches / f"huggingface/hub/models--org--n/snapshots/{COMMIT}/config.json").is_file()
    assert [p.name for p in (orch.folder / "home/.cache").iterdir()] == ["clip"]
    orch.environ["ORCH_CACHES"] = str(caches)
    assert orch.sync().summary["present"] == 7
    assert orch.run("path", "resnet.pth", "team.yaml").out == f"{caches}/torch/hub/checkpoints/resnet.pth\n"
    assert set(variables(orch.run("env", "--json", "team.yaml")).values()) == {
        f"{caches}{name}" for name in ("", "/torch", "/keras", "/huggingface", "/huggingface/hub", "/ultralytics")
    }


def test_env_prints_what_the_frameworks_read_and_nothing_else(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    cache = f"{orch.folder}/home/.cache"
    expected = {
        "TORCH_HOME": f"{cache}/torch",
        "KERAS_HOME": f"{orch.folder}/home/.keras",
        "HF_HOME": f"{cache}/huggingface",
        "HF_HUB_CACHE": f"{cache}/huggingface/hub",
        "XDG_CACHE_HOME": cache,
    }
    (orch.folder / "team.lock.json").unlink()  # which it does not need
    assert variables(orch.run("env", "--json", "team.yaml")) == expected
    lines = orch.run("env", "team.yaml", "--offline").out.splitlines()
    assert sorted(lines) == sorted(
        f"export {name}={shlex.quote(value)}"
        for name, value in {**expected, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}.items()
    )
    orch.environ["SHELL"] = "/usr/bin/fish"
    assert all(line.startswith("set -gx ") for line in orch.run("env", "team.yaml").out.splitlines())
    assert orch.run("env", "nothing.yaml").code == 3


@pytest.mark.parametrize("shell", SHELLS)
def test_a_value_comes_through_a_real_shell_as_it_is(tmp_path: Path, shell: str) -> None:
    program = require({"csh": "tcsh"}.get(shell, shell))
    value = b"/a b  c!d!! $HOME `id` \"q\" 'z' \\ w\\n * ? ~ # ; & | \\\\ \\' "
    value += b"(x) {y,z} [k] \xc3\xa9\xff\ttab\nline2 \\\nend"
    orch = Orch(tmp_path, environ={"TORCH_HOME": os.fsdecode(value), "KERAS_HOME": "/plain"})
    want(orch, "w", b"w", "http://127.0.0.1:9/w", ["torch", "keras"])
    orch.write()
    words = [sys.executable, "-m", "orchestrator", "env", "team.yaml", "--shell", shell]
    (tmp_path / "lines").write_bytes(subprocess.check_output(words, cwd=tmp_path, env=orch.env()))
    script = "source ./lines; printenv TORCH_HOME > torch; printenv KERAS_HOME > keras"
    plain = {"csh": ["-f"], "fish": ["--no-config"]}.get(shell, [])
    subprocess.run([program, *plain, "-c", script], cwd=tmp_path, env={**HOME, "PATH": os.environ["PATH"]}, check=True)
    assert ((tmp_path / "torch").read_bytes(), (tmp_path / "keras").read_text()) == (value + b"\n", "/plain\n")


def test_run_becomes_the_command_in_that_environment(team: tuple[Orch, Origin]) -> None:
    orch, _ = team
    script = 'echo "$TORCH_HOME $HF_HUB_OFFLINE $1"; exit 7'
    done = orch.run("run", "--no-check", "team.yaml", "--caches", "c", "--", "sh", "-c", script, "sh", "--json")
    assert (done.code, done.out, done.err) == (7, f"{orch.folder}/c/torch 1 --json\n", "")
    (orch.folder / "manifests").mkdir()
    shutil.copy(orch.manifest, orch.folder / "manifests/team.yaml")
    assert orch.run("run", "--no-check", "--", "true").code == 0, "manifests/team.yaml without being named"
    assert orch.run("run", "--no-check", "--", "sh", "-c", "kill -9 $$").code == -9, "no process of ours between"
    assert orch.run("run", "--no-check", "--", "sh", "-c", "kill -PIPE $$").code == -13, (
        "no signal is ignored that was not before"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("nothing.yaml", "--", "true"),
        ("team.yaml", "true"),
        ("team.yaml", "--"),
        ("--bogus", "--", "true"),
        ("team.yaml", "--", "true"),
        ("--no-check", "team.yaml", "--", "/no/such/program"),
    ],
)
def test_run_ends_with_125_where_the_command_never_began(tmp_path: Path, words: tuple[str, ...]) -> None:
    orch = Orch(tmp_path)
    orch.want("w", b"w", "http://127.0.0.1:9/w")
    assert orch.run("run", *words).code == 125


@pytest.mark.parametrize("framework", ["keras", "whisper", "clip"])
def test_insisting_on_an_unsafe_link_is_a_problem_of_the_manifest(tmp_path: Path, framework: str) -> None:
    orch = Orch(tmp_path)
    want(orch, "w", b"w", "http://127.0.0.1:9/w", framework, link="hard")
    done = orch.sync()
    assert done.code == 3
    problem = done.named("problem")[0]
    assert problem["path"].startswith("models > w")
    assert "not safe with" in problem["message"]
