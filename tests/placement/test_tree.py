"""Archives unpacked into trees: what leads out is refused, what was written into is found and put right."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator import files
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.model import Place
from orchestrator.placement import link
from orchestrator.store import Store, blobs
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256

GOOD = {"saved_model.pb": made(3000, 1), "variables/variables.index": made(500, 2), "assets/vocab.txt": b"a\nb\n"}


def tar(*entries: tuple[str, bytes | str | None, dict[str, Any]], mode: str = "w:gz") -> bytes:
    """Give an archive of (name, content or link target or None for a folder, fields of its header)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content, fields in entries:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o2777
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            for field, value in fields.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def zipped(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.filename = name  # its constructor makes slashes of what is not
            entry.create_system, entry.external_attr = 3, mode << 16
            archive.writestr(entry, content)
    return out.getvalue()


@lru_cache  # gzip keeps the time in its header
def whole(mode: str = "w:gz", dot: str = "./") -> bytes:
    folders = [(f"{dot}{name}", None, {}) for name in ("variables", "assets")]
    return tar((dot, None, {}), *folders, *((f"{dot}{n}", c, {"mode": 0o4777}) for n, c in GOOD.items()), mode=mode)


def long_header() -> bytes:
    """Give a tar whose extended header says that it is 8 GiB long: eight megabytes of gzip would make it so."""
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 8 << 30
    return gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


def claims(size: int) -> bytes:
    entry = tarfile.TarInfo("huge")
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


X = b"x" * 10
BAD: dict[str, tuple[bytes, str]] = {
    "dots": (tar(("a/../../out", X, {})), "leads out"),
    "absolute": (tar(("/tmp/orch-out", X, {})), "leads out"),
    "symlink-out": (tar(("l", "../..", {}), ("l/out", X, {})), "leads out"),
    "symlink-absolute": (tar(("l", "/etc/passwd", {})), "leads out"),
    "symlink-folder": (tar(("d/a", X, {}), ("l", "d", {})), "not to one of its files"),
    "through-symlink": (tar(("l", "d", {}), ("d/a", X, {}), ("l/a", X, {})), "not to one of its files"),
    "hardlink-out": (tar(("l", "x", {"type": tarfile.LNKTYPE, "linkname": "../../team.yaml"})), "leads out"),
    "device": (tar(("null", "x", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})), "neither a file nor"),
    "fifo": (tar(("pipe", "x", {"type": tarfile.FIFOTYPE})), "neither a file nor"),
    "twice": (tar(("a", X, {}), ("./a", b"y", {})), "twice"),
    "file-and-folder": (tar(("a", X, {}), ("a/b", X, {})), "a file and a folder"),
    "control": (tar(("a\nb", X, {})), "cannot be a file's name"),
    "empty": (tar(("d", None, {})), "no file"),
    "cut": (whole()[:-100], "damaged"),
    "long-header": (long_header(), "impossible size"),
    "more-than-the-disk": (claims(1 << 60), "its content is too large"),
    "no-archive": (made(3000), "not an archive"),
    "zip-dots": (zipped({"../out": X}), "leads out"),
    "one-file": (gzip.compress(made(3000)), "gzip of one file"),
    "zip-of-windows": (zipped({"a\\b": X}), "has backslashes"),
    "zip-backslash": (zipped({"a\\..\\..\\out": X}), "leads out"),
    "zip-symlink-out": (zipped({"l": b"../../team.yaml"}, 0o120777), "leads out"),
    "zip-device": (zipped({"n": b""}, stat.S_IFCHR | 0o666), "neither a file nor"),
}
KINDS = {"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz", "plain": "w:"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def want(orch: Orch, origin: Origin, name: str, content: bytes) -> Path:
    """Add a model that is to be unpacked; gives its folder."""
    orch.want(name, content, origin.serve(f"/{name}.bin", content), to=f"trees/{name}/", unpack=True)
    return orch.folder / "trees" / name


def test_an_archive_that_leads_out_is_refused_and_the_others_are_not_held_up(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        good = [want(orch, origin, kind, whole(mode)) for kind, mode in KINDS.items()]
        good.append(want(orch, origin, "no-dot", whole(dot="")))
        good.append(want(orch, origin, "zip", zipped({"variables/": b"", **GOOD})))
        for name, (content, _) in BAD.items():
            want(orch, origin, name, content)
        done = orch.sync()
        assert done.code == 7
        assert {f["model"]: f["fault"] for f in done.summary["failed"]} == dict.fromkeys(BAD, "placement")
        said = {f["model"]: f["message"] for f in done.summary["failed"]}
        assert {name: why in said[name] for name, (_, why) in BAD.items()} == dict.fromkeys(BAD, True), said
    assert all(tree(folder) == GOOD for folder in good)
    assert sorted(os.listdir(tmp_path / "trees")) == sorted(folder.name for folder in good)
    assert not list(tmp_path.rglob("out*")) and not Path("/tmp/orch-out").exists()
    modes = {stat.S_IMODE(p.stat().st_mode) for folder in good for p in folder.rglob("*") if p.is_file()}
    assert modes == {0o444}, "no setuid, nothing writable"
    assert orch.sync().summary["present"] == len(good)


def test_what_died_half_unpacked_is_swept_up(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    dead, alive = tmp_path / "trees/.orch-tree-dead", tmp_path / "trees/.orch-tree-alive"
    swapped = tmp_path / "trees/.orch-swap-dead"  # of an exchange that was killed: a user may have put something in
    for folder in (dead, alive, swapped):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(X)
    guard = os.open(alive, os.O_RDONLY)
    fcntl.flock(guard, fcntl.LOCK_EX)
    with Origin() as origin:
        want(orch, origin, "use4", whole())
        assert orch.sync().code == 0
    os.close(guard)
    assert sorted(os.listdir(tmp_path / "trees")) == [swapped.name, alive.name, "use4"]
    assert (swapped / "half").read_bytes() == X


def test_a_full_disk_fails_that_model_and_leaves_nothing(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with tmpfs(tmp_path / "trees", "1m"), Origin() as origin:
        bomb = tar(*((f"zeros{number}", bytes(300_000), {}) for number in range(8)))
        assert len(bomb) < 10_000
        want(orch, origin, "bomb", bomb)
        good = want(orch, origin, "good", whole())
        done = orch.sync()
        assert (done.code, [f["model"] for f in done.summary["failed"]]) == (7, ["bomb"])
        assert (os.listdir(tmp_path / "trees"), tree(good)) == (["good"], GOOD)


def test_links_within_become_files_of_their_own(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    archive = tar(
        ("d/link", "../a", {}),
        ("a", X, {}),
        ("hard", "", {"type": tarfile.LNKTYPE, "linkname": "a"}),
    )
    with Origin() as origin:
        folder = want(orch, origin, "linked", archive)
        assert orch.sync().code == 0
    assert tree(folder) == {"a": X, "d/link": X, "hard": X}
    assert {p.lstat().st_nlink for p in folder.rglob("*") if not p.is_dir()} == {1}


@pytest.fixture
def placed(tmp_path: Path) -> tuple[Orch, Path]:
    orch = Orch(tmp_path)
    with Origin() as origin:
        folder = want(orch, origin, "use4", whole())
        assert orch.sync().code == 0
    return orch, folder


def test_what_was_written_into_is_found_and_put_right(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    assert orch.run("status", "--json", "team.yaml").code == 0
    assert orch.run("verify", "--json", "team.yaml").code == 0
    victim = folder / "saved_model.pb"
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.write(b"wrong")
    assert orch.run("status", "--json", "team.yaml").summary["failed"][0]["fault"] == "seal"
    verified = orch.run("verify", "--json", "team.yaml").summary
    assert (verified["exit_code"], verified["failed"][0]["fault"]) == (6, "corrupt")
    inode = folder.stat().st_ino
    mended = orch.sync()  # the origin is gone: from the sealed archive
    assert (mended.summary["placed"], tree(folder)) == (1, GOOD)
    assert folder.stat().st_ino != inode, "exchanged as a whole"
    assert mended.named("mismatched")[0]["expected"] == sha256(GOOD["saved_model.pb"])
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert orch.sync().summary["present"] == 1


def test_what_is_missing_is_found_and_what_was_only_touched_is_sealed_again(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    (folder / "assets/vocab.txt").unlink()
    assert orch.run("status", "--json", "team.yaml").code == 6
    assert orch.run("verify", "--json", "team.yaml").code == 5
    assert (orch.sync().summary["placed"], tree(folder)) == (1, GOOD)
    inode = folder.stat().st_ino
    (folder / "assets/vocab.txt").touch()
    assert orch.sync().code == 0
    assert (folder.stat().st_ino, orch.sync().summary["present"]) == (inode, 1)


def test_bytes_changed_under_their_seal_are_verifys_business(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    victim = folder / "variables/variables.index"
    before = victim.stat()
    victim.chmod(0o644)
    victim.write_bytes(made(500, 3))
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert orch.sync().summary["present"] == 1
    assert orch.run("verify", "--json", "team.yaml").summary["exit_code"] == 6
    assert (orch.run("verify", "--repair", "--json", "team.yaml").code, tree(folder)) == (0, GOOD)
    assert quarantined(orch) == [made(500, 3)]


def test_a_foreign_folder_is_left_unless_forced(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        folder = want(orch, origin, "use4", whole())
        folder.mkdir(parents=True)
        (folder / "mine").write_bytes(X)
        assert orch.run("status", "--json", "team.yaml").summary["failed"][0]["fault"] == "foreign"
        assert orch.run("plan", "--json", "team.yaml").code == 7
        refused = orch.sync().summary
        assert (refused["exit_code"], refused["failed"][0]["fault"], tree(folder)) == (7, "foreign", {"mine": X})
        assert orch.sync("--force").code == 0
        assert tree(folder) == {**GOOD, "mine": X}, "nothing of a user's is ever deleted"
        (tmp_path / "trees/other").mkdir()
        other = want(orch, origin, "other", whole("w:xz"))
        assert (orch.sync().code, tree(other)) == (0, GOOD), "an empty folder is no folder"
        # Another archive in the manifest: what orch made it may replace.
        want(orch, origin, "use4", tar(("new", X, {})))
        assert (orch.sync().code, tree(folder)) == (0, {"new": X, "mine": X})


def test_the_listing_stands_in_the_store(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    listing = json.loads((orch.store / f"places/trees/{sha256(whole())}.json").read_text())
    assert listing == {name: [len(content), sha256(content)] for name, content in GOOD.items()}
    (orch.store / f"places/trees/{sha256(whole())}.json").write_text("{")
    assert (orch.sync().summary["placed"], tree(folder)) == (1, GOOD), "without it the tree proves nothing"
    assert orch.sync().summary["present"] == 1


MINE = b"three weeks of training"


def quarantined(orch: Orch) -> list[bytes]:
    return [path.read_bytes() for path in sorted(orch.store.glob("quarantine/*/bytes"))]


def test_what_a_user_has_in_a_tree_stays(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    mine = folder / "checkpoints/mine.ckpt"
    mine.parent.mkdir()
    mine.write_bytes(MINE)
    (folder / "variables/notes").mkdir()
    (folder / "assets/vocab.txt").unlink()  # as a cleaner of temporary folders does
    assert (orch.sync().summary["placed"], tree(folder)) == (1, {**GOOD, "checkpoints/mine.ckpt": MINE})
    with Origin() as origin:
        inode = (folder / "saved_model.pb").stat().st_ino
        new = {"saved_model.pb": GOOD["saved_model.pb"], "variables/v2.index": X}
        want(orch, origin, "use4", tar(*((name, content, {}) for name, content in new.items())))
        assert (orch.sync().code, tree(folder)) == (0, {**new, "checkpoints/mine.ckpt": MINE})
    assert (folder / "saved_model.pb").stat().st_ino == inode, "what both have is not touched"
    assert (folder / "variables/notes").is_dir()
    assert not (folder / "assets").exists(), "what only the earlier archive had goes, if it is whole"
    assert (orch.sync().summary["present"], quarantined(orch)) == (1, [])


def test_an_edited_file_of_the_archive_is_kept_in_quarantine(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    for name in ("assets/vocab.txt", "variables/variables.index"):
        (folder / name).chmod(0o644)
        (folder / name).write_bytes(MINE + name.encode())
    with Origin() as origin:
        want(orch, origin, "use4", tar(("saved_model.pb", X, {}), ("assets/vocab.txt", X, {})))
        done = orch.sync()
    assert done.code == 0
    edited = MINE + b"variables/variables.index"  # the new archive has no such file: it is nobody's way
    assert tree(folder) == {"saved_model.pb": X, "assets/vocab.txt": X, "variables/variables.index": edited}
    assert quarantined(orch) == [MINE + b"assets/vocab.txt"]
    about = json.loads(next(orch.store.glob("quarantine/*/about.json")).read_text())
    assert about["place"] == str(folder / "assets/vocab.txt")
    assert any("it was moved to" in e["message"] for e in done.named("noticed"))


def test_a_users_file_where_a_new_version_has_one_needs_force(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    (folder / "config.json").write_bytes(MINE)
    (folder / "same.txt").write_bytes(X)  # which happens to be right
    with Origin() as origin:
        want(orch, origin, "use4", tar(("config.json", b"{}", {}), ("same.txt", X, {}), ("a/b", X, {})))
        refused = orch.sync().summary["failed"][0]
        assert (refused["fault"], "config.json" in refused["message"]) == ("foreign", True)
        assert tree(folder) == {**GOOD, "config.json": MINE, "same.txt": X}, "and nothing was begun"
        assert orch.sync("--force").code == 0
    assert tree(folder) == {"config.json": b"{}", "same.txt": X, "a/b": X}
    assert quarantined(orch) == [MINE]
    assert orch.sync().summary["present"] == 1


def test_verify_says_that_the_version_before_stands_there(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed

    def fault() -> tuple[int, str]:
        summary = orch.run("verify", "--json", "team.yaml").summary
        return summary["exit_code"], summary["failed"][0]["fault"]

    with Origin() as origin:
        want(orch, origin, "use4", tar(("saved_model.pb", X, {}), ("new", X, {})))
        assert fault() == (5, "outdated"), "of the new archive not even the names are known"
        assert orch.sync().code == 0
        want(orch, origin, "use4", whole())
        assert fault() == (5, "outdated")
        (folder / "saved_model.pb").chmod(0o644)
        (folder / "saved_model.pb").write_bytes(MINE)
        assert fault() == (6, "corrupt")


def test_an_adopted_folder_stays_its_owner_s(placed: tuple[Orch, Path], tmp_path: Path) -> None:
    orch, folder = placed
    copy = tmp_path / "copy"
    for name, content in GOOD.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    shutil.rmtree(folder)
    for record in orch.store.glob("places/*.json"):
        record.unlink()
    copy.rename(folder)
    modes = {path: path.stat().st_mode for path in folder.rglob("*")}
    assert (orch.sync().code, orch.sync().summary["present"]) == (0, 1)
    assert {path: path.stat().st_mode for path in folder.rglob("*")} == modes
    (folder / "saved_model.pb").write_bytes(MINE)
    assert orch.run("verify", "--json", "team.yaml").summary["failed"][0]["fault"] == "foreign", "its owner's edit"
    (folder / "saved_model.pb").write_bytes(GOOD["saved_model.pb"])
    assert orch.sync().code == 0
    with Origin() as origin:
        new = {"saved_model.pb": X, "new": X}
        want(orch, origin, "use4", tar(*((name, content, {}) for name, content in new.items())))
        assert (orch.sync().summary["failed"][0]["fault"], tree(folder)) == ("foreign", GOOD)
        assert orch.sync("--force").code == 0
    assert tree(folder) == {**GOOD, **new}
    assert quarantined(orch) == [GOOD["saved_model.pb"]], "what its owner had is not deleted, whatever its seal"
    assert orch.sync().summary["present"] == 1


def test_prune_leaves_an_adopted_folder(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    theirs = folder.with_name("theirs")
    shutil.copytree(folder, theirs, copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    for record in orch.store.glob("places/*.json"):
        record.unlink()
    theirs.rename(folder)
    assert orch.sync().code == 0
    orch.models.clear()
    with Origin() as origin:
        orch.want("other", X, origin.serve("/other", X), to="other/")
        orch.write()
        assert orch.sync().code == 0
    assert orch.run("prune", "--places", "--yes", "--json", "team.yaml").code == 0
    assert tree(folder) == GOOD


@pytest.mark.parametrize("which", ["the tree", "a folder in it"])
def test_what_a_link_leads_to_is_never_touched(placed: tuple[Orch, Path], tmp_path: Path, which: str) -> None:
    orch, folder = placed
    link = folder if which == "the tree" else folder / "variables"
    elsewhere = tmp_path / "elsewhere"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    assert orch.sync().summary["present"] == 1, "right bytes behind a user's link"
    victim = elsewhere / ("variables.index" if which != "the tree" else "variables/variables.index")
    victim.chmod(0o644)
    victim.write_bytes(MINE)
    before = tree(elsewhere)
    assert orch.sync().summary["failed"][0]["fault"] == "foreign"
    assert (link.is_symlink(), tree(elsewhere), quarantined(orch)) == (True, before, [])
    assert (orch.sync("--force").code, tree(folder), tree(elsewhere)) == (0, GOOD, before)


@pytest.mark.parametrize("leads_to", ["an empty folder", "nothing"])
def test_a_user_s_link_to_nothing_at_a_tree_s_place_is_something(tmp_path: Path, leads_to: str) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        folder = want(orch, origin, "use4", whole())
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "disk2")
        if leads_to != "nothing":
            (tmp_path / "disk2").mkdir()
        for command in ("status", "plan", "sync"):
            failed = orch.run(command, "--json", "team.yaml").summary["failed"][0]
            assert (failed["fault"], str(tmp_path / "disk2") in failed["message"]) == ("foreign", True), command
        assert (orch.sync("--force").code, tree(folder), folder.is_symlink()) == (0, GOOD, False)


def test_a_kill_between_any_two_steps_loses_nothing(placed: tuple[Orch, Path]) -> None:
    orch, folder = placed
    store = Store(str(orch.store), str(orch.folder / "state"))
    context = Context(environ=dict(os.environ), cwd=str(orch.folder))
    new = {"saved_model.pb": X, "assets/vocab.txt": MINE, "new/file": X}
    archive = tar(*((name, content, {}) for name, content in new.items()))
    fresh = Path(store.path, "partial/fresh")
    fresh.write_bytes(archive)
    blobs.commit(store, [(str(fresh), sha256(archive))])
    (folder / "assets/vocab.txt").chmod(0o644)
    (folder / "assets/vocab.txt").write_bytes(b"edited")
    (folder / "mine").write_bytes(MINE)
    killed, step = 0, 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            _die_at(step)
            link.put(context, store, sha256(archive), Place(str(folder), unpack=True))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        killed += 1
        now = tree(folder)
        assert now["mine"] == MINE
        assert now.get("assets/vocab.txt") == b"edited" or quarantined(orch) == [b"edited"]
        for name, content in now.items():
            assert content in (GOOD.get(name), new.get(name), b"edited", MINE), name
    assert killed > 10
    assert tree(folder) == {**new, "mine": MINE}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "and nothing of theirs is left"


def _die_at(step: int) -> None:
    """Kill this process before its n-th change of the file system's names."""
    left = [step]

    def dying(call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return call(*args, **kwargs)

        return wrapper

    for name in ("rename", "link", "unlink", "mkdir", "rmdir", "utime"):
        setattr(os, name, dying(getattr(os, name)))
    files._renameat2 = dying(files._renameat2)
