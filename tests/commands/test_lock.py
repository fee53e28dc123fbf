"""`orch lock`: what has no sha256 is found out once, written down, and synced from then on by everybody."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def lock_of(orch: Orch) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    return json.loads((orch.folder / "team.lock.json").read_text())["models"]


def want(orch: Orch, name: str, content: bytes, url: str, **keys: object) -> Path:
    return orch.want(name, content, url, **{"sha256": None, "size": None, **keys})


def test_what_has_no_pin_is_fetched_once_and_pinned(orch: Orch) -> None:
    plain, weak, strong = made(9 * MIB, 1), made(50_000, 2), made(1000, 3)
    md5 = hashlib.md5(weak).hexdigest()
    with Origin() as origin:
        place = want(orch, "plain", plain, origin.serve("/plain.bin", plain))
        want(orch, "weak", weak, origin.serve("/weak.bin", weak), md5=md5)
        orch.want("strong", strong, origin.serve("/strong.bin", strong))
        assert "orch lock" in orch.run("sync", "team.yaml").err
        foreseen = orch.run("lock", "-n", "--json", "team.yaml")
        assert {e["file"] for e in foreseen.named("foreseen")} == {"plain.bin", "weak.bin"}
        assert foreseen.summary["bytes_to_fetch"] == 0, "no size is known"
        assert orch.run("lock", "-n", "team.yaml").err.splitlines()[-1].startswith("lock: 2 to ")
        assert not (orch.folder / "team.lock.json").exists()

        first = orch.run("lock", "--json", "team.yaml")
        assert (first.code, first.summary["fetched"], first.summary["present"]) == (0, 2, 1)
        models = lock_of(orch)
        entry = models["plain"]["files"]["plain.bin"]
        assert (entry["sha256"], entry["size"], entry["from"]) == (sha256(plain), len(plain), "first download")
        length, _, hashes = str(entry["pieces"]).partition(":")
        assert (length, len(hashes)) == (str(4 * MIB), 32)
        assert models["weak"]["files"]["weak.bin"]["from"] == "publisher's md5"
        assert "strong" not in models

        asked, text = len(origin.log), (orch.folder / "team.lock.json").read_text()
        assert orch.run("lock", "--json", "team.yaml").summary["present"] == 3
        assert len(origin.log) == asked
        assert (orch.folder / "team.lock.json").read_text() == text
        done = orch.sync()
        assert (done.summary["placed"], done.summary["fetched"]) == (2, 1)
        assert orch.sync().summary["present"] == 3
    assert place.read_bytes() == plain


def test_sha1_pieces_of_large_files_come_where_they_are_asked_for_and_the_bytes_are_here(orch: Orch) -> None:
    large, small = made(64 * MIB + 5), made(5 * MIB, 2)
    with Origin() as origin:
        orch.want("large", large, origin.serve("/large.bin", large), to="store")
        orch.want("small", small, origin.serve("/small.bin", small), to="store")
        first = orch.run("lock", "--pieces", "team.yaml")
        assert (first.code, "large.bin is not in the store: `orch sync`" in first.err) == (0, True), first.err
        assert orch.sync().code == 0
        assert orch.run("lock", "team.yaml").code == 0
        before = (orch.folder / "team.lock.json").read_text().splitlines()
        assert "sha1_pieces" not in "".join(before)
        second = orch.run("lock", "--pieces", "team.yaml")
        assert (second.code, "not in the store" in second.err) == (0, False), second.err
        after = (orch.folder / "team.lock.json").read_text()
        assert sum(old != new for old, new in zip(before, after.splitlines(), strict=True)) == 1
        head, _, hashes = str(lock_of(orch)["large"]["files"]["large.bin"]["sha1_pieces"]).partition(":")
        expected = b"".join(hashlib.sha1(large[at : at + MIB]).digest() for at in range(0, len(large), MIB))
        assert (head, base64.b64decode(hashes)) == (str(MIB), expected)
        assert orch.run("lock", "--update", "-y", "team.yaml").code == 0
        assert (orch.folder / "team.lock.json").read_text() == after
        assert orch.sync().summary["present"] == 2


def test_a_lock_serves_another_machine_that_then_takes_no_other_bytes(orch: Orch, tmp_path: Path) -> None:
    content = made(2 * MIB, 1)
    with Origin() as origin:
        want(orch, "m", content, origin.serve("/m.bin", content))
        assert orch.run("lock", "team.yaml").code == 0
        other = Orch(tmp_path / "other", orch.models)
        other.folder.mkdir()
        (other.folder / "team.lock.json").write_bytes((orch.folder / "team.lock.json").read_bytes())
        origin.serve("/m.bin", made(2 * MIB, 2))
        assert other.sync().code == 6
        origin.serve("/m.bin", content)
        assert other.sync().summary["fetched"] == 1


def test_a_publishers_list(orch: Orch) -> None:
    content, small = made(3 * MIB), made(1000, 2)
    with Origin() as origin:
        sums = origin.serve("/v1/SHA256SUMS", f"{sha256(content)}  a.bin\nSHA256 (b.bin) = {sha256(small)}\n".encode())
        want(orch, "a", content, origin.serve("/v1/a.bin", content), sha256=sums, size=len(content))
        want(orch, "b", small, origin.serve("/v1/b.bin", small), sha256=sums)
        done = orch.run("lock", "--json", "team.yaml")
        assert (done.code, done.summary["placed"], done.summary["fetched"]) == (0, 1, 1)
        assert origin.sent("/v1/a.bin") == 0
        assert lock_of(orch)["a"]["files"]["a.bin"]["from"] == "publisher's list"
        assert orch.sync().code == 0
        origin.serve("/v1/SHA256SUMS", f"{sha256(small)}  a.bin\n{sha256(small)}  b.bin\n".encode())
        drift = orch.run("lock", "--check", "--json", "team.yaml")
        assert (drift.code, [f["model"] for f in drift.summary["failed"]]) == (3, ["a"])
        want(orch, "c", small, origin.serve("/v1/c.bin", small), sha256=sums)
        missing = orch.run("lock", "team.yaml")
        assert missing.code == 3
        assert "has no checksum of `c.bin`" in missing.err
        assert set(lock_of(orch)) == {"a", "b"}


def test_drift_and_update(orch: Orch) -> None:
    old, new, gone = made(2 * MIB, 1), made(2 * MIB + 7, 2), made(1000, 3)
    with Origin() as origin:
        url = origin.serve("/m.bin", old)
        want(orch, "m", old, url)
        want(orch, "gone", gone, origin.serve("/gone.bin", gone))
        assert orch.run("lock", "--check", "team.yaml").code == 3
        assert orch.run("lock", "team.yaml").code == 0
        assert orch.run("lock", "--check", "team.yaml").code == 0
        sent = origin.sent("/m.bin")
        assert orch.run("lock", "--update", "-y", "team.yaml").code == 0
        assert origin.sent("/m.bin") - sent < 1000, "its ETag said that it is the same"

        origin.serve("/m.bin", new)
        before = (orch.folder / "team.lock.json").read_text()
        drift = orch.run("lock", "--check", "--json", "team.yaml")
        assert (drift.code, [f["file"] for f in drift.summary["failed"]]) == (3, ["m.bin"])
        assert [f["fault"] for f in drift.summary["failed"]] == ["outdated"]
        assert (orch.folder / "team.lock.json").read_text() == before
        assert orch.sync().code == 0, "the old bytes are here: drift is no reason to stop"
        refused = orch.run("lock", "--update=m", "team.yaml")
        assert (refused.code, refused.err.splitlines()[0]) == (
            2,
            "error: not a terminal: use --yes to confirm, or -n to preview",
        )
        assert orch.run("lock", "--update=m", "-n", "team.yaml").code == 0
        assert (orch.folder / "team.lock.json").read_text() == before
        done = orch.run("lock", "--update=m", "--yes", "--json", "team.yaml")
        (change,) = done.named("changed")
        assert (change["old"], change["new"]) == (f"{sha256(old)} {len(old)}", f"{sha256(new)} {len(new)}")
        after = (orch.folder / "team.lock.json").read_text()
        assert sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)) == 1
        (orch.folder / "team.lock.json").write_text(before)
        quiet = orch.run("lock", "--update", "-qy", "team.yaml")
        (line,) = quiet.err.splitlines()
        assert (quiet.code, line) == (0, f"m/m.bin: {sha256(old)[:12]} (2.0 MiB) -> {sha256(new)[:12]} (2.0 MiB)")

        del orch.models["gone"]
        assert orch.run("lock", "--check", "team.yaml").code == 3
        assert orch.run("lock", "team.yaml").code == 0
        assert set(lock_of(orch)) == {"m"}
        orch.models["m"]["md5"] = hashlib.md5(new).hexdigest()
        stale = orch.sync()
        assert stale.code == 3
        assert "run `orch lock" in stale.summary["failed"][0]["hint"]
        assert orch.run("lock", "team.yaml").code == 0
        (orch.folder / "models/m.bin").unlink()
        assert orch.sync().code == 0


def test_one_that_fails_keeps_what_the_lock_said(orch: Orch) -> None:
    good, bad = made(1000, 1), made(1000, 2)
    with Origin() as origin:
        want(orch, "bad", bad, origin.serve("/bad.bin", bad))
        assert orch.run("lock", "team.yaml").code == 0
        was = lock_of(orch)["bad"]
        origin.serve("/bad.bin", bad, status=404)
        orch.models["bad"]["size"] = len(bad) + 1
        orch.models["bad"]["sha1"] = hashlib.sha1(bad).hexdigest()
        want(orch, "good", good, origin.serve("/good.bin", good))
        done = orch.run("lock", "--json", "team.yaml")
        assert (done.code, [f["model"] for f in done.summary["failed"]]) == (5, ["bad"])
        assert lock_of(orch) == {"bad": was, "good": lock_of(orch)["good"]}


@pytest.mark.parametrize(
    ("keys", "code"),
    [({}, 6), ({"size": 2 * MIB}, 0), ({"md5": hashlib.md5(made(2 * MIB)).hexdigest()}, 0)],
    ids=["nothing else", "its size", "its md5"],
)
def test_a_name_that_says_another_digest(orch: Orch, keys: dict[str, object], code: int) -> None:
    content = made(2 * MIB)
    with Origin() as origin:
        want(orch, "m", content, origin.serve("/m-0123abcd.pth", content), **keys)
        done = orch.run("lock", "team.yaml")
        assert done.code == code
        assert "its name says 0123abcd" in done.err
        right = origin.serve(f"/m-{sha256(content)[:8]}.pth", content)
        want(orch, "m", content, right)
        assert orch.run("lock", "team.yaml").code == 0
    assert lock_of(orch)["m"]["files"][right.rsplit("/", 1)[1]]["from"] == "first download, as its name says"


def test_shards_and_headers(orch: Orch) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(16)
    index = json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}).encode()
    with Origin() as origin:
        urls = {name: origin.serve(f"/{name}", whole) for name in ("a.safetensors", "b.safetensors")}
        urls["x.safetensors.index.json"] = origin.serve("/i", index)
        urls["m-00001-of-00002.bin"] = origin.serve("/1", b"one")

        def lock(*names: str) -> tuple[int, str]:
            orch.models["m"] = {"to": "m/", "files": [{"path": name, "url": urls[name]} for name in names]}
            done = orch.run("lock", "team.yaml")
            return done.code, done.err

        code, told = lock("m-00001-of-00002.bin")
        assert (code, "m-00002-of-00002.bin is missing" in told) == (3, True)
        code, told = lock("a.safetensors", "x.safetensors.index.json")
        assert (code, "b.safetensors is missing" in told) == (3, True)
        assert lock("a.safetensors", "b.safetensors", "x.safetensors.index.json")[0] == 0
        size = len(whole) - 4
        urls["c.safetensors"] = origin.serve("/c.safetensors", whole[:size])
        orch.models["m"] = {
            "to": "m/",
            "files": [
                {
                    "path": "c.safetensors",
                    "url": urls["c.safetensors"],
                    "md5": hashlib.md5(whole[:size]).hexdigest(),
                }
            ],
        }
        done = orch.run("lock", "team.yaml")
    assert done.code == 6
    assert "error: m/c.safetensors: " in done.err
    assert "`orch remove m`" in done.err
    assert "(missing)" not in done.err


def test_a_first_download_is_told_once_with_what_comes_next(orch: Orch) -> None:
    with Origin() as origin:
        want(orch, "a", b"one", origin.serve("/a.bin", b"one"))
        first = orch.run("lock")
        assert first.code == 0, first.err
        told = f"warning: a/a.bin: its checksum {sha256(b'one')} is that of the first download: compare it"
        assert first.err.count(told) == 1
        assert first.err.endswith("next: orch sync; commit team.yaml and team.lock.json\n")
        again = orch.run("lock", "team.yaml")
        assert "first download" not in again.err and "next:" not in again.err
        for name in "bc":
            want(orch, name, name.encode(), origin.serve(f"/{name}.bin", name.encode()))
        more = orch.run("lock", "team.yaml")
    assert "warning: 2 checksums are of first downloads (b/b.bin, ...)" in more.err
    assert more.err.endswith("next: orch sync team.yaml; commit team.yaml and team.lock.json\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"version": 1, "models": {\n<<<<<<< ours\n', "merge-conflict"),
        ('{"version": 2, "models": {}}', "version 2"),
        ("{}", "not a lock file"),
        (
            '{"version": 1, "models": {"m": {"fingerprint": "x", "files": {"a": {"sha256": "12", "size": 1}}}}}',
            "not a lock",
        ),
        ('{"version": 1, "models": ' + "[" * 100_000, "not a lock file"),
        (
            '{"version": 1, "models": {"m": {"fingerprint": "x", "files": {"a": {"sha256": "'
            + "a" * 64
            + '", "size": '
            + "9" * 5000
            + "}}}}}",
            "not a lock file",
        ),
        ('{"version": ' + "1" * 5000 + ', "models": {}}', "not a lock file"),
    ],
    ids=["conflict", "newer", "empty", "damaged", "deep", "long size", "long version"],
)
def test_a_lock_that_cannot_be_used(orch: Orch, text: str, told: str) -> None:
    want(orch, "m", b"x", "http://127.0.0.1:9/m.bin")
    path = orch.folder / "team.lock.json"
    path.write_text(text)
    for command in ("sync", "lock", "status"):
        done = orch.run(command, "team.yaml")
        assert (done.code, told in done.err, "hint: " in done.err) == (3, True, True), done.err
    assert path.read_text() == text


def test_four_at_once_lose_nothing_of_each_other_and_a_link_stays_one(orch: Orch) -> None:
    contents = {f"m{n}": made(200_000, n) for n in range(4)}
    real = orch.folder / "dotfiles" / "lock.json"
    real.parent.mkdir()
    real.write_text('{"version": 1, "models": {}}')
    real.chmod(0o640)
    (orch.folder / "team.lock.json").symlink_to("dotfiles/lock.json")
    with Origin() as origin:
        for name, content in contents.items():
            want(orch, name, content, origin.serve(f"/{name}.bin", content))
        started = [orch.start("lock", "--only", name, "team.yaml") for name in contents]
        said = [process.communicate() for process in started]
        assert [process.returncode for process in started] == [0] * 4, said
        assert set(lock_of(orch)) == set(contents)
        del orch.models["m3"]
        assert orch.run("lock", "team.yaml").code == 0
    assert set(lock_of(orch)) == {"m0", "m1", "m2"}
    assert (real.stat().st_mode & 0o777, (orch.folder / "team.lock.json").is_symlink()) == (0o640, True)
    assert [path.name for path in real.parent.iterdir()] == ["lock.json"]


def test_a_full_disk_leaves_manifest_and_lock_as_they_were_and_nothing_else(orch: Orch, tmp_path: Path) -> None:
    with Origin() as origin, tmpfs(tmp_path / "disk", "64k") as disk:
        here = Orch(disk, environ={"HOME": str(tmp_path), "ORCH_STORE": str(tmp_path / "store")}, top={"store": None})
        here.top.pop("store")
        content = made(1000, 1)
        want(here, "a", content, origin.serve("/a.bin", content))
        assert here.run("lock", "team.yaml").code == 0
        want(here, "b", content, origin.serve("/b.bin", content))
        here.write()
        before = {name: (disk / name).read_bytes() for name in ("team.yaml", "team.lock.json")}
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        for words in (("lock", "team.yaml"), ("add", "http://h/c.bin", "team.yaml", "--to", "w/")):
            done = subprocess.run(
                [sys.executable, "-m", "orchestrator", *words], cwd=disk, env=here.env(), capture_output=True, text=True
            )
            assert done.returncode == 8, done
            assert "No space left" in done.stderr
            assert "hint: free some space" in done.stderr
            assert "Traceback" not in done.stderr
        assert {name: (disk / name).read_bytes() for name in before} == before
        assert sorted(os.listdir(disk)) == ["filler", "home", "team.lock.json", "team.yaml"]


def test_interrupted_it_loses_nothing(orch: Orch) -> None:
    small, large = made(1000, 1), made(16 * MIB, 2)
    with Origin() as origin:
        want(orch, "small", small, origin.serve("/small.bin", small))
        want(orch, "large", large, origin.serve("/large.bin", large, rate=128 * 1024))
        running = orch.start("lock", "--json", "team.yaml")
        assert running.stdout is not None
        while json.loads(running.stdout.readline()).get("done_bytes", 0) < 6 * MIB or not orch.blob(small).exists():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20)
        assert running.returncode == 130
        assert not (orch.folder / "team.lock.json").exists()
        origin.serve("/large.bin", large)
        sent_small = origin.sent("/small.bin")
        again = orch.run("lock", "--json", "team.yaml")
        assert again.code == 0
        assert again.summary["bytes_reused"] >= 4 * MIB
        assert again.summary["bytes_fetched"] + again.summary["bytes_reused"] == len(large)
        assert origin.sent("/small.bin") - sent_small <= 2, "its version is here already"
    assert set(lock_of(orch)) == {"large", "small"}
