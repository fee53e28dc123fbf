"""`orch export`: what other tools make of it, and a machine behind an air gap that lives on it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.hub import Hub
from tests.orch import Done, Orch, made, sha256
from tests.servers import nginx, require

A, B, C, D = (made(40_000 + n, n) for n in range(4))


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    """Machine A: a name with a blank, one behind a query, one of several files, one without a place."""
    orch = Orch(tmp_path / "a", top={"root": "project"})
    orch.folder.mkdir()
    orch.want("a", A, origin.serve("/w/a.pth", A), to=["models/a.pth", "copies/a b.pth"])
    orch.want("b", B, origin.serve("/w/b c.bin", B))
    orch.want("q", C, origin.serve("/w/q.bin", C) + "?download=true")
    file = {"path": "deep/d.bin", "url": origin.serve("/w/d.bin", D), "sha256": sha256(D), "size": len(D)}
    orch.models["d"] = {"files": [file], "to": "many"}
    orch.want("s", A, origin.serve("/w/again.pth", A), to="store")
    assert orch.sync().code == 0
    return orch


def export(orch: Orch, form: str, *words: str) -> Done:
    return orch.run("export", "team.yaml", "--format", form, *words)


def test_sha256sum_reads_the_sums_in_the_root(orch: Orch) -> None:
    done = export(orch, "sha256sums")
    check = subprocess.run(
        ["sha256sum", "-c", "--strict"], input=done.out, cwd=orch.folder / "project", capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert {line.rpartition(": ")[0] for line in check.stdout.splitlines()} == {
        "models/a.pth",
        "copies/a b.pth",
        "models/b c.bin",
        "models/q.bin",
        "many/deep/d.bin",
        str(orch.blob(A)),
    }
    assert export(orch, "sha256sums", "--only", "b").out == f"{sha256(B)}  models/b c.bin\n"


@pytest.mark.parametrize(("form", "flag"), [("metalink", "--metalink-file"), ("aria2", "--input-file")])
def test_aria2c_reads_it(orch: Orch, tmp_path: Path, form: str, flag: str) -> None:
    orch.models["a"]["mirrors"] = ["http://127.0.0.1:9/dead.pth", "rsync://127.0.0.1:9/m/a.pth"]
    out = tmp_path / "out"
    done = export(orch, form, "--root", str(out))
    assert done.code == 0
    (tmp_path / "input").write_text(done.out)
    argv = [require("aria2c"), "--no-conf", "-q", f"{flag}={tmp_path / 'input'}"]
    subprocess.run([*argv, f"--dir={out}"] if form == "metalink" else argv, check=True, timeout=60)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "models/a.pth": A,
        "models/b c.bin": B,
        "models/q.bin": C,
        "many/deep/d.bin": D,
        "s/again.pth": A,
    }


def test_aria2c_refuses_other_bytes_by_the_digest_in_it(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "x.metalink").write_text(export(orch, "metalink", "--only", "b").out)
    origin.serve("/w/b c.bin", bytes(len(B)))
    argv = [require("aria2c"), "--no-conf", "-q", f"--metalink-file={tmp_path}/x.metalink", f"--dir={tmp_path}/out"]
    assert subprocess.run(argv, timeout=60).returncode == 32


def machine_b(orch: Orch, mirror: Path, folder: Path) -> Orch:
    """Another machine: its own home and store, the mirror's manifest and site file, no way to the origin."""
    other = Orch(folder)
    folder.mkdir()
    config = folder / "home/.config"
    config.mkdir(parents=True)
    (config / "orch.yaml").write_bytes((mirror / "orch.yaml").read_bytes())
    return other


def synced(other: Orch, mirror: Path) -> Done:
    words = ("--root", str(other.folder / "project"), "--store", str(other.store), "--json")
    return other.run("sync", str(mirror / "manifests/team.yaml"), *words)


