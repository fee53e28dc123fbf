"""Consent: a manifest commands who syncs it, but what no weights need only where the site file's `trust:` allows it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import ManifestError, PlacementError
from orchestrator.manifest import parse
from orchestrator.model import Trust
from orchestrator.workspace import open_workspace
from tests.orch import Orch, made, python_for_all, sha256

FILE = "/srv/team/manifests/team.yaml"
HOME = "/home/ann"
DEFAULT = Trust()
A = "a" * 64
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")


def problems(
    trust: Trust = DEFAULT, *, file: str = FILE, given: str | None = None, **top: Any
) -> list[tuple[str, str]]:
    """What is refused of a manifest, as (key path, message)."""
    text = json.dumps({"version": 1, "models": {}, **top}, indent=1)
    try:
        parse(text, file, HOME, root=given, trust=trust)
    except ManifestError as error:
        assert all(problem.line >= 1 for problem in error.problems)
        return [(problem.path, problem.message) for problem in error.problems]
    return []


def place(to: str, **top: Any) -> dict[str, Any]:
    """The keys of a manifest with one model, which is to be at `to`."""
    model = {"url": "https://e.org/w.pth", "sha256": A, "to": to, **top.pop("model", {})}
    if to.startswith("/"):
        top.setdefault("allow_absolute", ["/" + to.split("/")[1], os.path.dirname(to.rstrip("/"))][1:])
    return {"models": {"m": model}, **top}


@pytest.mark.parametrize(
    "to",
    [
        *(
            "/data/models/a.pth",
            "/opt/w/a.pth",
            "/srv/a/b/c.pth",
            "/var/lib/models/a.pth",
            "/var/cache/orch/a",
            "/mnt/x/y",
        ),
        *("/root/.cache/torch/a.pth", "/home/ann/.cache/huggingface/a", "/home/ann/.config/nerd-dictation/a"),
        *(
            "/dev/shm/w/a.pth",
            "/run/media/ann/stick/a",
            "/usr/src/app/a.pth",
            "/workspace/a",
            "/library/a",
            "/etcetera/a",
        ),
        *("/v/lib/python3/site-packages/lpips/alex.pth", "models/a.pth", "models/.hidden/a"),
    ],
)
def test_everyday_places_need_nobody_s_consent(to: str) -> None:
    assert problems(**place(to)) == []


@pytest.mark.parametrize(
    "to",
    [
        *(
            "/etc/cron.d/x",
            "/etc/models/a",
            "/usr/local/bin/a",
            "/usr/share/w/a",
            "/bin/a",
            "/lib64/a",
            "/boot/a",
            "/sys/a",
        ),
        *("/proc/self/a", "/dev/a", "/run/a/b", "/var/spool/cron/root", "/var/lib/dpkg/info/a", "/var/run/a", "/efi/x"),
        *("/data/etc/cron.d/x", "/home/ann/.ssh/authorized_keys", "/home/ann/.SSH/rc", "/home/ann/.gnupg/a"),
        *("/home/ann/.bashrc", "/root/.profile", "/home/ann/.zshenv", "/home/ann/.config/autostart/a.desktop"),
        *("/home/ann/.config/systemd/user/a.service", "/home/ann/.local/share/systemd/user/a.service"),
        *("/home/ann/.config/orch.yaml", "/x/.git/config", "/v/site-packages/a.pth", ".ssh/a", "sub/cron.daily/a"),
    ],
)
def test_places_that_no_weights_need_are_refused_with_the_line_to_write(to: str) -> None:
    path = to if to.startswith("/") else f"/srv/team/manifests/{to}"
    found = [(key, said) for key, said in problems(**place(to)) if key == "models > m > to"]
    assert len(found) == 1
    assert "the site file (~/.config/orch.yaml, else /etc/orch.yaml)" in found[0][1]
    allowed = found[0][1].split("`trust: {roots: [")[1].split("]")[0]
    assert path.startswith(allowed)
    assert problems(Trust(roots=(allowed,)), **place(to)) == []  # what it says is what helps


@pytest.mark.parametrize(
    ("top", "keys"),
    [
        ({"root": "/"}, ["root"]),
        ({"root": "/etc"}, ["root"]),
        ({"root": "../../../etc/x"}, ["root"]),
        ({"root": "~/.ssh"}, ["root"]),
        ({"allow_absolute": ["/data", "/"]}, ["allow_absolute > 1"]),
        ({"allow_absolute": ["/usr"]}, ["allow_absolute > 0"]),
        ({"store": "/etc/orch"}, ["store"]),
        ({"store": "../../../etc/orch"}, ["store"]),
        ({"root": "../../.."}, ["root"]),
        ({"root": "/data", "allow_absolute": ["/data/models"], "store": "/var/cache/orch"}, []),
    ],
)
def test_what_bounds_nothing_is_refused(top: dict[str, Any], keys: list[str]) -> None:
    assert [key for key, _ in problems(**top)] == keys


def test_files_repositories_and_archives_are_judged_where_they_go() -> None:
    files = [{"path": ".ssh/a", "url": "https://e.org/a", "sha256": A}]
    assert [key for key, _ in problems(models={"m": {"files": files, "to": "x/"}})] == ["models > m > to"]
    unpacked = {"url": "https://e.org/a.tar", "sha256": A, "unpack": True, "to": ".git"}
    assert [key for key, _ in problems(models={"m": unpacked})] == ["models > m > to"]


def test_whose_root_it_is() -> None:
    assert problems(file="/team.yaml", **place("models/a")) == []  # beside it, as in a container
    assert problems(given="/usr/src", **place("a")) == []  # --root
    assert [key for key, _ in problems(file="/etc/orch/team.yaml", **place("a"))] == ["models > m > to"]
    assert problems(file="/etc/orch/team.yaml", **place("/data/a")) == []


DATA = Trust(roots=("/data/models",))
MIRRORED = {"mirrors": ["https://x.org:8443/a"]}
PREFIX = {"origin": "https://e.org/", "urls": ["https://x.org/"]}


@pytest.mark.parametrize(
    ("trust", "top", "keys"),
    [
        (DATA, place("/data/models/a"), []),
        (DATA, place("/data/modelsX/a"), ["models > m > to"]),
        (DATA, place("models/a"), ["models > m > to"]),
        (DATA, place("/data/models/.ssh/a"), ["models > m > to"]),
        (DATA, {"store": "/data/orch"}, ["store"]),
        (DATA, {"allow_absolute": ["/"], "root": "/"}, []),  # the site file bounds them
        (Trust(roots=("/etc/models",)), place("/etc/models/a"), []),
        (Trust(roots=("/",)), place("/etc/models/a"), []),
        (Trust(roots=("/",)), place("/etc/cron.d/a"), ["models > m > to"]),
        (Trust(roots=()), place("a"), ["models > m > to"]),
        (Trust(schemes=("https",)), place("a"), []),
        (Trust(schemes=("file",)), place("a"), ["models > m > url"]),
        (Trust(hosts=("e.org",)), place("a"), []),
        (Trust(hosts=("*.e.org", "x:8443")), place("a"), ["models > m > url"]),
        (Trust(hosts=("e.org",)), place("a", model=MIRRORED), ["models > m > mirrors > 0"]),
        (Trust(hosts=("e.org", "x.org")), place("a", model=MIRRORED), []),
        (Trust(hosts=("e.org",)), {"mirrors": [PREFIX]}, ["mirrors > 0 > urls > 0"]),
    ],
)
def test_the_site_file_widens_and_narrows(trust: Trust, top: dict[str, Any], keys: list[str]) -> None:
    assert [key for key, _ in problems(trust, **top)] == keys


@pytest.mark.parametrize(
    ("variable", "trust", "allowed"),
    [
        *((name, Trust(), True) for name in ("CORP_TOKEN", "HF_TOKEN", "GITHUB_TOKEN", "NAS", "MODELSCOPE_API_TOKEN")),
        *((name, Trust(), False) for name in ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_X")),
        *((name, Trust(), False) for name in ("GCP_X", "MINIO_SECRET_ACCESS_KEY", "aws_session_token", "https_proxy")),
        ("AWS_TOKEN", Trust(token_env=("AWS_TOKEN",)), True),
        ("AWS_TOKEN", Trust(token_env=("AWS_*",)), True),
        ("CORP_TOKEN", Trust(token_env=("OTHER",)), False),
        ("CORP_TOKEN", Trust(token_env=()), False),
    ],
)
def test_which_variables_a_manifest_may_send(variable: str, trust: Trust, allowed: bool) -> None:
    found = problems(trust, hosts={"h:8443": {"token_env": variable}})
    assert [key for key, _ in found] == ([] if allowed else ["hosts > h:8443 > token_env"])
    assert all(f"`trust: {{token_env: [{variable}]}}`" in said for _, said in found)


# -- What only the disk can tell.


def test_a_folder_that_leads_into_the_system_is_refused_when_it_is_used(context: Context, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "root").symlink_to("/etc")
    (tmp_path / "sub/models").symlink_to("/usr/share")
    store = {"store": str(tmp_path / "store")}

    def opened(name: str, **top: Any) -> None:
        (tmp_path / "team.yaml").write_text(json.dumps({"version": 1, **store, **place(name, **top)}))
        open_workspace(context, ["team.yaml"])

    with pytest.raises(PlacementError, match=r"root/x/a leads to /etc/x: a system folder") as caught:
        opened("x/a", root="root")
    assert "trust: {roots:" in caught.value.hint
    with pytest.raises(PlacementError, match="leads to /usr/share"):
        opened("sub/models/a", allow_absolute=["/usr/src", str(tmp_path / "sub/models")])
    with pytest.raises(PlacementError, match="store leads to /etc/orch"):
        (tmp_path / "store").symlink_to("/etc/orch")
        opened("x/a")
    (tmp_path / "home/.config/orch.yaml").write_text("trust: {roots: [/etc, .., ../..]}")
    opened("x/a", root="root")


def test_a_manifest_in_a_system_folder_is_told_of_root_first() -> None:
    text = json.dumps({"version": 1, **place("models/a")})
    with pytest.raises(ManifestError) as caught:
        parse(text, "/etc/orch/team.yaml", "/home/ann", trust=Trust())
    said = str(caught.value)
    assert 0 < said.index("`root: /srv/models`, --root DIR or ORCH_ROOT; or allow it") < said.index("trust: {roots:")


def test_a_narrowed_site_holds_for_frameworks_too(context: Context, tmp_path: Path) -> None:
    model = {"url": "https://e.org/w.pth", "sha256": A, "for": "torch"}
    (tmp_path / "team.yaml").write_text(json.dumps({"version": 1, "models": {"m": model}}))
    assert open_workspace(context, ["team.yaml"]).wanted
    (tmp_path / "home/.config/orch.yaml").write_text("trust: {roots: [/data]}")
    with pytest.raises(PlacementError, match="not below a folder of the site file"):
        open_workspace(context, ["team.yaml"])


@pytest.mark.parametrize("command", ["sync", "lock", "plan", "status", "verify", "export", "path", "mirrors", "prune"])
def test_every_command_obeys(tmp_path: Path, command: str) -> None:
    orch = Orch(tmp_path, top={"root": "/"})
    orch.want("m", b"x", "https://127.0.0.1:1/f.bin", to="etc/cron.d/x")
    words = {
        "export": ["team.yaml", "--format", "sha256sums"],
        "path": ["m", "team.yaml"],
        "prune": ["--yes", "team.yaml"],
    }.get(command, ["team.yaml"])
    done = orch.run(command, *words)
    assert done.code == 3, done.out + done.err
    assert "trust: {roots: [/etc/cron.d]}" in done.err + done.out


def test_a_cron_job_of_root_works_as_it_did(tmp_path: Path) -> None:
    content = made(3000)
    with Origin(bearer="t0ps3cret") as origin:
        orch = Orch(tmp_path, environ={"CORP_TOKEN": "t0ps3cret"})
        data = tmp_path / "data/models"
        orch.top |= {"allow_absolute": [str(data)], "hosts": {f"127.0.0.1:{origin.port}": {"token_env": "CORP_TOKEN"}}}
        orch.want("m", content, origin.serve("/f.bin", content), to=f"{data}/team/")
        done = orch.sync()
        assert done.code == 0, done.out
    assert (data / "team/f.bin").read_bytes() == content


def private(path: Path, mode: int = 0o600, folder_mode: int = 0o755) -> bytes:
    content = made(3000)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    path.parent.chmod(folder_mode)
    return content


def copies(folder: Path, content: bytes, but: Path) -> list[Path]:
    """The files below a folder that hold any of the content."""
    return [
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink() and p != but and content[:100] in p.read_bytes()
    ]


@needs_root
@pytest.mark.parametrize(
    ("mode", "folder_mode", "refused"),
    [(0o600, 0o755, True), (0o640, 0o755, True), (0o644, 0o700, True), (0o644, 0o755, False), (0o444, 0o751, False)],
)
@pytest.mark.parametrize("command", ["lock", "sync"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_only_root_may_read_is_not_copied(
    public_path: Path, mode: int, folder_mode: int, refused: bool, command: str, linked: bool
) -> None:
    secret = public_path / "nas/a secret"
    content = private(secret, mode, folder_mode)
    named = public_path / "link" if linked else secret
    if linked:
        named.symlink_to(secret)
    orch = Orch(public_path)
    orch.want("m", content, f"file://{str(named).replace(' ', '%20')}", to="models/m.pth")
    if command == "lock":
        del orch.models["m"]["sha256"]
    done = orch.run(command, "--json", "team.yaml")
    if not refused:
        assert done.code == 0, done.out
        return
    assert done.code == 3
    (failed,) = done.summary["failed"]
    assert f"only root may read {secret}" in failed["message"]
    assert "trust: {schemes: [file, ...]}" in failed["hint"]
    assert copies(public_path, content, but=secret) == []
    (public_path / "home/.config").mkdir(parents=True, exist_ok=True)
    (public_path / "home/.config/orch.yaml").write_text("trust: {schemes: [file]}")
    assert orch.run(command, "--json", "team.yaml").code == 0


@needs_root
def test_another_source_serves_where_one_is_private(public_path: Path) -> None:
    secret = public_path / "nas/w"
    content = private(secret)
    with Origin() as origin:
        orch = Orch(public_path)
        place = orch.want("m", content, origin.serve("/f.bin", content), mirrors=[f"file://{secret}"])
        done = orch.sync()
    assert done.code == 0
    assert place.read_bytes() == content
    assert any("left out" in event.get("message", "") for event in done.events)


@needs_root
def test_what_is_no_manifest_s_wish_is_not_asked_about(public_path: Path) -> None:
    secret = public_path / "nas/w"
    content = private(secret)
    orch = Orch(public_path)
    assert orch.run("get", f"file://{secret}", "--to", "got", "--store", str(orch.store)).code == 0
    assert (public_path / "got").read_bytes() == content
    other = Orch(public_path / "other")
    (other.folder / "home/.config").mkdir(parents=True)
    site = {"mirrors": [{"origin": "https://e.org/", "urls": [f"file://{secret.parent}/"]}]}
    (other.folder / "home/.config/orch.yaml").write_text(json.dumps(site))
    other.want("m", content, "https://e.org/w", to="m")
    assert other.sync().code == 0
    third = Orch(public_path / "third")
    third.folder.mkdir()
    third.want("m", content, f"file://{secret}", to="m")
    third.write()
    for path in (third.manifest, secret):
        os.chown(path, 65534, 65534)  # his own file, named by his own manifest
    assert third.sync().code == 0


@needs_root
def test_a_user_may_name_his_own_files(public_path: Path) -> None:
    content = private(public_path / "nas/w")
    orch = Orch(public_path)
    orch.want("m", content, f"file://{public_path}/nas/w", to="m")
    orch.write()
    env = orch.env()
    for path in (public_path, *public_path.rglob("*")):
        os.chown(path, 65534, 65534)
    python, more = python_for_all()
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *python, "-m", "orchestrator"]
    done = subprocess.run(
        [*argv, "sync", "team.yaml"], cwd=public_path, env=env | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_archive_may_not_bring_what_no_place_may_be(tmp_path: Path) -> None:
    import io
    import tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("home/.ssh/authorized_keys")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"key"))
    content = packed.getvalue()
    with Origin() as origin:
        orch = Orch(tmp_path)
        orch.want("m", content, origin.serve("/a.tar", content), to="models/", unpack=True)
        done = orch.sync()
    assert done.code == 7
    assert "`.ssh` is for files that programs run" in done.summary["failed"][0]["message"]
    assert not list(tmp_path.rglob("authorized_keys"))
    assert sha256(content)
