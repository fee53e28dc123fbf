"""Hub repositories: the stand-ins against the real client, what is resolved, and whose token goes where."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import NoBackendError, OrchError, TransferError
from orchestrator.hubs import huggingface, modelscope
from orchestrator.hubs.repository import HubError, Resolved
from orchestrator.manifest import repos
from orchestrator.model import Host, Repo
from orchestrator.sources.auth import advice, token_for
from tests.hub import Hub, ModelScope, git_sha1
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator


def tensors(size: int) -> bytes:
    """A safetensors file of so many bytes, with one tensor."""
    count = size - 136
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode().ljust(128)
    return len(header).to_bytes(8, "little") + header + made(count, 1)


BIG = tensors(3_000_000)
FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "model.safetensors": BIG,
    "onnx/model.onnx": made(70_000, 2),
    "sub/dir/a b+c#%.txt": b"odd name\n",
    "tokenizer.json": made(30_000, 3),
    "empty.txt": b"",
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# tiny\n",
}
TINY = "org/tiny"
SECRET = "hf_aSecretOfSomebody"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(page=3) as served:
        served.repo(TINY, FILES)
        served.tokens[SECRET] = {"org/gated", "org/private"}
        served.tokens["hf_other"] = set()
        yield served


def client(hub: Hub, home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real `hf`."""
    mine = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HOME": str(home)}
    env = {"PATH": os.environ["PATH"], "HF_HUB_DISABLE_TELEMETRY": "1", **mine, **environ}
    program = Path(sys.executable).with_name("hf")
    return subprocess.run([program, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


def context(hub: Hub | ModelScope, tmp_path: Path, **environ: str) -> Context:
    name = "HF_ENDPOINT" if isinstance(hub, Hub) else "MODELSCOPE_ENDPOINT"
    return Context({name: hub.url, "HOME": str(tmp_path / "home"), **environ}, str(tmp_path))


def snapshot(home: Path, name: str, commit: str) -> dict[str, Path]:
    """What the client's cache has of a commit: path -> blob."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    files = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(folder)): path.resolve() for path in files}


# -- the stand-in is a hub to the real client


@pytest.mark.parametrize(
    "patterns", [(), ("--include", "*.json", "--include", "sub/", "--include", "READ*", "--exclude", "tok*")]
)
def test_what_is_resolved_is_what_the_client_fetches(hub: Hub, tmp_path: Path, patterns: tuple[str, ...]) -> None:
    home = tmp_path / "hf"
    done = client(hub, home, "download", TINY, *patterns)
    assert done.returncode == 0, done.stderr
    include, exclude = (("*.json", "sub/", "READ*"), ("tok*",)) if patterns else ((), ())
    found = huggingface.resolve(context(hub, tmp_path), Repo("hf", TINY), include, exclude)
    theirs = snapshot(home, TINY, found.commit)
    assert [f.path for f in found.files] == sorted(theirs)
    assert {f.path: f.etag for f in found.files} == {path: blob.name for path, blob in theirs.items()}
    assert {f.path: f.size for f in found.files} == {path: blob.stat().st_size for path, blob in theirs.items()}
    for file in found.files:
        content = FILES[file.path]
        lfs = file.path.endswith((".safetensors", ".onnx"))
        assert (file.sha256, file.git) == ((sha256(content), "") if lfs else ("", git_sha1(content)))
        assert file.source == ("hub API, proved by its git blob" if lfs else "hub API")
    if not patterns:
        assert client(hub, home, "cache", "verify", TINY).returncode == 0
        (odd,) = [f.url for f in found.files if f.path.startswith("sub/")]
        assert odd == f"https://huggingface.co/{TINY}/resolve/{found.commit}/sub/dir/a%20b+c%23%25.txt"


def test_a_gated_repository_is_gated_for_the_client_too(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/gated", FILES, gated="auto")
    assert client(hub, tmp_path / "a", "download", "org/gated").returncode != 0
    assert client(hub, tmp_path / "b", "download", "org/gated", HF_TOKEN="hf_other").returncode != 0
    done = client(hub, tmp_path / "c", "download", "org/gated", HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stderr
    assert not any("authorization" in record.headers for record in hub.cdn.log)


# -- resolving


def test_a_revision_becomes_a_commit(hub: Hub, tmp_path: Path) -> None:
    old = hub.repos[TINY].revisions["main"]
    pull = hub.repo(TINY, {"a.json": b"1"}, revision="refs/pr/1")
    hub.renamed["tiny"] = TINY
    for name, revision, commit in ((TINY, "", old), (TINY, "refs/pr/1", pull), (TINY, old, old), ("tiny", "main", old)):
        assert huggingface.resolve(context(hub, tmp_path), Repo("hf", name, revision)).commit == commit


def test_a_listing_that_leads_in_a_circle_comes_to_an_end(hub: Hub, tmp_path: Path) -> None:
    hub.in_circles = True
    with pytest.raises(HubError, match="twice"):
        huggingface.resolve(context(hub, tmp_path), Repo("hf", TINY))


@pytest.mark.parametrize(
    ("name", "revision", "include", "exclude", "token", "message", "hint"),
    [
        (TINY, "mian", (), (), "", "no such revision", "did you mean `main`?"),
        (
            TINY,
            "",
            ("*.json", "*.safetensor"),
            (),
            "",
            "matches no file: *.safetensor",
            "did you mean `model.safetensors`",
        ),
        (TINY, "", ("zzzz",), (), "", "matches no file: zzzz", "it has `.gitattributes`, "),
        (TINY, "", (), ("*",), "", "no file is left", "`exclude`"),
        ("org/none", "", (), (), "", "no such repository, or a private one", "HF_TOKEN"),
        ("org/none", "", (), (), SECRET, "no such repository, or this token has no access to it", "check the name"),
        ("org/private", "", (), (), "", "no such repository, or a private one", "hf auth login"),
        ("org/gated", "", (), (), "", "gated", "open https://huggingface.co/org/gated, accept its terms"),
        ("org/gated", "", (), (), "hf_other", "gated", "ask for access"),
        ("org/gated", "", (), (), "hf_wrong", "answered 401", "does not accept the token"),
        ("org/evil", "", (), (), "", "cannot be used here: '../x'", "exclude"),
        ("org//x", "", (), (), "", "not a possible name of a repository", "hf:ORGANISATION/NAME"),
    ],
)
def test_what_cannot_be_resolved_says_what_to_do(
    hub: Hub,
    tmp_path: Path,
    name: str,
    revision: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    token: str,
    message: str,
    hint: str,
) -> None:
    hub.repo("org/gated", FILES, gated="auto")
    hub.repo("org/private", FILES, private=True)
    hub.repo("org/evil", {"../x": b"", "a": b""})
    with pytest.raises(HubError) as caught:
        huggingface.resolve(context(hub, tmp_path, HF_TOKEN=token), Repo("hf", name, revision), include, exclude)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3
    assert not token or token not in f"{caught.value.message} {caught.value.hint}"


def test_a_token_opens_what_it_may(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/gated", FILES, gated="manual")
    hub.repo("org/private", FILES, private=True)
    stored = tmp_path / "home/.cache/huggingface/token"
    stored.parent.mkdir(parents=True)
    stored.write_text(SECRET + "\n")
    for name in ("org/gated", "org/private"):
        assert len(huggingface.resolve(context(hub, tmp_path), Repo("hf", name)).files) == len(FILES)


@pytest.mark.parametrize("part", ["/revision/", "/tree/"])
@pytest.mark.parametrize("header", [{"Retry_After": "1"}, {"RateLimit": '"api";r=0;t=1'}])
def test_a_busy_hub_is_asked_again_when_it_says(hub: Hub, tmp_path: Path, part: str, header: dict[str, str]) -> None:
    hub.be_busy(part, **header)
    began = time.monotonic()
    assert huggingface.resolve(context(hub, tmp_path), Repo("hf", TINY, "main")).files
    assert time.monotonic() - began >= 1


def test_a_hub_that_does_not_answer(hub: Hub, tmp_path: Path) -> None:
    def error(**environ: str) -> OrchError:
        with pytest.raises(TransferError) as caught:
            huggingface.resolve(context(hub, tmp_path, **environ), Repo("hf", TINY))
        assert caught.value.exit_code == 5
        return caught.value

    hub.be_busy("/api/", RateLimit='"api";r=0;t=290', RateLimit_Policy='"fixed window";"api";q=500;w=300')
    assert "try again in 290 s; with a token (HF_TOKEN) the hub allows more" in error().hint
    assert "cannot reach http://127.0.0.1:9: " in error(HF_ENDPOINT="http://127.0.0.1:9").message
    assert "unset HF_HUB_OFFLINE" in error(HF_HUB_OFFLINE="1").hint


@pytest.mark.parametrize("where", ["the manifest", "the site file"])
def test_where_a_mirror_of_a_dead_hub_is_named_lock_says_how_to_ask_it(hub: Hub, tmp_path: Path, where: str) -> None:
    """What a mirror says of commits and checksums would be believed: it is asked for only by its user."""
    rule = {"mirrors": [{"origin": "https://huggingface.co/", "urls": [hub.url]}]}
    orch = Orch(tmp_path, environ={"https_proxy": "http://127.0.0.1:9"})
    orch.models["m"] = {"repo": f"hf:{TINY}", "to": "m/"}
    if where == "the manifest":
        orch.top = rule
    else:
        config = tmp_path / "home/.config"
        config.mkdir(parents=True, exist_ok=True)
        (config / "orch.yaml").write_text(json.dumps(rule))
    done = orch.run("lock", "team.yaml")
    assert done.code == 5
    assert f"to trust its mirror's checksums: `HF_ENDPOINT={hub.url}/ orch lock team.yaml`" in done.err
    orch.environ["HF_ENDPOINT"] = hub.url
    assert orch.run("lock", "team.yaml").code == 0


def test_without_the_client_the_line_to_type_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from orchestrator.hubs import huggingface as hf; from orchestrator.model import Repo\n"
        "from orchestrator.context import Context\n"
        "try: hf.resolve(Context({}, '/'), Repo('hf', 'a/b'))\n"
        "except Exception as error: print(type(error).__name__, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.stdout.startswith(f"{NoBackendError.__name__} pip install huggingface_hub"), done


def test_the_git_blob_proof() -> None:
    """Published pairs: huggingface.js's test of bert's pytorch_model.bin, a live capture of gpt2's safetensors."""
    bert = "097417381d6c7230bd9e3557456d726de6e83245ec8b24f529f60198a67b203a", 440473133
    gpt2 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707", 548105171
    assert repos.pointer_git(*bert) == "ba5d19791be1dd7992e33bd61f20207b0f7f50a5"
    assert repos.pointer_git(*gpt2) == "44b36d6e32d13c8fb28b0feab0ac8bfefa7efeda"
    assert (
        repos.blob_git(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    )  # `echo hello | git hash-object --stdin`


# -- ModelScope


def test_modelscope_tells_every_digest(tmp_path: Path) -> None:
    with ModelScope() as hub:
        commit = hub.repo("org/tiny", FILES)
        hub.repo("org/many", {f"d{n % 4}/e{n % 3}/f{n}": b"%d" % n for n in range(4000)})  # more than it lists

        def resolve(name: str = TINY, revision: str = "", *include: str) -> Resolved:
            return modelscope.resolve(context(hub, tmp_path), Repo("modelscope", name, revision), include)

        found = resolve()
        assert found.commit == commit
        assert {f.path: (f.size, f.sha256) for f in found.files} == {p: (len(c), sha256(c)) for p, c in FILES.items()}
        assert found.files[0].url == f"https://modelscope.cn/models/org/tiny/resolve/{commit}/.gitattributes"
        assert len(resolve("org/many").files) == 4000
        assert [f.path for f in resolve(TINY, "master", "*.onnx").files] == ["onnx/model.onnx"]
        hub.be_busy("/repo/files", Retry_After="1")
        assert resolve().files == found.files
        for name, revision, message, hint in (
            ("org/none", "", "no such repository", "check the name"),
            (TINY, "mster", "no such revision: mster", "did you mean `master`?"),
            ("tiny", "", "not a possible name of a repository", "modelscope:ORGANISATION/NAME"),
        ):
            with pytest.raises(HubError) as caught:
                resolve(name, revision)
            assert message in caught.value.message
            assert hint in caught.value.hint


# -- tokens at the time of a sync


def ordered(orch: Orch, hub: Hub, name: str) -> None:
    """Want a repository's files by their URLs, as its lock would."""
    commit = hub.repos[name].revisions["main"]
    for number, (path, content) in enumerate(FILES.items()):
        url = f"https://huggingface.co/{name}/resolve/{commit}/{path.replace(' ', '%20').replace('#', '%23')}"
        url = url.replace("%.txt", "%25.txt")
        orch.want(f"m{number}", content, url, to=f"models/{path}")
    orch.environ |= {"HF_ENDPOINT": hub.url, "https_proxy": "http://127.0.0.1:9"}  # nobody is asked but the stand-in


def everything(orch: Orch) -> str:
    """All that a run left outside of its places and blobs, and what it keeps."""
    folders = [orch.folder / "home", orch.store / "places", orch.store / "partial"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "token"]
    return "".join(path.read_bytes().decode("latin-1") for path in files)


@pytest.mark.parametrize("kind", [{"gated": "auto"}, {"private": True}])
def test_a_gated_repository_syncs_with_the_token_and_without_the_api(
    hub: Hub, tmp_path: Path, kind: dict[str, Any]
) -> None:
    name = "org/gated" if "gated" in kind else "org/private"
    hub.repo(name, FILES, **kind)
    orch = Orch(tmp_path)
    ordered(orch, hub, name)
    stored = tmp_path / "home/.cache/huggingface/token"
    stored.parent.mkdir(parents=True)
    stored.write_text(SECRET)
    done = orch.sync("-v")
    assert done.code == 0, done.summary
    for path, content in FILES.items():
        assert (tmp_path / "models" / path).read_bytes() == content
    assert hub.api_calls == 0
    assert all(heard.token == SECRET for heard in hub.heard)
    assert [record.status for record in hub.cdn.log if "authorization" in record.headers] == []
    for text in (done.out, done.err, everything(orch)):
        assert SECRET not in text
        assert "Signature=" not in text
    hub.heard.clear()
    assert orch.sync().code == 0
    assert hub.heard == []


def test_a_signed_url_is_renewed_and_seen_by_nobody(tmp_path: Path) -> None:
    content = made(24 << 20, 5)
    with Hub(holds_s=4, bare_bytes=1 << 20) as hub:
        hub.repo("org/gated", {"model.safetensors": content}, gated="auto")
        hub.tokens[SECRET] = {"org/gated"}
        hub.serve(content, rate=1 << 20)
        orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": SECRET, "https_proxy": "http://127.0.0.1:9"})
        commit = hub.repos["org/gated"].revisions["main"]
        orch.want("m", content, f"https://huggingface.co/org/gated/resolve/{commit}/model.safetensors")
        process = orch.start("sync", "--json", "team.yaml", "--connections", "4", "-v")
        seen: set[str] = set()
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if not child.name().startswith("python"):  # that is ours, before it becomes the program
                        seen.add(" ".join((*child.cmdline(), *child.environ().values())))
                except psutil.Error:
                    continue
            time.sleep(0.05)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert any("aria2c" in text for text in seen)
    assert not any(SECRET in text or "Signature=" in text for text in seen)
    assert SECRET not in out
    assert "Signature=" not in out
    looks = [heard for heard in hub.heard if "/resolve/" in heard.path]
    assert 2 <= len(looks) <= 6  # asked anew for each signature, not by each connection
    assert not any(record.status == 403 for record in hub.cdn.log)


@pytest.mark.parametrize(
    ("token", "message", "hint"),
    [
        ("", "401", "open https://huggingface.co/org/gated, accept its terms if it is gated, then `hf auth login`"),
        ("hf_other", "403 (GatedRepo)", "your account may not read it yet: open https://huggingface.co/org/gated"),
        ("hf_wrong", "401", "the hub does not accept the token: see `hf auth whoami`"),
    ],
)
def test_who_may_not_read_is_told_what_would_help(
    hub: Hub, tmp_path: Path, token: str, message: str, hint: str
) -> None:
    hub.repo("org/gated", FILES, gated="auto")
    orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "https_proxy": "http://127.0.0.1:9"})
    commit = hub.repos["org/gated"].revisions["main"]
    orch.want("m", BIG, f"{hub.url}/org/gated/resolve/{commit}/model.safetensors")
    done = orch.sync()
    assert done.code == 5
    (failed,) = done.summary["failed"]
    assert failed["fault"] == "refused"
    assert message in failed["message"]
    assert hint in failed["hint"]


def test_a_busy_hub_is_obeyed_in_a_sync(hub: Hub, tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    ordered(orch, hub, TINY)
    orch.models = {"m1": orch.models["m1"]}
    orch.environ["HF_TOKEN"] = SECRET
    hub.be_busy("/resolve/", RateLimit='"resolvers";r=0;t=2')
    began = time.monotonic()
    done = orch.sync()
    assert done.code == 0
    assert time.monotonic() - began >= 2
    assert [event["fault"] for event in done.named("failed")].count("busy") == 1


class TestTokenEnv:
    """A host that `hosts` names a token for."""

    @staticmethod
    def orch(tmp_path: Path, origin: Origin, **environ: str) -> Orch:
        entry = {origin.url.partition("://")[2]: {"token_env": "CORP_TOKEN"}}
        return Orch(tmp_path, top={"hosts": entry}, environ=dict(environ))

    @pytest.mark.parametrize("size", [1000, 5_000_000])
    def test_where_the_host_serves_by_itself_curl_shows_it(self, tmp_path: Path, size: int) -> None:
        content = made(size)
        with Origin(bearer="t0ps3cret") as origin:
            orch = self.orch(tmp_path, origin, CORP_TOKEN="t0ps3cret")
            place = orch.want("m", content, origin.serve("/f.bin", content))
            done = orch.sync("-v")
        assert done.code == 0, done.summary
        assert place.read_bytes() == content
        assert done.named("finished")[0]["backend"] == "curl"
        assert "t0ps3cret" not in done.out + everything(orch)

    @pytest.mark.parametrize("count", [1, 3])
    def test_without_a_program_that_keeps_it_nobody_is_given_it(self, tmp_path: Path, count: int) -> None:
        contents = [made(5_000_000 if count == 1 else 3000, seed) for seed in range(count)]
        with Origin(bearer="t0ps3cret") as origin:
            orch = self.orch(tmp_path, origin, CORP_TOKEN="t0ps3cret")
            for number, content in enumerate(contents):
                orch.want(f"m{number}", content, origin.serve(f"/{number}.bin", content))
            done = orch.sync("--backend", "aria2c")
            assert [record.headers.get("authorization") for record in origin.log] == ["Bearer t0ps3cret"] * count
        assert done.code == 4
        assert "may carry the token to another host" in done.summary["failed"][0]["message"]

    @pytest.mark.parametrize("count", [1, 3])
    def test_where_it_redirects_the_other_host_never_sees_it(self, tmp_path: Path, count: int) -> None:
        contents = [made(5_000_000 if count == 1 else 3000, seed) for seed in range(count)]
        with Origin(bearer="t0ps3cret") as origin, Origin() as other:
            orch = self.orch(tmp_path, origin, CORP_TOKEN="t0ps3cret")
            for number, content in enumerate(contents):
                there = other.serve(f"/{number}.bin", content)
                orch.want(f"m{number}", content, origin.serve(f"/{number}.bin", redirect=there))
            done = orch.sync()
            assert done.code == 0, done.summary
            assert other.log
            assert not any("authorization" in record.headers for record in other.log)
            assert all(record.headers.get("authorization") == "Bearer t0ps3cret" for record in origin.log)

    def test_a_mirror_never_sees_it(self, tmp_path: Path) -> None:
        content = made(9 << 20)
        with Origin(bearer="t0ps3cret") as origin, Origin() as mirror:
            orch = self.orch(tmp_path, origin, CORP_TOKEN="t0ps3cret")
            url = origin.serve("/f.bin", content)
            orch.want("m", content, url, mirrors=[mirror.serve("/f.bin", content)])
            assert orch.sync().code == 0
            assert mirror.log
            assert not any("authorization" in record.headers for record in mirror.log)

    @pytest.mark.parametrize(
        ("token", "hint"), [("", "CORP_TOKEN is not set"), ("wrong", "does not accept the token in CORP_TOKEN")]
    )
    def test_what_would_help_is_told(self, tmp_path: Path, token: str, hint: str) -> None:
        content = made(2000)
        with Origin(bearer="t0ps3cret") as origin:
            orch = self.orch(tmp_path, origin, CORP_TOKEN=token)
            orch.want("m", content, origin.serve("/f.bin", content))
            (failed,) = orch.sync().summary["failed"]
        assert hint in failed["hint"]


HF = "https://huggingface.co/org/x/resolve/main/a"
MIRROR = "https://hf-mirror.example/org/x/resolve/main/a"
NAMED = {"hf-mirror.example": Host(token_env="HF_TOKEN"), "nas.lan:8443": Host(token_env="NAS")}


@pytest.mark.parametrize(
    ("url", "environ", "token"),
    [
        (HF, {"HF_TOKEN": "t\n"}, "t"),
        (HF, {"HUGGING_FACE_HUB_TOKEN": "t"}, "t"),
        (HF, {"HF_TOKEN": "t", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None),
        (HF, {"HF_TOKEN": "t\nHost: evil"}, None),
        (HF, {}, None),
        (HF.replace("https", "http"), {"HF_TOKEN": "t"}, None),
        (HF.replace(".co/", ".co.evil.example/"), {"HF_TOKEN": "t"}, None),
        (HF.replace(".co/", ".co:8443/"), {"HF_TOKEN": "t"}, None),
        (MIRROR, {"HF_TOKEN": "t", "HF_ENDPOINT": "https://hf-mirror.example"}, None),
        ("http://127.0.0.1:7/x", {"HF_TOKEN": "t", "HF_ENDPOINT": "http://127.0.0.1:7/"}, "t"),
        ("http://127.0.0.1:8/x", {"HF_TOKEN": "t", "HF_ENDPOINT": "http://127.0.0.1:7/"}, None),
        ("https://nas.lan:8443/a", {"HF_TOKEN": "t"}, None),
    ],
)
def test_whose_token_it_is(url: str, environ: dict[str, str], token: str | None) -> None:
    assert token_for(url, {"HOME": "/nowhere", **environ}, {}) == token


def test_who_trusts_a_mirror_says_so() -> None:
    environ = {"HF_TOKEN": "t", "NAS": "n", "HF_ENDPOINT": "https://hf-mirror.example", "HOME": "/nowhere"}
    assert token_for(MIRROR, environ, NAMED) == "t"
    assert token_for("https://nas.lan:8443/a", environ, NAMED) == "n"
    assert token_for("https://nas.lan/a", environ, NAMED) is None
    said = advice(MIRROR, 401, environ, {})
    assert "if you trust hf-mirror.example: `hosts: {hf-mirror.example: {token_env: HF_TOKEN}}`" in said
    assert "`hosts: {e.org: {token_env: NAME}}`" in advice("https://e.org/a", 403, environ, {})


# -- lock and sync against `hf download`, file by file


def lock(orch: Orch, name: str, *include: str) -> None:
    """Make `m` that repository, for huggingface, and lock it."""
    orch.models["m"] = {"repo": f"hf:{name}", "for": "huggingface", **({"include": list(include)} if include else {})}
    done = orch.run("lock", "team.yaml")
    assert done.code == 0, done.err


def tree(home: Path) -> dict[str, str]:
    """Blobs, snapshots and refs of a cache: content by path, links by their text."""
    found = {}
    for folder in (home / "hub").glob("models--*/*"):
        if folder.name in ("blobs", "snapshots", "refs"):
            for path in folder.rglob("*"):
                name = str(path.relative_to(home))
                if path.is_symlink():
                    found[name] = f"-> {path.readlink()}"
                elif path.is_file():
                    found[name] = sha256(path.read_bytes())
    return found


@pytest.mark.parametrize(("gated", "include"), [(False, ("*.json", "onnx/")), ("auto", ())])
def test_lock_and_sync_make_the_cache_that_the_client_makes(
    hub: Hub, tmp_path: Path, include: tuple[str, ...], gated: str | bool
) -> None:
    name = "org/gated"
    hub.repo(name, FILES, gated=gated)
    patterns = [word for pattern in include for word in ("--include", pattern)]
    assert client(hub, tmp_path / "theirs", "download", name, *patterns, HF_TOKEN=SECRET).returncode == 0
    ours = tmp_path / "ours"
    environ = {"HF_ENDPOINT": hub.url, "HF_TOKEN": SECRET, "HF_HOME": str(ours), "https_proxy": "http://127.0.0.1:9"}
    orch = Orch(tmp_path, environ=environ)
    hub.serve(BIG, refuse_bare_get=True)
    hub.be_busy("/revision/", Retry_After="1")
    lock(orch, name, *include)
    shutil.rmtree(orch.store)  # another machine, which has the lock alone
    hub.heard.clear()
    hub.be_busy("/resolve/", Retry_After="1")
    done = orch.sync()
    assert done.code == 0, done.summary
    assert hub.api_calls == 0
    assert tree(ours) == tree(tmp_path / "theirs")
    if not include:
        assert client(hub, ours, "cache", "verify", name, HF_TOKEN=SECRET).returncode == 0
    offline = client(hub, ours, "download", name, *patterns, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.returncode == 0, offline.stderr
    hub.heard.clear()
    assert orch.sync().summary["present"] == len(repos.select(FILES, include, ()))
    assert hub.heard == []


def test_modelscope_syncs_as_resolved(tmp_path: Path) -> None:
    with ModelScope() as hub:
        hub.repo(TINY, FILES)
        orch = Orch(tmp_path, environ={"MODELSCOPE_ENDPOINT": hub.url, "https_proxy": "http://127.0.0.1:9"})
        found = modelscope.resolve(context(hub, tmp_path), Repo("modelscope", TINY))
        orch.models["m"] = {
            "files": [{"path": f.path, "url": f.url, "sha256": f.sha256, "size": f.size} for f in found.files],
            "to": "models/tiny/",
        }
        hub.heard.clear()
        assert orch.sync().code == 0
        assert hub.api_calls == 0
    for path, content in FILES.items():
        assert (tmp_path / "models/tiny" / path).read_bytes() == content


LFS_OF = {"oid": "a" * 64, "size": 3, "pointerSize": 1}
OF_HF = {"type": "file", "path": "a.bin", "size": 3, "oid": "b" * 40, "lfs": LFS_OF}
OF_MODELSCOPE = {"Path": "a.bin", "Type": "blob", "Size": 3, "Sha256": "a" * 64}


class _Says(BaseHTTPRequestHandler):
    """A hub that gives one answer to each question: `tree` for listings, `info` for the rest."""

    tree: Any = None
    info: Any = None

    def do_GET(self) -> None:
        said = self.tree if "/tree/" in self.path or "repo/files" in self.path else self.info
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    handler = type("Says", (_Says,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        yield handler
        server.shutdown()


@pytest.mark.parametrize(
    ("commit", "tree"),
    [
        ("../..", [OF_HF]),
        (5, [OF_HF]),
        ("a" * 40, [{**OF_HF, "lfs": None, "oid": "../../x"}]),
        ("a" * 40, [{**OF_HF, "lfs": None, "size": -3}]),
        ("a" * 40, [{**OF_HF, "lfs": None, "size": "3"}]),
        ("a" * 40, [{**OF_HF, "lfs": {**LFS_OF, "oid": 5}}]),
        ("a" * 40, [{**OF_HF, "path": 5}]),
        ("a" * 40, [1]),
        ("a" * 40, {"error": "x"}),
    ],
)
def test_a_hub_that_answers_nonsense_is_no_hub(says: Any, commit: object, tree: object) -> None:
    says.info, says.tree = {"id": TINY, "sha": commit, "gated": False}, tree
    with pytest.raises(HubError):
        huggingface.resolve(Context.real(), Repo("hf", TINY))


@pytest.mark.parametrize(
    "data",
    [
        [1],
        {"Files": 5},
        {"Files": [5]},
        {"Files": [OF_MODELSCOPE], "LatestCommitter": "x"},
        {"Files": [{**OF_MODELSCOPE, "Size": -1}]},
        {"Files": [{**OF_MODELSCOPE, "Size": True}]},
        {"Files": [{**OF_MODELSCOPE, "Size": 2**70}]},
    ],
)
def test_a_modelscope_that_answers_nonsense_is_none(says: Any, data: object) -> None:
    says.tree = {"Success": True, "Data": data}
    with pytest.raises(HubError):
        modelscope.resolve(Context.real(), Repo("modelscope", TINY))