@pytest.mark.parametrize("way", ["file", "nginx"])
def test_a_machine_behind_the_gap_takes_everything_from_it(
    orch: Orch, origin: Origin, tmp_path: Path, way: str
) -> None:
    mirror = tmp_path / "stick" / "m 1"
    with nginx(mirror.parent) as server:
        base = [] if way == "file" else ["--url", f"{server.url}/m%201/"]
        done = export(orch, "mirror", str(mirror), "--json", *base)
        assert (done.code, done.summary["placed"]) == (0, 5)
        origin.__exit__()
        other = machine_b(orch, mirror, tmp_path / "b")
        done = synced(other, mirror)
        assert (done.code, done.summary["fetched"]) == (0, 4), done.out
        assert (other.folder / "project/models/a.pth").read_bytes() == A
        assert (other.folder / "project/many/deep/d.bin").read_bytes() == D
        sources = [e["source"] for e in done.named("finished") if e["how"] == "fetched"]
        assert len(sources) == 4
        assert all(source.startswith("file:///" if way == "file" else f"{server.url}/m%201/") for source in sources)
    check = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=mirror, capture_output=True)
    assert check.returncode == 0


def test_wrong_bytes_on_the_stick_do_not_get_in(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    mirror = tmp_path / "stick"
    assert export(orch, "mirror", str(mirror)).code == 0
    origin.__exit__()
    (spoilt,) = mirror.rglob("d.bin")
    spoilt.chmod(0o644)
    spoilt.unlink()
    spoilt.write_bytes(bytes(len(D)))
    other = machine_b(orch, mirror, tmp_path / "b")
    done = synced(other, mirror)
    assert done.code == ExitCode.DIGEST
    assert [f["model"] for f in done.summary["failed"]] == ["d"]
    again = export(orch, "mirror", str(mirror), "--json")
    assert (again.code, again.summary["placed"], again.summary["present"]) == (0, 1, 4), "mended, the rest left alone"
    assert synced(other, mirror).code == 0


def test_it_adds_to_a_mirror_and_leaves_strangers_alone(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    assert export(orch, "mirror", str(mirror), "--only", "a").code == 0
    before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*.pth")}
    more = Orch(orch.folder, top={"root": "project"})
    with Origin() as second:
        more.want("e", D, second.serve("/e.bin", D))
        more.write()
        orch.manifest.rename(orch.folder / "second.yaml")
        orch.write()
        assert more.run("sync", "second.yaml").code == 0
        assert more.run("export", "second.yaml", "--format", "mirror", str(mirror)).code == 0
        site = (mirror / "orch.yaml").read_text()
        assert origin.url in site
        assert second.url in site
    assert {path: path.stat().st_mtime_ns for path in mirror.rglob("*.pth")} == before
    names = [line.split("  ")[1].split("/", 1)[1] for line in (mirror / "SHA256SUMS").read_text().splitlines()]
    assert sorted(names) == ["e.bin", "w/a.pth"]
    assert sorted(path.name for path in (mirror / "manifests").iterdir()) == ["second.yaml", "team.yaml"]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("")
    done = export(orch, "mirror", str(stranger), "--json")
    assert done.code == ExitCode.PLACEMENT
    assert [path.name for path in stranger.iterdir()] == ["thesis.tex"]


def test_an_export_that_was_killed_anywhere_goes_on_with_the_same_command(orch: Orch, tmp_path: Path) -> None:
    orch.models["a"]["link"] = "copy"
    mirror = tmp_path / "stick"
    for moment in range(10):
        process = orch.start("export", "team.yaml", "--format", "mirror", str(mirror))
        time.sleep(0.1 + moment * 0.05)
        (process.terminate if moment % 2 else process.kill)()
        _, said = process.communicate()
        assert process.returncode in (-9, 0, 130, 143, -15), said
    mirror.mkdir(exist_ok=True)
    if (mirror / ".orch.json").exists():  # on a busy machine all of them may have been killed before it
        (mirror / "manifests").mkdir(exist_ok=True)
    (mirror / ".orch-0123456789ab").write_bytes(b"half")
    done = export(orch, "mirror", str(mirror), "--json")
    assert done.code == 0, done.out
    assert not list(mirror.rglob(".orch-*"))
    assert sorted(path.name for path in mirror.iterdir() if path.is_file()) == [
        ".orch.json",
        "README.txt",
        "SHA256SUMS",
        "orch.yaml",
    ]


def test_a_mark_alone_or_an_empty_stick_is_gone_on_with_and_a_strangers_site_file_is_not(
    orch: Orch, tmp_path: Path
) -> None:
    mirror = tmp_path / "stick"
    (mirror / "lost+found").mkdir(parents=True)
    (mirror / ".orch-n-0123456789ab").write_bytes(b"a mark that was never finished")
    assert export(orch, "mirror", str(mirror), "--only", "a").code == 0
    for name in ("orch.yaml", "SHA256SUMS", "README.txt"):
        (mirror / name).unlink()
    assert export(orch, "mirror", str(mirror)).code == 0
    config = tmp_path / "config"
    config.mkdir()
    (config / "orch.yaml").write_text("mirrors: []\n")
    done = export(orch, "mirror", str(config))
    assert done.code == ExitCode.PLACEMENT
    assert (config / "orch.yaml").read_text() == "mirrors: []\n"


def test_two_manifests_of_one_name_are_both_kept_and_each_is_brought_up_to_date(
    orch: Orch, origin: Origin, tmp_path: Path
) -> None:
    mirror, other = tmp_path / "mirror", Orch(tmp_path / "speech")
    other.folder.mkdir()
    other.want("e", D, origin.serve("/e.bin", D))
    assert other.sync().code == 0
    for _ in range(2):
        assert export(orch, "mirror", str(mirror)).code == 0
        assert export(other, "mirror", str(mirror)).code == 0
    orch.models["a"]["tags"] = ["new"]
    assert export(orch, "mirror", str(mirror)).code == 0
    found = {path.name: json.loads(path.read_text())["models"] for path in (mirror / "manifests").iterdir()}
    assert found == {"team.yaml": orch.models, "team-speech.yaml": other.models}
    origin.__exit__()
    behind = machine_b(orch, mirror, tmp_path / "b")
    done = behind.run("sync", str(mirror / "manifests/team-speech.yaml"), "--root", "r", "--store", str(behind.store))
    assert done.code == 0, done.err


@pytest.mark.parametrize("query", ["?path=%2F&files=model.pth", "?f=a/b//c.pth", "?a=%3F%23%25"])
def test_a_query_is_found_by_file_and_by_http(orch: Orch, origin: Origin, tmp_path: Path, query: str) -> None:
    orch.models.clear()
    orch.want("q", A, origin.serve("/get/download", A) + query, to="m.pth")
    assert orch.sync().code == 0
    mirror = tmp_path / "stick"
    assert export(orch, "mirror", str(mirror)).code == 0
    with nginx(mirror) as server:
        for way, base in (("file", []), ("http", ["--url", server.url])):
            assert export(orch, "mirror", str(mirror), *base).code == 0
            other = machine_b(orch, mirror, tmp_path / way)
            origin.serve("/get/download", B)
            done = synced(other, mirror)
            assert (done.code, done.named("finished")[0]["source"][:5]) == (0, {"file": "file:", "http": "http:"}[way])


def test_a_query_that_no_file_can_be_called_by_is_told_where_it_matters(orch: Orch, tmp_path: Path) -> None:
    orch.models["q"]["url"] += "&path=%2Fz%2F"
    done = export(orch, "mirror", str(tmp_path / "m"))
    assert done.code == ExitCode.PLACEMENT
    assert "--url http://" in done.out
    assert export(orch, "mirror", str(tmp_path / "m"), "--url", "http://nas.lan/m").code == 0


def test_nothing_is_written_through_a_planted_link(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    mirror, victim = tmp_path / "stick", tmp_path / "victim"
    assert export(orch, "mirror", str(mirror), "--only", "b").code == 0
    victim.mkdir()
    (victim / "precious").write_text("mine")
    host = origin.url.partition("//")[2]
    for planted, target in (
        ("manifests", victim),
        ("README.txt", victim / "precious"),
        ("SHA256SUMS", victim / "precious"),
        ("orch.yaml", victim / "precious"),
        (host, victim),
        (f"{host}/w/a.pth", victim / "precious"),
    ):
        link = mirror / planted
        kept = mirror / "kept"
        if link.exists():
            link.rename(kept)
        link.symlink_to(target)
        done = export(orch, "mirror", str(mirror))
        assert done.code == ExitCode.PLACEMENT, planted
        assert "remove it: `rm " in done.out + done.err
        assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("precious", "mine")]
        link.unlink()
        if kept.exists():
            kept.rename(link)
    assert export(orch, "mirror", str(mirror)).code == 0


def test_what_is_not_here_says_sync_first_and_nothing_is_written(orch: Orch, tmp_path: Path) -> None:
    orch.want("new", made(99), "http://127.0.0.1:9/new.bin")
    orch.blob(B).unlink()  # its place still has the bytes
    done = export(orch, "mirror", str(tmp_path / "m"), "--json")
    assert done.code == ExitCode.TRANSFER
    assert [(f["model"], f["hint"].split(" /")[0]) for f in done.summary["failed"]] == [("new", "run `orch sync")]
    assert not (tmp_path / "m").exists()
    del orch.models["new"]
    assert export(orch, "mirror", str(tmp_path / "m"), "--json").code == 0


def test_a_url_that_leads_out_of_the_folder_is_refused(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    orch.models.clear()
    orch.want("up", A, origin.url + "/..%2F..%2Fa.pth", to="store")
    done = export(orch, "mirror", str(tmp_path / "m"), "--json")
    assert done.code == ExitCode.MANIFEST
    assert "is not possible for a file" in done.named("problem")[0]["message"]


def test_two_files_that_a_server_cannot_tell_apart(orch: Orch, origin: Origin, tmp_path: Path) -> None:
    orch.models.clear()
    for number, content in enumerate((A, B)):
        orch.want(f"m{number}", content, f"{origin.url}/get?id={number}", to="store")
    assert export(orch, "mirror", str(tmp_path / "m")).code == ExitCode.MANIFEST
    assert export(orch, "mirror", str(tmp_path / "m"), "--only", "m1").code == 0


def test_usage(orch: Orch, tmp_path: Path) -> None:
    assert export(orch, "mirror").code == ExitCode.USAGE
    assert export(orch, "aria2", str(tmp_path)).code == ExitCode.MANIFEST, "a second manifest, and a folder is none"
    orch.models = {"x": {"url": "rsync://127.0.0.1:9/m/x", "sha256": sha256(A), "to": "models/"}}
    assert export(orch, "aria2").code == ExitCode.MANIFEST
    assert json.loads(export(orch, "metalink", "--json").out.splitlines()[0])["text"].startswith("<?xml")
    assert os.listdir(tmp_path / "a")


def test_a_hubs_repository_goes_over_the_gap_with_its_lock(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "deep/vocab.txt": b"one\n", "model.bin": made(50_000, 7)}
    first = Orch(tmp_path / "a")
    first.folder.mkdir()
    first.models["tiny"] = {"repo": "hf:org/tiny", "to": "tiny/"}
    mirror = tmp_path / "stick"
    with Hub() as hub:
        hub.repo("org/tiny", files)
        first.environ["HF_ENDPOINT"] = hub.url
        assert first.run("lock", "team.yaml").code == 0
        assert first.run("sync", "team.yaml").code == 0
        done = export(first, "mirror", str(mirror))
        assert done.code == 0, done.err
    done = synced(machine_b(first, mirror, tmp_path / "b"), mirror)
    assert (done.code, done.summary["fetched"]) == (0, 3), done.out
    assert all(e["source"].startswith("file:///") for e in done.named("finished"))
    for path, data in files.items():
        assert (tmp_path / "b/project/tiny" / path).read_bytes() == data
